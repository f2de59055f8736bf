//! What the model is told about itself and its place.

use std::path::Path;

/// The system prompt. The same for all turns of a day and a platform, so that the provider can cache it.
#[must_use]
pub fn system(platform: &str, workdir: &Path, date: &str, extra: Option<&str>) -> String {
    let mut text = format!(
        "You are an assistant who is reached through a chat ({platform}) and who works on the machine that hosts you.\n\
         Write for a chat: short, plain, Markdown where it helps, no headings for short answers.\n\
         Use the tools to find out and to act instead of guessing; say what you did and what came of it. \
         Commands run in {} under /bin/sh without a terminal; long ones belong in the background. \
         Some commands are asked about before they run; if one is refused, do not try to get around it.\n\
         Files that people attach are saved on this machine; their paths are in the message.\n\
         Today is {date}. The system is {} on {}.",
        workdir.display(),
        std::env::consts::OS,
        std::env::consts::ARCH
    );
    if let Some(extra) = extra {
        text.push_str("\n\n");
        text.push_str(extra);
    }
    text
}

/// What a turn is told that goes on after the gateway was restarted.
pub const RESUMED: &str = "(The gateway was restarted while you worked on this. What you had done up to here is above; \
     a call whose result is missing may or may not have had its effect: check before you repeat it. Go on.)";
