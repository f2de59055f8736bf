//! `run`: takes the instance lock and hands over to control.

use super::output::print;
use super::stop::{print_step, seconds};
use super::{Context, code};
use crate::clock::{self, Deadline};
use crate::config::Config;
use crate::service::admin::socket_path;
use crate::service::client::Client;
use crate::service::lock::{Lock, LockError};
use crate::service::takeover::{Instance, Plan, end, why_still_there};
use crate::thread::CancelToken;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use crate::control::{ConsoleFn, RunOptions};

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
        places: Some(context.places.clone()),
        console: None,
        log_level: config.log_level.clone(),
    };
    let exit = (context.program.run)(config, options);
    if exit == code::RESTART && !supervised {
        // Nobody else would start it again: the same process becomes the new gateway. The lock is closed on the way.
        let cause = crate::service::again::become_new();
        context.complain_with_priority(3, &format!("error: the gateway stopped for a restart but cannot start itself again: {cause}"));
        return code::FAILED;
    }
    exit
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

#[cfg(test)]
mod tests {
    use super::super::Program;
    use super::*;
    use crate::config::keys::BuiltIn;
    use crate::config::{Environment, Places};
    use crate::service::admin::serve;
    use crate::service::fake::FakeAdmin;
    use crate::service::lock;
    use crate::thread::Threads;

    /// Stands for control: tells by its code what it was started with.
    fn fake_run(config: Config, options: RunOptions) -> u8 {
        let info = options.lock.info();
        assert_eq!(info.pid, Some(std::process::id()));
        assert_eq!(info.stop_budget_ms, Some(25_000));
        assert_eq!(options.config_path.as_deref().and_then(Path::file_name), Some("config.toml".as_ref()));
        assert!(matches!(lock::holder(&config.state_dir), Ok(Some(_))), "it is held");
        assert_eq!(options.log_level, "info");
        if info.supervised { 43 } else { 42 }
    }

    struct Fixture {
        scratch: tempfile::TempDir,
        environment: Environment,
    }

    impl Fixture {
        fn new() -> Self {
            let scratch = tempfile::tempdir().expect("scratch directory");
            std::fs::write(scratch.path().join("config.toml"), "[provider]\nkind = \"offline\"\n").expect("written");
            Self { scratch, environment: Environment::default().with("HOME", "/nowhere") }
        }

        fn state_dir(&self) -> PathBuf {
            self.scratch.path().join("state")
        }

        fn run(&self, replace: bool, wait: Option<Duration>) -> u8 {
            let program = Program { run: fake_run, platforms: &BuiltIn };
            let places = Places {
                config: self.scratch.path().join("config.toml"),
                config_chosen: true,
                state_dir: self.state_dir(),
                profile: "default".to_owned(),
            };
            let context = Context { environment: self.environment.clone(), places, program: &program };
            run(&context, replace, wait, None)
        }
    }

    #[test]
    fn hands_over_to_control_with_the_lock_held() {
        let fixture = Fixture::new();
        assert_eq!(fixture.run(false, None), 42);
        let supervised = Fixture { environment: fixture.environment.clone().with("NOTIFY_SOCKET", "/run/x"), ..fixture };
        assert_eq!(supervised.run(false, None), 43);
    }

    #[test]
    fn a35_a_second_start_is_refused_at_once() {
        let fixture = Fixture::new();
        let _held = Lock::acquire(&fixture.state_dir(), Duration::ZERO, &CancelToken::new()).expect("free");
        let started = clock::now();
        assert_eq!(fixture.run(false, None), code::LOCKED);
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a33_nothing_is_replaced_where_a_supervisor_is_at_work() {
        let fixture = Fixture::new();
        let held = Lock::acquire(&fixture.state_dir(), Duration::ZERO, &CancelToken::new()).expect("free");
        held.announce(|info| info.supervised = true);
        assert_eq!(fixture.run(true, None), code::LOCKED);
        held.announce(|info| info.supervised = false);
        let ours = Fixture { environment: fixture.environment.clone().with("HERMES_GATEWAY_SUPERVISED", "1"), ..fixture };
        assert_eq!(ours.run(true, Some(Duration::ZERO)), code::LOCKED);
        assert!(held.still_ours());
    }

    #[test]
    fn a32_a_predecessor_that_is_still_ending_is_waited_for() {
        let fixture = Fixture::new();
        let held = Lock::acquire(&fixture.state_dir(), Duration::ZERO, &CancelToken::new()).expect("free");
        std::thread::scope(|scope| {
            let start = scope.spawn(|| fixture.run(false, Some(Duration::from_secs(20))));
            let _ = CancelToken::new().sleep(Duration::from_millis(50));
            drop(held);
            assert_eq!(start.join().expect("no panic"), 42);
        });
    }

    #[test]
    fn a81_a_gateway_whose_lock_file_was_deleted_is_noticed() {
        let fixture = Fixture::new();
        let held = Lock::acquire(&fixture.state_dir(), Duration::ZERO, &CancelToken::new()).expect("free");
        let token = CancelToken::new();
        let _handle = serve(FakeAdmin::new(|_, _| ()), &held, &Threads::new(), &token).expect("serves");
        std::fs::remove_file(fixture.state_dir().join("gateway.lock")).expect("removed");
        assert_eq!(fixture.run(false, None), code::LOCKED);
        token.cancel();
    }

    #[test]
    fn configurations_that_stop_a_start() {
        let fixture = Fixture::new();
        std::fs::write(fixture.scratch.path().join("config.toml"), "[provider]\nkind = 5\n").expect("written");
        assert_eq!(fixture.run(false, None), code::CONFIG);
        std::fs::remove_file(fixture.scratch.path().join("config.toml")).expect("removed");
        assert_eq!(fixture.run(false, None), code::CONFIG);
        assert!(!fixture.state_dir().exists(), "nothing was touched");
    }
}
