//! The frames of the gateway and what they ask for (QQ docs, "event-emit"). Pure.

use crate::adapter::lenient::{integer, lenient, to_integer, word};
use crate::limits;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;

/// `GROUP_AND_C2C_EVENT`: private chats and groups.
pub(super) const CHATS: u32 = 1 << 25;
/// `PUBLIC_GUILD_MESSAGES` and `DIRECT_MESSAGE`: mentions in channels of guilds, and direct messages there.
pub(super) const GUILDS: u32 = (1 << 30) | (1 << 12);
/// What is asked for, one after the other, when nothing is configured: a bot that may not have one of a set is refused.
const SETS: [u32; 3] = [CHATS | GUILDS, CHATS, GUILDS];

/// The place in [`SETS`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Intents(usize);

impl Intents {
    pub fn bits(self, configured: Option<u32>) -> u32 {
        configured.unwrap_or(SETS[self.0.min(SETS.len() - 1)])
    }

    /// The next set to try, if there is one.
    pub fn fewer(self, configured: Option<u32>) -> Option<Self> {
        (configured.is_none() && self.0 + 1 < SETS.len()).then_some(Self(self.0 + 1))
    }
}

/// What a session is resumed with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Session {
    /// Whose session it is.
    pub app_id: String,
    pub id: String,
    /// `s` of the last event that was processed.
    pub seq: Option<i64>,
    /// The bot, from READY: a resumed session does not tell it again.
    pub bot_id: String,
    pub bot_name: String,
}

impl Session {
    pub fn identity(&self) -> String {
        if self.bot_name.is_empty() { format!("bot {}", self.app_id) } else { self.bot_name.clone() }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Payload {
    #[serde(deserialize_with = "integer")]
    op: Option<i64>,
    #[serde(deserialize_with = "integer")]
    s: Option<i64>,
    #[serde(deserialize_with = "lenient")]
    t: Option<String>,
    d: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ReadyData {
    #[serde(deserialize_with = "word")]
    session_id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    user: Option<ReadyUser>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ReadyUser {
    #[serde(deserialize_with = "word")]
    id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    username: Option<String>,
}

/// A frame of the server, understood.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Frame {
    /// Heartbeats are due this often.
    Hello(Duration),
    Ready {
        session_id: String,
        bot_id: String,
        bot_name: String,
        seq: Option<i64>,
    },
    Resumed(Option<i64>),
    Event {
        name: String,
        seq: Option<i64>,
        data: Value,
    },
    /// Op 11.
    HeartbeatAck,
    /// Op 1: the server wants a heartbeat now.
    HeartbeatWanted,
    /// Op 7: connect again and resume.
    Reconnect,
    /// Op 9: the session cannot go on; `true`: but it can be resumed.
    Invalid(bool),
    /// An op that means nothing to us.
    Other(i64),
}

/// Takes a frame apart. `Err`: it is none of the protocol's.
pub(super) fn understand(text: &str) -> Result<Frame, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("a frame that is not JSON ({error})"))?;
    let payload: Payload = serde_json::from_value(value).map_err(|_| "a frame that is not an object".to_owned())?;
    let op = payload.op.ok_or("a frame without op")?;
    Ok(match op {
        0 => dispatched(payload),
        1 => Frame::HeartbeatWanted,
        7 => Frame::Reconnect,
        9 => Frame::Invalid(payload.d == Value::Bool(true)),
        10 => Frame::Hello(interval(&payload.d)),
        11 => Frame::HeartbeatAck,
        other => Frame::Other(other),
    })
}

fn dispatched(payload: Payload) -> Frame {
    let name = payload.t.unwrap_or_default();
    match name.as_str() {
        "READY" => {
            let ready: ReadyData = serde_json::from_value(payload.d).unwrap_or_default();
            let user = ready.user.unwrap_or_default();
            Frame::Ready {
                session_id: ready.session_id.unwrap_or_default(),
                bot_id: user.id.unwrap_or_default(),
                bot_name: user.username.unwrap_or_default(),
                seq: payload.s,
            }
        }
        "RESUMED" => Frame::Resumed(payload.s),
        _ => Frame::Event { name, seq: payload.s, data: payload.d },
    }
}

/// The interval that "hello" asks for, within bounds.
fn interval(data: &Value) -> Duration {
    let asked = data.get("heartbeat_interval").and_then(to_integer).and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0);
    let usual = Duration::from_secs(30);
    asked.map_or(usual, Duration::from_millis).clamp(limits::QQBOT_HEARTBEAT_MIN, limits::QQBOT_HEARTBEAT_MAX)
}

/// Heartbeats go out somewhat earlier than asked for, so that a slow network does not make them late.
pub(super) fn heartbeat_pause(interval: Duration) -> Duration {
    interval * 4 / 5
}

/// Op 1. `seq`: of the last event.
pub(super) fn heartbeat(seq: Option<i64>) -> String {
    json!({"op": 1, "d": seq}).to_string()
}

/// Op 2. Holds the access token.
pub(super) fn identify(access_token: &str, intents: u32) -> String {
    let properties = json!({"$os": "linux", "$browser": "hermes-gateway", "$device": "hermes-gateway"});
    json!({"op": 2, "d": {"token": format!("QQBot {access_token}"), "intents": intents, "shard": [0, 1], "properties": properties}})
        .to_string()
}

/// Op 6. Holds the access token.
pub(super) fn resume(access_token: &str, session: &Session) -> String {
    let data = json!({"token": format!("QQBot {access_token}"), "session_id": session.id, "seq": session.seq.unwrap_or(0)});
    json!({"op": 6, "d": data}).to_string()
}

/// What is to be done after the server has closed the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    /// Resume; soon, if it is nothing but routine.
    Resume { routine: bool },
    /// The session is gone.
    Identify,
    /// The access token is not good any more.
    Token,
    /// We were too fast.
    Slower,
    /// What was sent was not understood: not at once again.
    Puzzled,
    /// The bot may not have these intents.
    Intents,
    /// The remedy.
    Fatal(&'static str),
}

/// The official table of close codes, and what SDKs know besides. `9001` and `9005` are qq-botpy's.
pub(super) fn closing(code: u16) -> Closing {
    match code {
        4001 | 4002 => Closing::Puzzled,
        4004 => Closing::Token,
        4006 | 4007 | 4900..=4913 | 9001 | 9005 => Closing::Identify,
        4008 => Closing::Slower,
        4009 => Closing::Resume { routine: true },
        4010 | 4011 => Closing::Fatal("QQ wants this bot to be split into shards, which is not supported: it is in too many guilds"),
        4012 => Closing::Fatal("QQ does not support this version of its interface any more: update hermes-gateway"),
        4013 | 4014 => Closing::Intents,
        4914 => Closing::Fatal("the bot is not published: publish it on q.qq.com, or set `base_url` to https://sandbox.api.sgroup.qq.com"),
        4915 => Closing::Fatal("the bot is banned: see its messages on q.qq.com, and appeal there"),
        _ => Closing::Resume { routine: false },
    }
}

/// What the bot lacks, in the words of q.qq.com.
pub(super) fn intents_remedy(asked: u32) -> String {
    let named =
        [(CHATS, "GROUP_AND_C2C_EVENT (groups and private chats)"), (1 << 30, "PUBLIC_GUILD_MESSAGES"), (1 << 12, "DIRECT_MESSAGE")];
    let names: Vec<&str> = named.iter().filter(|(bit, _)| asked & bit != 0).map(|(_, name)| *name).collect();
    let others = asked & !(CHATS | GUILDS);
    let others = if others == 0 { String::new() } else { format!(" and {others}") };
    format!("the bot may not have the intents {}{others}: enable them on q.qq.com, or set `intents` to what it may have", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_documented_frames_are_understood() {
        let check = |text: &str, expect: Frame| assert_eq!(understand(text), Ok(expect), "{text}");
        check(r#"{"op":10,"d":{"heartbeat_interval":45000}}"#, Frame::Hello(Duration::from_secs(45)));
        check(r#"{"op":10}"#, Frame::Hello(Duration::from_secs(30)));
        check(r#"{"op":10,"d":{"heartbeat_interval":1}}"#, Frame::Hello(limits::QQBOT_HEARTBEAT_MIN));
        check(
            r#"{"op":0,"s":1,"t":"READY","d":{"version":1,"session_id":"082ee18c-0be3-491b-9d8b-fbd95c51673a","user":{"id":"6158788878435714165","username":"testbot","bot":true},"shard":[0,0]}}"#,
            Frame::Ready {
                session_id: "082ee18c-0be3-491b-9d8b-fbd95c51673a".to_owned(),
                bot_id: "6158788878435714165".to_owned(),
                bot_name: "testbot".to_owned(),
                seq: Some(1),
            },
        );
        check(r#"{"op":0,"s":2002,"t":"RESUMED","d":""}"#, Frame::Resumed(Some(2002)));
        check(r#"{"op":11}"#, Frame::HeartbeatAck);
        check(r#"{"op":1,"d":null}"#, Frame::HeartbeatWanted);
        check(r#"{"op":7}"#, Frame::Reconnect);
        check(r#"{"op":9,"d":false}"#, Frame::Invalid(false));
        check(r#"{"op":9}"#, Frame::Invalid(false));
        check(r#"{"op":9,"d":true}"#, Frame::Invalid(true));
        check(r#"{"op":13,"d":{}}"#, Frame::Other(13));
        check(
            r#"{"id":"x","op":0,"s":"7","t":"FRIEND_ADD","d":{"openid":"A"}}"#,
            Frame::Event { name: "FRIEND_ADD".to_owned(), seq: Some(7), data: json!({"openid": "A"}) },
        );
        for text in ["", "[]", "{}", "7", "{\"op\":\"x\"}", "\u{0}"] {
            assert!(understand(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_sent_is_as_documented() {
        let parsed = |text: String| serde_json::from_str::<Value>(&text).expect("JSON");
        assert_eq!(parsed(heartbeat(None)), json!({"op": 1, "d": null}));
        assert_eq!(parsed(heartbeat(Some(251))), json!({"op": 1, "d": 251}));
        let identify = parsed(identify("ACCESS", 33_554_432));
        assert_eq!((&identify["op"], &identify["d"]["token"]), (&json!(2), &json!("QQBot ACCESS")));
        assert_eq!((&identify["d"]["intents"], &identify["d"]["shard"]), (&json!(33_554_432), &json!([0, 1])));
        let session = Session { id: "082e".to_owned(), seq: Some(1337), ..Session::default() };
        assert_eq!(parsed(resume("ACCESS", &session)), json!({"op": 6, "d": {"token": "QQBot ACCESS", "session_id": "082e", "seq": 1337}}));
    }

    #[test]
    fn the_table_of_close_codes() {
        let check = |codes: &[u16], expect: Closing| {
            for code in codes {
                assert_eq!(closing(*code), expect, "{code}");
            }
        };
        check(&[4001, 4002], Closing::Puzzled);
        check(&[4004], Closing::Token);
        check(&[4006, 4007, 4900, 4905, 4913, 9001, 9005], Closing::Identify);
        check(&[4008], Closing::Slower);
        check(&[4009], Closing::Resume { routine: true });
        check(&[1000, 1001, 1005, 1006, 4000, 4003, 4005, 4015, 4999], Closing::Resume { routine: false });
        check(&[4013, 4014], Closing::Intents);
        for code in [4010, 4011, 4012, 4914, 4915] {
            assert!(matches!(closing(code), Closing::Fatal(_)), "{code}");
        }
    }

    #[test]
    fn fewer_intents_are_tried_unless_they_were_chosen() {
        let first = Intents::default();
        let all: Vec<u32> = std::iter::successors(Some(first), |intents| intents.fewer(None)).map(|intents| intents.bits(None)).collect();
        assert_eq!(all, [CHATS | GUILDS, CHATS, GUILDS]);
        assert_eq!((first.bits(Some(1)), first.fewer(Some(1))), (1, None));
        let remedy = intents_remedy(CHATS | 1);
        assert!(remedy.contains("GROUP_AND_C2C_EVENT") && remedy.contains("and 1:") && !remedy.contains("GUILD_MESSAGES"), "{remedy}");
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_no_panic(text in "\\PC{0,200}", cut in 0..200_usize) {
            let _ = understand(&text);
            let sample = r#"{"op":0,"s":12,"t":"C2C_MESSAGE_CREATE","d":{"author":{"id":"E4F4"},"content":"hello"}}"#;
            prop_assert_eq!(understand(&sample[..cut.min(sample.len())]).is_ok(), cut >= sample.len());
        }
    }
}
