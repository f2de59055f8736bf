//! The commands. Each returns its exit code; `main.rs` is the one place that exits.

mod args;
mod chat;
mod config;
mod console;
mod cron;
mod demo;
mod doctor;
mod human;
mod login;
mod output;
mod printer;
mod restart;
mod run;
mod send;
mod service;
mod setup;
mod status;
mod stop;
mod terminal;

pub use run::{ConsoleFn, RunFn, RunOptions};

use crate::config::keys::PlatformKeys;
use crate::config::places::{self, Choice};
use crate::config::{Environment, LoadError, Loaded, Places};
use crate::service::takeover::Instance;
use args::{Arguments, Command};
use clap::Parser;
use output::{complain, print};
use std::path::Path;

/// Exit codes (a contract with the service units).
pub(crate) mod code {
    pub const OK: u8 = 0;
    pub const FAILED: u8 = 1;
    pub const USAGE: u8 = 2;
    /// Another instance holds the lock.
    pub const LOCKED: u8 = 69;
    /// A restart is wanted: the supervisor does it.
    pub const RESTART: u8 = 75;
    pub const CONFIG: u8 = 78;
}

/// What the commands need that lies above them.
pub struct Program<'a> {
    /// Runs the gateway: `control`.
    pub run: RunFn,
    pub platforms: &'a dyn PlatformKeys,
}

/// Does what the command line of this process says. → the exit code.
#[must_use]
pub fn main(program: &Program<'_>) -> u8 {
    let words = args::without_gateway(std::env::args_os().collect());
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            let text = error.render().to_string();
            if error.use_stderr() {
                complain(&text);
                return code::USAGE;
            }
            print(&text);
            return code::OK;
        }
    };
    let environment = Environment::of_process();
    if matches!(arguments.command, Command::Demo) {
        return demo::demo(&environment, program.run);
    }
    let args::PlaceArguments { config, profile, state_dir } = arguments.places;
    let choice = Choice { config, profile, state_dir };
    let places = match places::find(&choice, &environment, &Path::exists) {
        Ok(places) => places,
        Err(error) => {
            complain(&format!("error: {error}"));
            return code::USAGE;
        }
    };
    let context = Context { environment, places, program };
    match arguments.command {
        Command::Run { replace, wait, pid_file } => run::run(&context, replace, wait, pid_file),
        Command::Demo => code::OK, // Handled above: it has no places.
        Command::Chat { text, session, timeout } => chat::chat(&context, &text.join(" "), session, timeout),
        Command::Status { json } => status::status(&context, json),
        Command::Stop { timeout } => stop::stop(&context, timeout),
        Command::Restart { force, timeout } => restart::restart(&context, force, timeout),
        Command::Service(command) => service::service(&context, command),
        Command::Install(install) => service::service(&context, args::ServiceCommand::Install(install)),
        Command::Uninstall { scope } => service::service(&context, args::ServiceCommand::Uninstall { scope }),
        Command::Doctor => doctor::doctor(&context),
        Command::Setup => setup::setup(&context),
        Command::Login(command) => login::login(&context, command),
        Command::Send { to, thread, text } => send::send(&context, to, thread, &text.join(" ")),
        Command::Cron(command) => cron::cron(&context, command),
        Command::Config(command) => config::config(&context, command),
    }
}

/// What a command works with.
struct Context<'a> {
    environment: Environment,
    places: Places,
    program: &'a Program<'a>,
}

impl Context<'_> {
    /// Reads the configuration, or says why that cannot be.
    fn load(&self) -> Result<Loaded, u8> {
        let shown = self.environment.shorten(&self.places.config);
        match crate::config::load(&self.places, &self.environment, self.program.platforms) {
            Ok(loaded) => {
                for warning in &loaded.warnings {
                    self.complain_with_priority(4, warning);
                }
                Ok(loaded)
            }
            Err(LoadError::Missing) => {
                let text = format!(
                    "No configuration at {shown}.\n  try it without one:   hermes-gateway demo\n  set it up:            hermes-gateway setup"
                );
                self.complain_with_priority(3, &text);
                Err(code::CONFIG)
            }
            Err(LoadError::Unreadable { shown_path, cause }) => {
                self.complain_with_priority(3, &format!("error: cannot read {shown_path}: {cause}"));
                Err(code::CONFIG)
            }
            Err(LoadError::Invalid { rendered, errors }) => {
                let plural = if errors == 1 { "1 error" } else { &format!("{errors} errors") };
                self.complain_with_priority(3, &format!("{rendered}\n{plural} in {shown}"));
                Err(code::CONFIG)
            }
        }
    }

    /// To standard error; in systemd's journal each line gets its priority.
    fn complain_with_priority(&self, priority: u8, text: &str) {
        if self.environment.get("JOURNAL_STREAM").is_none() {
            return complain(text);
        }
        let lines: Vec<String> = text.trim_end().lines().map(|line| format!("<{priority}>{line}")).collect();
        complain(&lines.join("\n"));
    }

    /// The gateway that runs here; `None` after having said that none does.
    fn running(&self) -> Option<Instance> {
        match Instance::find(&self.places.state_dir) {
            Ok(Some(instance)) => Some(instance),
            Ok(None) => {
                complain(&self.not_running());
                None
            }
            Err(error) => {
                complain(&format!("error: cannot tell whether a gateway is running: {error}"));
                None
            }
        }
    }

    fn not_running(&self) -> String {
        format!("hermes-gateway is not running (state directory {})", self.environment.shorten(&self.places.state_dir))
    }
}

/// Everything from standard input, up to a limit.
fn read_stdin(bytes_max: usize) -> Result<String, String> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::io::stdin().lock().take(bytes_max as u64 + 1).read_to_string(&mut text);
    read.map_err(|cause| format!("cannot read standard input: {cause}"))?;
    if text.len() > bytes_max { Err(format!("that is more than {bytes_max} bytes")) } else { Ok(text) }
}
