//! Events: frames, slices, acknowledgements, and what they mean.

use super::{GROUP, assert_no_secret, offline, setup, with_model};
use crate::platforms::Platform;
use crate::support::feishu::{ANA, ANA_CHAT, BOT, Feishu, Slicing};
use crate::support::feishu_frame::Packet;
use crate::support::gateway::files_named;
use crate::support::model::{self, Model};
use crate::support::poll::{self, SOON};
use serde_json::{Value, json};
use std::time::Duration;

fn mention(key: &str, open_id: &str, name: &str) -> Value {
    json!({"key": key, "id": {"union_id": format!("on_{name}"), "user_id": "", "open_id": open_id}, "mentioned_type": "user", "name": name, "tenant_key": "7"})
}

#[test]
fn a_message_is_answered_and_acknowledged_once() {
    let feishu = Feishu::start();
    let gateway = offline(&feishu);
    assert_eq!(gateway.adapter("feishu")["identity"], "Gate");
    let id = feishu.says("echo: hello there");
    feishu.wait_text(ANA_CHAT, "hello there");
    let event = feishu.wait_confirmed(&id);
    assert_eq!((event.pushes.len(), event.acks.len()), (1, 1));
    assert!(event.acks[0].0 - event.pushes[0] < Duration::from_secs(3), "or the platform sends it again");
    gateway.wait_idle();
    assert_eq!(feishu.texts(), ["hello there"]);
    assert_no_secret(&feishu, &gateway);
}

#[test]
fn pings_begin_at_once_and_keep_the_time_that_the_server_names() {
    let feishu = Feishu::start();
    let _gateway = offline(&feishu);
    let pings = feishu.wait(SOON, "four pings", |state| Some(state.clients.first()?.pings.clone()).filter(|pings| pings.len() >= 4));
    let fastest = pings.windows(2).map(|pair| pair[1] - pair[0]).min().expect("pauses");
    assert!(fastest > Duration::from_millis(800), "once a second: {fastest:?}");
    // The next answer names another interval.
    feishu.change(|state| state.ping_interval = 600);
    let count = feishu.wait(SOON, "the answer", |state| Some(state.clients.first()?.pings.len()).filter(|count| *count > pings.len()));
    poll::never(Duration::from_millis(2500), "a ping in the old interval", || feishu.lock().clients[0].pings.len() > count + 1);
    feishu.says("echo: still there");
    feishu.wait_text(ANA_CHAT, "still there");
}

#[test]
fn slices_are_put_together_in_any_order_and_acknowledged_once() {
    let feishu = Feishu::start();
    let gateway = offline(&feishu);
    let orders: [fn(Vec<Packet>) -> Vec<Packet>; 3] = [
        |mut packets| {
            packets.reverse();
            packets
        },
        // Odd ones first, one of them twice.
        |packets| {
            let (odd, even): (Vec<_>, Vec<_>) = packets.into_iter().enumerate().partition(|(number, _)| number % 2 == 1);
            odd.iter().chain(odd.first()).chain(&even).map(|(_, packet)| packet.clone()).collect()
        },
        |packets| packets,
    ];
    for (number, order) in orders.into_iter().enumerate() {
        // Seventeen bytes cut through characters.
        feishu.change(|state| state.slicing = Some(Slicing { bytes: 17, order }));
        let answer = format!("分片消息 {number} – done");
        let id = feishu.says(&format!("echo: {answer}"));
        feishu.wait_text(ANA_CHAT, &answer);
        assert_eq!(feishu.wait_confirmed(&id).acks.len(), 1);
    }
    gateway.wait_idle();
    assert_eq!((feishu.texts().len(), feishu.connects()), (3, 1));
}

#[test]
fn an_event_whose_slices_are_lost_comes_again() {
    let feishu = Feishu::start();
    let _gateway = offline(&feishu);
    let without_last: fn(Vec<Packet>) -> Vec<Packet> = |mut packets| {
        packets.pop();
        packets
    };
    feishu.change(|state| state.slicing = Some(Slicing { bytes: 100, order: without_last }));
    let id = feishu.says("echo: cut short");
    feishu.change(|state| state.slicing = None);
    feishu.says("echo: whole");
    feishu.wait_text(ANA_CHAT, "whole");
    assert!(!feishu.is_confirmed(&id), "what is not whole is not acknowledged");
    feishu.wait_text(ANA_CHAT, "cut short");
    assert!(feishu.wait_confirmed(&id).pushes.len() > 1);
}

#[test]
fn what_is_not_committed_is_not_acknowledged_and_survives_a_kill() {
    let feishu = Feishu::start();
    let mut gateway = offline(&feishu);
    gateway.fault("slow_store", Duration::from_secs(60)).expect("a debug build");
    let id = feishu.says("echo: between push and commit");
    feishu.wait(SOON, "it was pushed", |state| (!state.event(&id).pushes.is_empty()).then_some(()));
    poll::never(Duration::from_secs(1), "an acknowledgement before the commit", || !feishu.lock().event(&id).acks.is_empty());
    gateway.kill9();
    gateway.start_again();
    feishu.wait_text(ANA_CHAT, "between push and commit");
    feishu.wait_confirmed(&id);
    // The platform never learned that it had arrived, say.
    feishu.repeat(&id);
    feishu.says("echo: barrier");
    feishu.wait_text(ANA_CHAT, "barrier");
    gateway.wait_idle();
    assert_eq!(feishu.lock().count(ANA_CHAT, "between push and commit"), 1);
}

#[test]
fn a_store_that_is_too_slow_is_told_and_nothing_is_lost() {
    let feishu = Feishu::start();
    let gateway = offline(&feishu);
    gateway.fault("slow_store", Duration::from_secs(12)).expect("a debug build");
    let id = feishu.says("echo: took its time");
    feishu.wait_text(ANA_CHAT, "took its time");
    let event = feishu.wait_confirmed(&id);
    assert_eq!(event.acks[0].1, 500, "the platform is asked to send it again: {event:?}");
    gateway.wait_idle();
    assert_eq!(feishu.texts(), ["took its time"]);
}

#[test]
fn events_that_are_not_for_us_are_acknowledged_at_once() {
    let feishu = Feishu::start();
    let gateway = offline(&feishu);
    let mut ids = vec![
        feishu.emit("im.message.recalled_v1", &json!({"message_id": "om_1", "chat_id": "oc_1", "recall_time": "1", "recall_type": "message_owner"})),
        feishu.emit("im.message.reaction.created_v1", &json!({"message_id": "om_1", "reaction_type": {"emoji_type": "OK"}})),
        feishu.emit("im.chat.member.bot.added_v1", &json!({"chat_id": "oc_new", "name": "Ops"})),
        feishu.emit("im.chat.access_event.bot_p2p_chat_entered_v1", &json!({})),
        feishu.emit("something.new_v9", &json!({"a": [1, {"b": null}]})),
        feishu.emit("im.message.receive_v1", &json!({"message": {"message_id": 7}})),
        feishu.emit_raw(br#"{"uuid":"41b5f371157e3d5341b38b20396e77e3","token":"","ts":"1550038209.428520","type":"event_callback","event":{"type":"message"}}"#),
        feishu.emit_raw(b"[]"),
    ];
    for kind in ["app", "bot"] {
        let sender = json!({"sender_id": {"open_id": "ou_robot"}, "sender_type": kind});
        let message = json!({"message_id": format!("om_{kind}"), "chat_id": ANA_CHAT, "chat_type": "p2p", "message_type": "text", "content": "{\"text\":\"echo: robot\"}"});
        ids.push(feishu.emit("im.message.receive_v1", &json!({"sender": sender, "message": message})));
    }
    let own = json!({"sender": {"sender_id": {"open_id": BOT}, "sender_type": "user"}, "message": {"message_id": "om_own", "chat_id": ANA_CHAT, "chat_type": "p2p", "message_type": "text", "content": "{\"text\":\"echo: robot\"}"}});
    ids.push(feishu.emit("im.message.receive_v1", &own));
    for id in ids {
        let event = feishu.wait_confirmed(&id);
        assert_eq!((event.acks.len(), event.acks[0].1), (1, 200), "{id}");
    }
    let odd = feishu.emit_raw(b"{\"schema\":");
    feishu.wait(SOON, "an answer", |state| state.event(&odd).acks.iter().find(|(_, code)| *code == 500).map(|_| ()));
    feishu.says("echo: barrier");
    feishu.wait_text(ANA_CHAT, "barrier");
    gateway.wait_idle();
    assert_eq!(feishu.texts(), ["barrier"]);
    gateway.wait_for_log("added to the chat oc_new", SOON);
    assert_eq!(feishu.connects(), 1);
}

#[test]
fn in_a_group_only_what_mentions_the_bot_is_answered_and_as_a_reply() {
    let (feishu, model) = (Feishu::start(), Model::start());
    model.rule("do this", [model::text("done in the group")]);
    feishu.add_group(GROUP);
    let gateway = setup(&feishu).model(&model, model::Protocol::Anthropic).set("adapters.feishu", "streaming", "false").start();
    let ignored = [
        feishu.says_in(GROUP, ANA, "talking among ourselves", &json!({})),
        feishu.says_in(GROUP, ANA, "@_user_1 hello", &json!({"mentions": [mention("@_user_1", "ou_other", "Gate")]})),
        feishu.says_in(GROUP, ANA, "@_all lunch", &json!({"mentions": [mention("@_all", "", "everybody")]})),
    ];
    for id in &ignored {
        feishu.wait_confirmed(id);
    }
    let mentions = json!({"mentions": [mention("@_user_1", BOT, "Gate"), mention("@_user_2", "ou_ben", "Ben")]});
    let id = feishu.says_in(GROUP, ANA, "@_user_1 do this with @_user_2", &mentions);
    let answer = feishu.wait_text(GROUP, "done in the group");
    assert_eq!(answer.reply_to.as_deref(), Some(id.as_str()));
    let said = model.wait_request(1, "do this").user_texts().concat();
    assert!(said.contains("do this with @Ben") && !said.contains("@_user") && !said.contains("@Gate"), "{said}");
    gateway.wait_idle();
    assert_eq!(feishu.texts_in(GROUP).len(), 1);
}

#[test]
fn a_thread_is_answered_within_the_thread() {
    let (feishu, model) = (Feishu::start(), Model::start());
    let long = "word ".repeat(3000);
    model.rule("in the thread", [model::text(&format!("first {long} last"))]);
    feishu.add_group(GROUP);
    let gateway = with_model(&feishu, &model);
    let more = json!({"thread_id": "omt_1", "root_id": "om_root", "mentions": [mention("@_user_1", BOT, "Gate")]});
    feishu.says_in(GROUP, ANA, "@_user_1 in the thread", &more);
    feishu.wait_text(GROUP, "last");
    gateway.wait_idle();
    let state = feishu.lock();
    let shown: Vec<_> = state.shown(GROUP).collect();
    assert!(shown.len() >= 2 && shown.iter().all(|message| message.thread.as_deref() == Some("omt_1")), "{shown:?}");
}

#[test]
fn files_are_saved_and_named_to_the_model() {
    let (feishu, model) = (Feishu::start(), Model::start());
    model.rule("plot", [model::text("a picture")]);
    model.rule("a.pdf", [model::text("a document")]);
    model.rule("gone.bin", [model::text("cannot see it")]);
    let gateway = with_model(&feishu, &model);
    let picture = [b"\x89PNG\r\n\x1a\n".as_slice(), &[7; 2000]].concat();
    feishu.hold();
    let post = json!({"title": "plot", "content": [[{"tag": "text", "text": "what is "}, {"tag": "img", "image_key": "img_v3_1"}]]});
    let id = feishu.sends(ANA_CHAT, ANA, "post", &post, &json!({}));
    feishu.add_file(&id, "img_v3_1", "image", "image/png", &picture);
    feishu.release();
    feishu.wait_text(ANA_CHAT, "a picture");
    let saved = |bytes: &[u8]| {
        let files = files_named(gateway.setup.scratch(), "").into_iter();
        files.filter(|file| std::fs::read(file).is_ok_and(|content| content == bytes)).collect::<Vec<_>>()
    };
    let files = saved(&picture);
    assert_eq!(files.len(), 1);
    assert!(files[0].to_string_lossy().ends_with(".png") && files[0].starts_with(gateway.setup.state_dir()), "{files:?}");
    assert!(model.wait_request(1, "plot").body["messages"].to_string().contains("\"type\":\"image\""));

    feishu.hold();
    let id = feishu.sends(ANA_CHAT, ANA, "file", &json!({"file_key": "file_v3_1", "file_name": "../../a.pdf"}), &json!({}));
    feishu.add_file(&id, "file_v3_1", "file", "application/pdf", b"%PDF-1.7 content");
    feishu.release();
    feishu.wait_text(ANA_CHAT, "a document");
    assert_eq!(saved(b"%PDF-1.7 content").len(), 1);
    assert!(feishu.wait_confirmed(&id).is_confirmed());

    feishu.sends(ANA_CHAT, ANA, "file", &json!({"file_key": "file_v3_2", "file_name": "gone.bin"}), &json!({}));
    feishu.wait_text(ANA_CHAT, "cannot see it");
    assert!(model.wait_request(1, "gone.bin").all().contains("234003"), "the model is told why it has no file");
}

#[test]
fn a_stranger_s_file_is_not_downloaded() {
    let feishu = Feishu::start();
    let _gateway = offline(&feishu);
    let id = feishu.sends(ANA_CHAT, "ou_stranger", "image", &json!({"image_key": "img_1"}), &json!({}));
    feishu.wait_confirmed(&id);
    assert!(feishu.calls("resource").is_empty());
}
