//! The fake itself: it refuses what QQ refuses, with QQ's codes.

use super::QqBot;
use crate::support::http::Server;
use crate::support::qqbot::{ANA, GROUP, private};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// One request. → status and JSON
fn call(server: &Server, method: &str, path: &str, token: &str, body: &Value) -> (u16, Value) {
    let mut stream = TcpStream::connect(server.address).expect("the fake listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAuthorization: QQBot {token}\r\n", server.address);
    let rest = format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all((head + &rest).as_bytes()).expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("no more");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok()).unwrap_or_default())
}

#[test]
fn the_fake_refuses_what_qq_refuses() {
    let qq = QqBot::start();
    let (app_id, secret) = qq.see(|state| (state.app_id.clone(), state.secret.clone()));
    let ask = |secret: &str| call(&qq.server, "POST", "/app/getAppAccessToken", "", &json!({"appId": app_id, "clientSecret": secret}));
    assert_eq!((ask("wrong").0, &ask("wrong").1["code"]), (200, &json!(100_016)));
    let (_, granted) = ask(&secret);
    assert_eq!(granted["expires_in"], "7200", "a text");
    let token = granted["access_token"].as_str().expect("a token").to_owned();
    assert_eq!(call(&qq.server, "GET", "/users/@me", "another", &Value::Null).1["code"], 11_243);
    assert_eq!(call(&qq.server, "GET", "/users/@me", &token, &Value::Null).1["username"], "testbot");
    let gateway = call(&qq.server, "GET", "/gateway/bot", &token, &Value::Null).1;
    assert_eq!(gateway["url"], format!("ws://{}/websocket/", qq.server.address));

    let id = qq.user_says(ANA, "hello");
    let send = |path: &str, body: Value| {
        let (status, answer) = call(&qq.server, "POST", path, &token, &body);
        (status, answer["code"].as_i64().unwrap_or(0))
    };
    let text = |id: &str, seq: i64| json!({"content": "x", "msg_type": 0, "msg_id": id, "msg_seq": seq});
    assert_eq!(send(&private(ANA), text(&id, 1)), (200, 0));
    assert_eq!(send(&private(ANA), text(&id, 1)), (400, 40_054_005));
    assert_eq!(send(&private(ANA), text("unknown", 1)), (400, 304_026));
    assert_eq!(send(&format!("/v2/groups/{GROUP}/messages"), text(&id, 2)), (400, 304_026), "of another chat");
    assert_eq!(send(&private(ANA), json!({"content": " ", "msg_type": 0, "msg_id": id, "msg_seq": 2})), (400, 50_006));
    let markdown = json!({"markdown": {"content": "# x"}, "msg_type": 2, "msg_id": id, "msg_seq": 2});
    assert_eq!(send(&private(ANA), markdown), (400, 304_036));
    for seq in 2..=5 {
        assert_eq!(send(&private(ANA), text(&id, seq)), (200, 0));
    }
    assert_eq!(send(&private(ANA), text(&id, 6)), (429, 22_009));
    qq.change(|state| state.window = Duration::ZERO);
    assert_eq!(send(&private(ANA), text(&id, 7)), (400, 304_027));
    assert_eq!(qq.shown(&private(ANA)).len(), 5);
}
