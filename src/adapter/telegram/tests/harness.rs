//! What the adapter's threads are given in tests: a real store, and a recorder in control's place.

use super::fake::{Fake, TOKEN};
use crate::adapter::telegram::{PLATFORM, Settings};
use crate::adapter::{Adapter, AdapterError, Events, Link};
use crate::clock::Deadline;
use crate::config::{AdapterConfig, Secret};
use crate::core::record::{Op, Outcome};
use crate::core::types::{Inbound, Receipt};
use crate::net::NetOptions;
use crate::store::{StoreHandle, StoreThread};
use crate::thread::{CancelToken, Cancelled, Threads};
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

pub fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

pub fn config(url: &str) -> AdapterConfig {
    let keys = [("base_url", url), ("poll_timeout", "20"), ("rate_limit", "off")];
    AdapterConfig {
        name: "telegram".to_owned(),
        platform: "telegram".to_owned(),
        enabled: true,
        allowed_users: vec!["77001".to_owned()],
        allowed_chats: vec![],
        admins: vec![],
        group_mention: true,
        streaming: true,
        keys: keys.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>(),
        secrets: [("token".to_owned(), Secret::new(TOKEN.to_owned()))].into_iter().collect(),
    }
}

pub fn settings(url: &str) -> Arc<Settings> {
    Arc::new(Settings::read(&config(url)).expect("settings"))
}

/// What was told to control.
#[derive(Default)]
pub struct Told {
    pub messages: Vec<(Inbound, Receipt)>,
    pub connected: Vec<String>,
    pub moved: Vec<(String, String)>,
    pub heard: usize,
    /// Messages with these texts are neither stored nor receipted.
    pub lost: Vec<String>,
    /// Receipts are kept back until [`Recorder::release`].
    pub hold: bool,
    held: Vec<Receipt>,
}

/// Control, as far as an inlet sees it: stores each message and gives its receipt.
pub struct Recorder {
    told: Mutex<Told>,
    changed: Condvar,
    store: StoreHandle,
    receipts: Sender<Receipt>,
}

impl Recorder {
    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().expect("told")
    }

    pub fn until(&self, what: &str, condition: impl Fn(&Told) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut told = self.told();
        while !condition(&told) {
            assert!(Instant::now() < deadline, "waited in vain for: {what}");
            told = self.changed.wait_timeout(told, Duration::from_millis(100)).expect("told").0;
        }
    }

    pub fn texts(&self) -> Vec<String> {
        self.told().messages.iter().map(|(inbound, _)| inbound.text.clone()).collect()
    }

    /// Gives the receipts that were kept back, the last one first.
    pub fn release(&self) {
        let mut told = self.told();
        told.hold = false;
        for receipt in std::mem::take(&mut told.held).into_iter().rev() {
            self.receipts.send(receipt).expect("room");
        }
    }
}

/// The recorder behind the link.
struct Ears(Arc<Recorder>);

impl Events for Ears {
    fn message(&self, inbound: Inbound, receipt: Receipt) -> Result<(), Cancelled> {
        let recorder = &self.0;
        let (lost, hold) = {
            let told = recorder.told();
            (told.lost.contains(&inbound.text), told.hold)
        };
        if !lost {
            let op =
                Op::Accept { inbound: Box::new(inbound.clone()), receipt: Some(receipt.clone()), received_ms: 1, begin: None, done: false };
            recorder.store.call(op, soon()).map_err(|_| Cancelled)?;
            if hold {
                recorder.told().held.push(receipt.clone());
            } else {
                recorder.receipts.send(receipt.clone()).expect("room");
            }
        }
        recorder.told().messages.push((inbound, receipt));
        recorder.changed.notify_all();
        Ok(())
    }

    fn connected(&self, identity: &str) {
        self.0.told().connected.push(identity.to_owned());
        self.0.changed.notify_all();
    }

    fn heard(&self) {
        self.0.told().heard += 1;
    }

    fn retrying(&self, cause: &str, _attempt: u32, _next: Duration) {
        panic!("the code around the inlet says so, not the inlet: {cause}");
    }

    fn moved(&self, old: &str, new: &str) {
        self.0.told().moved.push((old.to_owned(), new.to_owned()));
        self.0.changed.notify_all();
    }
}

/// A gateway reduced to one adapter.
pub struct Bench {
    pub fake: Fake,
    pub adapter: Box<dyn Adapter>,
    pub recorder: Arc<Recorder>,
    receipts: Receiver<Receipt>,
    pub store: StoreHandle,
    thread: Option<StoreThread>,
    pub directory: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(|_| ())
    }

    pub fn with(change: impl FnOnce(&mut AdapterConfig)) -> Self {
        let fake = Fake::start();
        let mut config = config(&fake.url);
        change(&mut config);
        let adapter = (PLATFORM.build)(&config).expect("adapter");
        let directory = tempfile::tempdir().expect("scratch");
        let opened = crate::store::open(&directory.path().join("state.db"), &Threads::new(), CancelToken::new(), soon());
        let (store, thread) = opened.expect("store");
        let (sender, receipts) = unbounded();
        let recorder = Recorder { told: Mutex::default(), changed: Condvar::new(), store: store.clone(), receipts: sender };
        Self { fake, adapter, recorder: Arc::new(recorder), receipts, store, thread: Some(thread), directory }
    }

    fn link(&self, token: &CancelToken) -> Link {
        Link {
            name: "telegram".to_owned(),
            generation: 1,
            token: token.clone(),
            store: self.store.fenced(token),
            net: NetOptions::default(),
            files: self.directory.path().join("files"),
            receipts: self.receipts.clone(),
            events: Box::new(Ears(Arc::clone(&self.recorder))),
        }
    }

    /// Runs an inlet of its own beside `body`, and cancels it when `body` is done. → why it ended
    pub fn run(&self, body: impl FnOnce()) -> AdapterError {
        let token = CancelToken::new();
        let link = self.link(&token);
        let mut inlet = self.adapter.inlet();
        let cut = CancelOnDrop(token);
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || match inlet.run(&link) {
                Ok(never) => match never {},
                Err(error) => error,
            });
            // A body that panics must not wait for the inlet for ever.
            let cut = cut;
            body();
            drop(cut);
            thread.join().expect("the inlet does not panic")
        })
    }

    /// Runs an inlet until it ends by itself.
    pub fn run_to_end(&self) -> AdapterError {
        match self.adapter.inlet().run(&self.link(&CancelToken::new())) {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    pub fn cursor(&self) -> Option<String> {
        match self.store.call(Op::LoadCursor { adapter: "telegram".to_owned() }, soon()) {
            Ok(Outcome::Cursor(cursor)) => cursor,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.thread.take().map(|thread| thread.close(soon()));
    }
}

struct CancelOnDrop(CancelToken);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
