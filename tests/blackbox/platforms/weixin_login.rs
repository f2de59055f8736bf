//! `login weixin`: the code, what can become of it, and a gateway that goes on with a new login.

use super::{Platform, configured};
use crate::support::gateway::{Gateway, Setup, quoted};
use crate::support::poll::{self, SOON};
use crate::support::process;
use crate::support::weixin::{ANA, Step, Weixin};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

fn document(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("the document");
    assert_eq!(text.lines().count(), 1, "one line, as a secret has to be");
    assert_eq!(std::fs::metadata(path).expect("there").permissions().mode() & 0o777, 0o600);
    serde_json::from_str(&text).expect("JSON")
}

/// The section of somebody whose token is in a file.
fn with_file(weixin: &Weixin) -> Setup {
    let setup =
        configured(weixin, Gateway::setup()).unset("adapters.weixin", "token").set("adapters.weixin", "token_file", "\"weixin.json\"");
    std::fs::write(setup.scratch().join("weixin.json"), format!("{}\n", weixin.document(weixin.server.address))).expect("the token file");
    setup
}

#[test]
fn weixin_a_login_that_has_ended_is_told_and_a_new_one_revives_the_adapter() {
    let weixin = Weixin::start();
    let gateway = with_file(&weixin).start();
    weixin.user_says(ANA, "echo: before");
    weixin.wait_text("before");
    weixin.refuse(true);
    let adapter = gateway.wait_adapter("weixin", "retrying");
    let error = adapter["error"].as_str().expect("an error");
    assert!(error.contains("needs a new login") && error.contains("hermes-gateway login weixin"), "{error}");
    assert!(adapter["next_try_ms"].as_u64() > Some(500_000), "in ten minutes: {adapter}");
    gateway.cli(&["doctor"]).expect(1).says("hermes-gateway login weixin");
    gateway.chat("echo: the rest works").expect(0).says("the rest works");
    let asked = weixin.lock().journal.len();
    gateway.cli(&["send", "--to", &format!("weixin:{ANA}"), "kept for later"]).expect(0);
    poll::never(Duration::from_millis(500), "a call without a login", || weixin.lock().journal.len() > asked);
    weixin.user_says(ANA, "echo: meanwhile");

    let old = weixin.lock().token.clone();
    let elsewhere = weixin.elsewhere.address.to_string();
    let steps = [
        Step::Wait,
        Step::Silence,
        Step::Redirect(elsewhere.clone()),
        Step::Scanned,
        Step::Number("4711".to_owned()),
        Step::Scanned,
        Step::Confirm,
    ];
    weixin.script(&steps);
    let said = gateway.setup.cli_with_input(&["login", "weixin", "--base-url", &weixin.url()], "1234\n4711\n").expect(0);
    let said = said.says("Number that WeChat shows").says("That was not it").says("https://liteapp.weixin.qq.com/q/1").says("█▀");
    let said = said.says("Scanned").says("The gateway reads it now");
    let token = weixin.lock().token.clone();
    assert!(token != old && !said.all().contains(&token), "the token is not shown");
    let asked = weixin.calls("get_qrcode_status");
    assert!(asked.last().is_some_and(|call| call.host == elsewhere && call.query.contains("verify_code=4711")), "{asked:#?}");
    let written = document(&gateway.setup.scratch().join("weixin.json"));
    assert_eq!((&written["bot_token"], &written["ilink_user_id"]), (&json!(token), &json!(ANA)));
    assert_eq!(written["baseurl"], json!(format!("http://{elsewhere}")));

    gateway.wait_adapter("weixin", "connected");
    weixin.wait_text("meanwhile");
    weixin.wait_text("kept for later");
    assert!(weixin.calls("getupdates").last().is_some_and(|call| call.host == elsewhere), "the bot is served where the login says");
    assert!(!gateway.log_lines().concat().contains(&token));
}

#[test]
fn weixin_the_first_login_says_what_is_missing() {
    let weixin = Weixin::start();
    let setup = Gateway::setup();
    setup.write_config(&setup.config());
    weixin.script(&[Step::Scanned, Step::Confirm]);
    // No terminal, no input, no section: all of that is fine.
    let said = setup.cli(&["login", "weixin", "--name", "wechat", "--base-url", &weixin.url()]).expect(0);
    let lines = format!("[adapters.wechat]\nplatform = \"weixin\"\ntoken_file = \"wechat.json\"\nallowed_users = [\"{ANA}\"]\n");
    let said = said.says(&lines).says("doctor");
    assert!(!said.all().contains("tok-secret"), "{}", said.all());
    assert_eq!(document(&setup.scratch().join("wechat.json"))["ilink_bot_id"], json!(weixin.lock().bot_id));
    // What it says is enough.
    let setup = setup.set("adapters.wechat", "platform", "\"weixin\"").set("adapters.wechat", "token_file", "\"wechat.json\"");
    let setup = setup.set("adapters.wechat", "allowed_users", &format!("[{}]", quoted(ANA)));
    let gateway = setup.start();
    weixin.user_says(ANA, "echo: hello");
    weixin.wait_text("hello");
    gateway.wait_adapter("wechat", "connected");
}

#[test]
fn weixin_a_code_that_expires_is_replaced_three_times() {
    let weixin = Weixin::start();
    weixin.change(|state| state.old_codes = true);
    let setup = with_file(&weixin);
    setup.write_config(&setup.config());
    for _ in 0..3 {
        weixin.script(&[Step::Expired]);
    }
    weixin.script(&[Step::Confirm]);
    // The address is the section's.
    let setup = setup.set("adapters.weixin", "base_url", &quoted(&weixin.url()));
    setup.write_config(&setup.config());
    let said = setup.cli(&["login", "weixin"]).expect(0).says("https://liteapp.weixin.qq.com/q/4").says("Connected");
    assert_eq!(said.all().matches("has expired").count(), 3);
    for _ in 0..4 {
        weixin.script(&[Step::Expired]);
    }
    let before = std::fs::read_to_string(setup.scratch().join("weixin.json")).expect("there");
    setup.cli(&["login", "weixin"]).expect(1).says("Nothing was written");
    assert_eq!(std::fs::read_to_string(setup.scratch().join("weixin.json")).expect("there"), before);
}

#[test]
fn weixin_logins_that_come_to_nothing_write_nothing() {
    let weixin = Weixin::start();
    let setup = Gateway::setup();
    setup.write_config(&setup.config());
    let check = |step: Step, part: &str| {
        weixin.script(&[Step::Scanned, step.clone(), Step::Wait]);
        let output = setup.cli(&["login", "weixin", "--base-url", &weixin.url()]).expect(1).says(part).says("Nothing was written");
        assert!(output.elapsed < Duration::from_secs(10), "{step:?}: {:?}", output.elapsed);
    };
    check(Step::Blocked, "too many wrong numbers");
    check(Step::Bound, "connected already");
    check(Step::Number("1".to_owned()), "was not given");
    check(Step::Redirect("evil.example".to_owned()), "not one of WeChat's servers");
    check(Step::Redirect("10.0.0.1:80".to_owned()), "not one of WeChat's servers");
    setup.cli(&["login", "weixin", "--base-url", &weixin.url()]).expect(1).says("no more codes");
    weixin.server.go_down();
    setup.cli(&["login", "weixin", "--base-url", &weixin.url()]).expect(1).says("cannot connect");
    setup.cli(&["login", "weixin", "--name", "a/b"]).expect(2);
    assert!(!setup.scratch().join("weixin.json").exists());
}

#[test]
fn weixin_a_login_can_be_left_at_any_time() {
    let weixin = Weixin::start();
    let setup = Gateway::setup();
    setup.write_config(&setup.config());
    for (number, steps) in [[Step::Hold, Step::Hold], [Step::Number("1".to_owned()), Step::Hold]].iter().enumerate() {
        weixin.script(steps);
        let mut command = setup.command(&["login", "weixin", "--base-url", &weixin.url()]);
        // Input that never comes.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary");
        weixin.wait_call("get_qrcode_status", number + 1, |_| true);
        kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), Signal::SIGINT).expect("signalled");
        let status = process::wait(&mut child, SOON).unwrap_or_else(|| panic!("{steps:?}: still there"));
        assert_eq!(status.code(), Some(1), "{steps:?}");
        let mut said = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        assert!(said.contains("nothing was written"), "{steps:?}: {said}");
    }
    assert!(!setup.scratch().join("weixin.json").exists());
}
