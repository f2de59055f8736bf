//! Telegram as one platform among others: the reference of the suite.

use super::Platform;
use crate::support::gateway::Setup;
use crate::support::http::{Fault, Server};
use crate::support::telegram::{ANA, Telegram};
use std::net::SocketAddr;
use std::time::Duration;

impl Platform for Telegram {
    const NAME: &'static str = "telegram";
    /// A poll of a second, the margin of ten that its answer has, and one for the way.
    const INTERVAL: Duration = Duration::from_secs(12);
    const KEEPS: bool = true;

    fn start() -> Self {
        Telegram::start()
    }
    fn server(&self) -> &Server {
        &self.server
    }
    fn configure(&self, setup: Setup, address: SocketAddr) -> Setup {
        setup.telegram_at(self, &format!("http://{address}")).set("adapters.telegram", "poll_timeout", "1")
    }

    fn says(&self, text: &str) -> String {
        self.user_says(ANA, text).to_string()
    }
    fn repeat(&self, id: &str) {
        Telegram::repeat(self, ANA, id.parse().expect("an id of a message"));
    }
    fn is_confirmed(&self, id: &str) -> bool {
        let id: i64 = id.parse().expect("an id of a message");
        self.lock().updates.iter().all(|(_, update)| update["message"]["message_id"] != id)
    }
    fn texts(&self) -> Vec<String> {
        Telegram::texts(self, ANA)
    }

    fn connected(&self) -> usize {
        self.lock().polling
    }
    fn connects(&self) -> usize {
        // The first poll of a connection only proves that it may.
        let proves = |call: &&crate::support::telegram::Call| {
            call.method == "getUpdates" && call.status == 200 && call.params.get("timeout").is_some_and(|timeout| timeout == 0)
        };
        self.lock().journal.iter().filter(proves).count()
    }
    fn refuse(&self, refuse: bool) {
        self.lock().faults.clear();
        if refuse {
            self.fail("*", Fault::Status { code: 401, retry_after: None }, usize::MAX);
        }
    }
}
