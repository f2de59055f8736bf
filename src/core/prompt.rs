//! How a person's message is put to the model.

use super::types::{Attachment, Block, Inbound, Message, Role};

/// What was said, with who said it (in groups), what it answers, and the files that came with it.
#[must_use]
pub fn user_message(inbound: &Inbound) -> Message {
    let mut lines = Vec::new();
    if let Some(quote) = inbound.quote.as_ref().filter(|quote| !quote.text.is_empty()) {
        let who = quote.sender.as_deref().unwrap_or("an earlier message");
        let shown: String = quote.text.chars().take(1000).collect();
        lines.push(format!("(in answer to {who}: \"{shown}\")"));
    }
    if inbound.private {
        lines.push(inbound.text.clone());
    } else {
        lines.push(format!("{}: {}", inbound.sender_name, inbound.text));
    }
    lines.extend(inbound.attachments.iter().map(attachment_line));
    lines.retain(|line| !line.is_empty());
    let text = if lines.is_empty() { "(an empty message)".to_owned() } else { lines.join("\n") };
    let mut blocks = vec![Block::Text { text }];
    blocks.extend(inbound.attachments.iter().filter_map(image));
    Message { role: Role::User, blocks }
}

fn attachment_line(attachment: &Attachment) -> String {
    let Attachment { kind, name, media_type, bytes, path, note } = attachment;
    let media_type = media_type.as_deref().unwrap_or("unknown type");
    match (path, note) {
        (Some(path), _) => format!("[attached {kind} \"{name}\", {media_type}, {bytes} bytes, saved as {path}]"),
        (None, Some(note)) => format!("[attached {kind} \"{name}\" could not be saved: {note}]"),
        (None, None) => format!("[attached {kind} \"{name}\" could not be saved]"),
    }
}

/// Media types that the providers take as images.
fn image(attachment: &Attachment) -> Option<Block> {
    let media_type = attachment.media_type.as_deref()?;
    let known = matches!(media_type, "image/jpeg" | "image/png" | "image/gif" | "image/webp");
    let path = attachment.path.clone().filter(|_| known)?;
    Some(Block::Image { path, media_type: media_type.to_owned() })
}
