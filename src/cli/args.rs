//! The command line: what can be written, and its help.

use crate::config::duration;
use crate::core::types::ChatRef;
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Connects chat platforms to a language-model agent with shell tools.
#[derive(Debug, Parser)]
#[command(name = "hermes-gateway", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "First time here?  hermes-gateway demo")]
pub struct Arguments {
    #[command(flatten)]
    pub places: PlaceArguments,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Default, Args)]
pub struct PlaceArguments {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A gateway of its own: profiles/NAME.toml beside the configuration, and its own state
    #[arg(long, global = true, value_name = "NAME")]
    pub profile: Option<String>,
    /// Where the lock, the store and attachments are
    #[arg(long, global = true, value_name = "DIRECTORY")]
    pub state_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway in the foreground
    Run {
        /// End the gateway that runs there first
        #[arg(long)]
        replace: bool,
        /// How long to wait for a gateway that is still ending (default: the stop budget under a supervisor, else 0)
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        wait: Option<Duration>,
        /// Write the process id there, for init systems that want it; never read
        #[arg(long, value_name = "FILE")]
        pid_file: Option<PathBuf>,
    },
    /// Try it here and now: no account, no network, nothing to set up
    Demo,
    /// Talk to the running gateway from this terminal
    Chat {
        /// Ask this, print the answer and leave; without it, from a pipe, what comes in there
        text: Vec<String>,
        /// Go on with an earlier conversation
        #[arg(long, value_name = "NAME", value_parser = session_name)]
        session: Option<String>,
        /// The longest to wait for a single answer
        #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "1h")]
        timeout: Duration,
    },
    /// Show what the gateway is doing (0 healthy, 1 degraded, 2 unresponsive, 3 not running)
    Status {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Stop the gateway: ask, then SIGTERM
    Stop {
        /// The longest to wait after each of these (default: its stop budget)
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        timeout: Option<Duration>,
    },
    /// Restart the gateway, in whatever state it is: ask, then SIGUSR1, SIGTERM, SIGKILL; or start it
    Restart {
        /// Do not ask and do not wait for running turns: begin at SIGTERM
        #[arg(long)]
        force: bool,
        /// The longest to wait before SIGKILL (default: what its budgets say)
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        timeout: Option<Duration>,
    },
    /// Run it as a service of systemd
    #[command(subcommand)]
    Service(ServiceCommand),
    #[command(hide = true)]
    Install(InstallArguments),
    #[command(hide = true)]
    Uninstall {
        #[command(flatten)]
        scope: ScopeArguments,
    },
    /// Find out what is wrong, and how to put it right (0 if nothing must be done, else 1)
    Doctor,
    /// Answer a few questions and get a configuration that works
    Setup,
    /// Connect an account by scanning a code, where a platform knows no other way
    #[command(subcommand)]
    Login(LoginCommand),
    /// Queue a message for a chat
    Send {
        /// To whom, e.g. telegram:77001; with a topic telegram:-100123/12
        #[arg(long, value_name = "ADAPTER:CHAT", value_parser = chat_ref)]
        to: ChatRef,
        /// The topic or thread, where its name is not a number
        #[arg(long, value_name = "THREAD")]
        thread: Option<String>,
        /// The message; without it, what comes in by a pipe
        text: Vec<String>,
    },
    /// Scheduled jobs: list and change them
    #[command(subcommand)]
    Cron(CronCommand),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum CronCommand {
    /// Show all jobs
    List {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Make a job
    Add {
        /// In which chat, e.g. telegram:77001; with a topic telegram:-100123/12
        #[arg(long, value_name = "ADAPTER:CHAT", value_parser = chat_ref)]
        to: ChatRef,
        /// The topic or thread, where its name is not a number
        #[arg(long, value_name = "THREAD")]
        thread: Option<String>,
        /// Send the text as it is instead of saying it to the agent
        #[arg(long)]
        say: bool,
        /// What becomes of a time at which the gateway did not run
        #[arg(long, value_name = "run|skip", value_parser = ["run", "skip"], default_value = "run")]
        catch_up: String,
        /// "every 2h", "every day 9:00", "in 20m", "at 2026-12-01 09:00", or a cron expression: "30 8 * * 1-5"
        when: String,
        /// What is to be done then
        #[arg(required = true)]
        text: Vec<String>,
    },
    /// Delete a job and its history
    Remove { job: i64 },
    /// Let its times pass
    Pause { job: i64 },
    /// Let it go on
    Resume { job: i64 },
    /// Run it now, beside its times
    Run { job: i64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum LoginCommand {
    /// Connect a bot to a WeChat account; writes its token where `token_file` says
    Weixin {
        /// The name of the adapter in the configuration
        #[arg(long, value_name = "ADAPTER", value_parser = adapter_name, default_value = "weixin")]
        name: String,
        /// The address of the interface
        #[arg(long, value_name = "URL", hide = true)]
        base_url: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum ConfigCommand {
    /// Say whether it is right, and what is wrong (exit 78)
    Check,
    /// Print what is in effect, without secrets
    Show,
    /// Print where the file is or should be
    Path,
}

/// Whose service: of this user, or of the whole machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Args)]
pub struct ScopeArguments {
    /// The service of this user (default, unless root)
    #[arg(long, conflicts_with = "system")]
    pub user: bool,
    /// The service of the whole machine (default for root)
    #[arg(long)]
    pub system: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct InstallArguments {
    #[command(flatten)]
    pub scope: ScopeArguments,
    /// The account of a system service (default: one of its own, which may do little)
    #[arg(long, value_name = "NAME", conflicts_with = "user")]
    pub run_as: Option<String>,
    /// Rewrite a unit also if it was edited by hand
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ServiceCommand {
    /// Install the service, start it, and have it started at boot; also brings an installed one up to date
    Install(InstallArguments),
    /// Stop it and remove it; the configuration and what it has stored stay
    Uninstall {
        #[command(flatten)]
        scope: ScopeArguments,
    },
    Start {
        #[command(flatten)]
        scope: ScopeArguments,
    },
    Stop {
        #[command(flatten)]
        scope: ScopeArguments,
    },
    Restart {
        #[command(flatten)]
        scope: ScopeArguments,
    },
    /// What systemd says of it (0 running, 3 not)
    Status {
        #[command(flatten)]
        scope: ScopeArguments,
    },
    /// Its log
    Logs {
        #[command(flatten)]
        scope: ScopeArguments,
        /// Show new lines as they come
        #[arg(long, short)]
        follow: bool,
        /// How many lines
        #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = 100)]
        lines: u32,
    },
    /// Print what would be installed; for systems without systemd, a file to begin with
    Print {
        #[command(flatten)]
        scope: ScopeArguments,
        /// The account of a system service
        #[arg(long, value_name = "NAME", conflicts_with = "user")]
        run_as: Option<String>,
        /// For which supervisor
        #[arg(long = "for", value_name = "KIND", default_value = "systemd", value_parser = ["systemd", "openrc", "runit", "s6", "launchd"])]
        kind: String,
    },
}

/// Drops `gateway` as the first word of the command, for hands that are used to it.
pub fn without_gateway(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let mut index = 1;
    while let Some(argument) = arguments.get(index) {
        match argument.to_str() {
            Some("--config" | "--profile" | "--state-dir") => index += 2,
            Some(text) if text.starts_with("--") && text.contains('=') => index += 1,
            Some("gateway") => {
                arguments.remove(index);
                break;
            }
            _ => break,
        }
    }
    arguments
}

/// `ADAPTER:CHAT`, and `/TOPIC` where that is a number.
fn chat_ref(text: &str) -> Result<ChatRef, String> {
    let (adapter, chat) = text
        .split_once(':')
        .filter(|(adapter, chat)| !adapter.is_empty() && !chat.is_empty())
        .ok_or("write it as ADAPTER:CHAT, e.g. telegram:77001")?;
    // Ids of chats may hold a slash themselves; those of topics are numbers, or given with --thread.
    let numeric = |topic: &str| !topic.is_empty() && topic.chars().all(|c| c.is_ascii_digit() || c == '.');
    let (chat, thread) = match chat.rsplit_once('/').filter(|(chat, topic)| !chat.is_empty() && numeric(topic)) {
        Some((chat, topic)) => (chat, Some(topic.to_owned())),
        None => (chat, None),
    };
    Ok(ChatRef { adapter: adapter.to_owned(), chat: chat.to_owned(), thread })
}

/// As the configuration has them: it becomes the name of a file.
fn adapter_name(text: &str) -> Result<String, String> {
    let valid = !text.is_empty() && text.len() <= 32 && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if valid && text != "local" { Ok(text.to_owned()) } else { Err("use up to 32 letters, digits, `-` and `_`".to_owned()) }
}

fn session_name(text: &str) -> Result<String, String> {
    let valid = !text.is_empty() && text.len() <= 64 && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if valid { Ok(text.to_owned()) } else { Err("use up to 64 letters, digits, `-` and `_`".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(words: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(without_gateway(words.iter().map(OsString::from).collect()))
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a77_gateway_as_first_word_is_dropped() {
        for words in [
            &["hermes-gateway", "gateway", "status", "--json"][..],
            &["hermes-gateway", "--config", "gateway", "gateway", "status", "--json"],
            &["hermes-gateway", "--state-dir=/x", "status", "--json"],
        ] {
            assert!(matches!(parse(words).expect("valid").command, Command::Status { json: true }), "{words:?}");
        }
        for words in [&["x", "gateway", "service", "install", "--system"][..], &["x", "service", "install", "--system"]] {
            let Command::Service(ServiceCommand::Install(install)) = parse(words).expect("valid").command else { panic!("{words:?}") };
            assert!(install.scope.system && install.run_as.is_none());
        }
        for words in [&["x", "gateway", "install"][..], &["x", "install"]] {
            assert!(matches!(parse(words).expect("valid").command, Command::Install(_)), "{words:?}");
        }
        let Command::Chat { text, .. } = parse(&["hermes-gateway", "chat", "gateway", "down"]).expect("valid").command else {
            panic!("chat")
        };
        assert_eq!(text, ["gateway", "down"]);
    }

    #[test]
    fn options_and_durations() {
        let parsed = parse(&["x", "run", "--replace", "--wait", "1m", "--profile", "work", "--pid-file", "/run/x.pid"]).expect("valid");
        assert_eq!(parsed.places.profile.as_deref(), Some("work"));
        let Command::Run { replace: true, wait, pid_file } = parsed.command else { panic!("run") };
        assert_eq!((wait, pid_file), (Some(Duration::from_secs(60)), Some(PathBuf::from("/run/x.pid"))));
        for wrong in [
            &["x"][..],
            &["x", "fly"],
            &["x", "run", "--wait", "soon"],
            &["x", "send", "hi"],
            &["x", "chat", "--session", "a/b"],
            &["x", "status", "--colour"],
            &["x", "login"],
            &["x", "login", "weixin", "--name", "../x"],
        ] {
            assert_eq!(parse(wrong).expect_err("wrong").exit_code(), 2, "{wrong:?}");
        }
        for fine in [&["x", "--help"][..], &["x", "--version"], &["x", "help", "run"]] {
            assert_eq!(parse(fine).expect_err("shown").exit_code(), 0, "{fine:?}");
        }
    }

    #[test]
    fn addresses_of_chats() {
        let check = |text: &str, expect: Option<(&str, &str, Option<&str>)>| {
            let parsed = chat_ref(text).ok();
            let shown = parsed.as_ref().map(|chat| (chat.adapter.as_str(), chat.chat.as_str(), chat.thread.as_deref()));
            assert_eq!(shown, expect, "{text}");
        };
        check("telegram:77001", Some(("telegram", "77001", None)));
        check("telegram:-100123/12", Some(("telegram", "-100123", Some("12"))));
        check("matrix:!room:server.org", Some(("matrix", "!room:server.org", None)));
        check("signal:group.aGk/bG8=", Some(("signal", "group.aGk/bG8=", None)));
        check("77001", None);
        check(":77001", None);
        check("telegram:", None);
    }
}
