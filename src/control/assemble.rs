//! Builds the process from its configuration, lets control decide, and takes it apart again.

use super::board::Board;
use super::exclusive::exclusive;
use super::lanes::{self, Lanes, Message, Signal};
use super::memory::Monitor;
use super::{Attached, Control, signals};
use crate::adapter::local;
use crate::adapter::sender::Mailbox;
use crate::adapter::{Adapter, homeassistant, table};
use crate::agent::tools;
use crate::agent::turn::Agent;
use crate::clock::Deadline;
use crate::config::places::{CONFIG_VARIABLE, STATE_VARIABLE};
use crate::config::{AdapterConfig, Busy, Config, Places};
use crate::core::event::Event;
use crate::core::record::{Op, Outcome};
use crate::core::types::ChatRef;
use crate::core::{AdapterRules, BusyMode, Core, EXIT_RESTART, Rules};
use crate::limits;
use crate::net::NetOptions;
use crate::process::{Children, instance_mark};
use crate::provider;
use crate::service::admin::{self, Admin};
use crate::service::lock::Lock;
use crate::service::notify::Notifier;
use crate::service::systemd;
use crate::store::{self, StoreHandle, StoreThread};
use crate::thread::{CancelToken, Guardian, GuardianPlan, Handle, ThreadEnd, Threads, install_panic_hook, logging, memory, wait_for_work};
use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Exit codes of `run` (design: a contract with the unit).
const EXIT_FAILED: u8 = 1;
const EXIT_GUARDIAN: i32 = 70;
const EXIT_CONFIG: u8 = 78;

/// A front end in this process: `demo`'s terminal. Runs on a thread of its own, called with what the control socket
/// offers and a token that is cancelled at the end; when it returns, the gateway stops.
pub type ConsoleFn = Box<dyn FnOnce(Arc<dyn Admin>, &CancelToken) + Send>;

/// What the gateway is started with besides its configuration.
pub struct RunOptions {
    /// Held until the process is gone: only the kernel releases it. Knows the state directory and where the control
    /// socket is to be.
    pub lock: Lock,
    pub profile: String,
    pub pid_file: Option<PathBuf>,
    pub config_path: Option<PathBuf>,
    /// Where the configuration was found, to be read again on SIGHUP.
    pub places: Option<Places>,
    /// In place of a service.
    pub console: Option<ConsoleFn>,
    /// For the log on standard error; `demo` wants a quiet terminal.
    pub log_level: String,
}

/// Why the gateway cannot start.
enum StartError {
    /// The configuration has to be changed.
    Config(String),
    Failed(String),
}

impl StartError {
    fn code(&self) -> u8 {
        match self {
            Self::Config(_) => EXIT_CONFIG,
            Self::Failed(_) => EXIT_FAILED,
        }
    }
}

/// Runs the gateway on the calling thread, which becomes `control`. → the exit code.
#[must_use]
pub fn run(config: Config, options: RunOptions) -> u8 {
    install_panic_hook();
    // Tools run as the same user and must not read the keys out of this process's memory or environment.
    crate::process::hide_memory();
    memory::bound_allocator();
    let threads = Threads::new();
    threads.adopt_current("control");
    if let Err(error) = logging::start(&threads, &options.log_level, logging::Style::detect()) {
        eprint_line(&error.to_string());
        return EXIT_FAILED;
    }
    let code = match Parts::build(config, options, &threads) {
        Ok(parts) => parts.run(),
        Err(error) => {
            let (StartError::Config(text) | StartError::Failed(text)) = &error;
            log::error!(target: "control", "{text}");
            error.code()
        }
    };
    let _ = logging::flush(limits::LOG_FLUSH);
    code
}

/// Before the log works there is only stderr.
fn eprint_line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The parts of a running process.
struct Parts {
    control: Control,
    notifier: Arc<Notifier>,
    store_thread: StoreThread,
    /// Threads that are neither adapters' nor turns'.
    others: Vec<Handle>,
    admin: Handle,
    pid_file: Option<PathBuf>,
    profile: String,
    lock: Lock,
}

impl Parts {
    #[allow(clippy::too_many_lines)] // The order of construction is the point; cutting it up would hide it.
    fn build(config: Config, options: RunOptions, threads: &Threads) -> Result<Self, StartError> {
        let failed = |error: &dyn std::fmt::Display| StartError::Failed(error.to_string());
        let stop_budget = config.shutdown.stop_budget();
        let (lanes, inbox) = lanes::lanes();
        let guardian = Guardian::new(threads);
        // Signals first: a stop must work in every state, also while this function waits for the disk.
        let bounds = signals::StopBounds {
            first: stop_budget + limits::GUARDIAN_SLACK,
            second: config.shutdown.cut + config.shutdown.close + limits::GUARDIAN_SLACK,
        };
        let signal_thread = signals::start(threads, lanes.clone(), Arc::clone(&guardian), bounds, options.console.is_some())
            .map_err(|error| failed(&error))?;
        let children = Children::new(instance_mark(&config.state_dir), threads);
        children.set_environment(own_places(&config, options.config_path.as_deref()));
        let notifier = Arc::new(Notifier::from_environment());
        start_guardian(threads, &guardian, &lanes, &children, &notifier, Monitor::new(config.memory, &lanes))?;
        crate::net::register_threads(threads);
        let board = Arc::new(Board::new(threads, &children, &lanes, stop_budget, &guardian));
        let attach_lanes = lanes.clone();
        board.hub().on_attach(move |chat| {
            let chat = ChatRef { adapter: local::NAME.to_owned(), chat: chat.to_owned(), thread: None };
            attach_lanes.event(Event::Attached { chat });
        });
        let swept = children.sweep_leftovers(Deadline::after(limits::SWEEP));
        if swept.term + swept.kill > 0 {
            log::warn!(target: "control", "ended {} processes that a former instance had left", swept.term + swept.kill);
        }
        let token = CancelToken::new();
        let path = config.state_dir.join("state.db");
        let opened = store::open(&path, threads, token.child(), Deadline::after(limits::STORE_OPEN));
        let (store, store_thread) = opened.map_err(|error| failed(&error))?;
        board.store_is(&store);
        let user_agent = format!("hermes-gateway/{}", env!("CARGO_PKG_VERSION"));
        let net = NetOptions { tls_ca_file: config.ca_file.clone(), user_agent };
        let chain = provider::build(&config.providers).map_err(StartError::Config)?;
        let adapters = build_adapters(&config, &board, &token)?;
        let mut protected = vec![config.state_dir.clone()];
        protected.extend(options.config_path.clone());
        let rules = rules(&config, &adapters);
        let agent = agent(&config, chain, &net, children, protected);
        let restart_budget = stop_budget - config.shutdown.drain + config.shutdown.restart_drain + limits::GUARDIAN_SLACK;
        let control = Control {
            core: Core::new(rules),
            inbox,
            lanes: lanes.clone(),
            threads: threads.clone(),
            guardian: Arc::clone(&guardian),
            console: options.console.is_some(),
            store: store.clone(),
            agent: Arc::new(agent),
            net,
            files: config.state_dir.join("attachments"),
            board: Arc::clone(&board),
            adapters,
            turns: HashMap::new(),
            adapter_threads: Vec::new(),
            token: token.clone(),
            leaving: None,
            hurry: false,
            stop_budget,
            restart_budget,
            config,
            places: options.places,
            notifier: Arc::clone(&notifier),
        };
        // The signal thread has nobody to wait for and is not joined; it ends with the process.
        drop(signal_thread);
        // Its token is not a child of the others': it goes last.
        let admin = serve_admin(&board, &options.lock, threads, &CancelToken::new())?;
        let mut others = Vec::new();
        if let Some(console) = options.console {
            others.push(start_console(console, threads, &board, &token, &lanes)?);
        }
        recover(&store, &lanes);
        if let Some(path) = &options.pid_file {
            std::fs::write(path, format!("{}\n", std::process::id()))
                .map_err(|error| StartError::Failed(format!("cannot write the pid file {}: {error}", path.display())))?;
        }
        let (pid_file, profile) = (options.pid_file, options.profile);
        Ok(Self { control, notifier, store_thread, others, admin, pid_file, profile, lock: options.lock })
    }

    fn run(mut self) -> u8 {
        let budget = self.control.stop_budget;
        log::info!(
            target: "control",
            "hermes-gateway {}, pid {}, profile {}, stop budget {:.1} s",
            env!("CARGO_PKG_VERSION"),
            std::process::id(),
            self.profile,
            budget.as_secs_f64()
        );
        systemd::compare_stop_timeout(&self.control.threads, budget);
        self.notifier.ready("running");
        let code = self.control.decide();
        self.notifier.stopping();
        let guardian = Arc::clone(&self.control.guardian);
        let console = self.control.console;
        let summary = self.control.leave(self.store_thread, self.others, self.admin);
        if console {
            let _ = writeln!(std::io::stdout(), "{summary}");
        }
        if let Some(path) = self.pid_file {
            let _ = std::fs::remove_file(path);
        }
        // Not dropped: the lock is released by the end of this process, not before.
        std::mem::forget(self.lock);
        // A stop that came in the middle of a restart is a stop.
        if code == EXIT_RESTART && guardian.is_stop_asked() { 0 } else { code }
    }
}

/// What all turns share, from the configuration.
pub(super) fn agent(config: &Config, chain: provider::Chain, net: &NetOptions, children: Children, protected: Vec<PathBuf>) -> Agent {
    Agent {
        chain,
        tools: tools::table(&config.tools.enabled, home_assistant(config)),
        tools_config: config.tools.clone(),
        net: net.clone(),
        children,
        protected,
        approvals: config.approvals,
        approval_wait: config.approval_timeout,
        turn_limit: config.providers.first().map_or(Duration::from_secs(1800), |provider| provider.turn),
        system_prompt: config.system_prompt.clone(),
    }
}

/// For the tools of Home Assistant: the first one that the configuration names.
fn home_assistant(config: &Config) -> Option<tools::HomeAssistant> {
    let entry = config.adapters.iter().find(|entry| entry.enabled && entry.platform == homeassistant::NAME)?;
    let (url, token, chats) = homeassistant::access(entry)?;
    Some(tools::HomeAssistant::new(url, token, chats, Box::new(OwnCalls)))
}

/// The tools tell the adapters of the calls they make; neither knows the other.
struct OwnCalls;

impl tools::OwnCalls for OwnCalls {
    fn begin(&self) -> Box<dyn tools::OwnCall> {
        Box::new(OwnCall(homeassistant::OWN_CALLS.begin()))
    }
}

struct OwnCall(homeassistant::UnderWay);

impl tools::OwnCall for OwnCall {
    fn changed(&self, contexts: &[String]) {
        self.0.changed(contexts.iter().map(String::as_str));
    }
}

/// For tools that call this program: they mean this gateway.
fn own_places(config: &Config, config_path: Option<&Path>) -> Vec<(String, String)> {
    let pair = |name: &str, path: &Path| Some((name.to_owned(), path.to_str()?.to_owned()));
    let config_path = config_path.and_then(|path| pair(CONFIG_VARIABLE, path));
    pair(STATE_VARIABLE, &config.state_dir).into_iter().chain(config_path).collect()
}

fn start_guardian(
    threads: &Threads,
    guardian: &Arc<Guardian>,
    lanes: &Lanes,
    children: &Children,
    notifier: &Arc<Notifier>,
    monitor: Monitor,
) -> Result<(), StartError> {
    let (ping_lanes, overdue_lanes) = (lanes.clone(), lanes.clone());
    let (children, notifier, dump_threads) = (children.clone(), Arc::clone(notifier), threads.clone());
    let plan = GuardianPlan {
        control: "control".to_owned(),
        ping: Box::new(move || ping_lanes.urgent(Message::Ping)),
        overdue: Box::new(move |thread| overdue_lanes.urgent(Message::Overdue(thread.clone()))),
        interval: notifier.watchdog_interval().map_or(limits::GUARDIAN_INTERVAL, |limit| (limit / 2).min(limits::GUARDIAN_INTERVAL)),
        healthy: Box::new(move || {
            notifier.watchdog();
            monitor.look();
        }),
        leave: Box::new(move |why| {
            log::error!(target: "guardian", "{why}; ending the process");
            for thread in dump_threads.list() {
                log::error!(target: "guardian", "thread {}: \"{}\"", thread.name, thread.activity.text);
            }
            children.kill_everything_now();
            let _ = logging::flush(limits::LOG_FLUSH);
            crate::thread::leave(EXIT_GUARDIAN);
        }),
    };
    let guardian = Arc::clone(guardian);
    let started = threads.spawn("guardian", 0, CancelToken::new(), |_| (), move |_| guardian.watch(&plan));
    started.map(drop).map_err(|error| StartError::Failed(error.to_string()))
}

/// An adapter that has no threads yet.
pub(super) fn attach(entry: &AdapterConfig, adapter: Arc<dyn Adapter>, board: &Board, token: &CancelToken) -> Attached {
    let heard = Arc::new(AtomicU64::new(0));
    board.adapter_is(&entry.name, &entry.platform, &heard);
    let (receipts, _) = crossbeam_channel::bounded(0);
    Attached {
        adapter,
        platform: entry.platform.clone(),
        streaming: entry.streaming,
        mailbox: Arc::new(Mailbox::default()),
        generation: 0,
        token: token.child(),
        inlet_token: token.child(),
        receipts,
        heard,
    }
}

/// The terminals' adapter is always there. Who can open the control socket is the owner of this process.
fn local_config() -> AdapterConfig {
    let everybody = vec!["*".to_owned()];
    AdapterConfig {
        name: local::NAME.to_owned(),
        platform: local::NAME.to_owned(),
        enabled: true,
        allowed_users: everybody.clone(),
        allowed_chats: Vec::new(),
        admins: everybody,
        group_mention: false,
        streaming: true,
        keys: BTreeMap::new(),
        secrets: BTreeMap::new(),
    }
}

fn build_adapters(config: &Config, board: &Arc<Board>, token: &CancelToken) -> Result<BTreeMap<String, Attached>, StartError> {
    let mut adapters = BTreeMap::new();
    let local: Arc<dyn Adapter> = Arc::new(local::Local::new(Arc::clone(board.hub())));
    adapters.insert(local::NAME.to_owned(), attach(&local_config(), local, board, token));
    for entry in config.adapters.iter().filter(|entry| entry.enabled) {
        let adapter = table::build(entry).map_err(StartError::Config)?;
        let adapter = exclusive(Arc::from(adapter), entry, &config.state_dir);
        adapters.insert(entry.name.clone(), attach(entry, adapter, board, token));
    }
    Ok(adapters)
}

/// What core must know of the configuration.
pub(super) fn rules(config: &Config, adapters: &BTreeMap<String, Attached>) -> Rules {
    let local = local_config();
    let entries = config.adapters.iter().chain(std::iter::once(&local));
    let rule = |entry: &AdapterConfig| {
        let traits = adapters.get(&entry.name)?.adapter.traits();
        let typing_interval_ms = if traits.typing { u64::try_from(traits.typing_interval.as_millis()).unwrap_or(0) } else { 0 };
        let rules = AdapterRules {
            allowed_users: entry.allowed_users.clone(),
            allowed_chats: entry.allowed_chats.clone(),
            admins: entry.admins.clone(),
            group_mention: entry.group_mention,
            typing_interval_ms,
            receives: traits.receives,
        };
        Some((entry.name.clone(), rules))
    };
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let first = config.providers.first();
    Rules {
        adapters: entries.filter_map(rule).collect(),
        turns_max: first.map_or(4, |provider| provider.max_turns),
        busy: match config.busy {
            Busy::Interrupt => BusyMode::Interrupt,
            Busy::Queue => BusyMode::Queue,
            Busy::Steer => BusyMode::Steer,
        },
        approval_ms: ms(config.approval_timeout),
        drain_ms: ms(config.shutdown.drain),
        restart_drain_ms: ms(config.shutdown.restart_drain),
        zone: config.time_zone.clone(),
        keep_ms: ms(config.keep),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: first.map_or_else(String::new, |provider| provider.model.clone()),
    }
}

fn serve_admin(board: &Arc<Board>, lock: &Lock, threads: &Threads, token: &CancelToken) -> Result<Handle, StartError> {
    let admin: Arc<dyn Admin> = Arc::clone(board) as Arc<dyn Admin>;
    admin::serve(admin, lock, threads, token).map_err(|error| StartError::Failed(error.to_string()))
}

fn start_console(
    console: ConsoleFn,
    threads: &Threads,
    board: &Arc<Board>,
    token: &CancelToken,
    lanes: &Lanes,
) -> Result<Handle, StartError> {
    let (board, lanes): (Arc<dyn Admin>, Lanes) = (Arc::clone(board) as Arc<dyn Admin>, lanes.clone());
    let ended = move |_: ThreadEnd| lanes.urgent(Message::Signal(Signal::Stop));
    let body = move |token: &CancelToken| {
        let _waiting = wait_for_work(format_args!("terminal"));
        console(board, token);
    };
    threads.spawn("console", 0, token.child(), ended, body).map_err(|error| StartError::Failed(error.to_string()))
}

/// Asks the store for what the last process left. Control begins with the answer.
fn recover(store: &StoreHandle, lanes: &Lanes) {
    let lanes = lanes.clone();
    store.submit(Op::Recover { now_ms: crate::clock::wall_ms() }, move |result| match result {
        Ok(Outcome::Recovered(recovered)) => lanes.event(Event::Recovered(recovered)),
        Ok(other) => log::error!(target: "store", "unexpected answer to Recover: {other:?}"),
        Err(error) => {
            log::error!(target: "store", "cannot read what the last process left: {error}");
            lanes.urgent(Message::Signal(Signal::Stop));
        }
    });
}
