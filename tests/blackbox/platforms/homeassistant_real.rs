//! A real Home Assistant, end to end: `scripts/homeassistant` starts it. Where it is not installed the test says so and
//! passes; with `HERMES_HOMEASSISTANT_INSTALL=1` it is installed first (600 MB).

use crate::support::gateway::{Gateway, quoted};
use crate::support::model::{self, Model, Protocol, Reply, Step};
use crate::support::poll;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use tungstenite::{Message, WebSocket};

const SECTION: &str = "adapters.homeassistant";
/// From its start to its first answer; it takes four seconds on an idle machine.
const START: Duration = Duration::from_secs(150);
/// An answer of a real server, with the gateway's backoff in between.
const LATER: Duration = Duration::from_secs(75);

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/homeassistant")
}

/// Why it cannot be had here, if so.
fn missing() -> Option<String> {
    let wanted = std::env::var("HERMES_HOMEASSISTANT_INSTALL").is_ok_and(|wanted| wanted == "1");
    let output = Command::new(script()).arg(if wanted { "install" } else { "installed" }).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// The server as a process, which ends with this.
struct Real {
    script: Child,
    server: i32,
    url: String,
    token: String,
    person: String,
}

impl Real {
    fn start(directory: &Path) -> Self {
        let mut command = Command::new(script());
        let mut script =
            command.arg("run").arg(directory).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("scripts/homeassistant");
        let output = BufReader::new(script.stdout.take().expect("its output"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let word = |name: &str| {
            let line = lines.recv_timeout(START).unwrap_or_else(|_| {
                let log = std::fs::read_to_string(directory.join("home-assistant.out")).unwrap_or_default();
                panic!("no {name} within {START:?}\n{log}")
            });
            line.strip_prefix(name).unwrap_or_else(|| panic!("{name}: {line}")).trim().to_owned()
        };
        let server = word("pid").parse().expect("a pid");
        Self { server, url: word("url"), token: word("token"), person: word("person"), script }
    }

    /// Its process ends, and the script with it. In order: it writes its users down late.
    fn end(&mut self) {
        let _ = kill(Pid::from_raw(self.server), Signal::SIGTERM);
        let ended = poll::try_for(Duration::from_secs(60), Duration::from_millis(20), || self.script.try_wait().ok().flatten());
        assert!(ended.is_some(), "the script does not end with the server");
    }

    fn address(&self) -> &str {
        self.url.strip_prefix("http://").expect("an address")
    }

    /// A call of the REST interface as the person. → status and body
    fn post(&self, path: &str, body: &Value) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address()).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.address(),
            self.person,
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    fn call(&self, service: &str, data: &Value) {
        let (status, body) = self.post(&format!("/api/services/{}", service.replacen('.', "/", 1)), data);
        assert_eq!(status, 200, "{service}: {body}");
    }
    fn types(&self, text: &str) {
        self.call("input_text.set_value", &json!({"entity_id": "input_text.gate", "value": text}));
    }
    fn fires(&self, text: &str) {
        assert_eq!(self.post("/api/events/gate_message", &json!({"text": text})).0, 200);
    }

    /// A WebSocket of the person's, logged in and subscribed to notifications.
    fn panel(&self) -> Panel {
        let stream = TcpStream::connect(self.address()).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a time-out");
        let url = format!("ws://{}/api/websocket", self.address());
        let (mut socket, _) = tungstenite::client(url, stream).expect("a WebSocket");
        let mut say = |message: Value| socket.send(Message::text(message.to_string())).expect("sent");
        say(json!({"type": "auth", "access_token": self.person}));
        say(json!({"id": 1, "type": "persistent_notification/subscribe"}));
        Panel { socket, shown: Vec::new() }
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.server), Signal::SIGKILL);
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

/// What the person sees.
struct Panel {
    socket: WebSocket<TcpStream>,
    /// Ids and texts.
    shown: Vec<(String, String)>,
}

impl Panel {
    fn look(&mut self) {
        let Ok(Message::Text(text)) = self.socket.read() else { return };
        let message: Value = serde_json::from_str(&text).expect("JSON");
        let event = &message["event"];
        for (id, notification) in event["notifications"].as_object().into_iter().flatten() {
            self.shown.retain(|(known, _)| known != id);
            if event["type"] != "removed" {
                self.shown.push((id.clone(), notification["message"].as_str().unwrap_or_default().to_owned()));
            }
        }
    }

    fn wait_text(&mut self, part: &str, gateway: &Gateway) -> (String, String) {
        let found = poll::try_for(LATER, Duration::from_millis(1), || {
            let found = self.shown.iter().find(|(_, text)| text.contains(part)).cloned();
            if found.is_none() {
                self.look();
            }
            found
        });
        found.unwrap_or_else(|| panic!("no notification with {part:?}: {:#?}\n{}", self.shown, gateway.log_tail()))
    }

    fn count(&self, part: &str) -> usize {
        self.shown.iter().filter(|(_, text)| text.contains(part)).count()
    }
}

#[test]
fn a_real_home_assistant_is_heard_and_spoken_to() {
    if let Some(reason) = missing() {
        eprintln!("skipped: {reason}");
        return;
    }
    let directory = tempfile::Builder::new().prefix("hg-home-").tempdir().expect("a scratch directory");
    let mut home = Real::start(directory.path());
    let model = Model::start();
    let call = |service: &str, entity: &str| Step::Tool {
        name: "ha_call_service".to_owned(),
        input: json!({"service": service, "entity_id": entity}),
    };
    for (question, answer) in
        [("typed", "I read it"), ("fired", "I heard it"), ("[Home Assistant] Door", "The door is noted"), ("after", "Still here")]
    {
        model.rule(question, [model::text(answer)]);
    }
    model.rule("lamp", [Reply::Stream(vec![call("input_boolean.turn_on", "input_boolean.lamp")]), model::text("The lamp is on")]);
    model.rule("secretly", [Reply::Stream(vec![call("homeassistant.restart", "light.x")]), model::text("I may not")]);
    model.rule("meanwhile", [model::text("I read it later")]);
    let setup = Gateway::setup().model(&model, Protocol::Anthropic).set("session", "busy", "\"queue\"");
    let setup = setup
        .set(SECTION, "token", &quoted(&home.token))
        .set(SECTION, "url", &quoted(&home.url))
        .set(SECTION, "heartbeat", "\"2s\"")
        .set(SECTION, "allowed_users", "[\"*\"]")
        .set(SECTION, "watch", r#"{ chat = ["input_text.gate"], events = ["gate_message"], entities = ["input_boolean.door", "input_boolean.lamp"], cooldown = "0s" }"#);
    let gateway = setup.start();
    let adapter = poll::eventually(LATER, "it is connected", || Some(gateway.wait_adapter("homeassistant", "connected")));
    assert_eq!(adapter["identity"], "Gateway");
    gateway.cli(&["doctor"]).says("Home Assistant 2024.3.3): credential accepted");
    let mut panel = home.panel();

    home.types("typed into the field");
    panel.wait_text("I read it", &gateway);
    home.fires("fired by hand");
    panel.wait_text("I heard it", &gateway);
    home.call("input_boolean.turn_on", &json!({"entity_id": "input_boolean.door"}));
    panel.wait_text("The door is noted", &gateway);
    assert!(model.asked("[Home Assistant] Door: on (was off)") >= 1);

    home.types("switch the lamp on, please");
    panel.wait_text("The lamp is on", &gateway);
    assert!(model.wait_request(2, "switch the lamp on").all().contains("input_boolean.lamp = on"));
    home.fires("restart it secretly");
    panel.wait_text("I may not", &gateway);
    assert!(model.wait_request(2, "secretly").all().contains("homeassistant.restart is not allowed"));
    gateway.wait_idle();
    assert_eq!(model.asked("[Home Assistant] Lamp"), 0, "its own doing is no news");

    // The server stops and comes back; what it had said is not said again, and what is new is told.
    home.end();
    gateway.wait_adapter("homeassistant", "retrying");
    home = Real::start(directory.path());
    poll::try_for(LATER, Duration::from_millis(100), || {
        (gateway.try_status()?["adapters"]
            .as_array()?
            .iter()
            .any(|adapter| adapter["name"] == "homeassistant" && adapter["state"] == "connected"))
        .then_some(())
    })
    .unwrap_or_else(|| panic!("it is not found again\n{}", gateway.log_tail()));
    let mut panel = home.panel();
    home.types("said after the restart");
    panel.wait_text("Still here", &gateway);
    gateway.wait_idle();
    assert_eq!(panel.count("I read it"), 0, "nothing is answered again: {:#?}", panel.shown);
    let text = gateway.log_lines().concat() + &model.journal().iter().map(model::Exchange::all).collect::<String>();
    assert!(!text.contains(&home.token), "the token is shown");

    // What happens while the gateway is not there is told by the next start.
    let mut gateway = gateway;
    gateway.stop();
    home.types("typed meanwhile");
    gateway.start_again();
    panel.wait_text("I read it later", &gateway);
    assert_eq!(panel.count("I read it later"), 1);
}
