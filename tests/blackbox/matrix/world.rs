//! The rows: how each fault is prepared, brought about and taken away again.

use super::action::Action;
use super::peer::Peer;
use crate::support::faults::{FullBacklog, Proxy, Way};
use crate::support::gateway::{Gateway, Setup, quoted};
use crate::support::http;
use crate::support::model::{self, Model, Protocol, Reply};
use crate::support::namespace::{administer, try_to_administer};
use crate::support::poll::{self, SOON};
use crate::support::process::{mark, with_command};
use crate::support::telegram::{ANA, Telegram};
use nix::sys::signal::Signal;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// What goes wrong. In every row the provider is silent, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    BlackHole,
    HalfOpen,
    NeverAnswers,
    SlowLoris,
    TlsStall,
    ConnectHangs,
    StoppedPeer,
    DeafReceiver,
    DeafSender,
    DeafChild,
    DetachedChild,
    ChattyChild,
    BlockedStderr,
    SlowDisk,
    DnsHangs,
    FullDisk,
}

/// How long the disk of [`Fault::SlowDisk`] does not answer: longer than a stop may take.
const STALL: Duration = Duration::from_secs(4);

/// A gateway and everything around it.
pub struct World {
    pub fault: Fault,
    pub gateway: Gateway,
    pub telegram: Telegram,
    pub model: Model,
    /// In the command lines of the tool's processes.
    pub mark: String,
    proxy: Option<Proxy>,
    peer: Option<Peer>,
    /// What only has to be there; the mount goes after the gateway.
    _disk: Option<SmallDisk>,
    _listener: Option<TcpListener>,
    _backlog: Option<FullBacklog>,
}

impl World {
    /// A running gateway with a turn that hangs, a message that waits behind it, and the fault.
    pub fn start(fault: Fault, action: &str) -> Self {
        let (telegram, model) = (Telegram::start(), Model::start());
        let mark = mark();
        let proxy = matches!(fault, Fault::BlackHole | Fault::HalfOpen).then(|| Proxy::start(telegram.server.address));
        let peer = (fault == Fault::StoppedPeer).then(|| Peer::start(telegram.server.address));
        let url = match (&proxy, &peer) {
            (Some(proxy), _) => proxy.url(),
            (_, Some(peer)) => format!("http://{}", peer.address),
            _ => telegram.url(),
        };
        let listener = (fault == Fault::TlsStall).then(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
        let backlog = (fault == Fault::ConnectHangs).then(FullBacklog::start);
        if fault == Fault::DnsHangs {
            name_server();
        }
        let mut setup = short_phases(Gateway::setup()).telegram_at(&telegram, &url).model(&model, Protocol::Anthropic);
        setup = setup.set("session", "busy", "\"queue\"").set("adapters.telegram", "streaming", "false");
        setup = match (&listener, &backlog) {
            (Some(listener), _) => {
                second_bot(setup, &format!("https://localhost:{}", listener.local_addr().expect("a listener has an address").port()))
            }
            (_, Some(backlog)) => second_bot(setup, &backlog.url()),
            _ => setup,
        };
        let platform =
            |setup: Setup| setup.set("adapters.fault", "platform", "\"fault\"").set("adapters.fault", "allowed_users", "[\"*\"]");
        setup = match fault {
            Fault::DeafReceiver => platform(setup).set("adapters.fault", "receive", "\"ignore_token\""),
            Fault::DeafSender => platform(setup).set("adapters.fault", "send", "\"ignore_token\""),
            Fault::BlockedStderr => setup.block_stderr(),
            Fault::DnsHangs => second_bot(setup, "http://bots.example:8081"),
            _ => setup,
        };
        if super::action::supervised(action) {
            setup = setup.env("INVOCATION_ID", "0123456789abcdef0123456789abcdef");
        }
        let disk = (fault == Fault::FullDisk).then(|| SmallDisk::mount(&setup.state_dir()));
        let gateway = setup.start();
        let world = Self { fault, gateway, telegram, model, mark, proxy, peer, _disk: disk, _listener: listener, _backlog: backlog };
        world.begin();
        world.spoil();
        world
    }

    /// A turn that does not end by itself, and a message behind it.
    fn begin(&self) {
        self.model.rule("pending", [model::text("the pending answer")]);
        let mark = &self.mark;
        let command = match self.fault {
            Fault::DeafChild => Some(format!("trap '' TERM HUP INT; sleep {mark}; sleep {mark}")),
            Fault::DetachedChild => {
                Some(format!("setsid sh -c 'sleep {mark} & sleep {mark}' & (setsid sleep {mark} &) ; nohup sleep {mark} & sleep {mark}"))
            }
            Fault::ChattyChild => Some(format!("trap '' PIPE; yes {mark}; yes {mark} >&2")),
            _ => None,
        };
        match &command {
            Some(command) => self.model.rule("hang", [Reply::Stream(vec![model::shell(command)]), Reply::Silent]),
            None => self.model.rule("hang", [Reply::Silent]),
        }
        self.telegram.user_says(ANA, "hang");
        self.model.wait_request(1, "hang");
        if command.is_some() {
            poll::eventually(SOON, "the tool runs", || (!with_command(mark).is_empty()).then_some(()));
        }
        // When the turn is taken up again, it comes to its end.
        self.model.rule("hang", [model::text("no longer hanging")]);
        if self.fault == Fault::FullDisk {
            self.fill_disk();
        }
        self.telegram.user_says(ANA, "pending");
        if self.fault != Fault::FullDisk {
            self.telegram.wait_confirmed();
        }
    }

    /// Brings the fault about.
    fn spoil(&self) {
        let waits_for = |name: &str, state: &str| drop(self.gateway.wait_adapter(name, state));
        match self.fault {
            Fault::BlackHole => self.proxy().set(Way::BlackHole),
            Fault::HalfOpen => self.proxy().forget(),
            Fault::NeverAnswers => self.mistreat(&http::Fault::BlackHole),
            Fault::SlowLoris => self.mistreat(&http::Fault::SlowLoris),
            Fault::StoppedPeer => self.peer.as_ref().expect("there is a peer").signal(Signal::SIGSTOP),
            Fault::TlsStall | Fault::ConnectHangs | Fault::DnsHangs => waits_for("second", "connecting"),
            Fault::DeafReceiver => waits_for("fault", "connected"),
            Fault::DeafSender => {
                waits_for("fault", "connected");
                let chat = serde_json::json!({"adapter": "fault", "chat": "1"});
                self.gateway.ask(&serde_json::json!({"do": "send", "chat": chat, "text": "never"})).expect("queued");
                self.gateway.wait_status("the sender is stuck", |status| {
                    status["threads"].as_array()?.iter().any(|thread| thread["activity"] == "ignoring its token").then_some(())
                });
            }
            Fault::SlowDisk => drop(self.gateway.fault("slow_store", STALL).expect("accepted")),
            Fault::None | Fault::DeafChild | Fault::DetachedChild | Fault::ChattyChild | Fault::BlockedStderr | Fault::FullDisk => {}
        }
    }

    fn mistreat(&self, fault: &http::Fault) {
        self.telegram.fail("*", fault.clone(), 1_000_000);
        self.telegram.server.cut_all();
        self.telegram.wait(SOON, "a call that goes wrong", |state| state.journal.last()?.fault.is_some().then_some(()));
    }

    /// Takes the fault away.
    pub fn heal(&self) {
        match self.fault {
            Fault::BlackHole => {
                self.proxy().set(Way::Open);
                self.proxy().cut();
            }
            Fault::NeverAnswers | Fault::SlowLoris => {
                self.telegram.lock().faults.clear();
                self.telegram.server.cut_all();
            }
            Fault::StoppedPeer => self.peer.as_ref().expect("there is a peer").signal(Signal::SIGCONT),
            Fault::FullDisk => {
                let _ = std::fs::remove_file(self.gateway.setup.state_dir().join("filling"));
            }
            _ => {}
        }
    }

    /// Through the whole cell.
    pub fn run(mut self, action: Action) {
        action(&mut self);
        poll::eventually(SOON, "the tool's processes are gone", || with_command(&self.mark).is_empty().then_some(()));
        self.heal();
        self.telegram.wait_text_within(Duration::from_secs(40), ANA, "the pending answer");
        if self.gateway.has_child() {
            self.signal_and_leave();
        } else {
            self.gateway.cli(&["stop"]).expect(0);
        }
        poll::eventually(SOON, "it has gone", || {
            crate::support::process::of_scratch(self.gateway.setup.scratch()).is_empty().then_some(())
        });
        self.gateway.assert_nothing_left();
        assert_eq!(self.telegram.lock().count(ANA, "the pending answer"), 1, "answered once: {:?}", self.telegram.texts(ANA));
    }

    /// A plain stop, whatever is still in the way.
    fn signal_and_leave(&mut self) {
        self.gateway.signal(Signal::SIGTERM);
        let exit = self.gateway.wait_exit(super::BUDGET + super::SLACK);
        assert_eq!(exit.code, Some(0), "{exit:?}");
    }

    fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("there is a proxy")
    }

    /// To the last byte.
    fn fill_disk(&self) {
        let path = self.gateway.setup.state_dir().join("filling");
        let mut file = std::fs::File::create(path).expect("a file");
        for size in [1 << 16, 1 << 12, 1] {
            let block = vec![b'.'; size];
            while file.write(&block).is_ok_and(|count| count > 0) {}
        }
    }
}

/// A file system that is soon full.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(place: &Path) -> Self {
        administer(&format!("mount -t tmpfs -o size=6m,mode=0700 tmpfs {}", place.display()));
        Self(place.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        try_to_administer(&format!("umount -l {}", self.0.display()));
        // The scratch directory could not be removed while it was in use.
        let _ = self.0.parent().map(std::fs::remove_dir_all);
    }
}

/// [`super::BUDGET`] in the configuration.
pub fn short_phases(setup: Setup) -> Setup {
    let phases = [("drain", "1s"), ("ask", "500ms"), ("cut", "500ms"), ("close", "500ms")];
    phases.into_iter().fold(setup, |setup, (phase, bound)| setup.set("shutdown", phase, &quoted(bound))).set("restart", "drain", "\"1s\"")
}

/// Another Telegram adapter, which never comes up.
fn second_bot(setup: Setup, url: &str) -> Setup {
    let section = "adapters.second";
    let token = format!("1234567:AAH{}", std::iter::repeat_with(fastrand::alphanumeric).take(32).collect::<String>());
    let setup = setup.set(section, "platform", "\"telegram\"").set(section, "token", &quoted(&token));
    setup.set(section, "base_url", &quoted(url)).set(section, "allowed_users", "[\"*\"]")
}

/// Takes questions about names and never answers; within the namespaces of this test it is the only one.
fn name_server() {
    static SOCKET: OnceLock<UdpSocket> = OnceLock::new();
    SOCKET.get_or_init(|| {
        let configuration = std::env::temp_dir().join(format!("hg-resolv-{}.conf", std::process::id()));
        std::fs::write(&configuration, "nameserver 127.0.0.1\n").expect("the resolver's configuration");
        administer(&format!("mount --bind {} /etc/resolv.conf", configuration.display()));
        let _ = std::fs::remove_file(&configuration);
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).expect("the port of name servers")
    });
}
