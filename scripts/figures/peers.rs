//! All platforms connected at once: what they cost while nothing happens, and how soon each answers.

use crate::idle::pause;
use crate::measure::{Figure, Times, fsync, memory_text, ms};
use crate::platforms::together::{Any, all};
use crate::support::faults::Proxy;
use crate::support::gateway::{Gateway, Setup};
use crate::support::model::{self, Model, Protocol};
use crate::support::poll;
use crate::support::process::{descriptors, footprint, switches};
use std::time::{Duration, Instant};

const RSS_KIB_MAX: u64 = 10 * 1024;
/// Context switches a second besides what the connections themselves need.
const WAKEUPS_MAX: f64 = 3.0;
const SETTLE: Duration = Duration::from_secs(10);
const WATCH: Duration = Duration::from_secs(30);
/// Added by the gateway, without the disk.
const LATENCY: Duration = Duration::from_millis(5);
/// The message, the turn with its reply, and the note that it is being sent, one after the other.
const COMMITS: u32 = 3;
/// Together with those that warm up fewer than WeCom takes at once.
const EXCHANGES: usize = 16;
const WARM: usize = 3;
/// Between two exchanges.
const APART: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(30);

fn setup() -> Setup {
    Gateway::setup().set("log", "level", "\"info\"")
}

fn wait_connected(gateway: &Gateway, platforms: &[Box<dyn Any>]) {
    for platform in platforms {
        gateway.wait_adapter(platform.name(), "connected");
    }
}

pub fn platforms() -> Vec<Figure> {
    let mut figures = idle();
    figures.extend(latency());
    figures
}

fn idle() -> Vec<Figure> {
    let platforms = all();
    // They count what goes through: the fakes' heartbeats are far more frequent than those of the real platforms.
    let proxies: Vec<Proxy> = platforms.iter().map(|platform| Proxy::start(platform.server().address)).collect();
    let pairs = platforms.iter().zip(&proxies);
    let gateway = pairs.fold(setup(), |setup, (platform, proxy)| platform.add_to(setup, proxy.address)).start();
    wait_connected(&gateway, &platforms);
    for platform in &platforms {
        platform.says("echo: warm");
        poll::eventually(PATIENCE, platform.name(), || (!platform.texts().is_empty()).then_some(()));
    }
    gateway.wait_idle();
    pause(SETTLE);
    let pid = gateway.pid();
    let what = format!("{} platforms connected", platforms.len());
    let (rss, text) = memory_text(pid);
    let mut figures = vec![Figure::new(&format!("RSS, {what} and idle"), "≤ 10 MiB", text, rss <= RSS_KIB_MAX)];
    let pieces = || proxies.iter().map(Proxy::pieces).sum::<usize>();
    let (woken, passed, begun) = (switches(pid), pieces(), Instant::now());
    pause(WATCH);
    let (woken, passed) = (switches(pid).saturating_sub(woken), pieces() - passed);
    #[allow(clippy::cast_precision_loss)] // Some hundreds.
    let rate = |count: f64| count / begun.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss)] // Some hundreds.
    let (all, traffic) = (rate(woken as f64), rate(passed as f64));
    let beyond = (all - traffic).max(0.0);
    let text = format!("{beyond:.2} ({all:.2} in all; {traffic:.2} pieces of heartbeats and polls in and out)");
    figures.push(Figure::new(&format!("context switches/s besides heartbeats, {what}"), "≤ 3", text, beyond <= WAKEUPS_MAX));
    let print = footprint(pid);
    figures.push(Figure::told(&format!("threads and descriptors, {what}"), format!("{} and {}", print.threads, descriptors(pid).len())));
    figures
}

/// One message after the other on each platform alone, answered at once by a model on loopback.
fn latency() -> Vec<Figure> {
    let mut figures = Vec::new();
    for platform in all() {
        let platforms = vec![platform];
        let platform = &platforms[0];
        let model = Model::start();
        for number in 0..WARM + EXCHANGES {
            model.rule(&format!("question {number}."), [model::text(&format!("answer {number}."))]);
        }
        let setup = platform.add_to(setup(), platform.server().address).model(&model, Protocol::Anthropic);
        let gateway = setup.start();
        let disk = fsync(gateway.setup.scratch());
        wait_connected(&gateway, &platforms);
        let mut times = Vec::new();
        for number in 0..WARM + EXCHANGES {
            let answer = format!("answer {number}.");
            let begun = Instant::now();
            platform.says(&format!("question {number}."));
            let seen =
                poll::try_for(PATIENCE, Duration::from_micros(100), || platform.texts().last().filter(|last| **last == answer).map(drop));
            let took = begun.elapsed();
            assert!(seen.is_some(), "{}: no answer {number}: {:?}\n{}", platform.name(), platform.texts(), gateway.log_tail());
            if number >= WARM {
                times.push(took);
            }
            gateway.wait_idle();
            // Some platforms take only a few messages a second.
            pause(APART);
        }
        let times = Times::new(times);
        let limit = LATENCY + disk.median() * COMMITS;
        figures.push(Figure::new(
            &format!("event in → reply request out, {}", platform.name()),
            &format!("median ≤ 5 ms + {COMMITS} fsyncs = {}", ms(limit)),
            format!("{times}, best {}", ms(times.at(0.0))),
            times.median() <= limit,
        ));
    }
    figures
}
