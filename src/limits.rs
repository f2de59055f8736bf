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

/// How late a thread may be before the guardian calls it stuck. A promise: seen within its deadline and a second.
pub const GUARDIAN_GRACE_MS: u64 = 500;
/// What the guardian grants on top of the stop budget before it forces the exit: the ladder's own joins and the log.
pub const GUARDIAN_SLACK: Duration = Duration::from_millis(500);
/// How long the last log lines may take to be written.
pub const LOG_FLUSH: Duration = Duration::from_millis(300);
/// Ending what a killed predecessor left behind, at start.
pub const SWEEP: Duration = Duration::from_secs(3);
/// Opening, checking and migrating the database, at start.
pub const STORE_OPEN: Duration = Duration::from_secs(60);

// --- channels into control ---

/// Messages of workers waiting for control. A full lane makes an adapter wait (with a deadline), never control.
pub const NORMAL_LANE_MAX: usize = 256;
/// Jobs waiting for one adapter's sender. Control never waits for room: what does not fit stays in the outbox on disk.
pub const SENDER_QUEUE_MAX: usize = 64;
/// Log lines waiting for stderr; more are dropped and counted.
pub const LOG_QUEUE_MAX: usize = 512;
/// Longest log line; the rest is cut. journald's own limit is 48 KiB.
pub const LOG_LINE_BYTES_MAX: usize = 8 * KIB;
/// Requests waiting for the store: a batch of a hundred messages from each of twenty platforms. 16 bytes each, touched at the start.
pub const STORE_QUEUE_MAX: usize = 2048;
/// Requests that share one transaction, so that one fsync serves them all.
pub const STORE_GROUP_MAX: usize = 256;

// --- store ---

/// Page size of the database. A commit writes whole pages, and most rows are a few hundred bytes: with 1 KiB a message costs
/// 51 KB of writes from acceptance to delivery (five commits), with 4 KiB 125 KB.
pub const STORE_PAGE_BYTES: u32 = 1024;
/// Pages kept in memory; the system's page cache does the rest.
pub const STORE_CACHE_BYTES: usize = 256 * KIB;
/// Parsed statements that are kept while there is work: all that messages take.
pub const STORE_STATEMENTS: usize = 64;
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
/// `status` calls a gateway unresponsive when an event has taken this long.
pub const CONTROL_UNRESPONSIVE: Duration = Duration::from_secs(2);
/// An event that took longer is logged: control should never be that slow.
pub const CONTROL_SLOW: Duration = Duration::from_millis(50);
/// Receipts that one adapter has not fetched yet; an adapter waits for those of a batch before it asks for the next.
pub const RECEIPTS_MAX: usize = 256;

/// Memos of all adapters together. Each chat has two or three, each message that is being answered one.
pub const MEMOS_MAX: i64 = 20_000;
/// One memo, its key included.
pub const MEMO_BYTES_MAX: usize = 8 * KIB;
/// Silence of a platform's HTTP server in the middle of an answer.
pub const REST_SILENCE: Duration = Duration::from_secs(10);
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
/// Longest wait between two attempts, also when the platform or a jumped clock asks for more.
pub const SEND_RETRY_MS_MAX: u64 = 3_600_000;
/// Between two attempts to store what the disk did not take.
pub const STORE_RETRY_MS: u64 = 1000;
/// /stop acts when its row is committed, and after this at the latest: it must work with a slow disk.
pub const STOP_PATIENCE_MS: u64 = 50;
/// People who are not allowed to speak and whose first message was logged; when full, the list starts anew.
pub const STRANGERS_MAX: usize = 1000;

// --- schedules ---

/// Jobs of one chat.
pub const JOBS_PER_CHAT_MAX: usize = 50;
/// Jobs of all chats together.
pub const JOBS_MAX: usize = 500;
/// Text of one job.
pub const JOB_TEXT_BYTES_MAX: usize = 8 * KIB;
/// Shortest interval between two runs of a job; cron expressions cannot say less.
pub const JOB_INTERVAL_MS_MIN: i64 = 60_000;
/// Runs of a job that are kept, unfinished ones besides.
pub const JOB_RUNS_KEPT: usize = 20;
/// Ended jobs (those that run once) that are kept, with their runs.
pub const JOBS_ENDED_KEPT: usize = 100;
/// A run that begins later than this was missed: whether it is made up for is the job's own word. Control looks at the
/// clock every ten seconds, and a restart takes some.
pub const JOB_LATE_MS: i64 = 90_000;
/// After the store did not take the beginning of a run.
pub const JOB_RETRY_MS: u64 = 10_000;
/// Old rows are deleted for the first time this long after the start, when clocks without a battery have been set …
pub const PRUNE_FIRST_MS: u64 = 600_000;
/// … and then this often.
pub const PRUNE_INTERVAL_MS: u64 = 86_400_000;
/// A step of the wall clock against the monotonic one after which the times of jobs are worked out anew.
pub const CLOCK_STEP_MS: u64 = 2000;

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

/// One WebSocket message that is received. The largest known are Home Assistant's list of states and Discord's READY, a few MiB each.
pub const WEBSOCKET_MESSAGE_BYTES_MAX: usize = 16 * MIB;
/// What a WebSocket holds for a peer that does not read; the longest message that can be sent. A chunk of an upload has half a MiB.
pub const WEBSOCKET_UNSENT_BYTES_MAX: usize = MIB;
/// From the first byte of a received message to its last: 16 MiB at 1 Mbit/s.
pub const WEBSOCKET_MESSAGE: Duration = Duration::from_secs(130);
/// What one look at a WebSocket may take although its deadline has passed: what has arrived is to be seen, a flood is not.
pub const WEBSOCKET_LOOK: Duration = Duration::from_millis(20);
/// Messages that are received while another one is being sent; then the peer has to wait until that is out.
pub const WEBSOCKET_ARRIVED_MAX: usize = 64;
/// A WebSocket that has received a longer message gives the memory back; shorter ones are worth keeping it.
pub const WEBSOCKET_KEPT_BYTES_MAX: usize = 64 * KIB;
/// How long the answer to a CLOSE is waited for. Every server that is alive answers within a round trip.
pub const WEBSOCKET_CLOSE: Duration = Duration::from_secs(2);
/// The body of a refused upgrade, after the status: it only explains.
pub const WEBSOCKET_REFUSAL: Duration = Duration::from_secs(1);
pub const WEBSOCKET_REFUSAL_BYTES_MAX: usize = 16 * KIB;

/// Longest wait between two attempts to connect, also when the platform asks for more.
pub const RECONNECT_MAX: Duration = Duration::from_secs(600);
/// One attempt to deliver one part of a message.
pub const SEND: Duration = Duration::from_secs(30);
/// One edit of a streamed preview: the next one makes up for it.
pub const PREVIEW: Duration = Duration::from_secs(10);
/// One typing sign.
pub const TYPING: Duration = Duration::from_secs(5);
/// An operation of the store, as its caller waits for it. A worn SD card needs seconds at times.
pub const STORE_CALL: Duration = Duration::from_secs(30);
/// Where a wait needs an end but nothing is due: long enough not to wake an idle machine.
pub const LONG_WAIT: Duration = Duration::from_secs(3600);

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

// --- telegram ---

/// Beyond the time for which Telegram holds a poll open: its own delay and the network's.
pub const TELEGRAM_POLL_MARGIN: Duration = Duration::from_secs(10);
/// Any other call; they are answered within a second when all is well. Somebody waits for a message that may be lost.
pub const TELEGRAM_CALL: Duration = Duration::from_secs(12);
/// Longest silence within an answer or a file.
pub const TELEGRAM_SILENCE: Duration = Duration::from_secs(10);
/// Fetching the files of one message. Polling waits for it, so it is short; 20 MB need 2.7 Mbit/s.
pub const TELEGRAM_DOWNLOAD: Duration = Duration::from_secs(60);
/// Answering the presses on buttons of one batch; an unanswered one only shows a clock for a while.
pub const TELEGRAM_CALLBACKS: Duration = Duration::from_secs(10);
/// How long the messages of a batch may take to be committed before they are asked for again: as long as one commit
/// may take, and some.
pub const TELEGRAM_RECEIPTS: Duration = Duration::from_secs(20);
/// Updates in one poll; the Bot API's own limit.
pub const TELEGRAM_UPDATES_MAX: usize = 100;
/// Entities looked at in one text; Telegram sends 100 at the most.
pub const TELEGRAM_ENTITIES_MAX: usize = 200;
/// A text that is sent, in UTF-16 units after its markup is resolved (Bot API, sendMessage).
pub const TELEGRAM_TEXT_UTF16_MAX: usize = 4096;
/// How long a message waits for its turn when messages are sent too fast; a group's turn comes every 4 s.
pub const TELEGRAM_PACE_WAIT: Duration = Duration::from_secs(5);
/// Times that another instance may take the poll away within [`TELEGRAM_CONFLICT_MEMORY`] before it is given up.
pub const TELEGRAM_CONFLICTS_MAX: u32 = 5;
pub const TELEGRAM_CONFLICT_MEMORY: Duration = Duration::from_secs(600);

// --- weixin ---

/// How long a poll is held open when the server says so: between these.
pub const WEIXIN_POLL_MIN: Duration = Duration::from_millis(500);
pub const WEIXIN_POLL_MAX: Duration = Duration::from_secs(60);
/// Beyond the time for which a poll is held open: the server's own delay and the network's.
pub const WEIXIN_POLL_MARGIN: Duration = Duration::from_secs(3);
/// A call that is answered at once when all is well.
pub const WEIXIN_CALL: Duration = Duration::from_secs(8);
/// Sending one part. Somebody waits for it.
pub const WEIXIN_SEND: Duration = Duration::from_secs(12);
/// Showing "typing": a reply has to wait for it.
pub const WEIXIN_TYPING: Duration = Duration::from_secs(3);
/// Taking "typing" back after a reply: its commit waits for that.
pub const WEIXIN_TYPING_OFF: Duration = Duration::from_secs(2);
/// How long "typing" is not tried after it failed.
pub const WEIXIN_TYPING_PAUSE: Duration = Duration::from_secs(30);
/// How long a ticket for "typing" is used. Tencent's own client keeps them up to a day, others for ten minutes.
pub const WEIXIN_TICKET: Duration = Duration::from_secs(600);
/// Users whose tickets are kept.
pub const WEIXIN_TICKETS_MAX: usize = 256;
/// After a failed poll, and after this many in a row: Tencent's own figures.
pub const WEIXIN_FAILURE: Duration = Duration::from_secs(2);
pub const WEIXIN_FAILURES_MAX: u32 = 3;
pub const WEIXIN_FAILURES: Duration = Duration::from_secs(30);
/// Nothing is asked for so long after WeChat has ended the login.
pub const WEIXIN_GONE: Duration = Duration::from_secs(600);
/// After "too many messages"; three times as long each time, at most the second.
pub const WEIXIN_QUIET: Duration = Duration::from_secs(5);
pub const WEIXIN_QUIET_MAX: Duration = Duration::from_secs(30);
/// Fetching the files of one message. Polling waits for it; 20 MB need 2.7 Mbit/s.
pub const WEIXIN_DOWNLOAD: Duration = Duration::from_secs(60);
/// How long the messages of a batch may take to be committed before they are asked for again.
pub const WEIXIN_RECEIPTS: Duration = Duration::from_secs(20);
/// A cursor that only says "nothing new" is written this often: a memory card wears, and it is not needed.
pub const WEIXIN_CURSOR_AGE: Duration = Duration::from_secs(3600);
/// The longest id of a user or message that is taken; known ones have up to 40 characters.
pub const WEIXIN_ID_BYTES_MAX: usize = 200;
/// The longest cursor that is stored; known ones have some hundred bytes.
pub const WEIXIN_CURSOR_BYTES_MAX: usize = 64 * KIB;
/// The longest token or ticket that is taken; known ones have some hundred bytes.
pub const WEIXIN_TOKEN_BYTES_MAX: usize = 4 * KIB;
/// A text that is sent, in UTF-16 units: where Tencent's own client cuts.
pub const WEIXIN_TEXT_UTF16_MAX: usize = 4000;
/// A login, from the first code to the end: WeChat's own limit.
pub const WEIXIN_LOGIN: Duration = Duration::from_secs(300);
/// One question about the state of a login, which the server holds open for 35 s.
pub const WEIXIN_LOGIN_POLL: Duration = Duration::from_secs(38);
/// Codes after the first one, when nobody has scanned it in time.
pub const WEIXIN_LOGIN_CODES_MAX: u32 = 3;
/// What can be drawn: the most that the largest code holds is 2953 bytes.
pub const WEIXIN_LOGIN_CODE_BYTES_MAX: usize = 1024;

// --- home assistant ---

/// From the connect to `auth_ok`. The server gives a client ten seconds to authenticate.
pub const HOMEASSISTANT_OPEN: Duration = Duration::from_secs(20);
/// Until everything is subscribed and the states are read: a list of thousands takes a small machine a few seconds.
pub const HOMEASSISTANT_SETTLE: Duration = Duration::from_secs(30);
/// How long the answer to a ping may take, as Home Assistant's own clients have it.
pub const HOMEASSISTANT_PONG: Duration = Duration::from_secs(10);
/// One call of the REST interface; a service that talks to a slow device holds its answer back for up to ten seconds.
pub const HOMEASSISTANT_CALL: Duration = Duration::from_secs(15);
/// How long a message may take to be committed before the connection is made anew and the message handed over again.
pub const HOMEASSISTANT_RECEIPT: Duration = Duration::from_secs(20);
/// Messages that were handed over and are not committed yet.
pub const HOMEASSISTANT_UNCONFIRMED_MAX: usize = 256;
/// How long a change under the gateway's own account waits to learn whether it was the gateway's own doing.
pub const HOMEASSISTANT_OWN_WAIT: Duration = Duration::from_secs(10);
/// Contexts of own service calls that are kept; each call changes a few states.
pub const HOMEASSISTANT_CONTEXTS_MAX: usize = 512;
/// Entities whose last state is remembered; large homes have one or two thousand.
pub const HOMEASSISTANT_STATES_MAX: usize = 2000;
/// Memos that hold them: 2000 entries of 60 bytes each fill half of [`MEMO_BYTES_MAX`].
pub const HOMEASSISTANT_STATE_MEMOS: usize = 32;
/// Entries of one list in `watch`.
pub const HOMEASSISTANT_WATCH_MAX: usize = 500;
/// Users whose names are known, from the states of persons.
pub const HOMEASSISTANT_PERSONS_MAX: usize = 200;
/// Characters of one notification. Home Assistant has no limit of its own; its panel is narrow.
pub const HOMEASSISTANT_TEXT_CHARS_MAX: usize = 4096;
/// One call of a tool, its answer included.
pub const HOMEASSISTANT_TOOL: Duration = Duration::from_secs(30);
/// Entities that `ha_list_entities` gives when the model names no number, and the most it can ask for.
pub const HOMEASSISTANT_LISTED: usize = 100;
pub const HOMEASSISTANT_LISTED_MAX: usize = 500;
/// The answer of a service, or the attributes of an entity, as the model is shown them.
pub const HOMEASSISTANT_SHOWN_BYTES_MAX: usize = 16 * KIB;

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
/// The same in bytes of JSON: more than the largest context window takes.
pub const TRANSCRIPT_BYTES_MAX: usize = 4 * MIB;

/// How often one turn may leave out half of its transcript because the model's context is full.
pub const COMPACTIONS_PER_TURN_MAX: u32 = 4;
/// What a turn's thread may take beyond its own limits before it counts as stuck.
pub const TURN_GRACE: Duration = Duration::from_secs(30);
/// Between two reports of a turn's progress.
pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);
/// Steering messages and answers that wait for one turn.
pub const TURN_MAIL_MAX: usize = 256;

// --- control socket ---

/// How long `status` waits for the store's figures.
pub const FIGURES: Duration = Duration::from_millis(250);
/// How long a client of the control socket waits for control.
pub const ADMIN_ANSWER: Duration = Duration::from_secs(35);
pub const ADMIN_CONNECTIONS_MAX: usize = 32;
pub const ADMIN_LINE_BYTES_MAX: usize = MIB;
/// Connections that may be attached to a chat; the rest of the connections stays free for `status` and `stop`.
pub const ADMIN_ATTACHED_MAX: usize = 24;
/// From the first byte of a request to its last, and for an answer or an event to be taken by the client.
pub const ADMIN_LINE: Duration = Duration::from_secs(5);
/// A connection that is attached to nothing and asks nothing is closed after this.
pub const ADMIN_IDLE: Duration = Duration::from_secs(60);
/// One request of the control socket; `send` waits for a commit.
pub const ADMIN_REQUEST: Duration = Duration::from_secs(15);
/// A line of the gateway: a reply with every byte escaped, at the worst.
pub const ADMIN_ANSWER_BYTES_MAX: usize = 6 * REPLY_BYTES_MAX + MIB;
/// Events waiting for one terminal client; a client that leaves no room for a message is disconnected.
pub const HUB_QUEUE_MAX: usize = 64;
/// Previews are dropped while this many events wait: each holds the whole text so far.
pub const HUB_PREVIEWS_MAX: usize = 4;
/// Terminal clients of all chats together, those within the process included.
pub const HUB_CLIENTS_MAX: usize = 64;

// --- configuration ---

/// The configuration, the `env` file beside it, or the file of a secret. Real ones have a few KiB.
pub const CONFIG_BYTES_MAX: usize = MIB;

const _: () = assert!(ADMIN_ATTACHED_MAX < ADMIN_CONNECTIONS_MAX && ADMIN_ATTACHED_MAX <= HUB_CLIENTS_MAX);
const _: () = assert!(HUB_PREVIEWS_MAX < HUB_QUEUE_MAX);
const _: () = assert!(PIPE_GRACE.as_millis() < TERM_GRACE.as_millis());
const _: () = assert!(BACKGROUND_JOBS_MAX < TREES_MAX);
const _: () = assert!(STORE_GROUP_MAX <= STORE_QUEUE_MAX);
const _: () = assert!(STORE_LOG_PAGES_IDLE < STORE_LOG_PAGES_MAX);
const _: () = assert!(STORE_LOCK_WAIT.as_millis() < STORE_COMMIT.as_millis());
