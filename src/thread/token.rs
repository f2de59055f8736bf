//! The cancel token: one flag, plus whatever a blocked call must be freed from.
//!
//! A thread that is about to block attaches the socket or the process tree it will wait for; `cancel()` sets the
//! flag and cuts everything attached, so the blocked call comes back at once. /stop, an interrupting message, a
//! silent provider and the shutdown all use this one mechanism. A connection that is to be closed in order is only
//! asked at first; `sever()` cuts it when its thread does not come back.

use crate::clock::Deadline;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Something a cancel must cut: a socket to shut down, a process tree to end.
///
/// Both run on the cancelling thread, usually control: they must return within microseconds and must not block.
pub trait Cut: Send + Sync {
    fn cut(&self);

    /// What a cancel does. Something that frees the blocked call by other means than cutting may put it here; it is cut
    /// by [`CancelToken::sever`] if it is still attached then.
    fn ask(&self) {
        self.cut();
    }
}

/// The work of this token was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled;

impl std::fmt::Display for Cancelled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cancelled")
    }
}

impl std::error::Error for Cancelled {}

/// Shared by the thread that works and everybody who may end its work. Clones are the same token.
#[derive(Clone)]
pub struct CancelToken {
    shared: Arc<Shared>,
}

struct Shared {
    cancelled: AtomicBool,
    /// Closed by `cancel`, so that `select!` and timed waits wake up.
    closed: Receiver<()>,
    state: Mutex<State>,
}

struct State {
    next_id: u64,
    attached: Vec<(u64, Arc<dyn Cut>)>,
    children: Vec<std::sync::Weak<Shared>>,
    open: Option<Sender<()>>,
}

/// Keeps something attached to a token for as long as the value lives.
#[must_use = "dropping it detaches at once"]
pub struct Attached {
    shared: Arc<Shared>,
    id: u64,
}

impl Default for CancelToken {
    fn default() -> Self {
        Self::new()
    }
}

impl CancelToken {
    #[must_use]
    pub fn new() -> Self {
        let (open, closed) = bounded(0);
        let state = State { next_id: 0, attached: Vec::new(), children: Vec::new(), open: Some(open) };
        Self { shared: Arc::new(Shared { cancelled: AtomicBool::new(false), closed, state: Mutex::new(state) }) }
    }

    /// A token that is cancelled with this one, and can be cancelled alone.
    #[must_use]
    pub fn child(&self) -> Self {
        let child = Self::new();
        let mut state = self.shared.lock();
        if state.open.is_none() {
            drop(state);
            child.cancel();
        } else {
            state.children.retain(|known| known.strong_count() > 0);
            state.children.push(Arc::downgrade(&child.shared));
        }
        child
    }

    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.shared.cancelled.load(Ordering::Acquire)
    }

    /// # Errors
    /// [`Cancelled`] once `cancel` was called. To be asked before anything is started.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }

    /// Sets the flag and asks everything attached, which for most means to cut it. Idempotent; returns within microseconds.
    pub fn cancel(&self) {
        self.shared.cancel();
    }

    /// After a cancel: cuts what is still attached. For threads that nobody waits for any more.
    pub fn sever(&self) {
        self.shared.cancel();
        self.shared.sever();
    }

    /// Attaches something to be cut. If the token is cancelled already, it is asked at once.
    pub fn attach(&self, target: Arc<dyn Cut>) -> Attached {
        let mut state = self.shared.lock();
        let id = state.next_id;
        state.next_id += 1;
        let cancelled = state.open.is_none();
        state.attached.push((id, Arc::clone(&target)));
        drop(state);
        if cancelled {
            target.ask();
        }
        Attached { shared: Arc::clone(&self.shared), id }
    }

    /// A channel that is disconnected by `cancel`, for `select!`. Nothing is ever sent on it.
    #[must_use]
    pub fn cancelled(&self) -> &Receiver<()> {
        &self.shared.closed
    }

    /// Sleeps for `wait`, or until the token is cancelled.
    ///
    /// # Errors
    /// [`Cancelled`] if that was the reason to come back.
    pub fn sleep(&self, wait: Duration) -> Result<(), Cancelled> {
        let _ = self.shared.closed.recv_deadline(Deadline::after(wait).instant());
        self.check()
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // The lists are valid after any panic; a poisoned lock must not stop a cancel.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        let mut state = self.lock();
        if state.open.take().is_none() {
            return;
        }
        let (attached, children) = state.reach();
        drop(state);
        attached.iter().for_each(|target| target.ask());
        children.iter().for_each(|child| child.cancel());
    }

    fn sever(&self) {
        let (attached, children) = self.lock().reach();
        attached.iter().for_each(|target| target.cut());
        children.iter().for_each(|child| child.sever());
    }
}

impl State {
    /// What is attached, and the children that still live.
    fn reach(&self) -> (Vec<Arc<dyn Cut>>, Vec<Arc<Shared>>) {
        let attached = self.attached.iter().map(|(_, target)| Arc::clone(target)).collect();
        (attached, self.children.iter().filter_map(std::sync::Weak::upgrade).collect())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.shared.lock().attached.retain(|(id, _)| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    struct Counter(AtomicUsize);
    impl Cut for Counter {
        fn cut(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn cancel_cuts_what_is_attached_and_nothing_else() {
        let token = CancelToken::new();
        let (kept, dropped, late) = (Arc::new(Counter(0.into())), Arc::new(Counter(0.into())), Arc::new(Counter(0.into())));
        let _kept = token.attach(Arc::clone(&kept) as Arc<dyn Cut>);
        drop(token.attach(Arc::clone(&dropped) as Arc<dyn Cut>));
        token.cancel();
        token.cancel();
        let _late = token.attach(Arc::clone(&late) as Arc<dyn Cut>);
        let count = |counter: &Counter| counter.0.load(Ordering::SeqCst);
        assert_eq!((count(&kept), count(&dropped), count(&late)), (1, 0, 1));
        assert_eq!(token.check(), Err(Cancelled));
    }

    #[derive(Default)]
    struct Polite {
        asked: AtomicUsize,
        cut: AtomicUsize,
    }
    impl Cut for Polite {
        fn cut(&self) {
            self.cut.fetch_add(1, Ordering::SeqCst);
        }
        fn ask(&self) {
            self.asked.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn what_is_asked_first_is_cut_only_if_it_does_not_go() {
        let token = CancelToken::new();
        let child = token.child();
        let (gone, stays) = (Arc::new(Polite::default()), Arc::new(Polite::default()));
        let attached = child.attach(Arc::clone(&gone) as Arc<dyn Cut>);
        let _stays = child.attach(Arc::clone(&stays) as Arc<dyn Cut>);
        token.cancel();
        token.cancel();
        drop(attached);
        let counts = |polite: &Polite| (polite.asked.load(Ordering::SeqCst), polite.cut.load(Ordering::SeqCst));
        assert_eq!((counts(&gone), counts(&stays)), ((1, 0), (1, 0)));
        token.sever();
        assert_eq!((counts(&gone), counts(&stays)), ((1, 0), (1, 1)));
    }

    #[test]
    fn children_end_with_their_parent_but_not_the_other_way_round() {
        let parent = CancelToken::new();
        let (one, two) = (parent.child(), parent.child());
        one.cancel();
        assert!(!parent.is_cancelled() && !two.is_cancelled());
        parent.cancel();
        assert!(two.is_cancelled() && parent.child().is_cancelled());
    }

    #[test]
    fn a_sleeper_wakes_up_on_cancel() {
        let token = CancelToken::new();
        let other = token.clone();
        let started = crate::clock::now();
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(move || other.sleep(Duration::from_secs(60)));
            token.cancel();
            assert_eq!(sleeper.join().expect("no panic"), Err(Cancelled));
        });
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
