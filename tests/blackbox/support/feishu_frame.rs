//! Frames of Feishu's long connection, taken apart and put together for the fake: a codec of its own, strict about what a
//! proto2 decoder refuses.

/// A frame. Unlike a tolerant decoder, this one knows no other fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packet {
    pub seq_id: u64,
    pub log_id: u64,
    pub service: u64,
    pub method: u64,
    pub headers: Vec<(String, String)>,
    pub payload: Option<Vec<u8>>,
    pub log_id_new: Option<String>,
}

impl Packet {
    pub fn header(&self, key: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, number) in [(0x08, self.seq_id), (0x10, self.log_id), (0x18, self.service), (0x20, self.method)] {
            out.push(tag);
            number_bytes(number, &mut out);
        }
        for (key, value) in &self.headers {
            let mut inner = Vec::new();
            field(0x0a, key.as_bytes(), &mut inner);
            field(0x12, value.as_bytes(), &mut inner);
            field(0x2a, &inner, &mut out);
        }
        if let Some(payload) = &self.payload {
            field(0x42, payload, &mut out);
        }
        if let Some(log_id_new) = &self.log_id_new {
            field(0x4a, log_id_new.as_bytes(), &mut out);
        }
        out
    }

    pub fn read(mut bytes: &[u8]) -> Result<Self, String> {
        let mut packet = Self::default();
        let mut seen = [false; 4];
        while let Some((tag, rest)) = bytes.split_first() {
            bytes = rest;
            match *tag {
                0x08 | 0x10 | 0x18 | 0x20 => {
                    let number = take_number(&mut bytes)?;
                    let index = usize::from(*tag >> 3) - 1;
                    if std::mem::replace(&mut seen[index], true) {
                        return Err(format!("field {} comes twice", index + 1));
                    }
                    *[&mut packet.seq_id, &mut packet.log_id, &mut packet.service, &mut packet.method][index] = number;
                }
                0x2a => packet.headers.push(take_header(take(&mut bytes)?)?),
                0x42 => packet.payload = Some(take(&mut bytes)?.to_vec()),
                0x4a => packet.log_id_new = Some(String::from_utf8(take(&mut bytes)?.to_vec()).map_err(|error| error.to_string())?),
                tag => return Err(format!("tag {tag:#04x} is not one of a client")),
            }
        }
        if seen == [true; 4] { Ok(packet) } else { Err(format!("required fields are missing: {seen:?}")) }
    }
}

fn number_bytes(mut number: u64, out: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(number & 0x7f).expect("seven bits");
        number >>= 7;
        out.push(if number == 0 { low } else { low | 0x80 });
        if number == 0 {
            return;
        }
    }
}

pub fn field(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    number_bytes(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn take_number(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut number = 0;
    for index in 0..10 {
        let (byte, rest) = bytes.split_first().ok_or("a number is cut off")?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("a number has no end".to_owned())
}

fn take<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], String> {
    let length = usize::try_from(take_number(bytes)?).expect("a length");
    let (taken, rest) = bytes.split_at_checked(length).ok_or("a field is cut off")?;
    *bytes = rest;
    Ok(taken)
}

fn take_header(mut bytes: &[u8]) -> Result<(String, String), String> {
    let mut texts = Vec::new();
    for expect in [0x0a, 0x12] {
        let (tag, rest) = bytes.split_first().ok_or("a header without a key or value")?;
        if *tag != expect {
            return Err(format!("tag {tag:#04x} in a header"));
        }
        bytes = rest;
        texts.push(String::from_utf8(take(&mut bytes)?.to_vec()).map_err(|error| error.to_string())?);
    }
    let value = texts.pop().expect("two texts");
    Ok((texts.pop().expect("two texts"), value))
}
