//! `login`: connects an account that is not had by a token but by scanning a code. Nothing is written before the end.

use super::args::LoginCommand;
use super::output::{Style, complain, harmless, print};
use super::terminal::{Input, Interrupts, RawStdin};
use super::{Context, code};
use crate::adapter::weixin::account::Account;
use crate::adapter::weixin::login::{Face, LoginError, login as log_in};
use crate::adapter::weixin::{BASE_URL, PLATFORM};
use crate::clock::Deadline;
use crate::config::peek::{Peeked, peek};
use crate::limits;
use crate::net::NetOptions;
use crate::service::admin::Request;
use crate::service::takeover::{ANSWER, Instance};
use crate::service::wake::{Wake, poll_ready};
use crate::thread::{CancelToken, Threads};
use nix::poll::PollFlags;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) fn login(context: &Context<'_>, command: LoginCommand) -> u8 {
    let LoginCommand::Weixin { name, base_url } = command;
    let section = peek(&context.places, &context.environment, &name);
    if section.exists && section.platform.as_deref().unwrap_or(&name) != PLATFORM.name {
        complain(&format!("error: [adapters.{name}] is not of the platform weixin; choose another name with --name"));
        return code::USAGE;
    }
    let file = section.token_file.clone().unwrap_or_else(|| context.places.config.with_file_name(format!("{name}.json")));
    let base_url = base_url.or_else(|| section.base_url.clone()).unwrap_or_else(|| BASE_URL.to_owned());
    let net = NetOptions { tls_ca_file: section.ca_file.clone(), user_agent: format!("hermes-gateway/{}", env!("CARGO_PKG_VERSION")) };
    let threads = Threads::new();
    let mut face = match Terminal::open(&threads, Style::of_stdout(&context.environment)) {
        Ok(face) => face,
        Err(cause) => {
            complain(&format!("error: cannot use this terminal: {cause}"));
            return code::FAILED;
        }
    };
    let token = face.token.clone();
    let account = match log_in(&base_url, &net, &token, &mut face) {
        Ok(account) => account,
        Err(LoginError::Cancelled) => {
            complain("\nCancelled; nothing was written.");
            return code::FAILED;
        }
        Err(error) => {
            complain(&format!("error: {}\n  Nothing was written.", harmless(&error.to_string())));
            return code::FAILED;
        }
    };
    let shown = context.environment.shorten(&file);
    if let Err(cause) = write(&file, &account.document()) {
        complain(&format!("error: cannot write {shown}: {cause}"));
        return code::FAILED;
    }
    print(&format!("\nConnected. Written: {shown}\n"));
    what_next(context, &name, &section, &file, &account);
    code::OK
}

/// The document takes the place of an older one as a whole; only its owner can read it.
fn write(path: &Path, document: &str) -> std::io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    // What root writes for a service is the service's: as the file that it replaces, or the directory's.
    let owner = std::fs::metadata(path).or_else(|_| std::fs::metadata(directory)).ok().filter(|_| nix::unistd::Uid::effective().is_root());
    let written = || {
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        if let Some(owner) = owner {
            fchown(&out, Some(owner.uid()), Some(owner.gid()))?;
        }
        out.write_all(document.as_bytes())?;
        out.write_all(b"\n")?;
        out.sync_all()?;
        std::fs::rename(&beside, path)
    };
    written().inspect_err(|_| drop(std::fs::remove_file(&beside)))
}

/// What is missing in the configuration, or that everything is there; a gateway that runs is told.
fn what_next(context: &Context<'_>, name: &str, section: &Peeked, file: &Path, account: &Account) {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let shown = context.environment.shorten(&context.places.config);
    // Beside the configuration, the name is enough.
    let beside = file.parent() == context.places.config.parent();
    let written = file.file_name().filter(|_| beside).map_or_else(|| file.to_path_buf(), PathBuf::from);
    let token_file = format!("token_file = {}", quoted(&written.display().to_string()));
    if !section.exists {
        let platform = if name == PLATFORM.name { String::new() } else { "platform = \"weixin\"\n".to_owned() };
        let user = account.user_id.as_deref().map(quoted).unwrap_or_default();
        print(&format!("\nAdd this to {shown}:\n\n[adapters.{name}]\n{platform}{token_file}\nallowed_users = [{}]\n", harmless(&user)));
    } else if section.token_file.is_none() {
        print(&format!("\nIn [adapters.{name}] of {shown}, put this in the place of the old token:\n\n{token_file}\n"));
    }
    if let Some(user) = account.user_id.as_deref().filter(|_| section.exists) {
        print(&format!("The id of whoever scanned the code, for `allowed_users`: {}\n", harmless(user)));
    }
    let Ok(Some(instance)) = Instance::find(&context.places.state_dir) else {
        return print("\nThen start the gateway, or see what is still wrong: hermes-gateway doctor\n");
    };
    if section.token_file.is_none() {
        return print("\nThen let the gateway read it: hermes-gateway restart\n");
    }
    let reload = Request::Command { name: "reload".to_owned(), args: serde_json::Value::Null };
    match instance.ask(&reload, Deadline::after(ANSWER)) {
        Ok(_) => print("The gateway reads it now. See it connect: hermes-gateway status\n"),
        Err(error) => print(&format!("The gateway was not told ({error}); let it read it: hermes-gateway restart\n")),
    }
}

/// The person at the terminal, or a pipe.
struct Terminal {
    style: Style,
    input: Input<RawStdin>,
    /// Cancelled by Ctrl-C.
    token: CancelToken,
    /// Awake once the token is cancelled.
    wake: Arc<Wake>,
}

impl Terminal {
    fn open(threads: &Threads, style: Style) -> std::io::Result<Self> {
        let (token, wake) = (CancelToken::new(), Arc::new(Wake::new()?));
        let interrupts = Interrupts::take()?;
        let cancel = token.clone();
        // Ends with the process.
        let watch = move |_: &CancelToken| {
            while poll_ready([(interrupts.fd(), PollFlags::POLLIN)], Some(Deadline::after(limits::LONG_WAIT)))
                .is_ok_and(|[pressed]| !pressed)
            {}
            cancel.cancel();
        };
        threads.spawn("interrupts", 0, CancelToken::new(), |_| (), watch).map_err(std::io::Error::other)?;
        Ok(Self { style, input: Input::new(RawStdin::open()?), token, wake })
    }
}

impl Face for Terminal {
    fn code(&mut self, url: &str) {
        let drawn = draw(url, self.style).unwrap_or_default();
        let url = harmless(url);
        print(&format!(
            "\nScan this with WeChat on the phone (it is valid for a few minutes; Ctrl-C leaves):\n\n{drawn}\nor open it there: {url}\n\n"
        ));
    }

    fn say(&mut self, text: &str) {
        print(&format!("{}\n", harmless(text)));
    }

    fn number(&mut self, wrong: bool, deadline: Deadline) -> Option<String> {
        let _attached = self.token.attach(Arc::clone(&self.wake) as Arc<dyn crate::thread::Cut>);
        print(if wrong { "That was not it. Number that WeChat shows: " } else { "Number that WeChat shows: " });
        loop {
            if let Some(line) = self.input.next_line() {
                let number: String = line.chars().filter(char::is_ascii_digit).collect();
                if (1..=12).contains(&number.len()) {
                    return Some(number);
                }
                print("It has digits only: ");
                continue;
            }
            if self.input.ended || self.token.is_cancelled() || deadline.passed() {
                return None;
            }
            let fds = [(self.input.fd(), PollFlags::POLLIN), (self.wake.fd(), PollFlags::POLLIN)];
            match poll_ready(fds, Some(deadline)) {
                Ok([true, _]) => self.input.fill(),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }
}

/// The code in half blocks, light on dark as phones want it whatever the terminal's colours are.
fn draw(text: &str, style: Style) -> Option<String> {
    let code = QrCode::new(text).ok()?;
    if style.terminal && !style.symbols {
        let drawn = code.render::<char>().module_dimensions(2, 1).dark_color(' ').light_color('#').build();
        return Some(format!("{drawn}\n"));
    }
    let drawn = code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    let line = |line: &str| if style.colour { format!("\x1b[97;40m{line}\x1b[0m\n") } else { format!("{line}\n") };
    Some(drawn.lines().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_code_is_drawn_in_half_blocks() {
        let drawn = draw("https://liteapp.weixin.qq.com/q/x", Style::PLAIN).expect("short enough");
        let lines: Vec<&str> = drawn.lines().collect();
        assert!(lines.iter().all(|line| line.chars().all(|c| " ▀▄█".contains(c))), "{drawn}");
        assert!(lines.len() >= 15 && lines.iter().all(|line| line.chars().count() == lines[0].chars().count()), "{drawn}");
        // The margin is light.
        assert!(lines[0].chars().all(|c| c == '█'), "{drawn}");
        let bare = Style { terminal: true, colour: false, symbols: false, width: 80 };
        assert!(draw("x", bare).is_some_and(|drawn| drawn.chars().all(|c| " #\n".contains(c))));
        assert_eq!(draw(&"x".repeat(5000), Style::PLAIN), None);
    }

    #[test]
    fn the_document_is_private_and_replaced_as_a_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deeper/weixin.json");
        write(&path, "{\"bot_token\":\"one\"}").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("ours");
        write(&path, "{\"bot_token\":\"two\"}").expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "{\"bot_token\":\"two\"}\n");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(path.parent().expect("a folder")).expect("read").count(), 1, "nothing is left beside it");
        assert!(write(&path.join("x"), "x").is_err());
    }
}
