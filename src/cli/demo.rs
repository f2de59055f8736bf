//! `demo`: a gateway with the built-in offline model and the real shell tool, in this terminal. Needs nothing and
//! leaves nothing behind.

use super::code;
use super::console::{Conversation, DirectTransport, Left};
use super::output::{Style, complain, print};
use super::run::{ConsoleFn, RunFn, RunOptions};
use super::terminal::{Input, Interrupts, RawStdin};
use crate::clock;
use crate::config::{Busy, Config, Environment, ProviderConfig, ProviderKind, ShutdownConfig, ToolsConfig};
use crate::service::admin::Admin;
use crate::service::lock::Lock;
use crate::thread::CancelToken;
use std::io::IsTerminal;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const SESSION: &str = "demo";

/// A directory that goes away with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn create() -> std::io::Result<Self> {
        let name = format!("hermes-gateway-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        // Fails if it is there: somebody else's directory is not ours to use.
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn demo(environment: &Environment, run: RunFn) -> u8 {
    let failed = |what: &str, cause: &dyn std::fmt::Display| {
        complain(&format!("error: {what}: {cause}"));
        code::FAILED
    };
    let scratch = match Scratch::create() {
        Ok(scratch) => scratch,
        Err(cause) => return failed("cannot create a directory for the demo (TMPDIR says where)", &cause),
    };
    let lock = match Lock::acquire(&scratch.0, Duration::ZERO, &CancelToken::new()) {
        Ok(lock) => lock,
        Err(error) => return failed("cannot start the demo", &error),
    };
    let workdir = std::env::current_dir().ok().or_else(|| environment.home()).unwrap_or_else(|| PathBuf::from("/"));
    let style = Style::of_stdout(environment);
    print(&intro(&workdir, style));
    let config = config(&scratch.0, workdir);
    let console: ConsoleFn = Box::new(move |admin, token| converse(admin, token, style));
    let options = RunOptions {
        lock,
        profile: "demo".to_owned(),
        pid_file: None,
        places: None,
        config_path: None,
        console: Some(console),
        log_level: config.log_level.clone(),
    };
    run(config, options)
}

fn intro(workdir: &Path, style: Style) -> String {
    let dot = if style.symbols || !style.terminal { "·" } else { "-" };
    format!(
        "hermes-gateway {} {dot} offline model (no network, no account) {dot} shell tool in {}\n\
         Type a message; \"run: COMMAND\" makes the model call the shell tool; /help; Ctrl-D leaves.\n",
        env!("CARGO_PKG_VERSION"),
        workdir.display()
    )
}

fn config(state_dir: &Path, workdir: PathBuf) -> Config {
    let provider = ProviderConfig {
        kind: ProviderKind::Offline,
        model: "offline".to_owned(),
        api_key: None,
        base_url: String::new(),
        silence: Duration::from_secs(60),
        turn: Duration::from_secs(600),
        max_turns: 1,
        max_tokens: 8192,
        retries: 0,
    };
    Config {
        providers: vec![provider],
        // Whoever leaves a demo does not wait for what runs in it.
        time_zone: clock::zone::local().clone(),
        memory: crate::config::MemoryConfig::default(),
        keep: Duration::ZERO,
        // Long enough for the commit behind the last reply.
        shutdown: ShutdownConfig { drain: Duration::from_secs(1), ..ShutdownConfig::default() },
        tools: ToolsConfig {
            enabled: vec!["*".to_owned()],
            workdir,
            shell_timeout: Duration::from_secs(180),
            shell_env: Vec::new(),
            homeassistant_domains: Vec::new(),
        },
        adapters: Vec::new(),
        busy: Busy::Interrupt,
        approvals: true,
        approval_timeout: Duration::from_secs(300),
        log_level: "error".to_owned(),
        system_prompt: None,
        ca_file: None,
        state_dir: state_dir.to_owned(),
    }
}

/// The terminal's thread.
fn converse(admin: Arc<dyn Admin>, token: &CancelToken, style: Style) {
    let parts = DirectTransport::attach(admin, SESSION).and_then(|transport| {
        let input = RawStdin::open().map(Input::new).map_err(|cause| cause.to_string())?;
        Ok((transport, input, Interrupts::take().map_err(|cause| cause.to_string())?))
    });
    let (mut transport, input, interrupts) = match parts {
        Ok(parts) => parts,
        Err(why) => return complain(&format!("error: cannot use this terminal: {why}")),
    };
    wait_until_running(&mut transport, token);
    let interactive = std::io::stdin().is_terminal();
    let mut conversation = Conversation::new(&mut transport, SESSION, input, interrupts, interactive, std::io::stdout(), style);
    if let Left::Lost(why) = conversation.run(token)
        && !token.is_cancelled()
    {
        complain(&format!("error: {why}"));
    }
}

/// The first prompt comes when there is somebody to talk to. Starting takes milliseconds.
fn wait_until_running(transport: &mut DirectTransport, token: &CancelToken) {
    use super::console::Transport;
    use crate::service::report::GatewayState;
    let deadline = clock::Deadline::after(Duration::from_secs(5));
    while !deadline.passed() && transport.status().is_ok_and(|report| report.state == GatewayState::Starting) {
        if token.sleep(Duration::from_millis(2)).is_err() {
            return;
        }
    }
}
