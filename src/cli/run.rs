//! `run`: takes the instance lock and hands over to control.

use super::output::print;
use super::stop::{print_step, seconds};
use super::{Context, code};
use crate::clock::{self, Deadline};
use crate::config::Config;
use crate::service::admin::{Admin, socket_path};
use crate::service::client::Client;
use crate::service::lock::{Lock, LockError};
use crate::service::takeover::{Instance, Plan, end, why_still_there};
use crate::thread::CancelToken;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A front end in this process: `demo`'s terminal. Runs on a thread of its own, called with what the control socket
/// offers and a token that is cancelled at the end; when it returns, the gateway stops.
pub type ConsoleFn = Box<dyn FnOnce(Arc<dyn Admin>, &CancelToken) + Send>;

/// What the gateway is started with besides its configuration.
pub struct RunOptions {
    /// Held until the process is gone. Knows the state directory and where the control socket is to be.
    pub lock: Lock,
    pub profile: String,
    pub pid_file: Option<PathBuf>,
    pub config_path: Option<PathBuf>,
    /// In place of a service: SIGINT belongs to this front end.
    pub console: Option<ConsoleFn>,
    /// For the log on standard error; `demo` wants a quiet terminal.
    pub log_level: String,
}

/// Runs the gateway until it is over. → the exit code.
pub type RunFn = fn(Config, RunOptions) -> u8;

pub(super) fn run(context: &Context<'_>, replace: bool, wait: Option<Duration>, pid_file: Option<PathBuf>) -> u8 {
    let loaded = match context.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let config = loaded.config;
    let supervised = context.environment.supervised();
    let budget = config.shutdown.stop_budget();
    // A predecessor that is still ending is nothing to give up for when nobody watches.
    let wait = wait.unwrap_or(if supervised { budget + Duration::from_secs(5) } else { Duration::ZERO });
    let lock = match take_lock(context, &config.state_dir, wait, replace) {
        Ok(lock) => lock,
        Err(exit) => return exit,
    };
    let runtime = context.environment.first_directory("RUNTIME_DIRECTORY");
    lock.announce(|info| {
        info.socket = Some(socket_path(&config.state_dir, runtime.as_deref()));
        info.stop_budget_ms = u64::try_from(budget.as_millis()).ok();
        info.profile = Some(context.places.profile.clone());
        info.supervised = supervised;
    });
    let options = RunOptions {
        lock,
        profile: context.places.profile.clone(),
        pid_file,
        config_path: Some(context.places.config.clone()),
        console: None,
        log_level: config.log_level.clone(),
    };
    (context.program.run)(config, options)
}

fn take_lock(context: &Context<'_>, directory: &Path, wait: Duration, replace: bool) -> Result<Lock, u8> {
    let token = CancelToken::new();
    let first = if replace { Duration::ZERO } else { wait };
    let lock = match Lock::acquire(directory, first, &token) {
        Err(LockError::Held(_)) if replace => {
            end_holder(context, directory)?;
            Lock::acquire(directory, wait.max(Duration::from_secs(2)), &token)
        }
        other => other,
    };
    match lock {
        Ok(lock) => {
            refuse_beside_a_gateway_without_lock(context, directory)?;
            Ok(lock)
        }
        Err(LockError::Held(holder)) => {
            let waited = if first > Duration::ZERO { format!(" I waited {} for it.", seconds(first)) } else { String::new() };
            let since = u64::try_from(clock::wall_ms() - holder.started_ms).unwrap_or(0);
            let since = if holder.pid.is_some() { format!(", since {}", super::human::duration_ms(since)) } else { String::new() };
            context.complain_with_priority(
                3,
                &format!(
                    "error: another gateway is running: {}{since}, state directory {}.{waited}\n  what to do: hermes-gateway status, hermes-gateway stop, or run --replace",
                    holder.describe(),
                    context.environment.shorten(directory),
                ),
            );
            Err(code::LOCKED)
        }
        Err(error) => {
            context.complain_with_priority(3, &format!("error: {error}"));
            Err(code::FAILED)
        }
    }
}

/// `--replace`.
fn end_holder(context: &Context<'_>, directory: &Path) -> Result<(), u8> {
    let instance = match Instance::find(directory) {
        Ok(Some(instance)) => instance,
        // It went by itself, or the lock will say what is wrong.
        Ok(None) | Err(_) => return Ok(()),
    };
    let supervised = if context.environment.supervised() {
        Some("this process runs under a supervisor, which would start two of them in turn")
    } else if instance.holder.supervised {
        Some("the one that runs is started again by its supervisor as soon as it ends")
    } else {
        None
    };
    if let Some(why) = supervised {
        context.complain_with_priority(
            3,
            &format!("error: --replace is refused: {why}.\n  what to do: systemctl restart its unit, or stop it there first"),
        );
        return Err(code::LOCKED);
    }
    print(&format!("replacing {}\n", instance.holder.describe()));
    if end(&instance, Plan { kill: true, limit: None }, &mut print_step) {
        return Ok(());
    }
    let why = why_still_there(&instance);
    context.complain_with_priority(3, &format!("error: {} could not be ended: {why}", instance.holder.describe()));
    Err(code::LOCKED)
}

/// Somebody deleted the lock file of a gateway that still runs: two of them must not share one store.
fn refuse_beside_a_gateway_without_lock(context: &Context<'_>, directory: &Path) -> Result<(), u8> {
    let (path, token) = (socket_path(directory, None), CancelToken::new());
    // A predecessor that is just going has its lock released a moment before its socket.
    for _ in 0..10 {
        if Client::connect(&path, Deadline::after(Duration::from_millis(50))).is_err() {
            return Ok(());
        }
        let _ = token.sleep(Duration::from_millis(50));
    }
    let text = format!(
        "error: the lock is free, but a gateway still answers at {}: its lock file was deleted.\n  what to do: hermes-gateway stop",
        context.environment.shorten(&path)
    );
    context.complain_with_priority(3, &text);
    Err(code::LOCKED)
}
