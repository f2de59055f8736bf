//! Every bound of this program, with its unit and where the number comes from.
//!
//! Whatever others can fill (queues, buffers, files, caches, thread counts) has its limit here and nowhere else.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

// --- threads ---

/// Stack of an ordinary thread. TLS handshakes and JSON recursion (128 levels) fit with room to spare; only touched pages cost memory.
pub const STACK_BYTES: usize = 512 * KIB;
/// Threads that may exist at once, helpers for name resolution included.
pub const THREADS_MAX: usize = 512;
/// Abandoned threads after which the process restarts itself rather than going on with leaks.
pub const ABANDONED_THREADS_MAX: usize = 16;

// --- channels into control ---

/// Messages of workers waiting for control. A full lane makes an adapter wait (with a deadline), never control.
pub const NORMAL_LANE_MAX: usize = 1024;
/// Jobs waiting for one adapter's sender. Control never waits for room: what does not fit stays in the outbox on disk.
pub const SENDER_QUEUE_MAX: usize = 64;
/// Log lines waiting for stderr; more are dropped and counted.
pub const LOG_QUEUE_MAX: usize = 1024;
/// Longest log line; the rest is cut. journald's own limit is 48 KiB.
pub const LOG_LINE_BYTES_MAX: usize = 8 * KIB;
/// Requests waiting for the store.
pub const STORE_QUEUE_MAX: usize = 4096;
/// Requests that share one transaction, so that one fsync serves them all.
pub const STORE_GROUP_MAX: usize = 256;

// --- store ---

/// Page size of the database. A commit writes whole pages, and most rows are a few hundred bytes: with 1 KiB a message costs
/// 51 KB of writes from acceptance to delivery (five commits), with 4 KiB 125 KB.
pub const STORE_PAGE_BYTES: u32 = 1024;
/// Pages kept in memory; the system's page cache does the rest.
pub const STORE_CACHE_BYTES: usize = 256 * KIB;
/// The write-ahead log is moved into the database when it has this many pages, at the latest.
pub const STORE_LOG_PAGES_MAX: u32 = 2048;
/// The same, while there is nothing else to do: keeps the work out of the way of messages.
pub const STORE_LOG_PAGES_IDLE: u32 = 512;
/// The log file is cut to this length after it was emptied.
pub const STORE_LOG_BYTES: usize = 2 * MIB;
/// After this long without a request, the store tidies up once and then sleeps.
pub const STORE_IDLE: Duration = Duration::from_secs(2);
/// While the disk takes nothing and nobody asks, it is tried this often, so that `status` tells when it works again.
pub const STORE_PROBE: Duration = Duration::from_secs(15);
/// How long another program may hold the database before an operation fails.
pub const STORE_LOCK_WAIT: Duration = Duration::from_secs(2);
/// One group of operations must be on disk within this; an SD card that erases blocks takes a second or two.
pub const STORE_COMMIT: Duration = Duration::from_secs(15);
/// Integrity check when the last process ended without closing the store.
pub const STORE_CHECK: Duration = Duration::from_secs(3);
/// Integrity check after an orderly close; a start must not wait long for what is unlikely.
pub const STORE_CHECK_CLEAN: Duration = Duration::from_millis(250);
/// Rows deleted from one table at once.
pub const STORE_PRUNE_ROWS: usize = 500;
/// Free pages that are kept for later use, and that are given back at once beyond that.
pub const STORE_FREE_PAGES_MAX: u64 = 512;

// --- control ---

/// One event must be handled within this; it takes microseconds when all is well.
pub const CONTROL_EVENT: Duration = Duration::from_secs(10);
/// How often the guardian asks control for a sign of life when nothing else is due.
pub const GUARDIAN_INTERVAL: Duration = Duration::from_secs(10);

// --- messages ---

/// Longest text accepted from a platform; the rest is cut and said so.
pub const INBOUND_TEXT_BYTES_MAX: usize = 256 * KIB;
/// Attachments taken from one message.
pub const ATTACHMENTS_PER_MESSAGE_MAX: usize = 10;
/// One attachment on disk; Telegram lets bots download 20 MB.
pub const ATTACHMENT_BYTES_MAX: u64 = 20 * MIB as u64;
/// All attachments on disk together; the oldest go first.
pub const ATTACHMENT_CACHE_BYTES_MAX: u64 = 512 * MIB as u64;
/// Messages that may wait in one session; more are answered with "too many".
pub const SESSION_QUEUE_MAX: usize = 64;
/// Messages that may wait for an answer in all sessions together.
pub const INBOX_WAITING_MAX: usize = 10_000;
/// Undelivered outbound messages.
pub const OUTBOX_PENDING_MAX: usize = 10_000;
/// Attempts to deliver one message before it becomes a dead letter.
pub const SEND_ATTEMPTS_MAX: u32 = 20;

// --- network ---

/// Response body held in memory (not streamed, not a file).
pub const BODY_BYTES_MAX: usize = 16 * MIB;
/// One line of a server-sent event stream.
pub const SSE_LINE_BYTES_MAX: usize = 4 * MIB;
/// Text and tool input of one model reply.
pub const REPLY_BYTES_MAX: usize = 8 * MIB;
/// Name look-ups under way at once; one that hangs keeps its thread until the resolver gives up.
pub const RESOLVERS_MAX: usize = 16;
pub const RESOLVE: Duration = Duration::from_secs(5);
pub const CONNECT: Duration = Duration::from_secs(10);
pub const TLS_HANDSHAKE: Duration = Duration::from_secs(10);

// --- children ---

/// Output of one tool call kept in memory: the head and the tail, half each.
pub const TOOL_OUTPUT_BYTES_MAX: usize = 64 * KIB;
/// After the leader of a process tree has exited, how long its pipes are read on.
pub const PIPE_GRACE: Duration = Duration::from_millis(200);
/// Between TERM and KILL when a process tree is ended.
pub const TERM_GRACE: Duration = Duration::from_secs(1);
/// Background jobs of all sessions together.
pub const BACKGROUND_JOBS_MAX: usize = 32;

// --- turns ---

/// Model rounds in one turn; a model that goes on calling tools is stopped here.
pub const ROUNDS_PER_TURN_MAX: u32 = 100;
/// Messages of a transcript that are sent to the model; older ones are left out.
pub const TRANSCRIPT_MESSAGES_MAX: usize = 400;
/// The same in bytes of JSON: more than the largest context window takes.
pub const TRANSCRIPT_BYTES_MAX: usize = 4 * MIB;

// --- control socket ---

pub const ADMIN_CONNECTIONS_MAX: usize = 32;
pub const ADMIN_LINE_BYTES_MAX: usize = MIB;

const _: () = assert!(PIPE_GRACE.as_millis() < TERM_GRACE.as_millis());
const _: () = assert!(STORE_GROUP_MAX <= STORE_QUEUE_MAX);
const _: () = assert!(STORE_LOG_PAGES_IDLE < STORE_LOG_PAGES_MAX);
const _: () = assert!(STORE_LOCK_WAIT.as_millis() < STORE_COMMIT.as_millis());
