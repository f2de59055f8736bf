//! The fakes themselves, seen by clients that are not the gateway: a raw socket and curl.

use crate::support::faults::{FullBacklog, Proxy, Way};
use crate::support::html;
use crate::support::http::Fault;
use crate::support::model::{self, End, Model, Protocol, Reply, Step};
use crate::support::telegram::{ANA, Telegram};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// One request over a connection of its own. → everything that came, or why nothing did.
fn raw(address: SocketAddr, request: &[u8], within: Duration) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(within))?;
    stream.write_all(request)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn post(address: SocketAddr, path: &str, headers: &str, body: &str) -> std::io::Result<Vec<u8>> {
    let request = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len());
    // The server keeps connections; half-closing ours makes it end after the answer.
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 65536];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) => return Err(error),
        }
        if complete(&bytes) {
            return Ok(bytes);
        }
    }
}

fn complete(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length) || body.ends_with("0\r\n\r\n")
}

fn body(bytes: &[u8]) -> Value {
    let text = String::from_utf8_lossy(bytes);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {text}"))
}

fn bot(telegram: &Telegram, method: &str, params: &Value) -> Value {
    let path = format!("/bot{}/{method}", telegram.token());
    body(&post(telegram.server.address, &path, "Content-Type: application/json\r\n", &params.to_string()).expect("an answer"))
}

#[test]
fn telegram_answers_as_documented() {
    let telegram = Telegram::start();
    assert_eq!(bot(&telegram, "getMe", &json!({}))["result"]["username"], "gate_bot");
    assert_eq!(bot(&telegram, "GETME", &json!({}))["ok"], true, "method names are case-insensitive");
    let wrong = body(&post(telegram.server.address, "/bot1:x/getMe", "", "").expect("an answer"));
    assert_eq!((&wrong["ok"], &wrong["error_code"], &wrong["description"]), (&json!(false), &json!(401), &json!("Unauthorized")));
    assert_eq!(bot(&telegram, "noSuchMethod", &json!({}))["error_code"], 404);
    let missing = bot(&telegram, "sendMessage", &json!({"chat_id": 5, "text": "x"}));
    assert_eq!(missing["description"], "Bad Request: chat not found");
}

#[test]
fn telegram_acknowledges_by_offset_only() {
    let telegram = Telegram::start();
    telegram.user_says(ANA, "one");
    telegram.user_says(ANA, "two");
    let ids = |answer: &Value| {
        answer["result"].as_array().expect("updates").iter().map(|update| update["update_id"].as_i64().expect("an id")).collect::<Vec<_>>()
    };
    let first = ids(&bot(&telegram, "getUpdates", &json!({"timeout": 0})));
    assert_eq!(first.len(), 2);
    // Form fields are texts.
    let path = format!("/bot{}/getUpdates", telegram.token());
    let form = format!("offset={}&timeout=0", first[1]);
    let second = post(telegram.server.address, &path, "Content-Type: application/x-www-form-urlencoded\r\n", &form).expect("an answer");
    assert_eq!(ids(&body(&second)), first[1..], "the same again until it is confirmed");
    assert!(ids(&bot(&telegram, "getUpdates", &json!({"offset": first[1] + 1}))).is_empty());
    assert_eq!(telegram.lock().confirmed, first[1] + 1);
    let update = telegram.lock().chats[&ANA].messages[0].clone();
    assert_eq!((update.text.as_str(), update.from_bot), ("one", false));
}

#[test]
fn telegram_holds_a_poll_and_ends_the_older_of_two() {
    let telegram = Telegram::start();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| bot(&telegram, "getUpdates", &json!({"timeout": 20})));
        telegram.wait_call("getUpdates", 1, |_| true);
        let second = scope.spawn(|| bot(&telegram, "getUpdates", &json!({"timeout": 20})));
        assert_eq!(first.join().expect("the first poll")["error_code"], 409);
        let begun = Instant::now();
        telegram.user_says(ANA, "wake up");
        assert_eq!(second.join().expect("the second poll")["result"][0]["message"]["text"], "wake up");
        assert!(begun.elapsed() < Duration::from_secs(5), "an update ends the poll at once");
    });
}

#[test]
fn telegram_checks_what_is_sent() {
    let telegram = Telegram::start();
    telegram.user_says(ANA, "hello");
    telegram.add_chat(-1_001_234_567_890, "supergroup", &[12]);
    let check = |params: Value, expect: &str| {
        let answer = bot(&telegram, "sendMessage", &params);
        let got = answer["description"].as_str().unwrap_or("ok");
        assert!(got.contains(expect), "{params}: {got}");
    };
    check(json!({"chat_id": ANA, "text": ""}), "message text is empty");
    check(json!({"chat_id": ANA, "text": "<b> </b>", "parse_mode": "HTML"}), "message text is empty");
    check(json!({"chat_id": ANA, "text": "x".repeat(4097)}), "message is too long");
    check(json!({"chat_id": ANA, "text": "x".repeat(4096)}), "ok");
    // Two UTF-16 units each.
    check(json!({"chat_id": ANA, "text": "🦀".repeat(2049)}), "message is too long");
    check(json!({"chat_id": ANA, "text": format!("<b>{}</b>", "&amp;".repeat(4096)), "parse_mode": "HTML"}), "ok");
    check(json!({"chat_id": ANA, "text": "<h1>x</h1>", "parse_mode": "HTML"}), "can't parse entities");
    check(json!({"chat_id": ANA, "text": "<b>x", "parse_mode": "HTML"}), "can't parse entities");
    check(json!({"chat_id": ANA, "text": "1 < 2", "parse_mode": "HTML"}), "can't parse entities");
    check(json!({"chat_id": ANA, "text": "x", "reply_parameters": {"message_id": 999}}), "message to be replied not found");
    check(json!({"chat_id": ANA, "text": "x", "reply_parameters": {"message_id": 999, "allow_sending_without_reply": true}}), "ok");
    check(json!({"chat_id": "-1001234567890", "text": "x", "message_thread_id": 1}), "message thread not found");
    check(json!({"chat_id": "-1001234567890", "text": "x", "message_thread_id": "12"}), "ok");
    let keyboard = json!({"inline_keyboard": [[{"text": "a", "callback_data": "x".repeat(65)}]]});
    check(json!({"chat_id": ANA, "text": "x", "reply_markup": keyboard}), "BUTTON_DATA_INVALID");
}

#[test]
fn telegram_edits_deletes_and_moves() {
    let telegram = Telegram::start();
    telegram.user_says(ANA, "hello");
    let sent = bot(&telegram, "sendMessage", &json!({"chat_id": ANA, "text": "<b>a</b>", "parse_mode": "HTML"}));
    assert_eq!(sent["result"]["entities"], json!([{"type": "bold", "offset": 0, "length": 1}]));
    let id = sent["result"]["message_id"].clone();
    let edit =
        |text: &str| bot(&telegram, "editMessageText", &json!({"chat_id": ANA, "message_id": id, "text": text}))["description"].clone();
    assert_eq!(edit("b"), Value::Null);
    assert!(edit("b").as_str().is_some_and(|text| text.contains("message is not modified")));
    assert_eq!(telegram.texts(ANA), ["b"]);
    let missing = bot(&telegram, "editMessageText", &json!({"chat_id": ANA, "message_id": 9999, "text": "x"}));
    assert_eq!(missing["description"], "Bad Request: message to edit not found");
    assert_eq!(bot(&telegram, "deleteMessage", &json!({"chat_id": ANA, "message_id": id}))["result"], true);
    assert!(telegram.texts(ANA).is_empty());
    telegram.add_chat(-500, "group", &[]);
    telegram.migrate(-500, -1_000_000_000_500);
    let moved = bot(&telegram, "sendMessage", &json!({"chat_id": -500, "text": "x"}));
    assert_eq!(moved["parameters"]["migrate_to_chat_id"], -1_000_000_000_500_i64);
}

#[test]
fn telegram_misbehaves_as_told_and_recovers() {
    let telegram = Telegram::start();
    let path = format!("/bot{}/getMe", telegram.token());
    let call = || post(telegram.server.address, &path, "", "");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    telegram.fail("getMe", Fault::Status { code: 429, retry_after: Some(3) }, 1);
    assert_eq!(body(&call().expect("an answer"))["parameters"]["retry_after"], 3);
    telegram.fail("getMe", Fault::Reset, 1);
    assert_eq!(call().expect_err("a reset").kind(), std::io::ErrorKind::ConnectionReset);
    telegram.fail("getMe", Fault::ApplyThenDrop, 1);
    assert!(call().expect("the end").is_empty());
    telegram.fail("getMe", Fault::AnswerThenCut, 1);
    let cut = text(call().expect("half an answer"));
    assert!(cut.contains("\r\n\r\n{\"ok\"") && !complete(cut.as_bytes()), "{cut}");
    telegram.fail("getMe", Fault::Garbage, 1);
    assert!(!text(call().expect("garbage")).starts_with("HTTP"));
    telegram.fail("getMe", Fault::InvalidUtf8, 1);
    assert!(std::str::from_utf8(&call().expect("bytes")).is_err());
    telegram.fail("getMe", Fault::BlackHole, 1);
    let silent = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let error = raw(telegram.server.address, silent.as_bytes(), Duration::from_millis(200)).expect_err("silence");
    assert!(matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
    assert_eq!(body(&call().expect("an answer"))["ok"], true, "the faults are used up");
    telegram.server.go_down();
    assert!(call().is_err(), "nobody listens");
    telegram.server.come_back();
    assert_eq!(body(&call().expect("an answer"))["ok"], true);
}

#[test]
fn telegram_takes_uploads_from_curl_and_gives_downloads() {
    if std::process::Command::new("curl").arg("--version").stdout(std::process::Stdio::null()).status().is_err() {
        eprintln!("skipped: curl is not installed");
        return;
    }
    let telegram = Telegram::start();
    telegram.user_says(ANA, "hello");
    let mut curl = std::process::Command::new("curl");
    curl.args(["-sS", "-m", "10", "-F", &format!("chat_id={ANA}"), "-F", "document=@-;filename=note.txt"]);
    curl.arg(format!("{}/bot{}/sendDocument", telegram.url(), telegram.token()));
    let output = crate::support::process::run(&mut curl, b"line one\nline two\n", Duration::from_secs(20)).expect(0);
    let answer: Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!(answer["result"]["document"]["file_name"], "note.txt");
    assert_eq!(telegram.shown(ANA)[0].document, Some(("note.txt".to_owned(), b"line one\nline two\n".to_vec())));
    telegram.add_file("BQAC", "documents/file_3.txt", b"content");
    let path = bot(&telegram, "getFile", &json!({"file_id": "BQAC"}))["result"]["file_path"].as_str().expect("a path").to_owned();
    let mut curl = std::process::Command::new("curl");
    curl.args(["-sS", "-m", "10"]).arg(format!("{}/file/bot{}/{path}", telegram.url(), telegram.token()));
    assert_eq!(crate::support::process::run(&mut curl, b"", Duration::from_secs(20)).expect(0).stdout, "content");
}

#[test]
fn html_is_read_as_the_server_reads_it() {
    let check = |source: &str, expect: Result<&str, &str>| match (html::parse(source), expect) {
        (Ok((text, _)), Ok(expect)) => assert_eq!(text, expect, "{source}"),
        (Err(cause), Err(expect)) => assert!(cause.contains(expect), "{source}: {cause}"),
        (got, expect) => panic!("{source}: {got:?}, expected {expect:?}"),
    };
    check("a <b>b <i>c</i></b>", Ok("a b c"));
    check("1 &lt; 2 &amp;&amp; 3 &gt; 2 &#39;q&#x27; &nbsp; &", Ok("1 < 2 && 3 > 2 'q' &nbsp; &"));
    check("<pre><code class=\"language-rust\">fn</code></pre>", Ok("fn"));
    check("<a href=\"http://x/?a=1&amp;b=2\">x</a>", Ok("x"));
    check("<blockquote expandable>q</blockquote>", Ok("q"));
    check("<span class=\"tg-spoiler\">s</span>", Ok("s"));
    check("<b><i>x</b></i>", Err("Unmatched end tag"));
    check("<ul><li>x</li></ul>", Err("Unsupported start tag \"ul\""));
    check("</b>", Err("Unexpected end tag"));
    check("a < b", Err("Unclosed start tag"));
    check("<span>x</span>", Err("tg-spoiler"));
    let (_, entities) = html::parse("🦀 <b>x</b>").expect("well-formed");
    assert_eq!(entities, [json!({"type": "bold", "offset": 3, "length": 1})]);
}

fn ask(model: &Model, protocol: Protocol, body: &Value) -> std::io::Result<String> {
    let (path, headers) = match protocol {
        Protocol::Anthropic => ("/v1/messages", "Content-Type: application/json\r\nx-api-key: k\r\nanthropic-version: 2023-06-01\r\n"),
        Protocol::OpenAi => ("/v1/chat/completions", "Content-Type: application/json\r\nAuthorization: Bearer k\r\n"),
    };
    let bytes = post(model.server.address, path, headers, &body.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn user(text: &str) -> Value {
    json!({"model": "m", "max_tokens": 9, "stream": true, "messages": [{"role": "user", "content": text}]})
}

#[test]
fn model_streams_both_protocols() {
    let model = Model::start();
    model.rule("hello", [Reply::Stream(vec![Step::Text("hi there".to_owned()), model::shell("uname")]), model::text("done")]);
    let answer = ask(&model, Protocol::Anthropic, &user("hello")).expect("a stream");
    let names: Vec<&str> = answer.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    let unique: Vec<&&str> =
        names.iter().enumerate().filter(|(at, name)| *at == 0 || names[at - 1] != **name).map(|(_, name)| name).collect();
    assert_eq!(
        unique,
        [
            &"message_start",
            &"content_block_start",
            &"ping",
            &"content_block_delta",
            &"content_block_stop",
            &"content_block_start",
            &"content_block_delta",
            &"content_block_stop",
            &"message_delta",
            &"message_stop"
        ]
    );
    assert!(answer.contains("\"stop_reason\":\"tool_use\"") && answer.contains("\"partial_json\":\"\""));
    let answer = ask(&model, Protocol::OpenAi, &user("hello")).expect("a stream");
    assert!(answer.contains("\"finish_reason\":\"tool_calls\"") && answer.contains("data: [DONE]"), "{answer}");
    assert!(!answer.contains("event: "));
    let next = json!({"model": "m", "max_tokens": 9, "stream": true, "tools": [{"name": "shell", "input_schema": {"type": "object"}}], "messages": [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "shell", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "Linux"}]}]});
    assert!(ask(&model, Protocol::Anthropic, &next).expect("a stream").contains("done"), "the second round has the second reply");
    assert_eq!(model.journal().len(), 3);
}

#[test]
fn model_refuses_what_the_real_one_refuses() {
    let model = Model::start();
    model.allow_rejections();
    let tool_use = json!({"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "shell", "input": {}}]});
    let tools = json!([{"name": "shell", "input_schema": {"type": "object"}}]);
    let request = |messages: Value| json!({"model": "m", "max_tokens": 9, "tools": tools, "messages": messages});
    let check = |protocol, body: Value, expect: &str| {
        let answer = ask(&model, protocol, &body).expect("an answer");
        assert!(answer.contains(expect) && answer.starts_with("HTTP/1.1 400"), "{body}: {answer}");
    };
    let hello = json!({"role": "user", "content": "hello"});
    check(Protocol::Anthropic, request(json!([hello, tool_use])), "without tool_result");
    check(Protocol::Anthropic, request(json!([hello, tool_use, hello])), "without `tool_result`");
    let late =
        json!({"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "tool_result", "tool_use_id": "t1", "content": "y"}]});
    check(Protocol::Anthropic, request(json!([hello, tool_use, late])), "must come before");
    let alone = json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t9", "content": "y"}]});
    check(Protocol::Anthropic, request(json!([alone])), "unexpected `tool_use_id`");
    check(Protocol::Anthropic, request(json!([{"role": "user", "content": ""}])), "must be non-empty");
    check(Protocol::Anthropic, request(json!([{"role": "assistant", "content": "x"}])), "first message");
    check(Protocol::Anthropic, json!({"model": "m", "messages": [hello]}), "max_tokens");
    let call = json!({"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "shell", "arguments": "{}"}}]});
    check(Protocol::OpenAi, json!({"model": "m", "messages": [hello, call]}), "must be followed by tool messages");
    check(
        Protocol::OpenAi,
        json!({"model": "m", "messages": [hello, {"role": "tool", "tool_call_id": "c1", "content": "x"}]}),
        "must be a response",
    );
    check(Protocol::OpenAi, json!({"model": "m", "messages": [hello, {"role": "assistant", "content": null}]}), "without content");
    let headerless = post(model.server.address, "/v1/messages", "Content-Type: application/json\r\n", &request(json!([hello])).to_string());
    assert!(String::from_utf8_lossy(&headerless.expect("an answer")).starts_with("HTTP/1.1 401"));
}

#[test]
fn model_breaks_streams_where_told() {
    let model = Model::start();
    model.once("x", Reply::Stream(vec![Step::CutInCharacter("price: 5 €".to_owned())]));
    let bytes = post(
        model.server.address,
        "/v1/messages",
        "Content-Type: application/json\r\nx-api-key: k\r\nanthropic-version: 2023-06-01\r\n",
        &user("x").to_string(),
    );
    let bytes = bytes.expect("a broken stream");
    assert!(bytes.ends_with(b"5 \xe2\r\n"), "{:?}", String::from_utf8_lossy(&bytes[bytes.len() - 20..]));
    model.once("x", Reply::Stream(vec![Step::CutInTool { name: "shell".to_owned(), partial: "{\"command\": \"rm".to_owned() }]));
    let cut = ask(&model, Protocol::Anthropic, &user("x")).expect("a broken stream");
    assert!(cut.contains("input_json_delta") && !cut.contains("content_block_stop") && !cut.contains("message_stop"), "{cut}");
    model.once("x", Reply::Stream(vec![Step::Error { kind: "overloaded_error".to_owned(), message: "Overloaded".to_owned() }]));
    assert!(ask(&model, Protocol::OpenAi, &user("x")).expect("a stream").contains("data: {\"error\""));
    model.once("x", model::status(429, Some(2)));
    let limited = ask(&model, Protocol::Anthropic, &user("x")).expect("an answer");
    assert!(limited.contains("retry-after: 2") && limited.contains("rate_limit_error"), "{limited}");
    let gate = model::Gate::default();
    model.once("x", Reply::Stream(vec![Step::Gate(gate.clone()), Step::Text("through".to_owned())]));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&model, Protocol::Anthropic, &user("x")).expect("a stream"));
        model.wait_request(5, "x");
        gate.open();
        assert!(asking.join().expect("the request").contains("through"));
    });
    assert_eq!(model.wait_end(5, "x").1, End::Sent);
}

#[test]
fn proxy_delays_cuts_and_swallows() {
    let telegram = Telegram::start();
    let proxy = Proxy::start(telegram.server.address);
    let path = format!("/bot{}/getMe", telegram.token());
    assert_eq!(body(&post(proxy.address, &path, "", "").expect("an answer"))["ok"], true);
    proxy.set(Way::Delay(Duration::from_millis(300)));
    let begun = Instant::now();
    post(proxy.address, &path, "", "").expect("an answer");
    assert!(begun.elapsed() >= Duration::from_millis(300));
    proxy.set(Way::CutAfter(20));
    assert_eq!(post(proxy.address, &path, "", "").expect("a beginning").len(), 20);
    proxy.set(Way::Reset);
    assert!(post(proxy.address, &path, "", "").is_err());
    proxy.set(Way::BlackHole);
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(raw(proxy.address, request.as_bytes(), Duration::from_millis(200)).is_err());
}

#[test]
fn full_backlog_lets_nobody_in() {
    let full = FullBacklog::start();
    let error = TcpStream::connect_timeout(&full.address, Duration::from_millis(300)).expect_err("the queue is full");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}
