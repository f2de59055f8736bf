//! The fault matrix: each fault meets each way to end, restart or replace the gateway.
//!
//! Every cell has a turn that hangs and a message that waits behind it, then the fault, then the action. Whatever the
//! fault: the exit comes within the budget and with the right code, no descendant and no lock is left, and the next
//! gateway answers the message that waited, once.

mod action;
mod guardian;
mod network;
mod peer;
mod wedged;
mod world;

use action::ACTIONS;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;
use world::{Fault, World};

/// The phases that the cells are configured with: drain 1 s, then ask, cut and close 500 ms each.
const BUDGET: Duration = Duration::from_millis(2500);
/// What the guardian grants on top, and what a busy machine may add.
const SLACK: Duration = Duration::from_millis(1500);

/// Cells that may run at one time. They wait more than they compute, but each is a gateway with its fakes.
const CELLS_AT_ONCE: usize = 16;
static CELLS: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

struct Place;

impl Place {
    fn take() -> Self {
        let mut taken = CELLS.0.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken >= CELLS_AT_ONCE {
            taken = CELLS.1.wait_timeout(taken, Duration::from_secs(60)).unwrap_or_else(PoisonError::into_inner).0;
        }
        *taken += 1;
        Self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *CELLS.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        CELLS.1.notify_one();
    }
}

/// One row: all actions at the same time, each on a gateway of its own. All cells are run before the row fails.
fn row(fault: Fault) {
    let only = std::env::var("MATRIX_ACTION").ok();
    let failed: Vec<String> = std::thread::scope(|scope| {
        let cells = ACTIONS.iter().filter(|(name, _)| only.as_ref().is_none_or(|only| only == name));
        let cells: Vec<_> = cells
            .map(|(name, action)| {
                let cell = move || {
                    let _place = Place::take();
                    let begun = std::time::Instant::now();
                    World::start(fault, name).run(*action);
                    eprintln!("{fault:?} × {name}: well after {:.1} s", begun.elapsed().as_secs_f64());
                };
                (name, scope.spawn(move || catch_unwind(AssertUnwindSafe(cell)).is_ok()))
            })
            .collect();
        cells.into_iter().filter_map(|(name, cell)| (!cell.join().unwrap_or(false)).then(|| (*name).to_owned())).collect()
    });
    assert!(failed.is_empty(), "{fault:?} × {failed:?}: see above");
}

macro_rules! rows {
    ($($name:ident: $fault:ident,)*) => {
        $(#[test]
        fn $name() {
            row(Fault::$fault);
        })*
    };
}

rows! {
    nothing_is_wrong: None,
    a_black_holed_connection: BlackHole,
    a_half_open_connection: HalfOpen,
    a_server_that_accepts_and_never_answers: NeverAnswers,
    a_slow_loris: SlowLoris,
    a_stalled_tls_handshake: TlsStall,
    a_connect_that_hangs: ConnectHangs,
    a_stopped_peer: StoppedPeer,
    a_receiver_that_ignores_its_token: DeafReceiver,
    a_sender_that_ignores_its_token: DeafSender,
    a_child_that_ignores_term: DeafChild,
    a_child_that_forks_twice_and_leaves_its_session: DetachedChild,
    a_child_that_fills_its_pipe: ChattyChild,
    a_blocked_stderr: BlockedStderr,
    a_slow_disk: SlowDisk,
}

#[test]
fn a_name_server_that_never_answers() {
    crate::support::namespace::within("matrix::a_name_server_that_never_answers", &[], || row(Fault::DnsHangs));
}

#[test]
fn a74_a_full_disk() {
    crate::support::namespace::within("matrix::a74_a_full_disk", &["umount"], || row(Fault::FullDisk));
}
