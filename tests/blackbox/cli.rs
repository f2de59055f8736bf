//! The command line: what each command says and ends with.

use crate::support::gateway::{Gateway, quoted};
use crate::support::http::Fault;
use crate::support::telegram::{ANA, Telegram};
use serde_json::json;
use std::time::Duration;

#[test]
fn status_tells_healthy_degraded_and_not_running() {
    let telegram = Telegram::start();
    let mut gateway = Gateway::setup().telegram(&telegram).start();
    gateway.wait_adapter("telegram", "connected");
    let pid = gateway.pid().to_string();
    gateway.cli(&["status"]).expect(0).says(&pid).says("telegram").says("connected");
    let status = gateway.status();
    assert_eq!(status["pid"].to_string(), pid);
    assert_eq!(status["stop_budget_ms"], 5000);
    for field in [
        "state",
        "version",
        "uptime_ms",
        "rss_bytes",
        "adapters",
        "threads",
        "turns",
        "inbox",
        "outbox",
        "dead_letters",
        "children",
        "store",
    ] {
        assert!(!status[field].is_null(), "{field} is missing in {status}");
    }
    assert!(status["threads"].as_array().is_some_and(|threads| threads.iter().any(|thread| thread["name"] == "control")), "{status}");
    telegram.server.go_down();
    gateway.wait_adapter("telegram", "retrying");
    gateway.cli(&["status"]).expect(1).says("telegram");
    gateway.cli(&["status", "--json"]).expect(1);
    telegram.server.come_back();
    gateway.stop();
    gateway.cli(&["status"]).expect(3).says("not running");
    gateway.cli(&["status", "--json"]).expect(3);
}

#[test]
fn status_is_plain_in_a_pipe() {
    let gateway = Gateway::setup().start();
    let output = gateway.cli(&["status"]);
    assert!(!output.all().contains('\x1b'), "{:?}", output.all());
}

#[test]
fn chat_answers_in_the_terminal() {
    let gateway = Gateway::setup().start();
    gateway.chat("echo: hello terminal").expect(0).says("hello terminal");
    gateway.chat("run: echo out-$((20 + 3))").expect(0).says("out-23");
    let long = gateway.chat("long: 20000").expect(0);
    assert!(long.stdout.chars().count() >= 20_000, "the whole answer: {}", long.stdout.len());
    let piped = gateway.setup.cli_with_input(&["chat"], "echo: from standard input\n").expect(0);
    assert!(piped.stdout.contains("from standard input"), "{piped:?}");
    assert!(!piped.stdout.contains('\x1b'));
}

#[test]
fn chat_without_a_gateway_says_so() {
    let setup = Gateway::setup();
    setup.write_config(&setup.config());
    let output = setup.cli(&["chat", "hello"]).expect(1);
    assert!(output.all().contains("not running"), "{output:?}");
    assert!(output.elapsed < Duration::from_secs(10));
}

#[test]
fn send_puts_a_message_into_the_outbox() {
    let telegram = Telegram::start();
    telegram.user_says(ANA, "echo: hello");
    let mut gateway = Gateway::setup().telegram(&telegram).start();
    telegram.wait_text(ANA, "hello");
    let to = format!("telegram:{ANA}");
    gateway.cli(&["send", "--to", &to, "disk is **full**"]).expect(0);
    telegram.wait_text(ANA, "disk is full");
    let unknown = gateway.cli(&["send", "--to", "nosuch:5", "x"]).expect(1);
    assert!(unknown.all().contains("nosuch"), "{unknown:?}");
    gateway.cli(&["send", "--to", "no-colon", "x"]);
    // What is taken while the platform is away is delivered later, by the next process if need be.
    telegram.server.go_down();
    gateway.cli(&["send", "--to", &to, "kept for later"]).expect(0);
    gateway.stop();
    telegram.server.come_back();
    gateway.start_again();
    telegram.wait_text_within(Duration::from_secs(45), ANA, "kept for later");
    gateway.stop();
    gateway.cli(&["send", "--to", &to, "nobody there"]).expect(1).says("not running");
}

#[test]
fn stop_shows_its_steps_and_ends_the_gateway() {
    let mut gateway = Gateway::setup().start();
    // The gateway is our child: `stop` can only see it go once we have waited for it.
    let output = std::thread::scope(|scope| {
        let setup = &gateway.setup;
        let stopping = scope.spawn(|| setup.cli(&["stop"]));
        let pid = gateway.pid();
        crate::support::poll::eventually(Duration::from_secs(20), "the gateway's end", || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        });
        stopping.join().expect("the stop command")
    });
    let output = output.expect(0);
    assert!(!output.all().trim().is_empty(), "each step is shown");
    assert_eq!(gateway.wait_exit(Duration::from_secs(1)).code, Some(0));
    assert!(output.elapsed < Duration::from_secs(10), "{output:?}");
    let again = gateway.cli(&["stop"]);
    assert!(again.all().contains("not running"), "{again:?}");
}

#[test]
fn a_second_gateway_names_the_first_and_ends_with_69() {
    let gateway = Gateway::setup().start();
    let second = gateway.cli(&["run"]).expect(69);
    assert!(second.all().contains(&gateway.pid().to_string()), "it names the holder: {second:?}");
    assert!(second.elapsed < Duration::from_secs(5), "a35: cheap and at once: {second:?}");
    gateway.chat("echo: the first is unharmed").expect(0).says("the first is unharmed");
}

#[test]
fn a_bad_configuration_ends_with_78_and_names_the_line() {
    let check = |config: &str, line: &str, expect: &[&str]| {
        let setup = Gateway::setup();
        setup.write_config(config);
        for command in [&["run"][..], &["config", "check"]] {
            let output = setup.cli(command).expect(78);
            let all = output.all();
            assert!(all.contains(&format!("config.toml:{line}")), "{command:?} names file and line: {all}");
            for part in expect {
                assert!(all.contains(part), "{part:?} is missing: {all}");
            }
        }
    };
    check(
        "[provider]\nkind = \"offline\"\n\n[adapters.telegram]\ntoken = \"1:x\"\nalowed_users = [\"5\"]\n",
        "6:",
        &["alowed_users", "allowed_users"],
    );
    check("[provider]\nkind = \"offline\"\nmodle = \"x\"\n", "3:", &["modle", "model"]);
    check("[provider]\nkind = \"of", "2:", &[]);
    check("[provider]\nkind = \"offline\"\n[shutdown]\ndrain = \"soon\"\n", "4:", &["soon"]);
    check("[provider]\nkind = \"offline\"\n[session]\nbusy = \"polite\"\n", "4:", &["interrupt", "queue", "steer"]);
    check("[provider]\nkind = \"telepathy\"\n", "2:", &["offline"]);
    check("[provider]\nkind = \"offline\"\n[sesion]\nbusy = \"queue\"\n", "3:", &["session"]);
}

#[test]
fn a_missing_configuration_says_what_to_do() {
    let setup = Gateway::setup();
    let output = setup.cli(&["run"]).expect(78);
    assert!(output.all().contains("demo") && output.all().contains("setup"), "{output:?}");
}

#[test]
fn a_missing_secret_is_named() {
    let setup = Gateway::setup();
    setup.write_config("[provider]\nkind = \"offline\"\n[adapters.telegram]\ntoken_env = \"NO_SUCH_TOKEN\"\nallowed_users = [\"5\"]\n");
    let output = setup.cli(&["run"]).expect(78);
    assert!(output.all().contains("NO_SUCH_TOKEN"), "{output:?}");
}

#[test]
fn wrong_usage_ends_with_2() {
    let setup = Gateway::setup();
    setup.write_config(&setup.config());
    setup.cli(&["no-such-command"]).expect(2);
    setup.cli(&["status", "--no-such-flag"]).expect(2);
    setup.cli(&["--help"]).expect(0).says("status");
    setup.cli(&["--version"]).expect(0).says("0.1");
}

#[test]
fn a77_gateway_as_a_first_word_is_accepted() {
    let gateway = Gateway::setup().start();
    let mut command = std::process::Command::new(crate::support::gateway::BINARY);
    command.env_clear().env("HOME", gateway.setup.home()).env("XDG_RUNTIME_DIR", gateway.setup.scratch().join("run"));
    command.arg("gateway").arg("--config").arg(gateway.setup.config_file()).arg("--state-dir").arg(gateway.setup.state_dir()).arg("status");
    crate::support::process::run(&mut command, b"", Duration::from_secs(20)).expect(0).says(&gateway.pid().to_string());
}

#[test]
fn config_check_and_show_keep_secrets() {
    let telegram = Telegram::start();
    let setup = Gateway::setup().telegram(&telegram).set("provider", "kind", "\"anthropic\"").set("provider", "model", "\"m\"");
    let setup = setup.set("provider", "api_key", "\"sk-very-secret\"");
    setup.write_config(&setup.config());
    setup.cli(&["config", "check"]).expect(0);
    let shown = setup.cli(&["config", "show"]).expect(0).says("telegram");
    assert!(!shown.all().contains("sk-very-secret") && !shown.all().contains(":AAH"), "{shown:?}");
    setup.cli(&["config", "path"]).expect(0).says("config.toml");
}

#[test]
fn a_secret_can_come_from_a_file_or_the_environment() {
    let telegram = Telegram::start();
    let setup = Gateway::setup();
    let file = setup.scratch().join("token");
    std::fs::write(&file, format!("{}\n", telegram.token())).expect("the token file");
    let setup = setup.set("adapters.telegram", "token_file", &quoted(file.to_str().expect("a path")));
    let setup = setup.set("adapters.telegram", "base_url", &quoted(&telegram.url())).set(
        "adapters.telegram",
        "allowed_users",
        &format!("[\"{ANA}\"]"),
    );
    let gateway = setup.start();
    gateway.wait_adapter("telegram", "connected");
    let other = Telegram::start();
    let setup = Gateway::setup().env("MY_TOKEN", &other.token()).set("adapters.telegram", "token_env", "\"MY_TOKEN\"");
    let setup = setup.set("adapters.telegram", "base_url", &quoted(&other.url())).set(
        "adapters.telegram",
        "allowed_users",
        &format!("[\"{ANA}\"]"),
    );
    let gateway = setup.start();
    gateway.wait_adapter("telegram", "connected");
}

#[test]
fn a15_the_unit_is_derived_from_the_stop_budget() {
    let setup = Gateway::setup().set("shutdown", "drain", "\"20s\"");
    setup.write_config(&setup.config());
    let unit = setup.cli(&["service", "print", "--user"]).expect(0).stdout;
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("{key} is missing in\n{unit}"));
    let stop: u64 = value("TimeoutStopSec=").trim_end_matches('s').parse().expect("seconds");
    assert!((24..=60).contains(&stop), "longer than the budget of 23 s, and not by much: {stop}");
    assert!(value("RestartPreventExitStatus=").contains("78"));
    assert!(value("RestartForceExitStatus=").contains("75"));
    assert_eq!(value("Type="), "notify");
}

#[test]
fn demo_needs_nothing_and_leaves_nothing() {
    let setup = Gateway::setup();
    let mut command = std::process::Command::new(crate::support::gateway::BINARY);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", setup.home())
        .current_dir(setup.home())
        .arg("demo");
    let output =
        crate::support::process::run(&mut command, b"echo: hello demo\nrun: echo shell-$((5 * 5))\n", Duration::from_secs(30)).expect(0);
    assert!(output.all().contains("hello demo") && output.all().contains("shell-25"), "{output:?}");
    assert!(crate::support::process::of_scratch(setup.scratch()).is_empty());
}

#[test]
fn a_message_that_cannot_be_delivered_becomes_a_dead_letter() {
    let telegram = Telegram::start();
    let gateway = Gateway::setup().telegram(&telegram).start();
    gateway.wait_adapter("telegram", "connected");
    gateway.cli(&["send", "--to", "telegram:424242", "to nobody"]).expect(0);
    gateway.wait_status("one dead letter", |status| (status["dead_letters"] == json!(1)).then_some(()));
    assert_eq!(gateway.adapter("telegram")["state"], "connected");
    telegram.fail("sendChatAction", Fault::Status { code: 500, retry_after: None }, 3);
    telegram.user_says(ANA, "echo: fine");
    telegram.wait_text(ANA, "fine");
}
