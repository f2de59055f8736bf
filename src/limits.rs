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
/// How long a look-up may take before its thread counts as stuck: glibc asks three servers twice, five seconds each.
pub const LOOKUP: Duration = Duration::from_secs(35);
/// Addresses of one name that are tried.
pub const ADDRESSES_MAX: usize = 8;
/// After which the next address is tried beside one that has not answered: "Connection Attempt Delay", RFC 8305.
pub const CONNECT_STAGGER: Duration = Duration::from_millis(250);
/// A connection is probed after this much silence, then each interval, and given up after that many probes: a peer that
/// vanished is noticed within a minute.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
pub const KEEPALIVE_PROBES: u32 = 3;
/// Data that the peer's kernel has not acknowledged for this long breaks the connection. As long as the probes take.
pub const UNACKNOWLEDGED: Duration = Duration::from_secs(60);
/// A thread counts as overdue this long after the deadline of its network call, which comes back by itself before.
pub const NET_GRACE: Duration = Duration::from_millis(500);
/// What is read from a socket at once.
pub const READ_BYTES: usize = 8 * KIB;
/// Status line and headers of a response. Servers allow 8 to 16 KiB for requests; cookies make responses longer.
pub const HEAD_BYTES_MAX: usize = 64 * KIB;
pub const HEADERS_MAX: usize = 128;
/// When sending broke off: how long an answer that was sent before is looked for (413 and a closed connection, mostly).
pub const EARLY_ANSWER: Duration = Duration::from_secs(1);
/// Interim (1xx) responses before the real one.
pub const INTERIM_RESPONSES_MAX: usize = 8;
/// Size line or trailers of a chunked body.
pub const CHUNK_LINE_BYTES_MAX: usize = 8 * KIB;
/// Idle connections that one client keeps.
pub const IDLE_CONNECTIONS_MAX: usize = 4;
/// How long an idle connection may be used again. Servers close theirs after 5 s (and say so) to 75 s.
pub const IDLE_CONNECTION: Duration = Duration::from_secs(30);
/// What is read of a body that nobody wants, to keep its connection; beyond it the connection is closed.
pub const UNWANTED_BODY_BYTES_MAX: usize = 64 * KIB;
/// PEM file of extra authorities; a distribution's whole bundle has 250 KiB.
pub const CA_FILE_BYTES_MAX: usize = 4 * MIB;
/// Longest wait that a server's Retry-After is believed.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

// --- provider ---

/// One image in a request. The Messages API takes 5 MB an image, measured after base64, which adds a third.
pub const IMAGE_BYTES_MAX: usize = 3750 * KIB;
/// All images of one request, the newest first. The Messages API takes 32 MB a request, but a request is three times in
/// memory for a moment, base64 included, and platforms send photos of some 200 KiB.
pub const REQUEST_IMAGE_BYTES_MAX: usize = 8 * MIB;
/// What is read of the body of an error answer; the known ones are below 1 KiB.
pub const ERROR_BODY_BYTES_MAX: usize = 64 * KIB;
/// Characters of a provider's own words in an error or a log line.
pub const ERROR_TEXT_CHARS_MAX: usize = 300;
/// One streamed answer on the wire. An envelope is some fifty times its token, and a reply has 8 MiB at most; nothing of it is kept.
pub const STREAM_BYTES_MAX: usize = 512 * MIB;
/// Blocks of one reply (texts, tool calls). Models were seen to send some tens of parallel calls.
pub const REPLY_BLOCKS_MAX: usize = 256;
/// Longest wait that a provider may ask for before the next provider is tried; both vendors' own clients draw the line there.
pub const PROVIDER_RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Longest pause between two attempts when the provider names none; the vendors' own clients use the same.
pub const PROVIDER_BACKOFF_MAX: Duration = Duration::from_secs(8);
/// How long a provider that failed is passed over while another one can be asked.
pub const PROVIDER_REST: Duration = Duration::from_secs(60);
/// The longest such rest, when the provider itself asked for a long wait.
pub const PROVIDER_REST_MAX: Duration = Duration::from_secs(600);

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

// --- control socket ---

pub const ADMIN_CONNECTIONS_MAX: usize = 32;
pub const ADMIN_LINE_BYTES_MAX: usize = MIB;

const _: () = assert!(PIPE_GRACE.as_millis() < TERM_GRACE.as_millis());
const _: () = assert!(STORE_GROUP_MAX <= STORE_QUEUE_MAX);
