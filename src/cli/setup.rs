//! `setup`: a few questions, then a configuration that works. Nothing is written before the last answer.
//!
//! Secrets go into the file `env` beside the configuration, mode 0600, and are not shown while they are typed.

use super::output::{complain, print};
use super::{Context, code};
use crate::adapter::table::{self, KeyInfo, PlatformInfo};
use crate::config::keys::KeyKind;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use std::fmt::Write as _;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{BufRead, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// What was answered.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answers {
    kind: &'static str,
    model: String,
    base_url: Option<String>,
    /// The name of the variable that holds the model's key.
    key: Option<&'static str>,
    platforms: Vec<Chosen>,
    /// For the file `env`: name and value.
    secrets: Vec<(String, String)>,
}

/// A platform, and what was answered about it.
#[derive(Debug, PartialEq, Eq)]
struct Chosen {
    name: &'static str,
    /// Lines of its section.
    lines: Vec<String>,
    users: Vec<String>,
    /// Keys that are too much for a question.
    to_fill_in: Vec<&'static str>,
    login: bool,
}

/// Asks and gets answers: a terminal, or lines from a pipe.
struct Dialogue<'a> {
    input: &'a mut dyn BufRead,
    /// Whether typed secrets can be hidden.
    terminal: bool,
}

/// The input ended before the last answer.
struct Left;

impl Dialogue<'_> {
    fn line(&mut self) -> Result<String, Left> {
        let mut line = String::new();
        match self.input.read_line(&mut line) {
            Ok(count) if count > 0 => Ok(line.trim().to_owned()),
            _ => Err(Left),
        }
    }

    fn ask(&mut self, question: &str, default: &str) -> Result<String, Left> {
        let shown = if default.is_empty() { String::new() } else { format!(" [{default}]") };
        print(&format!("{question}{shown}: "));
        let answer = self.line()?;
        Ok(if answer.is_empty() { default.to_owned() } else { answer })
    }

    fn secret(&mut self, question: &str) -> Result<String, Left> {
        print(&format!("{question}: "));
        if !self.terminal {
            return self.line();
        }
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok();
        if let Some(mut hidden) = before.clone() {
            hidden.local_flags.remove(LocalFlags::ECHO);
            let _ = tcsetattr(&stdin, SetArg::TCSANOW, &hidden);
        }
        let answer = self.line();
        if let Some(before) = before {
            let _ = tcsetattr(&stdin, SetArg::TCSANOW, &before);
            print("\n");
        }
        answer
    }
}

pub(super) fn setup(context: &Context<'_>) -> u8 {
    let path = &context.places.config;
    let shown = context.environment.shorten(path);
    if path.exists() {
        complain(&format!(
            "There is a configuration already: {shown}\n  change it with an editor, then:   hermes-gateway config check\n  start anew:                       move it away, then hermes-gateway setup"
        ));
        return code::FAILED;
    }
    let stdin = std::io::stdin();
    let terminal = stdin.is_terminal();
    print("Setting up hermes-gateway. An empty answer takes what stands in brackets; Ctrl-C leaves without writing anything.\n\n");
    let answers = match dialogue(&mut Dialogue { input: &mut stdin.lock(), terminal }) {
        Ok(answers) => answers,
        Err(Left) => {
            complain("\nNothing was written.");
            return code::FAILED;
        }
    };
    if let Err(cause) = write(path, &answers) {
        complain(&format!("error: cannot write {shown}: {cause}"));
        return code::FAILED;
    }
    // What was written is read back as `run` will read it.
    if let Err(exit) = context.load() {
        return exit;
    }
    print(&format!(
        "\nWritten: {shown}\n  check it:            hermes-gateway doctor\n  run it here:         hermes-gateway run\n  run it as a service: hermes-gateway service install\n"
    ));
    print(&what_is_left(&answers));
    code::OK
}

fn dialogue(dialogue: &mut Dialogue<'_>) -> Result<Answers, Left> {
    let mut answers = Answers::default();
    print(
        "Which model?\n  1  Anthropic\n  2  OpenAI, or a server that speaks its language (Ollama, llama.cpp, OpenRouter, vLLM …)\n  3  the built-in offline one, to try things out\n",
    );
    answers.kind = loop {
        match dialogue.ask("number", "1")?.as_str() {
            "1" => break "anthropic",
            "2" => break "openai",
            "3" => break "offline",
            other => print(&format!("`{other}` is not one of 1, 2, 3.\n")),
        }
    };
    let key = match answers.kind {
        "anthropic" => {
            answers.model = dialogue.ask("model", "claude-sonnet-4-6")?;
            Some("ANTHROPIC_API_KEY")
        }
        "openai" => {
            answers.base_url = Some(dialogue.ask("address of the server", "https://api.openai.com/v1")?);
            answers.model = dialogue.ask("model", "gpt-4o-mini")?;
            Some("OPENAI_API_KEY")
        }
        _ => {
            "offline".clone_into(&mut answers.model);
            None
        }
    };
    if let Some(name) = key {
        let value = dialogue.secret("API key (not shown; empty if the server needs none)")?;
        if !value.is_empty() {
            answers.key = Some(name);
            answers.secrets.push((name.to_owned(), value));
        }
    }
    for platform in choose(dialogue)? {
        ask_about(dialogue, platform, &mut answers)?;
    }
    Ok(answers)
}

fn offered() -> impl Iterator<Item = &'static PlatformInfo> {
    table::platforms().iter().filter(|platform| platform.name != "fault")
}

/// Which platforms? By number or name, several at once.
fn choose(dialogue: &mut Dialogue<'_>) -> Result<Vec<&'static PlatformInfo>, Left> {
    print("\nWhich platforms? Each has a page on how to get its credential: contrib/platforms.\n");
    for (number, platform) in (1..).zip(offered()) {
        print(&format!("  {number}  {}\n", platform.name));
    }
    loop {
        let answer = dialogue.ask("numbers or names, separated by spaces; none for this terminal alone", "none")?;
        let words: Vec<&str> = answer.split([' ', ',']).filter(|word| !word.is_empty() && *word != "none").collect();
        let find = |word: &str| {
            let by_number = word.parse::<usize>().ok().and_then(|number| offered().nth(number.checked_sub(1)?));
            by_number.or_else(|| offered().find(|platform| platform.name.eq_ignore_ascii_case(word))).ok_or_else(|| word.to_owned())
        };
        match words.into_iter().map(find).collect::<Result<Vec<_>, _>>() {
            // In the order of the list, whatever the order of the answer.
            Ok(found) => return Ok(offered().filter(|platform| found.iter().any(|chosen| chosen.name == platform.name)).collect()),
            Err(word) => print(&format!("`{word}` is none of them.\n")),
        }
    }
}

/// The keys that a platform needs, and who may speak there.
fn ask_about(dialogue: &mut Dialogue<'_>, platform: &'static PlatformInfo, answers: &mut Answers) -> Result<(), Left> {
    let mut chosen = Chosen { name: platform.name, lines: Vec::new(), users: Vec::new(), to_fill_in: Vec::new(), login: platform.login };
    if !platform.login {
        // An address in one's own network is everybody's own; the others are right as they are.
        let asked = |key: &&KeyInfo| key.required || key.default.is_some_and(|default| default.starts_with("http://"));
        for key in platform.keys.iter().filter(asked) {
            let question = format!("{}: {}", platform.name, key.help);
            if key.kind != KeyKind::Secret {
                let answer = answer_for(dialogue, &question, key)?;
                if key.default != Some(&answer) {
                    chosen.lines.push(format!("{} = {}", key.name, quoted(&answer)));
                }
                continue;
            }
            let value = dialogue.secret(&format!("{question} (not shown; empty leaves {} out)", platform.name))?;
            if value.is_empty() {
                return Ok(());
            }
            let variable = variable(platform.name, key.name);
            chosen.lines.push(format!("{}_env = \"{variable}\"", key.name));
            answers.secrets.push((variable, value));
        }
        for key in platform.keys.iter().filter(|key| key.kind == KeyKind::Table) {
            chosen.lines.push(format!("# {} = {{ … }}     # {}; see contrib/platforms/{}.md", key.name, key.help, platform.name));
            chosen.to_fill_in.push(key.name);
        }
        let users =
            dialogue.ask(&format!("{}: users that may speak to it ({}), separated by commas", platform.name, platform.users_help), "")?;
        chosen.users = users.split([',', ' ']).map(str::trim).filter(|user| !user.is_empty()).map(str::to_owned).collect();
    }
    answers.platforms.push(chosen);
    Ok(())
}

/// An answer that the configuration will take.
fn answer_for(dialogue: &mut Dialogue<'_>, question: &str, key: &KeyInfo) -> Result<String, Left> {
    loop {
        let answer = dialogue.ask(question, key.default.unwrap_or_default())?;
        let is_address = || ["http://", "https://", "ws://", "wss://"].iter().any(|scheme| answer.starts_with(scheme));
        if answer.is_empty() {
            print("It cannot be empty.\n");
        } else if key.kind == KeyKind::Url && !is_address() {
            print("It must begin with http://, https://, ws:// or wss://.\n");
        } else {
            return Ok(answer);
        }
    }
}

/// `FEISHU_APP_SECRET`; for Telegram the name that hands are used to.
fn variable(platform: &str, key: &str) -> String {
    match (platform, key) {
        ("telegram", "token") => "TELEGRAM_BOT_TOKEN".to_owned(),
        _ => format!("{platform}_{key}").to_ascii_uppercase(),
    }
}

/// What the new configuration needs before anybody is answered.
fn what_is_left(answers: &Answers) -> String {
    let mut text = String::new();
    for platform in &answers.platforms {
        let name = platform.name;
        if platform.login {
            let _ = writeln!(text, "\n{name}: hermes-gateway login {name}        (shows a code to scan, and says what to add)");
        } else if platform.users.is_empty() {
            let _ = writeln!(
                text,
                "\nNobody is allowed to speak on {name} yet: write to the bot, find your id in the log, and put it into `allowed_users`."
            );
        }
        for key in &platform.to_fill_in {
            let _ = writeln!(text, "\n{name}: fill in `{key}` in [adapters.{name}]: contrib/platforms/{name}.md has examples.");
        }
    }
    text
}

/// A basic string of TOML; JSON's are a subset of them.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn configuration(answers: &Answers) -> String {
    let mut text = format!("[provider]\nkind = \"{}\"\nmodel = {}\n", answers.kind, quoted(&answers.model));
    if let Some(base_url) = &answers.base_url {
        let _ = writeln!(text, "base_url = {}", quoted(base_url));
    }
    if let Some(name) = answers.key {
        let _ = writeln!(text, "api_key_env = \"{name}\"     # its value is in the file `env` beside this one");
    }
    for platform in answers.platforms.iter().filter(|platform| !platform.login) {
        let users = platform.users.iter().map(|user| quoted(user)).collect::<Vec<_>>().join(", ");
        let lines = platform.lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let _ = write!(text, "\n[adapters.{}]\n{lines}allowed_users = [{users}]\nadmins = [{users}]\n", platform.name);
    }
    text
}

fn write(path: &Path, answers: &Answers) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    if !answers.secrets.is_empty() {
        let file = directory.join("env");
        let known = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(cause) => return Err(cause),
        };
        let replaced = |line: &&str| !answers.secrets.iter().any(|(name, _)| line.trim_start().starts_with(&format!("{name}=")));
        let mut text: String = known.lines().filter(replaced).map(|line| format!("{line}\n")).collect();
        for (name, value) in &answers.secrets {
            let _ = writeln!(text, "{name}={value}");
        }
        // A new file takes the old one's place: it is never half written, and never readable by others.
        let beside = directory.join("env.new");
        let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        std::fs::rename(&beside, &file)?;
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    out.write_all(configuration(answers).as_bytes())?;
    out.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(lines: &str) -> Option<Answers> {
        dialogue(&mut Dialogue { input: &mut lines.as_bytes(), terminal: false }).ok()
    }

    #[test]
    fn answers_become_a_configuration() {
        let check = |lines: &str, expect: &str| {
            let answers = answered(lines).expect("complete");
            assert_eq!(configuration(&answers), expect, "{lines:?}");
        };
        check("3\n\n", "[provider]\nkind = \"offline\"\nmodel = \"offline\"\n");
        check(
            "x\n\n\nsk-1\nnope\n1\n1:abc\n77, 78\n",
            "[provider]\nkind = \"anthropic\"\nmodel = \"claude-sonnet-4-6\"\napi_key_env = \"ANTHROPIC_API_KEY\"     # its value is in the file `env` beside this one\n\
             \n[adapters.telegram]\ntoken_env = \"TELEGRAM_BOT_TOKEN\"\nallowed_users = [\"77\", \"78\"]\nadmins = [\"77\", \"78\"]\n",
        );
        check(
            "2\nhttp://127.0.0.1:11434/v1\nqwen\"3\n\n\n",
            "[provider]\nkind = \"openai\"\nmodel = \"qwen\\\"3\"\nbase_url = \"http://127.0.0.1:11434/v1\"\n",
        );
    }

    #[test]
    fn platforms_are_asked_about_in_the_order_of_the_list() {
        // An address that is none is asked for again; a platform without its secret is left out.
        let answers =
            answered("3\nwecom homeassistant weixin 2\ncli_x\nsecret\n\nBOT\n\nha\nhome\nhttp://home:8123\nana\n").expect("complete");
        let names: Vec<_> = answers.platforms.iter().map(|platform| platform.name).collect();
        assert_eq!(names, ["feishu", "weixin", "homeassistant"]);
        let text = configuration(&answers);
        assert!(text.contains("app_id = \"cli_x\"\napp_secret_env = \"FEISHU_APP_SECRET\"\n"), "{text}");
        assert!(text.contains("url = \"http://home:8123\"\n# watch = { … }"), "{text}");
        assert!(!text.contains("weixin]"), "its section comes with the login");
        let left = what_is_left(&answers);
        assert!(left.contains("Nobody is allowed to speak on feishu") && left.contains("hermes-gateway login weixin"), "{left}");
        assert!(left.contains("fill in `watch`"), "{left}");
    }

    #[test]
    fn leaving_early_answers_nothing() {
        assert_eq!(answered(""), None);
        assert_eq!(answered("1\nmodel\nkey"), None);
    }

    #[test]
    fn secrets_are_private_and_other_lines_are_kept() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deeper/config.toml");
        let answers = answered("1\n\nsk-2\n\n").expect("complete");
        std::fs::create_dir_all(folder.path().join("deeper")).expect("made");
        std::fs::write(folder.path().join("deeper/env"), "OTHER=1\nANTHROPIC_API_KEY=old\n").expect("written");
        write(&path, &answers).expect("written");
        let env = folder.path().join("deeper/env");
        assert_eq!(std::fs::read_to_string(&env).expect("read"), "OTHER=1\nANTHROPIC_API_KEY=sk-2\n");
        for file in [&env, &path] {
            assert_eq!(std::fs::metadata(file).expect("there").permissions().mode() & 0o777, 0o600);
        }
        assert!(write(&path, &answers).is_err(), "an existing configuration is never replaced");
    }
}
