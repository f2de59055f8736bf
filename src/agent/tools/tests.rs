//! The tools as a turn calls them.

use super::*;
use crate::config::TOOLS;
use crate::process::instance_mark;
use crate::thread::Threads;
use serde_json::json;
use std::sync::Mutex;
use std::time::Duration;

struct NoCalls;

impl OwnCalls for NoCalls {
    fn begin(&self) -> Box<dyn OwnCall> {
        Box::new(NoCalls)
    }
}

impl OwnCall for NoCalls {
    fn changed(&self, _contexts: &[String]) {}
}

/// Where nothing listens.
fn nobodys_home() -> HomeAssistant {
    let token = crate::config::Secret::new("secret-token".to_owned());
    HomeAssistant::new("http://127.0.0.1:9".to_owned(), token, vec!["input_text.gate".to_owned()], Box::new(NoCalls))
}

struct Lab {
    folder: tempfile::TempDir,
    net: NetOptions,
    config: ToolsConfig,
    children: Children,
    token: CancelToken,
    protected: Vec<PathBuf>,
    tools: Vec<Box<dyn Tool>>,
    progress: Mutex<Vec<String>>,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let config = ToolsConfig {
            enabled: TOOLS.iter().map(|name| (*name).to_owned()).collect(),
            workdir: folder.path().to_owned(),
            shell_timeout: Duration::from_secs(20),
            shell_env: Vec::new(),
            homeassistant_domains: vec!["light".to_owned()],
        };
        std::fs::create_dir_all(folder.path().join("state")).expect("made");
        std::fs::write(folder.path().join("state/gateway.db"), "token").expect("written");
        std::fs::create_dir_all(folder.path().join("config")).expect("made");
        std::fs::write(folder.path().join("config/config.toml"), "needle").expect("written");
        std::fs::write(folder.path().join("config/secrets.env"), "needle").expect("written");
        Self {
            net: NetOptions { tls_ca_file: None, user_agent: "test".to_owned() },
            children: Children::new(instance_mark(folder.path()), &Threads::new()),
            token: CancelToken::new(),
            protected: vec![folder.path().join("state"), folder.path().join("config/config.toml")],
            tools: table(&config.enabled, Some(nobodys_home())),
            progress: Mutex::new(Vec::new()),
            config,
            folder,
        }
    }

    fn call_as(&self, session: &str, tool: &str, input: &Value) -> ToolOutcome {
        let on_progress = |line: &str| self.progress.lock().expect("not poisoned").push(line.to_owned());
        let context = ToolContext {
            token: &self.token,
            deadline: Deadline::after(Duration::from_secs(60)),
            net: &self.net,
            session,
            workdir: self.folder.path(),
            config: &self.config,
            children: &self.children,
            protected: &self.protected,
            on_progress: &on_progress,
        };
        let tool = self.tools.iter().find(|known| known.spec().name == tool).expect("a tool");
        assert!(tool.summary(input).chars().count() < 200);
        tool.run(input, &context)
    }

    fn call(&self, tool: &str, input: Value) -> ToolOutcome {
        self.call_as("test", tool, &input)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, content).expect("written");
    }

    fn content(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).expect("readable")
    }
}

#[test]
fn the_table_holds_what_is_enabled_and_its_schemas_are_objects() {
    let names = |enabled: &[&str]| {
        let enabled: Vec<String> = enabled.iter().map(|name| (*name).to_owned()).collect();
        table(&enabled, Some(nobodys_home())).iter().map(|tool| tool.spec().name).collect::<Vec<_>>()
    };
    assert_eq!(names(TOOLS), TOOLS);
    assert_eq!(names(&["http_fetch", "shell", "other"]), ["shell", "http_fetch"]);
    assert!(names(&[]).is_empty());
    for tool in &Lab::new().tools {
        let spec = tool.spec();
        assert_eq!(spec.schema["type"], "object", "{}", spec.name);
        for required in spec.schema["required"].as_array().into_iter().flatten() {
            assert!(spec.schema["properties"].get(required.as_str().expect("a name")).is_some(), "{}", spec.name);
        }
    }
}

#[test]
fn bad_input_is_answered_by_naming_the_field() {
    let lab = Lab::new();
    let cases = [
        ("shell", json!({}), "command"),
        ("shell", json!({"command": 5}), "command"),
        ("shell", json!({"command": "  "}), "command"),
        ("shell", json!({"command": "true", "timeout_s": "soon"}), "timeout_s"),
        ("shell", json!({"command": "true", "timeout_s": 0}), "timeout_s"),
        ("shell", json!({"command": "true", "background": 1}), "background"),
        ("shell", json!({"action": "kill"}), "job"),
        ("shell", json!({"job": 1, "action": "dance"}), "action"),
        ("shell", json!({"job": 1, "command": "true"}), "job"),
        ("read_file", json!({}), "path"),
        ("read_file", json!({"path": ""}), "path"),
        ("read_file", json!({"path": "x", "offset": 0}), "offset"),
        ("write_file", json!({"path": "x"}), "content"),
        ("write_file", json!({"path": ["x"], "content": ""}), "path"),
        ("edit_file", json!({"path": "x", "old_string": "", "new_string": "y"}), "old_string"),
        ("edit_file", json!({"path": "x", "old_string": "y", "new_string": "y"}), "new_string"),
        ("search_files", json!({}), "pattern"),
        ("search_files", json!({"pattern": "("}), "pattern"),
        ("search_files", json!({"glob": "{"}), "glob"),
        ("http_fetch", json!({}), "url"),
        ("http_fetch", json!({"url": "ftp://x"}), "url"),
        ("http_fetch", json!({"url": "http://x", "method": "PUT"}), "method"),
        ("http_fetch", json!({"url": "http://x", "headers": ["a"]}), "headers"),
        ("http_fetch", json!({"url": "http://x", "headers": {"a": "b\r\nc: d"}}), "headers"),
        ("ha_get_state", json!({}), "entity_id"),
        ("ha_get_state", json!({"entity_id": "../config"}), "entity_id"),
        ("ha_list_entities", json!({"domain": 7}), "domain"),
        ("ha_list_entities", json!({"limit": 0}), "limit"),
        ("ha_call_service", json!({}), "service"),
        ("ha_call_service", json!({"service": "turn_on"}), "service"),
        ("ha_call_service", json!({"service": "light/../x.y"}), "service"),
        ("ha_call_service", json!({"service": "light.turn_on", "entity_id": "all"}), "entity_id"),
        ("ha_call_service", json!({"service": "light.turn_on", "entity_id": ["light.a", 7]}), "entity_id"),
        ("ha_call_service", json!({"service": "light.turn_on", "data": {"entity_id": {}}}), "entity_id"),
        ("ha_call_service", json!({"service": "light.turn_on", "data": []}), "data"),
        ("ha_call_service", json!({"service": "light.turn_on", "data": {"target": {"entity_id": "light.a"}}}), "target"),
        ("ha_call_service", json!({"service": "light.turn_on", "return_response": 1}), "return_response"),
    ];
    for (tool, input, field) in cases {
        let outcome = lab.call(tool, input.clone());
        assert!(outcome.is_error && outcome.content.contains(&format!("\"{field}\"")), "{tool} {input}: {outcome:?}");
    }
    for tool in TOOLS {
        for input in [json!(null), json!([]), json!("x"), json!(7)] {
            assert!(lab.call(tool, input).is_error);
        }
    }
}

#[test]
fn services_that_are_not_allowed_and_chats_are_refused_without_asking_anybody() {
    let mut lab = Lab::new();
    lab.config.homeassistant_domains = vec!["light".to_owned(), "input_text".to_owned()];
    for (service, entity, data) in [
        ("shell_command.backup", json!(null), json!({})),
        ("lock.unlock", json!("lock.front"), json!({})),
        ("input_text.set_value", json!("input_text.gate"), json!({})),
        ("input_text.set_value", json!("light.a, input_text.gate"), json!({})),
        ("input_text.set_value", json!(null), json!({"entity_id": ["input_text.gate"]})),
        ("input_text.set_value", json!("input_text.other"), json!({"area_id": "hall"})),
        ("input_text.reload", json!(null), json!({})),
        ("light.turn_on", json!("input_text.gate"), json!({})),
    ] {
        let outcome = lab.call("ha_call_service", json!({"service": service, "entity_id": entity, "data": data}));
        assert!(outcome.is_error && outcome.content.starts_with("refused: "), "{service} {entity} {data}: {outcome:?}");
    }
    let asked = lab.call("ha_call_service", json!({"service": "light.turn_on", "entity_id": "light.a"}));
    assert!(asked.is_error && asked.content.contains("cannot be asked") && !asked.content.contains("secret-token"), "{asked:?}");
}

#[test]
fn the_shell_tells_output_and_end() {
    let lab = Lab::new();
    let check = |input: Value, content: &str, end: &str| {
        let outcome = lab.call("shell", input);
        assert_eq!((outcome.content.as_str(), outcome.end.as_str()), (content, end));
        assert_eq!(outcome.is_error, end != "exit 0");
    };
    check(json!({"command": "echo hi"}), "hi\n[exit 0]", "exit 0");
    check(json!({"command": "echo no >&2; exit 3"}), "no\n[exit 3]", "exit 3");
    check(json!({"command": "true"}), "[exit 0]", "exit 0");
    check(json!({"command": "kill -9 $$"}), "[killed by SIGKILL]", "killed by SIGKILL");
    check(json!({"command": "touch made; ls made"}), "made\n[exit 0]", "exit 0");
    let timed_out = lab.call("shell", json!({"command": "echo a; sleep 60", "timeout_s": 1}));
    assert!(timed_out.is_error && timed_out.content.starts_with("a\n[timed out after 1 s; it was ended."), "{timed_out:?}");
    assert_eq!(timed_out.end, "timed out after 1 s");
    let leftover = lab.call("shell", json!({"command": "sleep 60 & echo started"}));
    assert!(leftover.content.contains("[processes that it had left running were ended"), "{leftover:?}");
}

#[test]
fn the_shell_shows_its_progress() {
    let lab = Lab::new();
    lab.call("shell", json!({"command": "for i in 1 2 3 4 5 6 7; do echo step $i; sleep 0.15; done"}));
    let told = lab.progress.lock().expect("not poisoned").clone();
    assert!(!told.is_empty() && told.iter().all(|line| line.starts_with("step ")), "{told:?}");
}

#[test]
fn a_cancelled_turn_calls_nothing() {
    let lab = Lab::new();
    lab.token.cancel();
    for (tool, input) in [
        ("shell", json!({"command": "touch made"})),
        ("shell", json!({"command": "touch made", "background": true})),
        ("write_file", json!({"path": "made", "content": ""})),
        ("read_file", json!({"path": "config/other"})),
        ("search_files", json!({"pattern": "x"})),
    ] {
        let outcome = lab.call(tool, input);
        assert!(outcome.is_error, "{tool}: {outcome:?}");
    }
    assert!(!lab.folder.path().join("made").exists());
}

#[test]
fn background_jobs_are_reached_from_their_session_only() {
    let lab = Lab::new();
    let started = lab.call("shell", json!({"command": "echo out; sleep 60", "background": true}));
    assert!(!started.is_error && started.end == "job 1 started", "{started:?}");
    let until = Deadline::after(Duration::from_secs(10));
    while !lab.call("shell", json!({"job": 1, "action": "log"})).content.starts_with("out\n") {
        assert!(!until.passed(), "no output came");
        let _ = CancelToken::new().sleep(Duration::from_millis(5));
    }
    assert_eq!(lab.call("shell", json!({"job": 1})).end, "job 1 runs");
    assert!(lab.call_as("other", "shell", &json!({"job": 1, "action": "kill"})).is_error);
    assert!(lab.call("shell", json!({"action": "list"})).content.contains("shell: echo out; sleep 60"));
    assert_eq!(lab.call_as("other", "shell", &json!({"action": "list"})).content, "[no background jobs]");
    assert!(!lab.call("shell", json!({"job": "1", "action": "kill"})).is_error);
    while lab.call("shell", json!({"job": 1, "action": "poll"})).end != "job 1 has ended: cancelled" {
        assert!(!until.passed(), "it did not end");
        let _ = CancelToken::new().sleep(Duration::from_millis(5));
    }
}

#[test]
fn files_are_read_in_pieces() {
    let lab = Lab::new();
    lab.write("five", "a\nb\nc\nd\ne\n");
    lab.write("open", "a\r\nb");
    lab.write("empty", "");
    lab.write("binary", b"\x7fELF\0\0");
    lab.write("long", "x".repeat(100_000));
    let check = |input: Value, content: &str| assert_eq!(lab.call("read_file", input).content, content);
    check(json!({"path": "five"}), "     1\ta\n     2\tb\n     3\tc\n     4\td\n     5\te\n");
    check(json!({"path": "five", "offset": 2, "limit": 2}), "     2\tb\n     3\tc\n[more lines follow: go on with offset 4]\n");
    check(json!({"path": "five", "offset": 4, "limit": 2}), "     4\td\n     5\te\n");
    check(json!({"path": "five", "offset": 9}), "[five has 5 lines; line 9 is beyond its end]");
    check(json!({"path": "open"}), "     1\ta\n     2\tb\n");
    check(json!({"path": "empty"}), "[empty is empty]");
    check(json!({"path": "binary"}), "binary is a binary file of 6 bytes; look at it with the shell tool (file, xxd)");
    check(json!({"path": "none"}), "cannot read none: No such file or directory (os error 2)");
    check(json!({"path": "."}), ". is a directory; list it with the shell tool, or search in it with search_files");
    assert!(lab.call("read_file", json!({"path": "long"})).content.ends_with("x [line cut]\n"));
    lab.write("large", "line of text\n".repeat(100_000));
    let large = lab.call("read_file", json!({"path": "large", "limit": 100_000})).content;
    assert!(large.len() < crate::limits::TOOL_OUTPUT_BYTES_MAX + 4096 && large.contains("[more lines follow"));
    // A pipe without a writer would block an ordinary open for ever.
    nix::unistd::mkfifo(&lab.folder.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("made");
    check(json!({"path": "fifo"}), "fifo is not a regular file");
    check(json!({"path": "/dev/zero"}), "/dev/zero is not a regular file");
}

#[test]
fn files_are_written_in_one_step() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    let outcome = lab.call("write_file", json!({"path": "a/b/c.txt", "content": "one\ntwo\n"}));
    assert_eq!(outcome.content, "[a/b/c.txt written: 2 lines, 8 bytes]");
    assert_eq!(lab.content("a/b/c.txt"), "one\ntwo\n");
    lab.write("script", "old");
    std::fs::set_permissions(lab.folder.path().join("script"), std::fs::Permissions::from_mode(0o750)).expect("set");
    std::os::unix::fs::symlink("script", lab.folder.path().join("link")).expect("linked");
    assert!(lab.call("write_file", json!({"path": "link", "content": "new"})).content.contains("replaced"));
    assert_eq!(lab.content("script"), "new");
    assert!(lab.folder.path().join("link").is_symlink());
    let mode = std::fs::metadata(lab.folder.path().join("script")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o750);
    assert!(lab.call("write_file", json!({"path": "a", "content": ""})).is_error);
    assert!(lab.call("write_file", json!({"path": "/dev/null", "content": "x"})).is_error);
    let left: Vec<_> = std::fs::read_dir(lab.folder.path()).expect("readable").filter_map(Result::ok).collect();
    assert!(!left.iter().any(|entry| entry.file_name().to_string_lossy().ends_with(".tmp")));
}

#[test]
fn edits_are_exact() {
    let lab = Lab::new();
    lab.write("f", "one\n  two\nthree two\n");
    let edit = |old: &str, new: &str, all: bool| {
        lab.call("edit_file", json!({"path": "f", "old_string": old, "new_string": new, "replace_all": all})).content
    };
    assert_eq!(
        edit("two", "2", false),
        "f: old_string is there 2 times (lines 2, 3); take in more lines to make it unique, or set replace_all"
    );
    assert!(edit("\ttwo\n", "x", false).contains("line 2 is like its first line"));
    assert!(edit("four", "x", false).contains("was not found"));
    assert_eq!(lab.content("f"), "one\n  two\nthree two\n");
    assert_eq!(edit("three two", "three 2", false), "[f: 1 replacement, the first in line 3]");
    assert_eq!(edit("e", "E", true), "[f: 3 replacements, the first in line 1]");
    assert_eq!(lab.content("f"), "onE\n  two\nthrEE 2\n");
    lab.write("binary", b"a\0b");
    assert!(lab.call("edit_file", json!({"path": "binary", "old_string": "a", "new_string": "b"})).is_error);
}

#[test]
fn trees_are_searched_within_bounds() {
    let lab = Lab::new();
    lab.write("src/main.rs", "fn main() {}\n// needle\n");
    lab.write("src/deep/x.txt", "a Needle\n");
    lab.write(".git/x", "needle");
    lab.write("binary", b"needle\0");
    std::os::unix::fs::symlink("/", lab.folder.path().join("loop")).expect("linked");
    let search = |input: Value| lab.call("search_files", input).content;
    assert_eq!(search(json!({"pattern": "needle"})), "src/main.rs:2: // needle\n[1 match in 3 files searched]");
    assert!(
        search(json!({"pattern": "needle", "ignore_case": true}))
            .starts_with("src/main.rs:2: // needle\nsrc/deep/x.txt:1: a Needle\n[2 matches")
    );
    assert_eq!(search(json!({"pattern": "^a", "glob": "*.txt"})), "src/deep/x.txt:1: a Needle\n[1 match in 1 files searched]");
    assert_eq!(search(json!({"glob": "src/**/*.{rs,txt}"})), "src/main.rs\nsrc/deep/x.txt\n[2 files]");
    assert_eq!(search(json!({"pattern": "main", "path": "src/main.rs"})), "src/main.rs:1: fn main() {}\n[1 match in 1 files searched]");
    lab.write("many", "hit\n".repeat(1000));
    let many = search(json!({"pattern": "hit"}));
    assert!(many.matches("many:").count() == crate::limits::SEARCH_MATCHES_MAX && many.contains("there are more matches"), "{many}");
    assert!(search(json!({"pattern": "x", "path": "none"})).contains("cannot search none"));
}

#[test]
fn the_gateways_own_files_are_refused_by_every_way() {
    let lab = Lab::new();
    let root = lab.folder.path();
    std::os::unix::fs::symlink(root.join("state"), root.join("innocent")).expect("linked");
    std::os::unix::fs::symlink(root.join("config/new.env"), root.join("dangling")).expect("linked");
    std::os::unix::fs::symlink("dangling", root.join("twice")).expect("linked");
    std::os::unix::fs::symlink("itself", root.join("itself")).expect("linked");
    std::fs::hard_link(root.join("config/config.toml"), root.join("hard")).expect("linked");
    let own = std::process::id();
    let paths = [
        "state/gateway.db".to_owned(),
        "./x/../state/gateway.db".to_owned(),
        root.join("state/gateway.db").display().to_string(),
        "innocent/gateway.db".to_owned(),
        "innocent/new".to_owned(),
        "config/config.toml".to_owned(),
        "config/secrets.env".to_owned(),
        "config/.env".to_owned(),
        "dangling".to_owned(),
        "twice".to_owned(),
        "hard".to_owned(),
        "/proc/self/environ".to_owned(),
        format!("/proc/{own}/environ"),
        format!("/proc/{own}/task/{own}/environ"),
        "/proc/thread-self/environ".to_owned(),
        "/proc/1/environ".to_owned(),
        format!("/proc/self/root{}", root.join("state/gateway.db").display()),
    ];
    for path in paths {
        for (tool, input) in [
            ("read_file", json!({"path": path})),
            ("write_file", json!({"path": path, "content": "x"})),
            ("edit_file", json!({"path": path, "old_string": "t", "new_string": "x"})),
            ("search_files", json!({"path": path, "pattern": "."})),
        ] {
            let outcome = lab.call(tool, input);
            assert!(outcome.is_error && outcome.content.contains("refused"), "{tool} {path}: {outcome:?}");
        }
    }
    assert_eq!((lab.content("state/gateway.db").as_str(), lab.content("config/config.toml").as_str()), ("token", "needle"));
    assert!(lab.call("search_files", json!({"pattern": "needle|token"})).content.starts_with("[0 matches"));
    assert!(lab.call("read_file", json!({"path": "itself"})).is_error);
    assert!(!lab.call("read_file", json!({"path": "/proc/loadavg"})).is_error);
}
