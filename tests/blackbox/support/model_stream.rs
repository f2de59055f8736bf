//! How the fake model servers write a reply: the events of both protocols, and the ways in which they break off.

use super::http::{Connection, Next, reason};
use super::model::{End, Gate, Protocol, Reply, Step};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub struct Writer<'a> {
    pub connection: &'a mut Connection,
    pub protocol: Protocol,
    pub id: u64,
    pub fragment: Option<usize>,
    /// As a stream of events; otherwise one JSON document.
    pub chunked: bool,
}

/// What becomes of the connection, and how the exchange ended.
pub type Done = (Next, End);

fn done(sent: std::io::Result<()>) -> Done {
    match sent {
        Ok(()) => (Next::KeepAlive, End::Sent),
        Err(_) => (Next::Close, End::ClientGone),
    }
}

impl Writer<'_> {
    pub fn answer(&mut self, reply: &Reply) -> Done {
        match reply {
            Reply::Stream(steps) if self.chunked => self.stream(steps),
            Reply::Stream(steps) => self.document(steps),
            Reply::Status { code, retry_after, kind, message } => {
                let body = self.error_body(kind, message);
                let seconds = retry_after.map(|seconds| seconds.to_string());
                let mut headers = vec![("Content-Type", "application/json"), ("request-id", "req_011fake")];
                headers.extend(seconds.as_deref().map(|seconds| ("retry-after", seconds)));
                done(self.connection_respond(*code, &headers, &body))
            }
            Reply::Silent => {
                self.connection.hold();
                (Next::Close, End::ClientGone)
            }
            Reply::Reset => (Next::Reset, End::Sent),
            Reply::Garbage => {
                let _ = self.connection.raw(b"\0\x01\x02 not http at all \xff\r\n\r\n");
                (Next::Close, End::Sent)
            }
            Reply::SlowLoris(text) => {
                let mut bytes = self.head();
                for event in self.beginning().into_iter().chain(self.text_events(0, text)) {
                    bytes.extend(chunk(event.as_bytes()));
                }
                self.connection.trickle(&bytes);
                (Next::Close, End::ClientGone)
            }
        }
    }

    fn connection_respond(&mut self, code: u16, headers: &[(&str, &str)], body: &Value) -> std::io::Result<()> {
        self.connection.respond(code, headers, body.to_string().as_bytes())
    }

    fn error_body(&self, kind: &str, message: &str) -> Value {
        match self.protocol {
            Protocol::Anthropic => json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011fake"}),
            Protocol::OpenAi => json!({"error": {"message": message, "type": kind, "param": null, "code": null}}),
        }
    }

    fn head(&self) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 200 {}\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\nrequest-id: req_011fake\r\nTransfer-Encoding: chunked\r\n\r\n",
            reason(200)
        );
        head.into_bytes()
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self.fragment {
            // One HTTP chunk a piece: neither lines nor characters end where the pieces end.
            Some(size) => bytes.chunks(size).try_for_each(|piece| self.connection.raw(&chunk(piece))),
            None => self.connection.raw(&chunk(bytes)),
        }
    }

    fn events(&mut self, events: Vec<String>) -> std::io::Result<()> {
        events.into_iter().try_for_each(|event| self.write(event.as_bytes()))
    }

    fn stream(&mut self, steps: &[Step]) -> Done {
        const GONE: Done = (Next::Close, End::ClientGone);
        let (head, beginning) = (self.head(), self.beginning());
        if self.connection.raw(&head).is_err() || self.events(beginning).is_err() {
            return GONE;
        }
        let (mut index, mut tools) = (0, 0);
        for step in steps {
            let sent = match step {
                Step::Text(text) => self.events(self.text_events(index, text)),
                Step::Tool { name, input } => {
                    tools += 1;
                    self.events(self.tool_events(index, tools - 1, name, &input.to_string()))
                }
                Step::Pause(time) if self.connection.wait(*time) => return GONE,
                Step::Pause(_) => Ok(()),
                Step::Gate(gate) => match self.pass(gate) {
                    true => Ok(()),
                    false => return GONE,
                },
                Step::Silent => {
                    self.connection.hold();
                    return GONE;
                }
                Step::Cut => return (Next::Close, End::Sent),
                Step::Reset => return (Next::Reset, End::Sent),
                broken => {
                    let _ = self.broken(index, tools, broken);
                    return (Next::Close, End::Sent);
                }
            };
            if sent.is_err() {
                return GONE;
            }
            index += usize::from(matches!(step, Step::Text(_) | Step::Tool { .. }));
        }
        let ending = self.ending(tools > 0);
        let sent = self.events(ending).and_then(|()| self.connection.raw(b"0\r\n\r\n"));
        done(sent)
    }

    /// Waits for the gate; keep-alives go out meanwhile. `false`: the client has gone.
    fn pass(&mut self, gate: &Gate) -> bool {
        let mut next_ping = Instant::now();
        while !gate.is_open() {
            if Instant::now() >= next_ping {
                next_ping = Instant::now() + Duration::from_millis(500);
                let ping = match self.protocol {
                    Protocol::Anthropic => event(&json!({"type": "ping"})),
                    Protocol::OpenAi => ": ping\n\n".to_owned(),
                };
                if self.write(ping.as_bytes()).is_err() {
                    return false;
                }
            }
            if self.connection.wait(Duration::from_millis(5)) {
                return false;
            }
        }
        true
    }

    fn broken(&mut self, index: usize, tools: usize, step: &Step) -> std::io::Result<()> {
        match step {
            Step::CutInCharacter(text) => {
                let events = self.text_events(index, text).concat();
                let last = text.char_indices().next_back().map(|(at, _)| &text[at..]).expect("a text");
                assert!(last.len() > 1, "the last character must have several bytes");
                let at = events.rfind(last).expect("the text is in the event");
                self.write(&events.as_bytes()[..=at])
            }
            Step::CutInTool { name, partial } => {
                let mut events = self.tool_events(index, tools, name, partial);
                if self.protocol == Protocol::Anthropic {
                    // Without content_block_stop the block is not complete.
                    events.pop();
                }
                self.events(events)
            }
            Step::Error { kind, message } => {
                let body = self.error_body(kind, message);
                let bytes = match self.protocol {
                    Protocol::Anthropic => event(&body),
                    Protocol::OpenAi => format!("data: {body}\n\n"),
                };
                self.write(bytes.as_bytes()).and_then(|()| self.connection.raw(b"0\r\n\r\n"))
            }
            Step::Garbage => self.connection.raw(b"zz\r\n\xff\xfe{]\0 neither a chunk nor an event\r\n"),
            other => unreachable!("{other:?} is not a way to break"),
        }
    }

    fn beginning(&self) -> Vec<String> {
        match self.protocol {
            Protocol::Anthropic => {
                vec![event(&json!({"type": "message_start", "message": {"id": format!("msg_{}", self.id), "type": "message",
                "role": "assistant", "model": "fake", "content": [], "stop_reason": null, "stop_sequence": null,
                "usage": {"input_tokens": 11, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}}}))]
            }
            Protocol::OpenAi => vec![self.delta(&json!({"role": "assistant", "content": ""}), &Value::Null)],
        }
    }

    fn delta(&self, delta: &Value, finish: &Value) -> String {
        let body = json!({"id": format!("chatcmpl-{}", self.id), "object": "chat.completion.chunk", "created": 1, "model": "fake",
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]});
        format!("data: {body}\n\n")
    }

    fn text_events(&self, index: usize, text: &str) -> Vec<String> {
        let pieces = pieces(text, 48);
        match self.protocol {
            Protocol::Anthropic => {
                let mut events =
                    vec![event(&json!({"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}}))];
                if index == 0 {
                    events.push(event(&json!({"type": "ping"})));
                }
                let delta =
                    |piece| event(&json!({"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": piece}}));
                events.extend(pieces.into_iter().map(delta));
                events.push(event(&json!({"type": "content_block_stop", "index": index})));
                events
            }
            Protocol::OpenAi => pieces.into_iter().map(|piece| self.delta(&json!({"content": piece}), &Value::Null)).collect(),
        }
    }

    fn tool_events(&self, index: usize, number: usize, name: &str, arguments: &str) -> Vec<String> {
        let pieces = pieces(arguments, 9);
        match self.protocol {
            Protocol::Anthropic => {
                let block = json!({"type": "tool_use", "id": format!("toolu_{}_{number}", self.id), "name": name, "input": {}});
                let mut events = vec![event(&json!({"type": "content_block_start", "index": index, "content_block": block}))];
                let delta = |piece| {
                    event(
                        &json!({"type": "content_block_delta", "index": index, "delta": {"type": "input_json_delta", "partial_json": piece}}),
                    )
                };
                events.push(delta(""));
                events.extend(pieces.into_iter().map(delta));
                events.push(event(&json!({"type": "content_block_stop", "index": index})));
                events
            }
            Protocol::OpenAi => {
                let first = json!({"tool_calls": [{"index": number, "id": format!("call_{}_{number}", self.id), "type": "function",
                    "function": {"name": name, "arguments": ""}}]});
                let more = |piece: &str| json!({"tool_calls": [{"index": number, "function": {"arguments": piece}}]});
                let deltas = std::iter::once(first).chain(pieces.into_iter().map(more));
                deltas.map(|delta| self.delta(&delta, &Value::Null)).collect()
            }
        }
    }

    fn ending(&self, tools: bool) -> Vec<String> {
        match self.protocol {
            Protocol::Anthropic => {
                let stop = if tools { "tool_use" } else { "end_turn" };
                let delta =
                    json!({"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": null}, "usage": {"output_tokens": 7}});
                vec![event(&delta), event(&json!({"type": "message_stop"}))]
            }
            Protocol::OpenAi => {
                let usage = json!({"id": format!("chatcmpl-{}", self.id), "object": "chat.completion.chunk", "created": 1, "model": "fake", "choices": [],
                    "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}});
                let finish = json!(if tools { "tool_calls" } else { "stop" });
                vec![self.delta(&json!({}), &finish), format!("data: {usage}\n\n"), "data: [DONE]\n\n".to_owned()]
            }
        }
    }

    /// The reply to a request without `stream`.
    fn document(&mut self, steps: &[Step]) -> Done {
        let texts: String = steps.iter().filter_map(|step| if let Step::Text(text) = step { Some(text.as_str()) } else { None }).collect();
        let tools: Vec<(&String, &Value)> =
            steps.iter().filter_map(|step| if let Step::Tool { name, input } = step { Some((name, input)) } else { None }).collect();
        let body = match self.protocol {
            Protocol::Anthropic => {
                let mut content = vec![json!({"type": "text", "text": texts})];
                content.extend(tools.iter().enumerate().map(|(number, (name, input))| {
                    json!({"type": "tool_use", "id": format!("toolu_{}_{number}", self.id), "name": name, "input": input})
                }));
                json!({"id": format!("msg_{}", self.id), "type": "message", "role": "assistant", "model": "fake", "content": content,
                    "stop_reason": if tools.is_empty() { "end_turn" } else { "tool_use" }, "stop_sequence": null,
                    "usage": {"input_tokens": 11, "output_tokens": 7}})
            }
            Protocol::OpenAi => {
                let calls: Vec<Value> = tools.iter().enumerate().map(|(number, (name, input))| {
                    json!({"id": format!("call_{}_{number}", self.id), "type": "function", "function": {"name": name, "arguments": input.to_string()}})
                }).collect();
                let calls = if calls.is_empty() { Value::Null } else { json!(calls) };
                let finish = if tools.is_empty() { "stop" } else { "tool_calls" };
                let message = json!({"role": "assistant", "content": texts, "refusal": null, "tool_calls": calls});
                json!({"id": format!("chatcmpl-{}", self.id), "object": "chat.completion", "created": 1, "model": "fake",
                    "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish}],
                    "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}})
            }
        };
        let sent = self.connection_respond(200, &[("Content-Type", "application/json")], &body);
        done(sent)
    }
}

fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().expect("an event has a type"))
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// Pieces of at most `size` characters.
fn pieces(text: &str, size: usize) -> Vec<&str> {
    let mut cuts: Vec<usize> = text.char_indices().map(|(at, _)| at).step_by(size).collect();
    cuts.push(text.len());
    cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect()
}
