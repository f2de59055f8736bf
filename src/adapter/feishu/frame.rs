//! Frames of the long connection: the message `pbbp2.Frame` in protobuf (proto2), one a binary WebSocket message. Pure.
//!
//! Written by hand because it is one message of nine fields. Unknown fields are skipped. The four required fields are
//! always written, also when they are 0, and must be there: decoders of proto2 refuse a frame without them.

use crate::limits;

/// Values of [`Frame::method`].
pub const CONTROL: i32 = 0;
pub const DATA: i32 = 1;

/// Keys of headers.
pub const TYPE: &str = "type";
pub const MESSAGE_ID: &str = "message_id";
pub const SUM: &str = "sum";
pub const SEQ: &str = "seq";
/// How long an event was handled, in milliseconds; in acknowledgements alone.
pub const BIZ_RT: &str = "biz_rt";

/// One entry of a frame's headers. Keys may repeat; the first one counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    pub key: String,
    pub value: String,
}

/// One frame. What is not sent is `None`, so that an echo is the same frame again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    pub seq_id: u64,
    pub log_id: u64,
    /// The `service_id` of the address that was connected to.
    pub service: i32,
    pub method: i32,
    pub headers: Vec<Header>,
    pub payload_encoding: Option<String>,
    pub payload_type: Option<String>,
    pub payload: Option<Vec<u8>>,
    pub log_id_new: Option<String>,
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// It ends within a field.
    Truncated,
    /// A number of more than 64 bits.
    Number,
    /// A tag with the field number 0, or one beyond protobuf's range.
    Field,
    /// A kind of field that protobuf does not have, or not any more.
    WireType(u8),
    /// A text that is not UTF-8.
    Text(&'static str),
    /// A required field is not there.
    Missing(&'static str),
    /// More headers than [`limits::FEISHU_HEADERS_MAX`].
    Headers,
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Truncated => f.write_str("it ends in the middle of a field"),
            Self::Number => f.write_str("a number of more than 64 bits"),
            Self::Field => f.write_str("a field number that cannot be"),
            Self::WireType(kind) => write!(f, "a field of the unknown kind {kind}"),
            Self::Text(field) => write!(f, "`{field}` is not UTF-8"),
            Self::Missing(field) => write!(f, "without the field `{field}`"),
            Self::Headers => write!(f, "more than {} headers", limits::FEISHU_HEADERS_MAX),
        }
    }
}

impl std::error::Error for FrameError {}

impl Frame {
    /// The sign of life that a client sends: right after connecting, then at each interval.
    #[must_use]
    pub fn ping(service: i32) -> Self {
        let headers = vec![Header { key: TYPE.to_owned(), value: "ping".to_owned() }];
        Self { service, method: CONTROL, headers, ..Self::default() }
    }

    /// The value of the first header with that key.
    #[must_use]
    pub fn header(&self, key: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.key == key).map(|header| header.value.as_str())
    }

    /// The answer to an event: the same frame with the time it took, and a code for a payload. 200: it is taken;
    /// anything else, or no answer within 3 s: the platform sends the event again.
    #[must_use]
    pub fn acknowledge(mut self, code: u16, took_ms: u128) -> Self {
        self.headers.push(Header { key: BIZ_RT.to_owned(), value: took_ms.to_string() });
        self.payload = Some(format!("{{\"code\":{code}}}").into_bytes());
        self
    }

    /// The frame as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.payload.as_ref().map_or(0, Vec::len));
        for (field, number) in [(1, self.seq_id), (2, self.log_id), (3, sign_extended(self.service)), (4, sign_extended(self.method))] {
            varint(field << 3, &mut out);
            varint(number, &mut out);
        }
        for header in &self.headers {
            let mut inner = Vec::new();
            delimited(1, header.key.as_bytes(), &mut inner);
            delimited(2, header.value.as_bytes(), &mut inner);
            delimited(5, &inner, &mut out);
        }
        let texts = [(6, &self.payload_encoding), (7, &self.payload_type)];
        for (field, text) in texts {
            text.iter().for_each(|text| delimited(field, text.as_bytes(), &mut out));
        }
        self.payload.iter().for_each(|payload| delimited(8, payload, &mut out));
        self.log_id_new.iter().for_each(|text| delimited(9, text.as_bytes(), &mut out));
        out
    }

    /// Reads a frame that fills `bytes`. Of a field that comes twice the last one counts, as protobuf has it.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let mut frame = Self::default();
        let mut required = [None; 4];
        let mut reader = Reader(bytes);
        while let Some((field, value)) = reader.field()? {
            match (field, value) {
                (1..=4, Value::Number(number)) => {
                    // 1 to 4 by the pattern.
                    required[usize::try_from(field - 1).unwrap_or(0)] = Some(number);
                }
                (5, Value::Bytes(bytes)) => {
                    if frame.headers.len() >= limits::FEISHU_HEADERS_MAX {
                        return Err(FrameError::Headers);
                    }
                    frame.headers.push(header(bytes)?);
                }
                (6, Value::Bytes(bytes)) => frame.payload_encoding = Some(text(bytes, "payload_encoding")?),
                (7, Value::Bytes(bytes)) => frame.payload_type = Some(text(bytes, "payload_type")?),
                (8, Value::Bytes(bytes)) => frame.payload = Some(bytes.to_vec()),
                (9, Value::Bytes(bytes)) => frame.log_id_new = Some(text(bytes, "LogIDNew")?),
                _ => {}
            }
        }
        let [seq_id, log_id, service, method] = required;
        frame.seq_id = seq_id.ok_or(FrameError::Missing("SeqID"))?;
        frame.log_id = log_id.ok_or(FrameError::Missing("LogID"))?;
        frame.service = truncated(service.ok_or(FrameError::Missing("service"))?);
        frame.method = truncated(method.ok_or(FrameError::Missing("method"))?);
        Ok(frame)
    }
}

/// An `int32` goes over the wire as 64 bits with its sign (protobuf, encoding).
#[allow(clippy::cast_sign_loss)]
fn sign_extended(number: i32) -> u64 {
    i64::from(number) as u64
}

/// The lower half of it, as protobuf reads an `int32`.
#[allow(clippy::cast_possible_truncation)]
fn truncated(number: u64) -> i32 {
    number as i32
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

fn delimited(field: u64, bytes: &[u8], out: &mut Vec<u8>) {
    varint(field << 3 | 2, out);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn text(bytes: &[u8], field: &'static str) -> Result<String, FrameError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| FrameError::Text(field))
}

fn header(bytes: &[u8]) -> Result<Header, FrameError> {
    let (mut key, mut value) = (None, None);
    let mut reader = Reader(bytes);
    while let Some((field, content)) = reader.field()? {
        match (field, content) {
            (1, Value::Bytes(bytes)) => key = Some(text(bytes, "key")?),
            (2, Value::Bytes(bytes)) => value = Some(text(bytes, "value")?),
            _ => {}
        }
    }
    Ok(Header { key: key.ok_or(FrameError::Missing("key"))?, value: value.ok_or(FrameError::Missing("value"))? })
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a kind that a frame has no use for.
    Other,
}

/// What has not been read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next field, or `None` at the end.
    fn field(&mut self) -> Result<Option<(u64, Value<'a>)>, FrameError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = tag >> 3;
        if field == 0 || field >= 1 << 29 {
            return Err(FrameError::Field);
        }
        let value = match (tag & 7) as u8 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| FrameError::Truncated)?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Other)?,
            kind => return Err(FrameError::WireType(kind)),
        };
        Ok(Some((field, value)))
    }

    fn varint(&mut self) -> Result<u64, FrameError> {
        let mut number = 0;
        for (index, byte) in self.0.iter().enumerate() {
            if index == 9 && *byte > 1 {
                return Err(FrameError::Number);
            }
            number |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.0 = &self.0[index + 1..];
                return Ok(number);
            }
        }
        Err(FrameError::Truncated)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(FrameError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect()
    }

    fn pair(key: &str, value: &str) -> Header {
        Header { key: key.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn a_ping_is_the_bytes_that_the_official_clients_send() {
        let bytes = hex("08 00 10 00 18 f6 81 80 10 20 00 2a 0c 0a 04 74 79 70 65 12 04 70 69 6e 67");
        let ping = Frame::ping(33_554_678);
        assert_eq!(ping.encode(), bytes);
        assert_eq!(Frame::decode(&bytes), Ok(ping));
    }

    #[test]
    fn an_acknowledgement_is_the_same_frame_with_another_payload() {
        let headers = vec![pair("type", "event"), pair("message_id", "m1"), pair("sum", "1"), pair("seq", "0"), pair("trace_id", "t")];
        let event = Frame {
            seq_id: 7,
            log_id: u64::MAX,
            service: 33_554_678,
            method: DATA,
            headers: headers.clone(),
            payload_encoding: Some(String::new()),
            payload_type: None,
            payload: Some(b"{}".to_vec()),
            log_id_new: Some("021".to_owned()),
        };
        let ack = Frame::decode(&event.clone().acknowledge(200, 12).encode()).expect("a frame");
        let headers = [headers, vec![pair("biz_rt", "12")]].concat();
        assert_eq!(ack, Frame { headers, payload: Some(b"{\"code\":200}".to_vec()), ..event });
    }

    #[test]
    fn unknown_fields_are_skipped_and_broken_ones_are_not() {
        let good = hex("08 01 10 02 18 03 20 01");
        let with = |more: &str| Frame::decode(&[good.clone(), hex(more)].concat());
        let frame = Frame::decode(&good).expect("a frame");
        // Numbers, eight bytes, a text, four bytes; a known field of an unknown kind.
        for more in ["50 ff 01", "61 01 02 03 04 05 06 07 08", "7a 03 61 62 63", "5d 01 02 03 04", "42 00", "3d 01 02 03 04"] {
            let read = with(more).unwrap_or_else(|error| panic!("{more}: {error}"));
            assert_eq!(Frame { payload: None, ..read }, frame, "{more}");
        }
        assert_eq!(with("08 09").map(|frame| frame.seq_id), Ok(9), "the last one counts");
        for (more, error) in [
            ("42 05 61", FrameError::Truncated),
            ("42", FrameError::Truncated),
            ("42 ff ff ff ff ff ff ff ff ff 01", FrameError::Truncated),
            ("08 ff ff ff ff ff ff ff ff ff 02", FrameError::Number),
            ("08 80", FrameError::Truncated),
            ("00 00", FrameError::Field),
            ("53", FrameError::WireType(3)),
            ("57", FrameError::WireType(7)),
            ("3a 02 ff fe", FrameError::Text("payload_type")),
            ("2a 04 0a 02 ff fe", FrameError::Text("key")),
            ("2a 02 0a 00", FrameError::Missing("value")),
        ] {
            assert_eq!(with(more), Err(error), "{more}");
        }
        for (frame, field) in [("", "SeqID"), ("08 00", "LogID"), ("08 00 10 00", "service"), ("08 00 10 00 18 00", "method")] {
            assert_eq!(Frame::decode(&hex(frame)), Err(FrameError::Missing(field)));
        }
        let many = [good, hex("2a 04 0a 00 12 00").repeat(limits::FEISHU_HEADERS_MAX + 1)].concat();
        assert_eq!(Frame::decode(&many), Err(FrameError::Headers));
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let pairs = proptest::collection::vec((".{0,12}", ".{0,40}"), 0..6);
        let texts = (proptest::option::of(".{0,9}"), proptest::option::of(".{0,9}"), proptest::option::of(".{0,9}"));
        let payload = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300));
        (any::<(u64, u64, i32, i32)>(), pairs, texts, payload).prop_map(|((seq_id, log_id, service, method), pairs, texts, payload)| {
            Frame {
                seq_id,
                log_id,
                service,
                method,
                headers: pairs.into_iter().map(|(key, value)| Header { key, value }).collect(),
                payload_encoding: texts.0,
                payload_type: texts.1,
                payload,
                log_id_new: texts.2,
            }
        })
    }

    proptest! {
        #[test]
        fn any_frame_comes_back(frame in frames()) {
            prop_assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
        }

        /// What is cut off within its required fields or its last field is an error, and never a panic.
        #[test]
        fn a_cut_frame_is_no_other_frame(frame in frames(), cut in any::<proptest::sample::Index>()) {
            let bytes = frame.encode();
            let cut = cut.index(bytes.len());
            if let Ok(read) = Frame::decode(&bytes[..cut]) {
                prop_assert_eq!(read.encode(), &bytes[..cut], "a cut between two fields leaves the fields before it");
            }
        }

        #[test]
        fn garbage_is_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(frame) = Frame::decode(&bytes) {
                prop_assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
            }
        }
    }
}
