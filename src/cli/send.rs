//! `send`: puts a message into the outbox of the running gateway.

use super::output::{complain, print};
use super::{Context, code, read_stdin};
use crate::clock::Deadline;
use crate::core::types::ChatRef;
use crate::limits;
use crate::service::admin::Request;

pub(super) fn send(context: &Context<'_>, to: ChatRef, thread: Option<String>, text: &str) -> u8 {
    let text = if text.is_empty() { read_stdin(limits::INBOUND_TEXT_BYTES_MAX) } else { Ok(text.to_owned()) };
    let text = match text {
        Ok(text) if text.trim().is_empty() => {
            complain("error: there is nothing to send");
            return code::USAGE;
        }
        Ok(text) => text.trim_end().to_owned(),
        Err(why) => {
            complain(&format!("error: {why}"));
            return code::FAILED;
        }
    };
    let Some(instance) = context.running() else { return code::FAILED };
    let chat = match thread {
        Some(thread) => ChatRef { thread: Some(thread), ..to },
        None => to,
    };
    let session = chat.session();
    match instance.ask(&Request::Send { chat, text }, Deadline::after(limits::ADMIN_REQUEST)) {
        Ok(number) => {
            print(&format!("queued as number {number} for {session}\n"));
            code::OK
        }
        Err(error) => {
            complain(&format!("error: not queued for {session}: {error}"));
            code::FAILED
        }
    }
}
