//! One turn: straight-line code on its own thread `turn/N`: ask the model, run its tools, ask again.
//!
//! Every round is committed as it happens. Before every model call, tool and commit the cancel token is asked, and
//! the store refuses whatever comes later: nothing starts once the turn is cancelled.

use super::progress::Progress;
use super::{policy, prompt, tools};
use crate::clock::{self, Deadline};
use crate::core::event::{TurnEnd, TurnSpec, Verdict};
use crate::core::record::{Op, Outcome};
use crate::core::types::{Block, InboxId, Message, Role, Usage};
use crate::limits;
use crate::net::NetOptions;
use crate::process::Children;
use crate::provider::{Chain, ChainError, ChainEvent, ChainTurn};
use crate::provider::{Delta, ModelReply, ModelRequest, Stop};
use crate::store::{StoreError, StoreHandle};
use crate::thread::{CancelToken, Cancelled, enter};
use crossbeam_channel::{Receiver, select};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What control tells a running turn.
#[derive(Debug, Clone, PartialEq)]
pub enum TurnMail {
    /// A message that arrived meanwhile and is to be taken into account.
    Steer { inbox: InboxId, message: Message },
    /// The answer to the turn's question.
    Answer(Verdict),
}

/// What a turn tells control. Must not block.
pub trait TurnEvents: Send + Sync {
    fn preview(&self, preview: &crate::adapter::Preview);
    fn adopted(&self, inbox: Vec<InboxId>);
    fn ask(&self, what: &str, why: &str);
}

/// What all turns share.
pub struct Agent {
    pub chain: Chain,
    pub tools: Vec<Box<dyn tools::Tool>>,
    pub tools_config: crate::config::ToolsConfig,
    pub net: NetOptions,
    pub children: Children,
    /// State and configuration: tools may not touch them.
    pub protected: Vec<PathBuf>,
    pub approvals: bool,
    pub approval_wait: Duration,
    pub turn_limit: Duration,
    pub system_prompt: Option<String>,
}

/// One turn's own things.
pub struct Turn<'a> {
    pub agent: &'a Agent,
    pub spec: &'a TurnSpec,
    /// Of the chat's adapter, for the prompt.
    pub platform: &'a str,
    pub token: &'a CancelToken,
    /// Fenced by `token`.
    pub store: StoreHandle,
    pub mail: Receiver<TurnMail>,
    pub events: Arc<dyn TurnEvents>,
}

/// Why a turn ended early.
enum Failure {
    /// Its end has been decided elsewhere.
    Cancelled,
    /// For the chat.
    Told(String),
}

impl From<Cancelled> for Failure {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Fenced | StoreError::Closed => Self::Cancelled,
            other => Self::Told(format!("I could not keep my notes: {other}. The operator finds more in the log.")),
        }
    }
}

/// The state of a turn between its rounds.
struct State<'a> {
    transcript: Vec<Message>,
    specs: Vec<crate::provider::ToolSpec>,
    system: String,
    deadline: Deadline,
    /// Of the last reply; those before it are committed with their rounds.
    usage: Usage,
    progress: Progress,
    /// Steering that came while something else was waited for.
    steers: Vec<(InboxId, Message)>,
    compactions: u32,
    /// Remembers who answered, and what was announced.
    chain: ChainTurn<'a>,
}

/// Works until the turn is done. `None`: it was cancelled, and its end is decided already.
#[must_use]
pub fn run(turn: &Turn<'_>) -> Option<TurnEnd> {
    let deadline = Deadline::after(turn.agent.turn_limit);
    // One bound above all the calls' own: whoever is stuck beyond it is cut by the guardian's report.
    let _busy = enter(format_args!("turn {}", turn.spec.turn), Deadline::after(turn.agent.turn_limit + limits::TURN_GRACE));
    let mut state = State {
        transcript: Vec::new(),
        specs: turn.agent.tools.iter().map(|tool| tool.spec()).collect(),
        system: String::new(),
        deadline,
        usage: Usage::default(),
        progress: Progress::new(Arc::clone(&turn.events)),
        steers: Vec::new(),
        compactions: 0,
        chain: turn.agent.chain.turn(),
    };
    match turn.rounds(&mut state) {
        Ok((messages, reply)) => Some(TurnEnd { messages, reply, failed: false, usage: state.usage }),
        Err(Failure::Cancelled) => None,
        Err(Failure::Told(reply)) => {
            let note = vec![Message::text(Role::Assistant, format!("(This turn failed: {reply})"))];
            Some(TurnEnd { messages: note, reply, failed: true, usage: state.usage })
        }
    }
}

impl Turn<'_> {
    fn call(&self, op: Op) -> Result<Outcome, Failure> {
        self.token.check()?;
        Ok(self.store.call(op, Deadline::after(limits::STORE_CALL))?)
    }

    fn commit(&self, state: &mut State<'_>, messages: Vec<Message>, adopted: Vec<InboxId>, usage: Usage) -> Result<(), Failure> {
        self.call(Op::CommitRound { turn: self.spec.turn, messages: messages.clone(), adopted: adopted.clone(), usage })?;
        state.transcript.extend(messages);
        if !adopted.is_empty() {
            self.events.adopted(adopted);
        }
        Ok(())
    }

    /// → what is to be appended to the transcript with the end of the turn, and the reply.
    fn rounds(&self, state: &mut State<'_>) -> Result<(Vec<Message>, String), Failure> {
        let session = self.spec.session.clone();
        let transcript = self.call(Op::LoadTranscript { session, messages_max: limits::TRANSCRIPT_MESSAGES_MAX })?;
        if let Outcome::Transcript(messages) = transcript {
            state.transcript = messages;
        }
        let date = clock::zone::local_now().date().to_string();
        let extra = self.agent.system_prompt.as_deref();
        state.system = prompt::system(self.platform, &self.agent.tools_config.workdir, &date, extra);
        if self.spec.resumed {
            self.commit(state, vec![Message::text(Role::User, prompt::RESUMED)], Vec::new(), Usage::default())?;
            state.progress.notice("I was interrupted; continuing.");
        }
        for _ in 0..limits::ROUNDS_PER_TURN_MAX {
            self.take_mail(state);
            self.adopt(state)?;
            let reply = self.ask_model(state)?;
            let calls: Vec<ToolCall> = reply.blocks.iter().filter_map(ToolCall::of).collect();
            if calls.is_empty() {
                self.take_mail(state);
                if reply.stop != Stop::Pause && state.steers.is_empty() {
                    state.usage = reply.usage;
                    return Ok(final_reply(reply));
                }
                // The provider wants to go on, or something came while the model wrote its last words: it gets to see it.
            }
            self.commit(state, vec![Message { role: Role::Assistant, blocks: reply.blocks }], Vec::new(), reply.usage)?;
            if calls.is_empty() {
                continue;
            }
            let results = calls.iter().map(|call| self.run_tool(state, call)).collect::<Result<Vec<Block>, Failure>>()?;
            self.commit(state, vec![Message { role: Role::User, blocks: results }], Vec::new(), Usage::default())?;
        }
        Err(Failure::Told(format!("I stopped after {} rounds of tools without coming to an end.", limits::ROUNDS_PER_TURN_MAX)))
    }

    fn take_mail(&self, state: &mut State<'_>) {
        while let Ok(mail) = self.mail.try_recv() {
            if let TurnMail::Steer { inbox, message } = mail {
                state.steers.push((inbox, message));
            }
        }
    }

    /// Takes the messages that arrived meanwhile into the transcript.
    fn adopt(&self, state: &mut State<'_>) -> Result<(), Failure> {
        if state.steers.is_empty() {
            return Ok(());
        }
        let (inbox, messages): (Vec<InboxId>, Vec<Message>) = std::mem::take(&mut state.steers).into_iter().unzip();
        self.commit(state, messages, inbox, Usage::default())
    }

    fn ask_model(&self, state: &mut State<'_>) -> Result<ModelReply, Failure> {
        loop {
            self.token.check()?;
            let messages = super::transcript::for_model(&state.transcript);
            let request = ModelRequest { system: &state.system, messages: &messages, tools: &state.specs };
            state.progress.round_begins();
            let progress = &mut state.progress;
            let mut on = |event: ChainEvent<'_>| match event {
                ChainEvent::Delta(Delta::Text(text)) => progress.text(text),
                ChainEvent::Delta(_) => {}
                ChainEvent::Notice { text } | ChainEvent::NoticeChanged { text } => progress.notice(&text),
                ChainEvent::Restarted => progress.restarted(),
            };
            let result = state.chain.ask(&request, self.token, &self.agent.net, state.deadline, &mut on);
            match result {
                Ok(reply) => {
                    state.progress.answered();
                    return Ok(reply);
                }
                Err(ChainError::Cancelled) => return Err(Failure::Cancelled),
                Err(ChainError::ContextFull { .. }) if state.compactions < limits::COMPACTIONS_PER_TURN_MAX => {
                    state.compactions += 1;
                    let before = state.transcript.len();
                    state.transcript = super::transcript::halve(&state.transcript);
                    log::info!(target: "agent", "{}: the model's context is full; going on with {} of {before} messages", self.spec.session, state.transcript.len());
                }
                Err(error) => return Err(Failure::Told(error.to_string())),
            }
        }
    }

    fn run_tool(&self, state: &mut State<'_>, call: &ToolCall) -> Result<Block, Failure> {
        self.token.check()?;
        let result = |content: String, is_error: bool| Block::ToolResult { tool_use_id: call.id.clone(), content, is_error };
        let Some(tool) = self.agent.tools.iter().find(|tool| tool.spec().name == call.name) else {
            return Ok(result(format!("there is no tool called `{}`", call.name), true));
        };
        if self.agent.approvals
            && let Some(danger) = policy::review(&call.name, &call.input)
        {
            match self.ask_person(state, &danger.shown, &danger.why)? {
                Verdict::Approved => {}
                Verdict::Denied => return Ok(result("refused by the user: do not try to reach the same by other means".to_owned(), true)),
                Verdict::Expired => return Ok(result("nobody approved it in time, so it was not run".to_owned(), true)),
                Verdict::Failed => {
                    return Ok(result("it needs approval and the question could not be asked; it was not run".to_owned(), true));
                }
            }
        }
        self.token.check()?;
        let summary = tool.summary(&call.input);
        let started = clock::now();
        state.progress.tool_begins(&call.name, &summary);
        let outcome = {
            let activity = format!("{}: {summary}", call.name);
            let _busy = enter(format_args!("{activity}"), state.deadline.earliest(Deadline::after(self.agent.turn_limit)));
            let on_progress = |line: &str| state.progress.tool_says(line);
            let context = tools::ToolContext {
                token: self.token,
                deadline: state.deadline,
                net: &self.agent.net,
                session: &self.spec.session,
                workdir: &self.agent.tools_config.workdir,
                config: &self.agent.tools_config,
                children: &self.agent.children,
                protected: &self.agent.protected,
                on_progress: &on_progress,
            };
            tool.run(&call.input, &context)
        };
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        state.progress.tool_ended(took_ms, &outcome.end);
        log::info!(target: "agent", "{}: {} {summary} ({took_ms} ms, {})", self.spec.session, call.name, outcome.end);
        self.token.check()?;
        Ok(result(outcome.content, outcome.is_error))
    }

    fn ask_person(&self, state: &mut State<'_>, what: &str, why: &str) -> Result<Verdict, Failure> {
        self.events.ask(what, why);
        // Control has the clock of the question; the extra time is for its answer to come through.
        let due = Deadline::after(self.agent.approval_wait + limits::TURN_GRACE);
        let _busy = enter(format_args!("waiting for approval: {what}"), due);
        loop {
            select! {
                recv(self.mail) -> mail => match mail {
                    Ok(TurnMail::Answer(verdict)) => return Ok(verdict),
                    Ok(TurnMail::Steer { inbox, message }) => state.steers.push((inbox, message)),
                    Err(_) => return Err(Failure::Cancelled),
                },
                recv(self.token.cancelled()) -> _ => return Err(Failure::Cancelled),
                recv(crossbeam_channel::at(due.instant())) -> _ => return Ok(Verdict::Expired),
            }
        }
    }
}

struct ToolCall {
    id: String,
    name: String,
    input: serde_json::Value,
}

impl ToolCall {
    fn of(block: &Block) -> Option<Self> {
        match block {
            Block::ToolUse { id, name, input } => Some(Self { id: id.clone(), name: name.clone(), input: input.clone() }),
            _ => None,
        }
    }
}

/// The text that the chat gets, and the message that the transcript gets.
fn final_reply(reply: ModelReply) -> (Vec<Message>, String) {
    let texts: Vec<&str> =
        reply.blocks.iter().filter_map(|block| if let Block::Text { text } = block { Some(text.as_str()) } else { None }).collect();
    // The pieces of one reply belong together without anything between them (Messages API: citations cut texts).
    let mut text = texts.concat().trim().to_owned();
    match reply.stop {
        Stop::MaxTokens => text.push_str("\n\n_(cut: the reply reached the model's token limit)_"),
        Stop::Refusal if text.is_empty() => "The model declined to answer this.".clone_into(&mut text),
        _ if text.is_empty() => "(The model had nothing to say.)".clone_into(&mut text),
        _ => {}
    }
    let blocks = if texts.is_empty() { vec![Block::Text { text: text.clone() }] } else { reply.blocks.clone() };
    (vec![Message { role: Role::Assistant, blocks }], text)
}
