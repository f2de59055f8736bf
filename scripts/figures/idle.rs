//! What the gateway is when nothing happens: its size, its start, its memory, its wake-ups.

use crate::measure::{Figure, Times, memory_text, mib, ms};
use crate::support::gateway::{BINARY, Gateway, Setup, quoted};
use crate::support::process::{descriptors, footprint, switches};
use crate::support::telegram::Telegram;
use crate::tls::TlsFront;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::{Duration, Instant};

const SIZE_MAX: u64 = 6_000_000;
const READY: Duration = Duration::from_millis(30);
const RSS_KIB_MAX: u64 = 4096;
const STARTS: usize = 20;
/// Until what comes after a start is over.
const SETTLE: Duration = Duration::from_secs(10);
const WATCH: Duration = Duration::from_secs(30);

/// As the README's ten lines are: nothing set that does not have to be.
pub fn plain(telegram: &Telegram, url: &str) -> Setup {
    Gateway::setup().telegram_at(telegram, url).unset("adapters.telegram", "poll_timeout").set("log", "level", "\"info\"")
}

pub fn size() -> Vec<Figure> {
    let bytes = std::fs::metadata(BINARY).map_or(0, |data| data.len());
    let text = format!("{:.2} MB", f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) / 1e6);
    vec![Figure::new("binary, stripped, with TLS and SQLite", "≤ 6 MB", text, bytes <= SIZE_MAX)]
}

/// From starting the process until it says READY=1, as systemd would hear it.
pub fn start() -> Vec<Figure> {
    let telegram = Telegram::start();
    let setup = plain(&telegram, &telegram.url());
    let path = setup.scratch().join("notify");
    let socket = UnixDatagram::bind(&path).expect("the notification socket");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    let setup = setup.env("NOTIFY_SOCKET", path.to_str().expect("a path"));
    setup.write_config(&setup.config());
    let (mut ready, mut polling) = (Vec::new(), Vec::new());
    for _ in 0..=STARTS {
        let before = telegram.calls("getUpdates").len();
        let mut command = setup.command(&["run"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let begun = Instant::now();
        let mut child = command.spawn().expect("the gateway's binary");
        let mut buffer = [0; 4096];
        loop {
            let length = socket.recv(&mut buffer).expect("READY=1");
            if String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == "READY=1") {
                break;
            }
        }
        ready.push(begun.elapsed());
        polling.push(telegram.wait_call("getUpdates", before + 1, |_| true).at.duration_since(begun));
        kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), Signal::SIGTERM).expect("a signal");
        child.wait().expect("its end");
    }
    let first = ready.remove(0);
    polling.remove(0);
    let (ready, polling) = (Times::new(ready), Times::new(polling));
    vec![
        Figure::time("start → READY=1", READY, &ready),
        Figure::told("the very first start, which makes the database", ms(first)),
        Figure::told("start → first poll at the platform", polling.to_string()),
    ]
}

pub fn idle() -> Vec<Figure> {
    let telegram = Telegram::start();
    let gateway = plain(&telegram, &telegram.url()).start();
    telegram.wait_call("getUpdates", 1, |_| true);
    pause(SETTLE);
    let pid = gateway.pid();
    let (rss, text) = memory_text(pid);
    let mut figures = vec![Figure::new("idle RSS, Telegram polling, after 10 s", "≤ 4 MiB", text, rss <= RSS_KIB_MAX)];
    let (before, begun) = (switches(pid), Instant::now());
    pause(WATCH);
    let woken = switches(pid).saturating_sub(before);
    #[allow(clippy::cast_precision_loss)] // A handful.
    let rate = woken as f64 / begun.elapsed().as_secs_f64();
    let text = format!("{rate:.2} ({woken} in {} s, one poll among them)", WATCH.as_secs());
    figures.push(Figure::new("voluntary context switches/s, idle", "≤ 1", text, rate <= 1.0));
    let (rss, text) = memory_text(pid);
    figures.push(Figure::new("the same after 40 s, with a new poll and the guardian's looks", "≤ 4 MiB", text, rss <= RSS_KIB_MAX));
    let print = footprint(pid);
    figures.push(Figure::told("threads and descriptors, idle", format!("{} and {}", print.threads, descriptors(pid).len())));
    drop(gateway);
    figures.push(over_tls());
    figures.extend(adapters());
    figures
}

/// The same over TLS, as the real platform is reached.
fn over_tls() -> Figure {
    let telegram = Telegram::start();
    let front = TlsFront::start(telegram.server.address);
    let gateway = plain(&telegram, &front.url()).set("net", "ca_file", &quoted(&front.ca_file())).start();
    telegram.wait_call("getUpdates", 1, |_| true);
    pause(SETTLE);
    let (rss, text) = memory_text(gateway.pid());
    Figure::new("idle RSS, Telegram polling over TLS, after 10 s", "≤ 4 MiB", text, rss <= RSS_KIB_MAX)
}

/// What another adapter costs.
fn adapters() -> Vec<Figure> {
    let mut resident = Vec::new();
    for count in [1, 20] {
        let telegrams: Vec<Telegram> = (0..count).map(|_| Telegram::start()).collect();
        let mut setup = plain(&telegrams[0], &telegrams[0].url());
        for (number, telegram) in telegrams.iter().enumerate().skip(1) {
            let section = format!("adapters.telegram-{number}");
            setup = setup.set(&section, "platform", "\"telegram\"").set(&section, "token", &quoted(&telegram.token()));
            setup = setup.set(&section, "base_url", &quoted(&telegram.url()));
        }
        let gateway = setup.start();
        for telegram in &telegrams {
            telegram.wait_call("getUpdates", 1, |_| true);
        }
        pause(Duration::from_secs(2));
        resident.push(crate::measure::memory(gateway.pid()).0 * 1024);
    }
    let each = resident[1].saturating_sub(resident[0]) / 19;
    let text = format!("{} and {}: {} KiB each", mib(resident[0]), mib(resident[1]), each / 1024);
    vec![Figure::told("RSS with 1 and with 20 adapters", text)]
}

/// Lets time pass: what is measured here is what happens meanwhile.
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
