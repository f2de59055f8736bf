//! What `status --json` prints. A contract: fields are added, never renamed.

use serde::{Deserialize, Serialize};

use crate::core::types::AdapterState;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GatewayState {
    Starting,
    Running,
    Draining,
    Stopping,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    pub state: GatewayState,
    pub pid: u32,
    pub version: String,
    pub uptime_ms: u64,
    pub stop_budget_ms: u64,
    pub rss_bytes: u64,
    pub adapters: Vec<AdapterReport>,
    pub threads: Vec<ThreadReport>,
    pub turns: Vec<TurnReport>,
    pub inbox: QueueReport,
    pub outbox: QueueReport,
    pub dead_letters: u64,
    pub children: usize,
    pub store: StoreReport,
    /// Absent in the answers of versions without schedules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleReport>,
    /// Set while control does not turn: what it is stuck in.
    pub unresponsive: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterReport {
    pub name: String,
    pub platform: String,
    pub state: AdapterState,
    pub since_ms: u64,
    pub error: Option<String>,
    pub identity: Option<String>,
    pub attempt: u32,
    pub next_try_ms: Option<u64>,
    pub heard_ms: Option<u64>,
    pub received: u64,
    pub sent: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ThreadReport {
    pub name: String,
    pub activity: String,
    pub for_ms: u64,
    /// Until it must be over, from now; negative once overdue; absent while waiting for work.
    pub due_ms: Option<i64>,
    pub abandoned: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnReport {
    pub session: String,
    pub for_ms: u64,
    pub activity: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueReport {
    pub pending: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreReport {
    pub bytes: u64,
    /// Why it takes nothing at the moment: disk full, read-only.
    pub error: Option<String>,
    pub last_commit_ms: Option<u64>,
}

/// Scheduled jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleReport {
    pub jobs: u64,
    pub next: Option<NextRunReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextRunReport {
    pub job: i64,
    pub session: String,
    pub in_ms: u64,
}
