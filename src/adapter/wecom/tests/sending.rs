//! What becomes of replies: streams that are young, old, lost and refused; and messages of their own.

use crate::adapter::wecom::Line;
use crate::adapter::wecom::outlet::WecomOutlet;
use crate::adapter::wecom::protocol::Ack;
use crate::adapter::wecom::streams::{Callback, Known, Stream};
use crate::adapter::{Outlet as _, Part, Preview, SendError, SendLink, memos::Memos};
use crate::clock::{self, Deadline};
use crate::core::types::{ChatRef, OutboundKind};
use crate::limits;
use crate::net::NetOptions;
use crate::store::{StoreHandle, StoreThread};
use crate::thread::{CancelToken, Threads};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn chat() -> ChatRef {
    ChatRef { adapter: "wecom".to_owned(), chat: "zhangsan".to_owned(), thread: None }
}

/// What happens to a frame.
#[derive(Clone, Copy)]
enum Fate {
    Ack(i64),
    /// The connection ends before its acknowledgement.
    Lost,
    Unsent,
}

/// A store, and a connection on which each frame meets the next fate; when there are no more, it is acknowledged.
struct Bench {
    line: Arc<Line>,
    store: StoreHandle,
    thread: Option<StoreThread>,
    fates: Mutex<VecDeque<Fate>>,
    frames: Mutex<Vec<String>>,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new(fates: &[Fate]) -> Self {
        let directory = tempfile::tempdir().expect("scratch");
        let opened = crate::store::open(&directory.path().join("state.db"), &Threads::new(), CancelToken::new(), soon());
        let (store, thread) = opened.expect("store");
        Self {
            line: Line::new().expect("a relay"),
            store,
            thread: Some(thread),
            fates: Mutex::new(fates.iter().copied().collect()),
            frames: Mutex::default(),
            _directory: directory,
        }
    }

    fn memos(&self) -> Memos {
        Memos::new("wecom", &self.store)
    }

    /// A message of the user arrived this long ago.
    fn callback(&self, req: &str, age: Duration) {
        let callback = Callback { req: req.to_owned(), at_ms: ago(age) };
        self.memos().remember(vec![callback.memo("zhangsan")]).expect("remembered");
    }

    /// A stream in answer to it was begun this long ago.
    fn stream(&self, req: &str, age: Duration) -> Stream {
        let stream = Stream { req: req.to_owned(), id: "stream_1".to_owned(), begun_ms: ago(age) };
        self.memos().remember(vec![Known::new(stream.clone()).memo("zhangsan")]).expect("remembered");
        stream
    }

    /// A new generation of the outlet, beside a connection.
    fn run<T>(&self, body: impl FnOnce(&mut WecomOutlet) -> T) -> T {
        let token = CancelToken::new();
        let link = SendLink { name: "wecom".to_owned(), token, store: self.store.clone(), net: NetOptions::default() };
        let mut outlet = WecomOutlet::new(&self.line, &link);
        let session = self.line.open();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let guard = Done(&done);
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let Some(job) = session.next() else {
                        std::thread::yield_now();
                        continue;
                    };
                    let fate = self.fates.lock().expect("fates").pop_front().unwrap_or(Fate::Ack(0));
                    if matches!(fate, Fate::Unsent) {
                        job.unsent("no room");
                        continue;
                    }
                    assert!(job.begin());
                    self.frames.lock().expect("frames").push(in_short(&job.request().text));
                    if let Fate::Ack(code) = fate {
                        job.answer(Ack { code, message: "fake".to_owned() });
                    }
                }
            });
            let result = body(&mut outlet);
            drop(guard);
            result
        })
    }

    /// The frames since the last look: what, to what, and the text; `.` at the end of a stream.
    fn frames(&self) -> Vec<String> {
        std::mem::take(&mut self.frames.lock().expect("frames"))
    }
}

struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.thread.take().map(|thread| thread.close(soon()));
    }
}

fn ago(age: Duration) -> i64 {
    clock::wall_ms() - i64::try_from(age.as_millis()).expect("short")
}

fn in_short(frame: &str) -> String {
    let frame: Value = serde_json::from_str(frame).expect("JSON");
    let body = &frame["body"];
    match frame["cmd"].as_str() {
        Some("aibot_respond_msg") => {
            let end = if body["stream"]["finish"] == true { " ." } else { "" };
            format!("{} {}{end}", frame["headers"]["req_id"].as_str().expect("id"), body["stream"]["content"].as_str().expect("content"))
        }
        _ => format!("push {}", body["markdown"]["content"].as_str().expect("content")),
    }
}

fn send(outlet: &mut WecomOutlet, kind: OutboundKind, text: &str, key: &str) -> Result<String, SendError> {
    outlet.announce(kind);
    outlet.send(&Part { chat: &chat(), text, reply_to: None, buttons: &[], key }, soon())
}

fn reply(outlet: &mut WecomOutlet, text: &str, key: &str) -> Result<String, SendError> {
    send(outlet, OutboundKind::Reply, text, key)
}

fn edit(outlet: &mut WecomOutlet, id: &str, text: &str, key: &str) -> Result<(), SendError> {
    outlet.edit(id, &Part { chat: &chat(), text, reply_to: None, buttons: &[], key }, soon())
}

fn preview(outlet: &mut WecomOutlet, previous: Option<&str>, text: &str) -> Result<String, SendError> {
    outlet.preview(&chat(), previous, &Preview { text: text.to_owned(), ..Preview::default() }, soon())
}

const NOW: Duration = Duration::ZERO;
const THINKING: &str = "R1 <think></think>";

#[test]
fn a_placeholder_becomes_the_reply() {
    let bench = Bench::new(&[]);
    bench.callback("R1", NOW);
    bench.run(|outlet| {
        outlet.typing(&chat(), soon()).expect("shown");
        outlet.typing(&chat(), soon()).expect("once");
        let id = reply(outlet, "done", "k1").expect("sent");
        assert_eq!(Stream::parse(&id).expect("a stream").req, "R1");
        reply(outlet, "more", "k1-1").expect("sent");
        outlet.typing(&chat(), soon()).expect("nothing to answer");
    });
    assert_eq!(bench.frames(), [THINKING, "R1 done .", "push more"]);
}

#[test]
fn without_a_young_message_to_answer_it_is_a_message_of_its_own() {
    let bench = Bench::new(&[]);
    bench.run(|outlet| {
        outlet.typing(&chat(), soon()).expect("nothing");
        reply(outlet, "never spoken", "k1").expect("sent");
        assert!(matches!(preview(outlet, None, "no place"), Err(SendError::Reject { .. })));
    });
    bench.callback("R1", limits::WECOM_CALLBACK_AGE);
    bench.run(|outlet| reply(outlet, "old", "k2").expect("sent"));
    bench.callback("R2", NOW);
    bench.run(|outlet| {
        send(outlet, OutboundKind::Direct, "by itself", "k3").expect("sent");
        reply(outlet, "in its place", "k4").expect("sent");
    });
    assert_eq!(bench.frames(), ["push never spoken", "push old", "push by itself", "R2 in its place ."]);
}

#[test]
fn previews_go_on_in_one_stream_also_after_a_restart() {
    let bench = Bench::new(&[]);
    bench.callback("R1", NOW);
    let id = bench.run(|outlet| {
        outlet.typing(&chat(), soon()).expect("shown");
        let id = preview(outlet, None, "one").expect("shown");
        assert_eq!(preview(outlet, Some(&id), "one"), Ok(id.clone()), "nothing new");
        id
    });
    bench.run(|outlet| {
        outlet.typing(&chat(), soon()).expect("nothing");
        assert_eq!(preview(outlet, Some(&id), "one two"), Ok(id.clone()));
        edit(outlet, &id, "one two three", "k1").expect("finished");
        // The acknowledgement had come, and was not noted.
        assert!(preview(outlet, Some(&id), "late").is_ok(), "too late to be shown");
    });
    assert_eq!(bench.frames(), [THINKING, "R1 one", "R1 one two", "R1 one two three ."]);
}

#[test]
fn a_notice_takes_a_placeholder_but_not_what_is_shown_of_a_reply() {
    let bench = Bench::new(&[]);
    bench.callback("R1", NOW);
    bench.run(|outlet| {
        outlet.typing(&chat(), soon()).expect("shown");
        send(outlet, OutboundKind::Notice, "stopped", "k1").expect("sent");
    });
    assert_eq!(bench.frames(), [THINKING, "R1 stopped ."]);
    bench.callback("R2", NOW);
    bench.run(|outlet| {
        let id = preview(outlet, None, "half").expect("shown");
        send(outlet, OutboundKind::Notice, "may I?", "k2").expect("sent");
        edit(outlet, &id, "whole", "k3").expect("finished");
    });
    assert_eq!(bench.frames(), ["R2 half", "push may I?", "R2 whole ."]);
}

#[test]
fn a_stream_is_ended_in_time() {
    let bench = Bench::new(&[]);
    bench.callback("R1", limits::WECOM_STREAM_CLOSE);
    let stream = bench.stream("R1", limits::WECOM_STREAM_CLOSE);
    bench.run(|outlet| {
        outlet.typing(&chat(), soon()).expect("ended");
        outlet.typing(&chat(), soon()).expect("nothing more");
        assert!(matches!(edit(outlet, &stream.platform_id(), "the reply", "k1"), Err(SendError::Reject { .. })));
        reply(outlet, "the reply", "k1").expect("sent");
    });
    assert_eq!(bench.frames(), ["R1 _(this takes longer: the answer follows as a new message)_ .", "push the reply"]);
}

#[test]
fn what_is_shown_stays_when_a_stream_is_ended_in_time() {
    let bench = Bench::new(&[Fate::Ack(0), Fate::Lost]);
    bench.callback("R1", NOW);
    let young = limits::WECOM_STREAM_CLOSE - Duration::from_millis(1500);
    let stream = bench.stream("R1", young);
    let id = stream.platform_id();
    bench.run(|outlet| {
        assert_eq!(preview(outlet, Some(&id), "half"), Ok(id.clone()));
        while !stream.is_ending(clock::wall_ms()) {
            std::thread::yield_now();
        }
        assert!(matches!(outlet.typing(&chat(), soon()), Err(SendError::Retry { .. })), "the frame was lost");
        assert_eq!(preview(outlet, Some(&id), "half and more"), Ok(id.clone()));
        assert_eq!(preview(outlet, Some(&id), "much more"), Ok(id.clone()), "not shown any more");
    });
    let end = "R1 half\n\n_(this takes longer: the answer follows as a new message)_ .";
    assert_eq!(bench.frames(), ["R1 half", end, end]);
}

#[test]
fn an_old_stream_is_not_tried() {
    for age in [limits::WECOM_STREAM_LIFE, Duration::from_secs(100_000)] {
        let bench = Bench::new(&[]);
        bench.callback("R1", age);
        let stream = bench.stream("R1", age);
        bench.run(|outlet| assert!(matches!(edit(outlet, &stream.platform_id(), "late", "k1"), Err(SendError::Reject { .. }))));
        assert_eq!(bench.frames(), Vec::<String>::new());
    }
}

#[test]
fn a_lost_acknowledgement_of_the_end_is_taken_for_a_good_one() {
    // Not acknowledged, then refused because the stream has ended: by this very message.
    let bench = Bench::new(&[Fate::Lost, Fate::Ack(846_608)]);
    bench.callback("R1", NOW);
    bench.run(|outlet| assert!(matches!(reply(outlet, "text", "k1"), Err(SendError::Retry { .. }))));
    // Another generation, after a crash, which does not know whether it was sent.
    bench.run(|outlet| {
        reply(outlet, "(may be a duplicate)\ntext", "k1").expect("it stands there");
        reply(outlet, "another", "k2").expect("sent");
    });
    assert_eq!(bench.frames(), ["R1 text .", "R1 text .", "push another"]);
}

#[test]
fn the_end_of_a_stream_by_another_message_is_not_taken_for_this_ones() {
    let bench = Bench::new(&[Fate::Lost]);
    bench.callback("R1", NOW);
    bench.run(|outlet| {
        assert!(matches!(reply(outlet, "first", "k1"), Err(SendError::Retry { .. })));
        reply(outlet, "second", "k2").expect("sent");
    });
    assert_eq!(bench.frames(), ["R1 first .", "push second"]);
}

#[test]
fn a_refused_stream_becomes_a_message_and_a_doubtful_one_says_so() {
    let bench = Bench::new(&[Fate::Ack(846_605), Fate::Ack(0), Fate::Lost, Fate::Ack(846_605)]);
    bench.callback("R1", NOW);
    bench.run(|outlet| reply(outlet, "refused", "k1").expect("sent"));
    bench.callback("R2", NOW);
    bench.run(|outlet| {
        assert!(matches!(reply(outlet, "doubtful", "k2"), Err(SendError::Retry { .. })));
        reply(outlet, "doubtful", "k2").expect("sent");
    });
    let expect = ["R1 refused .", "push refused", "R2 doubtful .", "R2 doubtful .", "push (may be a duplicate)\ndoubtful"];
    assert_eq!(bench.frames(), expect);
}

#[test]
fn what_was_not_sent_is_simply_sent_again() {
    let bench = Bench::new(&[Fate::Unsent, Fate::Ack(846_608)]);
    bench.callback("R1", NOW);
    bench.run(|outlet| {
        assert!(matches!(reply(outlet, "text", "k1"), Err(SendError::Retry { .. })));
        reply(outlet, "text", "k1").expect("sent");
    });
    assert_eq!(bench.frames(), ["R1 text .", "push text"], "the refusal is no answer to what was never sent");
    let bench = Bench::new(&[Fate::Lost]);
    bench.run(|outlet| assert!(matches!(reply(outlet, "push", "k1"), Err(SendError::Ambiguous { .. }))));
}

#[test]
fn refusals_are_classified() {
    let check = |fates: &[Fate], frames: usize, expect: fn(&SendError) -> bool| {
        let bench = Bench::new(fates);
        let error = bench.run(|outlet| reply(outlet, "text", "k1").expect_err("refused"));
        assert!(expect(&error), "{error:?}");
        assert_eq!(bench.frames().len(), frames);
    };
    check(&[Fate::Ack(93_001)], 1, |error| matches!(error, SendError::Reject { .. }));
    check(&[Fate::Ack(-1)], 1, |error| matches!(error, SendError::Retry { after: None, .. }));
    check(&[Fate::Ack(6000); 4], 4, |error| matches!(error, SendError::Retry { after: None, .. }));
    check(&[Fate::Ack(45_009)], 1, |error| matches!(error, SendError::Retry { after: Some(limits::WECOM_TOO_OFTEN), .. }));
}

#[test]
fn too_often_means_silence_for_a_minute() {
    let bench = Bench::new(&[Fate::Ack(45_009)]);
    bench.callback("R1", NOW);
    bench.run(|outlet| {
        assert!(reply(outlet, "text", "k1").is_err());
        for _ in 0..2 {
            let error = reply(outlet, "text", "k1").expect_err("silence");
            assert!(matches!(error, SendError::Retry { after: Some(after), .. } if after > Duration::from_secs(50)), "{error:?}");
        }
        assert!(outlet.typing(&chat(), soon()).is_ok());
    });
    assert_eq!(bench.frames().len(), 1);
}

#[test]
fn without_a_connection_it_comes_back_at_once() {
    let bench = Bench::new(&[]);
    bench.callback("R1", NOW);
    let link = SendLink { name: "wecom".to_owned(), token: CancelToken::new(), store: bench.store.clone(), net: NetOptions::default() };
    let mut outlet = WecomOutlet::new(&bench.line, &link);
    let begun = clock::now();
    let error = reply(&mut outlet, "text", "k1").expect_err("no connection");
    assert!(matches!(&error, SendError::Retry { cause, .. } if cause.contains("no connection")), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    link.token.cancel();
    assert_eq!(reply(&mut outlet, "text", "k1"), Err(SendError::Cancelled));
}

#[test]
fn nothing_to_be_seen_is_not_sent() {
    let bench = Bench::new(&[]);
    bench.callback("R1", NOW);
    bench.run(|outlet| {
        assert!(matches!(reply(outlet, "\u{7}\u{1b}", "k1"), Err(SendError::Reject { .. })));
        assert!(matches!(edit(outlet, "not an id", "text", "k1"), Err(SendError::Reject { .. })));
        assert!(outlet.split(&"你好。".repeat(9000)).iter().all(|part| part.len() <= limits::WECOM_TEXT_BYTES_MAX));
    });
    assert_eq!(bench.frames(), Vec::<String>::new());
}
