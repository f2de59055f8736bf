//! `chat`: a conversation with the running gateway, or one question.

use super::console::{Conversation, Left, SocketTransport, ask_once};
use super::output::{Style, complain, harmless, print};
use super::terminal::{Input, Interrupts, RawStdin};
use super::{Context, code, read_stdin};
use crate::clock::Deadline;
use crate::limits;
use crate::thread::CancelToken;
use std::io::IsTerminal;
use std::time::Duration;

pub(super) fn chat(context: &Context<'_>, text: &str, session: Option<String>, timeout: Duration) -> u8 {
    let Some(instance) = context.running() else { return code::FAILED };
    let interactive = text.is_empty() && std::io::stdin().is_terminal();
    let fresh = session.is_none();
    let session = session.unwrap_or_else(new_session);
    let sender_name = context.environment.get("USER").unwrap_or("terminal").to_owned();
    let text = match if text.is_empty() && !interactive { read_stdin(limits::INBOUND_TEXT_BYTES_MAX) } else { Ok(text.to_owned()) } {
        Ok(text) => text,
        Err(why) => return failed(&why),
    };
    if !interactive && text.trim().is_empty() {
        complain("error: there is nothing to ask");
        return code::USAGE;
    }
    let mut transport = match SocketTransport::connect(&instance, &session, &sender_name) {
        Ok(transport) => transport,
        Err(why) => return failed(&format!("{why}\n  what to do: hermes-gateway status")),
    };
    if !interactive {
        if fresh && std::io::stderr().is_terminal() {
            complain(&format!("session {session}; continue later with --session {session}"));
        }
        let answer = ask_once(&mut transport, &session, text.trim_end(), Deadline::after(timeout), &mut |aside| complain(&harmless(aside)));
        return match answer {
            Ok((true, text)) => {
                // Into a pipe goes what was said, byte by byte; a terminal is protected.
                let text = if std::io::stdout().is_terminal() { harmless(&text) } else { text };
                print(&format!("{}\n", text.trim_end()));
                code::OK
            }
            Ok((false, text)) => {
                complain(&harmless(&text));
                code::FAILED
            }
            Err(why) => failed(&format!("{why}\n  later: hermes-gateway chat --session {session}")),
        };
    }
    let (input, interrupts) = match RawStdin::open().and_then(|stdin| Ok((Input::new(stdin), Interrupts::take()?))) {
        Ok(both) => both,
        Err(cause) => return failed(&format!("cannot use this terminal: {cause}")),
    };
    if fresh {
        print(&format!("session {session}; continue later with --session {session}\n"));
    }
    let style = Style::of_stdout(&context.environment);
    let mut conversation = Conversation::new(&mut transport, &session, input, interrupts, true, std::io::stdout(), style);
    match conversation.run(&CancelToken::new()) {
        Left::ByUser => code::OK,
        Left::Lost(why) => failed(&format!("{why}\n  what was accepted is kept: hermes-gateway chat --session {session}")),
    }
}

fn failed(why: &str) -> u8 {
    complain(&format!("error: {why}"));
    code::FAILED
}

/// Short enough to be typed, long enough not to meet an earlier one soon.
fn new_session() -> String {
    format!("{:06x}", fastrand::u32(..0x0100_0000))
}
