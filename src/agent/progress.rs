//! What the chat sees of a turn while it runs.

use super::turn::TurnEvents;
use crate::adapter::{Preview, ToolLine};
use crate::clock;
use crate::limits;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The preview of a turn's reply, handed on at a bounded pace.
pub struct Progress {
    events: Arc<dyn TurnEvents>,
    inner: RefCell<Inner>,
}

struct Inner {
    preview: Preview,
    /// How long the text was when this round began: a failed attempt goes back to it.
    round_start: usize,
    tools: u32,
    tool_started: Instant,
    told: Option<Instant>,
}

impl Progress {
    #[must_use]
    pub fn new(events: Arc<dyn TurnEvents>) -> Self {
        let inner = Inner { preview: Preview::default(), round_start: 0, tools: 0, tool_started: clock::now(), told: None };
        Self { events, inner: RefCell::new(inner) }
    }

    fn tell(&self, inner: &mut Inner, at_once: bool) {
        let pause = if at_once { Duration::ZERO } else { limits::PROGRESS_INTERVAL };
        if inner.told.is_none_or(|told| told.elapsed() >= pause) {
            inner.told = Some(clock::now());
            self.events.preview(&inner.preview);
        }
    }

    /// The text of a new round follows that of the round before as a paragraph of its own.
    pub fn round_begins(&mut self) {
        let inner = self.inner.get_mut();
        if !inner.preview.text.is_empty() && !inner.preview.text.ends_with("\n\n") {
            inner.preview.text.push_str("\n\n");
        }
        inner.round_start = inner.preview.text.len();
    }

    pub fn text(&mut self, delta: &str) {
        let mut inner = self.inner.borrow_mut();
        inner.preview.text.push_str(delta);
        inner.preview.notice = None;
        self.tell(&mut inner, false);
    }

    pub fn notice(&mut self, text: &str) {
        let mut inner = self.inner.borrow_mut();
        inner.preview.notice = Some(text.to_owned());
        self.tell(&mut inner, true);
    }

    /// What was shown of this round does not count: the model is asked again.
    pub fn restarted(&mut self) {
        let inner = self.inner.get_mut();
        inner.preview.text.truncate(inner.round_start);
    }

    pub fn answered(&mut self) {
        let mut inner = self.inner.borrow_mut();
        inner.preview.notice = None;
        self.tell(&mut inner, true);
    }

    pub fn tool_begins(&mut self, name: &str, summary: &str) {
        let mut inner = self.inner.borrow_mut();
        inner.tools += 1;
        inner.tool_started = clock::now();
        let number = inner.tools;
        inner.preview.tool = Some(ToolLine { number, name: name.to_owned(), summary: summary.to_owned(), for_ms: 0, end: None });
        self.tell(&mut inner, true);
    }

    /// The tool shows life: its line is shown with the time that has passed.
    pub fn tool_says(&self, _line: &str) {
        let mut inner = self.inner.borrow_mut();
        let for_ms = u64::try_from(inner.tool_started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Some(tool) = &mut inner.preview.tool {
            tool.for_ms = for_ms;
        }
        if inner.told.is_none_or(|told| told.elapsed() >= Duration::from_secs(1)) {
            self.tell(&mut inner, true);
        }
    }

    pub fn tool_ended(&mut self, for_ms: u64, end: &str) {
        let mut inner = self.inner.borrow_mut();
        if let Some(tool) = &mut inner.preview.tool {
            (tool.for_ms, tool.end) = (for_ms, Some(end.to_owned()));
        }
        self.tell(&mut inner, true);
    }
}
