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
/// Ended background jobs whose output is kept to be asked for; the oldest go first.
pub const BACKGROUND_JOBS_KEPT_MAX: usize = 32;
/// Output of one background job kept in memory: the last so many bytes. With all jobs, running and kept: 8 MiB.
pub const JOB_OUTPUT_BYTES_MAX: usize = 128 * KIB;
/// A background job that is still there after this is ended.
pub const JOB_LIFETIME: Duration = Duration::from_secs(6 * 3600);
/// Process trees at once: the tools of all turns and the background jobs, with room for several tools a turn.
pub const TREES_MAX: usize = 128;
/// Processes waiting to be forked; each is waited for by the thread of a turn, of which there are a few.
pub const CHILD_STARTS_MAX: usize = 64;
/// From asking for a process until it is forked. It takes a millisecond; more means that the system has no memory or no process left.
pub const CHILD_START: Duration = Duration::from_secs(5);
/// How long a foreground tool waits for the rest of its tree to end after KILL was due.
pub const TREE_SETTLE: Duration = Duration::from_millis(500);
/// A tree of which something is left this long after its end was ordered is reported, and looked at less often from then on.
pub const TREE_STUBBORN: Duration = Duration::from_secs(5);
/// While trees exist, how often strangers that were re-parented to us are reaped and the CPU time of jobs is noted.
pub const CHILDREN_LOOK: Duration = Duration::from_secs(5);
/// Environment block of a process that is searched for the instance mark; Linux allows megabytes, ours are a few KiB and lead with the mark.
pub const ENVIRON_BYTES_MAX: usize = 256 * KIB;

// --- tools ---

/// A file that `read_file` and `edit_file` take into memory.
pub const TOOL_FILE_BYTES_MAX: u64 = 8 * MIB as u64;
/// Lines that `read_file` gives when the model names no number.
pub const READ_LINES_DEFAULT: usize = 2000;
/// Longest line shown by `read_file` and `search_files`; the rest is cut. Minified files have lines of megabytes.
pub const TOOL_LINE_BYTES_MAX: usize = 2 * KIB;
/// Matches that `search_files` gives.
pub const SEARCH_MATCHES_MAX: usize = 200;
/// Directory entries that one `search_files` looks at.
pub const SEARCH_ENTRIES_MAX: usize = 100_000;
/// Bytes that one `search_files` reads.
pub const SEARCH_BYTES_MAX: u64 = 256 * MIB as u64;
/// A larger file is not searched: it is hardly a text.
pub const SEARCH_FILE_BYTES_MAX: u64 = 4 * MIB as u64;
/// One `search_files`.
pub const SEARCH_TIME: Duration = Duration::from_secs(30);
/// Body read by `http_fetch`; a page of text is far below.
pub const FETCH_BYTES_MAX: usize = 2 * MIB;
/// Redirects followed by `http_fetch`; browsers take 20, nobody needs more than a few.
pub const FETCH_REDIRECTS_MAX: usize = 5;
/// One `http_fetch`.
pub const FETCH_TIME: Duration = Duration::from_secs(60);

// --- turns ---

/// Model rounds in one turn; a model that goes on calling tools is stopped here.
pub const ROUNDS_PER_TURN_MAX: u32 = 100;
/// Messages of a transcript that are sent to the model; older ones are left out.
pub const TRANSCRIPT_MESSAGES_MAX: usize = 400;

// --- control socket ---

pub const ADMIN_CONNECTIONS_MAX: usize = 32;
pub const ADMIN_LINE_BYTES_MAX: usize = MIB;

const _: () = assert!(PIPE_GRACE.as_millis() < TERM_GRACE.as_millis());
const _: () = assert!(BACKGROUND_JOBS_MAX < TREES_MAX);
const _: () = assert!(STORE_GROUP_MAX <= STORE_QUEUE_MAX);
