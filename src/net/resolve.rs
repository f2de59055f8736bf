//! Names to addresses, with an end.
//!
//! getaddrinfo(3) cannot be interrupted and may hang for minutes, so each look-up has a thread of its own, and the
//! caller waits for its answer, for the cancel, or for the deadline. Of a look-up that hangs only that thread remains;
//! their number is bounded. Addresses and `localhost` need no thread.

use super::error::{NetError, phase};
use crate::clock::{self, Deadline};
use crate::limits;
use crate::thread::{self, CancelToken, Threads};
use crossbeam_channel::{Receiver, Sender, bounded, select};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

type Answer = Result<Vec<IpAddr>, String>;
type Lookup = fn(&str) -> io::Result<Vec<IpAddr>>;

static RESOLVER: OnceLock<Resolver> = OnceLock::new();

/// Makes look-up threads part of this registry, so that `status` shows them. To be called before the first look-up;
/// later calls do nothing.
pub fn register_threads(threads: &Threads) {
    let _ = RESOLVER.get_or_init(|| Resolver::new(threads, system_lookup));
}

/// Looks up `host`. Answers at once for addresses and `localhost`.
pub(super) fn resolve(host: &str, deadline: Deadline, token: &CancelToken) -> Result<Vec<IpAddr>, NetError> {
    RESOLVER.get_or_init(|| Resolver::new(&Threads::new(), system_lookup)).resolve(host, deadline, token)
}

#[allow(clippy::disallowed_methods)] // Blocks; this is the thread that is made for it.
fn system_lookup(host: &str) -> io::Result<Vec<IpAddr>> {
    use std::net::ToSocketAddrs as _;
    Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

struct Resolver {
    threads: Threads,
    lookup: Lookup,
    shared: Arc<Shared>,
}

struct Shared {
    /// One token for each thread that may exist.
    slots: (Sender<()>, Receiver<()>),
    under_way: Mutex<Vec<UnderWay>>,
}

/// A look-up whose thread is running.
struct UnderWay {
    id: u64,
    host: String,
    started: Instant,
    waiters: Vec<Sender<Answer>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolver {
    fn new(threads: &Threads, lookup: Lookup) -> Self {
        let slots = bounded(limits::RESOLVERS_MAX);
        for _ in 0..limits::RESOLVERS_MAX {
            let _ = slots.0.try_send(());
        }
        Self { threads: threads.clone(), lookup, shared: Arc::new(Shared { slots, under_way: Mutex::new(Vec::new()) }) }
    }

    fn resolve(&self, host: &str, deadline: Deadline, token: &CancelToken) -> Result<Vec<IpAddr>, NetError> {
        token.check()?;
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        // RFC 6761 section 6.3: names under localhost are this machine, whatever a name server says.
        if host == "localhost" || host.ends_with(".localhost") {
            return Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
        }
        let started = clock::now();
        let deadline = deadline.within(limits::RESOLVE);
        let answer = match self.join_running(host) {
            Some(answer) => answer,
            None => self.start(host, deadline, token)?,
        };
        select! {
            recv(answer) -> answer => {
                let addresses = answer.unwrap_or_else(|_| Err("the look-up broke off".to_owned()));
                addresses.map_err(|cause| NetError::Resolve { host: host.to_owned(), cause })
            }
            recv(token.cancelled()) -> _ => Err(NetError::Cancelled),
            default(deadline.remaining()) => {
                Err(NetError::Timeout { phase: phase::RESOLVE, peer: host.to_owned(), after: started.elapsed() })
            }
        }
    }

    /// Shares the answer of a look-up of the same name, unless that one seems to hang.
    fn join_running(&self, host: &str) -> Option<Receiver<Answer>> {
        let mut under_way = self.shared.lock();
        let running = under_way.iter_mut().find(|running| running.host == host && running.started.elapsed() < limits::RESOLVE)?;
        let (sender, receiver) = bounded(1);
        running.waiters.push(sender);
        Some(receiver)
    }

    fn start(&self, host: &str, deadline: Deadline, token: &CancelToken) -> Result<Receiver<Answer>, NetError> {
        let failed = |cause: String| NetError::Resolve { host: host.to_owned(), cause };
        select! {
            recv(self.shared.slots.1) -> _ => {}
            recv(token.cancelled()) -> _ => return Err(NetError::Cancelled),
            default(deadline.remaining()) => {
                let text = format!("{} earlier look-ups hang; does the name server of this machine answer?", limits::RESOLVERS_MAX);
                return Err(failed(text));
            }
        }
        let (sender, receiver) = bounded(1);
        let job = Job { shared: Arc::clone(&self.shared), id: fastrand::u64(..), answer: Err("the look-up broke off".to_owned()) };
        let entry = UnderWay { id: job.id, host: host.to_owned(), started: clock::now(), waiters: vec![sender] };
        self.shared.lock().push(entry);
        let (lookup, name) = (self.lookup, host.to_owned());
        // The token is not the caller's: others may wait for the same answer, and a look-up cannot be interrupted anyway.
        let started = self.threads.spawn(
            "resolve",
            0,
            CancelToken::new(),
            |_| (),
            move |_| {
                let mut job = job;
                let _busy = thread::enter(format_args!("look up {name}"), Deadline::after(limits::LOOKUP));
                job.answer = lookup(&name).map_err(|error| plain_cause(&error));
            },
        );
        // If it did not start, the job went down with its closure and has tidied up.
        started.map(|_detached| receiver).map_err(|error| failed(error.to_string()))
    }
}

/// One look-up. However its thread ends, the answer is given out and the slot is freed.
struct Job {
    shared: Arc<Shared>,
    id: u64,
    answer: Answer,
}

impl Drop for Job {
    fn drop(&mut self) {
        let mut under_way = self.shared.lock();
        let place = under_way.iter().position(|running| running.id == self.id);
        let waiters = place.map(|place| under_way.swap_remove(place).waiters).unwrap_or_default();
        drop(under_way);
        for waiter in waiters {
            let _ = waiter.try_send(self.answer.clone());
        }
        let _ = self.shared.slots.0.try_send(());
    }
}

fn plain_cause(error: &io::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    // The stand-ins for getaddrinfo block on purpose.
    #![allow(clippy::disallowed_methods)]
    use super::*;
    use std::time::Duration;

    fn hang(_: &str) -> io::Result<Vec<IpAddr>> {
        std::thread::sleep(Duration::from_millis(1500));
        Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_millis(50))
    }

    #[test]
    fn addresses_and_localhost_need_no_thread() {
        let threads = Threads::new();
        let resolver = Resolver::new(&threads, |_| panic!("must not be asked"));
        let token = CancelToken::new();
        let check = |host: &str, expect: &str| {
            let addresses = resolver.resolve(host, soon(), &token).expect(host);
            assert_eq!(addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), expect);
        };
        check("127.0.0.1", "127.0.0.1");
        check("::1", "::1");
        check("localhost", "127.0.0.1 ::1");
        check("a.localhost", "127.0.0.1 ::1");
        token.cancel();
        assert!(matches!(resolver.resolve("127.0.0.1", soon(), &token), Err(NetError::Cancelled)));
    }

    #[test]
    fn a_hanging_lookup_ends_at_the_deadline_and_leaks_a_bounded_thread() {
        let threads = Threads::new();
        let resolver = Resolver::new(&threads, hang);
        let token = CancelToken::new();
        for number in 0..limits::RESOLVERS_MAX {
            let error = resolver.resolve(&format!("host{number}"), Deadline::after(Duration::from_millis(5)), &token);
            assert!(matches!(error, Err(NetError::Timeout { phase: phase::RESOLVE, .. })), "{error:?}");
        }
        assert_eq!(threads.list().len(), limits::RESOLVERS_MAX);
        assert!(threads.list().iter().all(|thread| thread.activity.text.starts_with("look up host") || thread.activity.text.is_empty()));
        let error = resolver.resolve("one-more", soon(), &token).expect_err("no slot is free");
        assert!(error.to_string().contains("earlier look-ups hang"), "{error}");
        // Joins one that is under way, and gets its answer; its thread has gone then or goes soon.
        let answer = resolver.resolve("host0", Deadline::after(Duration::from_secs(5)), &token).expect("arrives late");
        assert_eq!(answer, [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        assert!(resolver.resolve("one-more", Deadline::after(Duration::from_secs(5)), &token).is_ok());
    }

    #[test]
    fn a_cancel_ends_the_wait_at_once() {
        let resolver = Resolver::new(&Threads::new(), hang);
        let token = CancelToken::new();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| resolver.resolve("host", Deadline::after(Duration::from_secs(5)), &token));
            while resolver.shared.lock().is_empty() {
                std::thread::yield_now();
            }
            let cancelled = clock::now();
            token.cancel();
            assert!(matches!(waiting.join().expect("no panic"), Err(NetError::Cancelled)));
            assert!(cancelled.elapsed() < Duration::from_millis(100));
        });
    }

    #[test]
    fn failures_and_panics_are_errors() {
        let token = CancelToken::new();
        let failing: Lookup = |_| Err(io::Error::other("failed to lookup address information: Name or service not known"));
        let error = Resolver::new(&Threads::new(), failing).resolve("x", Deadline::after(Duration::from_secs(5)), &token);
        assert_eq!(error.expect_err("fails").to_string(), "cannot look up x: Name or service not known");
        let resolver = Resolver::new(&Threads::new(), |_| panic!("out of luck"));
        let error = resolver.resolve("x", Deadline::after(Duration::from_secs(5)), &token);
        assert_eq!(error.expect_err("fails").to_string(), "cannot look up x: the look-up broke off");
    }
}
