//! What the slash commands do.

use super::command::{Command, CronCommand, QueueCommand};
use super::event::{Effect, Lifecycle, StoreFault, Verdict};
use super::jobs::Asker;
use super::record::{ApprovalState, Op, Outcome, WaitingRow};
use super::schedule::Wish;
use super::types::ApprovalId;
use super::{Core, Pending, sessions::Waiting};

impl Core {
    /// Executes a command whose row is committed.
    pub(super) fn command(&mut self, row: WaitingRow, command: Command) {
        let session = row.inbound.chat.session();
        match command {
            Command::Help => self.reply(&row, &Command::help()),
            Command::Start => self.reply(&row, &format!("Hello {}. {}", row.inbound.sender_name, Command::help())),
            Command::Version => self.reply(&row, &format!("hermes-gateway {}", self.rules.version)),
            Command::Whoami => self.whoami(&row),
            Command::Status => self.status(&row),
            Command::Stop => self.stop_command(&row),
            Command::New => {
                if let Some(turn) = self.turn_of(&session) {
                    self.cancel_turn(turn, "stopped", "[This turn was stopped by the user.]");
                }
                self.drop_waiting(&session);
                self.approved_sessions.remove(&session);
                self.store(Op::NewSession { session }, Pending::NewSession { asked: Box::new(row) });
            }
            Command::Queue(QueueCommand::Show) => self.show_queue(&row),
            Command::Queue(QueueCommand::Clear) => {
                let dropped = self.drop_waiting(&session);
                self.reply(&row, &format!("{dropped} waiting messages dropped."));
            }
            // Turned into a waiting message before it gets here.
            Command::Queue(QueueCommand::Add(_)) => {}
            Command::Retry | Command::Undo if self.turn_of(&session).is_some() => {
                self.unhold(&session);
                self.reply(&row, "I am still working on a message. /stop first.");
            }
            Command::Retry | Command::Undo => {
                let retry = command == Command::Retry;
                self.store(Op::Undo { session, inbox: row.inbox, retry }, Pending::Undo { asked: Box::new(row), retry });
            }
            Command::Usage => self.store(Op::LoadUsage { session }, Pending::Usage { asked: Box::new(row) }),
            Command::Restart => self.restart_command(&row),
            Command::Cron(command) => self.cron_command(row, command),
            Command::Approve { id, session: all } => self.decide(row, id, ApprovalState::Approved, all),
            Command::Deny { id } => self.decide(row, id, ApprovalState::Denied, false),
            Command::Unknown(word) => self.reply(&row, &format!("I do not know /{word}. /help lists what I understand.")),
        }
    }

    fn cron_command(&mut self, row: WaitingRow, command: CronCommand) {
        let wish = match command {
            CronCommand::Usage => {
                let text = "/cron add \"WHEN\" TEXT · /cron list · /cron remove N · /cron pause N · /cron resume N · /cron run N\n\
                            WHEN is e.g. `every 2h`, `every day 9:00`, `in 20m`, `at 2026-12-01 09:00` or a cron expression like \
                            `30 8 * * 1-5`. TEXT is said to me then; with `say:` before it, it is sent as it is. `/cron add skip \"WHEN\" …` \
                            does not make up for times that I missed.";
                return self.reply(&row, text);
            }
            CronCommand::Add(text) => return self.add_written(row, &text, false),
            CronCommand::Remind(text) => return self.add_written(row, &text, true),
            CronCommand::List => Wish::List,
            CronCommand::Remove(job) => Wish::Remove { job },
            CronCommand::Pause(job) => Wish::Pause { job },
            CronCommand::Resume(job) => Wish::Resume { job },
            CronCommand::Run(job) => Wish::Run { job },
        };
        self.wish(Asker::Chat(Box::new(row)), &wish);
    }

    /// Answers a command: an outbox row, at most one for each inbox row, then the inbox row is done.
    pub(super) fn reply(&mut self, row: &WaitingRow, text: &str) {
        let reply_to = (!row.inbound.private).then(|| row.inbound.message_id.clone());
        let message = self.notice(&row.inbound.chat, text, reply_to);
        let op = Op::Enqueue { messages: vec![message], dedupe: Some(format!("inbox:{}", row.inbox)), now_ms: self.now.wall_ms };
        let pending = Pending::Enqueue { request: None, chats: vec![row.inbound.chat.clone()], close: Some(row.inbox) };
        self.store(op, pending);
    }

    fn turn_of(&self, session: &str) -> Option<i64> {
        let turn = self.sessions.get(session).and_then(|known| known.turn)?;
        self.turns.get(&turn).filter(|known| known.stage == super::sessions::TurnStage::Running).map(|_| turn)
    }

    fn stop_command(&mut self, row: &WaitingRow) {
        let session = row.inbound.chat.session();
        let before = self.impatient.len();
        self.impatient.retain(|(_, waiting)| *waiting != session);
        let acted_before = before == self.impatient.len();
        let stopped = self.stop_session(&session);
        let text = match (stopped, acted_before) {
            ((false, 0), false) => "Nothing to stop.".to_owned(),
            ((_, 0), _) => "Stopped.".to_owned(),
            ((_, dropped), _) => format!("Stopped. {dropped} waiting messages were dropped."),
        };
        self.reply(row, &text);
    }

    /// → whether a turn was stopped, and how many waiting messages were dropped.
    fn stop_session(&mut self, session: &str) -> (bool, usize) {
        let turn = self.turn_of(session);
        let dropped = self.drop_waiting(session);
        if let Some(turn) = turn {
            self.cancel_turn(turn, "stopped", "[This turn was stopped by the user.]");
        }
        (turn.is_some(), dropped)
    }

    /// /stop acts even while the disk is too slow to take its row.
    pub(super) fn overdue_stops(&mut self) {
        let now_ms = self.now.mono_ms;
        let due: Vec<String> = self.impatient.iter().filter(|(due_ms, _)| *due_ms <= now_ms).map(|(_, session)| session.clone()).collect();
        self.impatient.retain(|(due_ms, _)| *due_ms > now_ms);
        for session in due {
            self.stop_session(&session);
        }
    }

    fn whoami(&mut self, row: &WaitingRow) {
        let inbound = &row.inbound;
        let admin = self.is_admin(row);
        let rights = if admin { "you may also restart me" } else { "an ordinary user" };
        let text = format!("{} (user `{}`), in chat `{}`: {rights}.", inbound.sender_name, inbound.sender, inbound.chat.session());
        self.reply(row, &text);
    }

    pub(super) fn is_admin(&self, row: &WaitingRow) -> bool {
        self.rules.adapters.get(&row.inbound.chat.adapter).is_some_and(|rules| rules.is_admin(&row.inbound.sender))
    }

    fn status(&mut self, row: &WaitingRow) {
        let session = row.inbound.chat.session();
        let here = match self.turn_of(&session).and_then(|turn| self.turns.get(&turn)) {
            Some(turn) => format!("working for {} s", self.now.mono_ms.saturating_sub(turn.since_ms) / 1000),
            None => "idle".to_owned(),
        };
        let waiting = self.sessions.get(&session).map_or(0, |known| known.queue.len());
        let bad: Vec<&str> = self.adapters.iter().filter(|(_, adapter)| !adapter.is_connected()).map(|(name, _)| name.as_str()).collect();
        let adapters = if bad.is_empty() { "all connected".to_owned() } else { format!("not connected: {}", bad.join(", ")) };
        let text = format!(
            "hermes-gateway {}, up {}\nthis chat: {here}, {waiting} waiting\nall chats: {} turns, {} undelivered\nadapters: {adapters}\nmodel: {}",
            self.rules.version,
            super::spoken_interval(self.now.mono_ms),
            self.turns.len(),
            self.deliveries.len(),
            self.rules.model
        );
        let text = self.schedule_line(&row.inbound.chat).map_or(text.clone(), |line| format!("{text}\n{line}"));
        self.reply(row, &text);
    }

    fn show_queue(&mut self, row: &WaitingRow) {
        let session = row.inbound.chat.session();
        let first_line = |waiting: &Waiting| {
            let line: String = waiting.row.inbound.text.lines().next().unwrap_or_default().chars().take(80).collect();
            format!("- {line}")
        };
        let lines: Vec<String> = self.sessions.get(&session).map(|known| known.queue.iter().map(first_line).collect()).unwrap_or_default();
        let text = if lines.is_empty() { "Nothing is waiting.".to_owned() } else { format!("Waiting:\n{}", lines.join("\n")) };
        self.reply(row, &text);
    }

    pub(super) fn undone(&mut self, mut asked: WaitingRow, retry: bool, result: Result<Outcome, StoreFault>) {
        self.unhold(&asked.inbound.chat.session());
        match result {
            Ok(Outcome::Undone(Some(text))) if retry => {
                // The row now carries the text; it waits like any other message.
                let session = asked.inbound.chat.session();
                asked.inbound.text = text;
                asked.inbound.private = true; // The name is in the text already.
                self.wait_in_queue(&session, asked, true);
                // Before what came after the command.
                if let Some(known) = self.sessions.get_mut(&session) {
                    known.queue.rotate_right(1);
                }
            }
            Ok(Outcome::Undone(Some(text))) => {
                let line: String = text.lines().next().unwrap_or_default().chars().take(80).collect();
                self.reply(&asked, &format!("Taken back: {line}"));
            }
            Ok(_) => self.reply(&asked, "There is nothing to take back."),
            Err(_) => self.reply(&asked, "That did not work: the store takes nothing at the moment. Please try again."),
        }
    }

    pub(super) fn usage_loaded(&mut self, asked: WaitingRow, result: Result<Outcome, StoreFault>) {
        let text = match result {
            Ok(Outcome::Usage { usage, turns, messages, .. }) => format!(
                "This conversation: {turns} turns, {messages} messages, {} tokens in ({} from the cache), {} out.",
                usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens,
                usage.cache_read_tokens,
                usage.output_tokens
            ),
            _ => "The figures cannot be read at the moment.".to_owned(),
        };
        self.reply(&asked, &text);
    }

    pub(super) fn new_session(&mut self, asked: WaitingRow, result: Result<Outcome, StoreFault>) {
        self.unhold(&asked.inbound.chat.session());
        let text = if result.is_ok() { "A new conversation begins." } else { "That did not work: the store takes nothing at the moment." };
        self.reply(&asked, text);
    }

    fn restart_command(&mut self, row: &WaitingRow) {
        if !self.is_admin(row) {
            return self.reply(row, "Only an admin may restart me (`admins` in the configuration).");
        }
        self.reply(row, "Restarting. Messages that come in meanwhile are kept and will be answered.");
        self.note_restart(&row.inbound.chat);
        let who = format!("{} in {}", row.inbound.sender_name, row.inbound.chat.session());
        self.lifecycle(Lifecycle::Restart, Some(&who));
    }

    // --- answers to questions ---

    fn decide(&mut self, row: WaitingRow, id: Option<ApprovalId>, state: ApprovalState, all: bool) {
        let session = row.inbound.chat.session();
        let mut open = self.approvals.iter().filter(|(_, approval)| approval.session == session).map(|(id, _)| *id);
        let newest = open.next_back();
        let Some(approval) = id.or(newest) else {
            return self.reply(
                &row,
                "No question is open here. If I asked before a restart, that turn was interrupted; I will ask again if it still matters.",
            );
        };
        let known = self.approvals.get(&approval);
        if known.is_some_and(|known| known.session != session) {
            return self.reply(&row, "That question was asked in another chat.");
        }
        if all && state == ApprovalState::Approved {
            self.approved_sessions.insert(session);
        }
        let by = Some(row.inbound.sender.clone());
        self.settle_approval(approval, state, by, Some(row));
    }

    pub(super) fn settled(&mut self, approval: ApprovalId, asked: Option<WaitingRow>, result: Result<Outcome, StoreFault>) {
        let (changed, state) = match result {
            Ok(Outcome::Settled { changed, state }) => (changed, state),
            // An unknown number.
            Ok(_) | Err(StoreFault::Fenced) => (false, ApprovalState::Cancelled),
            Err(StoreFault::Unavailable) => {
                if let Some(row) = asked {
                    self.reply(&row, "That did not work: the store takes nothing at the moment. Please try again.");
                }
                return;
            }
        };
        if let Some(known) = self.approvals.remove(&approval) {
            let verdict = match state {
                ApprovalState::Approved => Verdict::Approved,
                ApprovalState::Denied => Verdict::Denied,
                ApprovalState::Pending | ApprovalState::Expired | ApprovalState::Cancelled => Verdict::Expired,
            };
            self.effects.push(Effect::Answer { turn: known.turn, verdict });
        }
        let Some(row) = asked else { return };
        let text = match (changed, state) {
            (true, ApprovalState::Approved) => "Approved.",
            (true, _) => "Denied.",
            (false, ApprovalState::Approved) => "That was approved before.",
            (false, ApprovalState::Denied) => "That was denied before.",
            (false, ApprovalState::Expired) => "Too late: I had taken the silence as no.",
            (false, _) => {
                "That question is not open any more: its turn ended or was interrupted by a restart. I will ask again if it still matters."
            }
        };
        self.reply(&row, text);
    }
}
