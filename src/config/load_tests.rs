//! The configuration from a file's text to what people see.

use super::super::keys::BuiltIn;
use super::super::places::{Choice, find};
use super::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const PROVIDER: &str = "[provider]\nkind = \"offline\"\n";

struct Fixture {
    home: tempfile::TempDir,
    environment: Environment,
}

impl Fixture {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("scratch directory");
        let environment = Environment::default().with("HOME", home.path().to_str().expect("UTF-8"));
        Self { home, environment }
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.environment = self.environment.with(name, value);
        self
    }

    fn directory(&self) -> std::path::PathBuf {
        self.home.path().join(".config/hermes-gateway")
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> &Self {
        std::fs::create_dir_all(self.directory()).expect("directory");
        let path = self.directory().join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
        self
    }

    fn load(&self) -> Result<Loaded, LoadError> {
        let places = find(&Choice::default(), &self.environment, &Path::exists).expect("places");
        load(&places, &self.environment, &BuiltIn)
    }
}

fn load_text(text: &str) -> Result<Loaded, LoadError> {
    Fixture::new().write("config.toml", text, 0o600).load()
}

/// `expect` is what is printed, without the line that names the file.
fn check_error(text: &str, expect: &str) {
    match load_text(text) {
        Err(LoadError::Invalid { rendered, .. }) => assert_eq!(rendered, expect, "\n--- printed ---\n{rendered}"),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn each_kind_of_error_as_it_is_printed() {
    let file = "~/.config/hermes-gateway/config.toml";
    check_error(
        &format!("{PROVIDER}[adapters.telegram]\ntoken = \"1:a\"\nalowed_users = [\"77001\"]\n"),
        &format!(
            "\
error: unknown key `alowed_users`
 --> {file}:5:1
  |
5 | alowed_users = [\"77001\"]
  | ^^^^^^^^^^^^ did you mean `allowed_users`?
"
        ),
    );
    check_error(
        &format!("{PROVIDER}colour = \"red\"\n"),
        &format!(
            "\
error: unknown key `colour`
 --> {file}:3:1
  |
3 | colour = \"red\"
  | ^^^^^^ known in [provider]: kind, base_url, api_key, api_key_env, api_key_file, model, silence_timeout, turn_timeout, max_turns, max_tokens, retries
"
        ),
    );
    check_error(
        &format!("{PROVIDER}max_turns = \"4\"\n"),
        &format!(
            "\
error: `max_turns` must be a whole number, not a string
 --> {file}:3:13
  |
3 | max_turns = \"4\"
  |             ^^^ expected a whole number
"
        ),
    );
    check_error(
        &format!("{PROVIDER}[shutdown]\nask = 5\n"),
        &format!(
            "\
error: `ask` must be a duration like \"90s\", \"2m\", \"1h30m\" or \"500ms\", not a whole number
 --> {file}:4:7
  |
4 | ask = 5
  |       ^ expected a duration like \"90s\", \"2m\", \"1h30m\" or \"500ms\"
"
        ),
    );
    check_error(
        &format!("{PROVIDER}[shutdown]\nask = \"5 sec\"\n"),
        &format!(
            "\
error: `ask` is not a duration
 --> {file}:4:7
  |
4 | ask = \"5 sec\"
  |       ^^^^^^^ expected a duration like \"90s\", \"2m\", \"1h30m\" or \"500ms\"
"
        ),
    );
    check_error(
        &format!("{PROVIDER}[tools.shell]\ntimeout = \"10d\"\n"),
        &format!(
            "\
error: `timeout` is out of range
 --> {file}:4:11
  |
4 | timeout = \"10d\"
  |           ^^^^^ expected 1s to 1d
"
        ),
    );
    check_error(
        &format!("{PROVIDER}[tools.homeassistant]\ndomains = [\"light\", \"Lock\"]\n"),
        &format!(
            "\
error: `Lock` is neither a domain nor a service
 --> {file}:4:11
  |
4 | domains = [\"light\", \"Lock\"]
  |           ^^^^^^^^^^^^^^^^^ expected e.g. \"light\" or \"scene.turn_on\"
"
        ),
    );
    check_error(
        &format!("{PROVIDER}[adapters.telegram]\nallowed_users = [77001]\n"),
        &format!(
            "\
error: `token` is missing in [adapters.telegram]
 --> {file}:3:1
  |
3 | [adapters.telegram]
  | ^^^^^^^^^^^^^^^^^^^ add `token_env`, `token_file` or `token`
  = for example: token_env = \"TELEGRAM_BOT_TOKEN\"
"
        ),
    );
    check_error(
        &format!("{PROVIDER}[adapters.telegram]\ntoken_env = \"TELEGRAM_BOT_TOKEN\"\n"),
        &format!(
            "\
error: environment variable TELEGRAM_BOT_TOKEN is not set
 --> {file}:4:13
  |
4 | token_env = \"TELEGRAM_BOT_TOKEN\"
  |             ^^^^^^^^^^^^^^^^^^^^ named here
  = set it, or put a line TELEGRAM_BOT_TOKEN=… into ~/.config/hermes-gateway/env
"
        ),
    );
    check_error(
        &format!("{PROVIDER}[adapters.telegram]\ntoken_file = \"token\"\n"),
        &format!(
            "\
error: secret file ~/.config/hermes-gateway/token cannot be read: No such file or directory (os error 2)
 --> {file}:4:14
  |
4 | token_file = \"token\"
  |              ^^^^^^^ named here
"
        ),
    );
    check_error(
        &format!("{PROVIDER}[adapters.telegam]\ntoken = \"1:a\"\n"),
        &format!(
            "\
error: the name says no platform: `telegam`
 --> {file}:3:11
  |
3 | [adapters.telegam]
  |           ^^^^^^^ did you mean `telegram`?
"
        ),
    );
    check_error(
        &format!("{PROVIDER}[adapters.work]\nplatform = \"icq\"\n"),
        &format!(
            "\
error: unknown platform: `icq`
 --> {file}:4:12
  |
4 | platform = \"icq\"
  |            ^^^^^ expected \"telegram\"
"
        ),
    );
    check_error(
        &format!("{PROVIDER}kind = \"openai\"\n"),
        &format!(
            "\
error: duplicate key
 --> {file}:3:1
  |
3 | kind = \"openai\"
  | ^^^^ this stands above already
"
        ),
    );
    check_error(
        "[provider]\nkind = \"anthropc\"\n",
        &format!(
            "\
error: unknown value for `kind`
 --> {file}:2:8
  |
2 | kind = \"anthropc\"
  |        ^^^^^^^^^^ did you mean \"anthropic\"?
"
        ),
    );
    check_error(
        "",
        &format!(
            "\
error: no model provider is configured
  --> {file}
   = add:  [provider]
   =       kind = \"anthropic\"                  # or \"openai\"; \"offline\" needs no account
   =       model = \"claude-sonnet-4-6\"
   =       api_key_env = \"ANTHROPIC_API_KEY\"
"
        ),
    );
    check_error(
        "[provider]\nkind = \"openai\"\nmodel = \"m\"\nbase_url = \"localhost:8080\"\n",
        &format!(
            "\
error: `base_url` is not an address
 --> {file}:4:12
  |
4 | base_url = \"localhost:8080\"
  |            ^^^^^^^^^^^^^^^^ expected an address like \"https://host:port\"
"
        ),
    );
    check_error(
        &format!("{PROVIDER}api_key = \"sk-1\nmax_turns = 4\n"),
        &format!(
            "\
error: invalid basic string
 --> {file}:3:16
  |
3 | api_key = \"****
  |                ^ expected `\"`
"
        ),
    );
}

#[test]
fn all_errors_of_a_file_in_its_order() {
    let text = "[log]\nlevel = \"loud\"\n[provider]\nkind = \"offline\"\nretries = -1\n[adapters]\nlocal = {}\n\
                \"a b\" = {}\ntelegram = 5\n[session]\nbusy = \"stear\"\n[tools]\nworkdir = \"work\"\n[unknown]\n";
    let Err(LoadError::Invalid { rendered, errors }) = load_text(text) else { panic!("must be refused") };
    let messages: Vec<&str> = rendered.lines().filter_map(|line| line.strip_prefix("error: ")).collect();
    assert_eq!(
        messages,
        [
            "unknown log level",
            "`retries` is out of range",
            "`local` is the name of the terminal's own chats",
            "this cannot be the name of an adapter",
            "`telegram` must be a table: [adapters.telegram], not a whole number",
            "unknown value for `busy`",
            "`workdir` must be an absolute path",
            "unknown key `unknown`",
        ]
    );
    assert_eq!(errors, messages.len());
}

#[test]
fn a_syntax_error_hides_only_what_follows_from_it() {
    let text = "[provider]\nkind = offline\n[adapters.telegram]\ntoken = \"1:a\"\nalowed_users = []\n";
    let Err(LoadError::Invalid { rendered, errors }) = load_text(text) else { panic!("must be refused") };
    assert_eq!(errors, 2, "{rendered}");
    assert!(rendered.contains("config.toml:2:8") && rendered.contains("did you mean `allowed_users`?"), "{rendered}");
}

#[test]
fn secrets_are_in_no_message() {
    let secret = "8123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw";
    for text in [
        format!("{PROVIDER}[adapters.telegram]\ntoken_env = \"{secret}\"\n"),
        format!("{PROVIDER}[adapters.telegram]\ntokn = \"{secret}\"\n"),
        format!("{PROVIDER}[adapters.telegram]\ntoken = \"{secret}\n"),
        format!("{PROVIDER}[adapters.telegram]\ntoken = {secret}\n"),
        format!("{PROVIDER}[adapters.telegram]\ntoken = \"{secret}\"\ntoken_env = \"X\"\n"),
        format!("{PROVIDER}[adapters.telegram]\ntoken = [\"{secret}\"]\n"),
        format!("{PROVIDER}[adapters.telegram]\nbase_url = \"https://u:{secret}@h/\"\ntoken = \"1:a\"\n"),
    ] {
        let Err(LoadError::Invalid { rendered, .. }) = load_text(&text) else { panic!("must be refused: {text}") };
        assert!(!rendered.contains("AAHdqTcv"), "{rendered}");
    }
}

#[test]
fn a_complete_file() {
    let fixture = Fixture::new().with("ANTHROPIC_API_KEY", "sk-1");
    fixture.write("env", "TELEGRAM_BOT_TOKEN=7:from-env-file\n", 0o600).write("second-token", "8:from-file\n", 0o600).write(
        "config.toml",
        "[provider]\nkind = \"anthropic\"\nmodel = \"claude-sonnet-4-6\"\napi_key_env = \"ANTHROPIC_API_KEY\"\nsilence_timeout = \"90s\"\n\
         [[fallback]]\nkind = \"openai\"\nmodel = \"small\"\nbase_url = \"http://127.0.0.1:8080/v1/\"\n\
         [shutdown]\ndrain = \"10s\"\n[restart]\ndrain = \"2m\"\n[tools]\nenabled = [\"shell\"]\nworkdir = \"~/work\"\n\
         [adapters.telegram]\ntoken_env = \"TELEGRAM_BOT_TOKEN\"\nallowed_users = [77001, \"-5\"]\nadmins = [77001]\npoll_timeout = \"25s\"\n\
         [adapters.second]\nplatform = \"telegram\"\ntoken_file = \"second-token\"\nstreaming = false\nallowed_users = [\"*\"]\n\
         [session]\nbusy = \"queue\"\n[approvals]\nmode = \"off\"\n[log]\nlevel = \"info,telegram=debug\"\n",
        0o600,
    );
    let loaded = fixture.load().expect("valid");
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let config = loaded.config;
    assert_eq!(config.providers.len(), 2);
    assert_eq!(config.providers[0].api_key.as_ref().map(super::super::Secret::expose), Some("sk-1"));
    assert_eq!(config.providers[0].base_url, "https://api.anthropic.com");
    assert_eq!(config.providers[0].silence, Duration::from_secs(90));
    assert_eq!(config.providers[1].base_url, "http://127.0.0.1:8080/v1");
    assert_eq!(config.shutdown.stop_budget(), Duration::from_secs(20));
    assert_eq!(config.tools.workdir, fixture.home.path().join("work"));
    assert_eq!((config.busy, config.approvals), (Busy::Queue, false));
    let names: Vec<&str> = config.adapters.iter().map(|adapter| adapter.name.as_str()).collect();
    assert_eq!(names, ["telegram", "second"]);
    let [telegram, second] = &config.adapters[..] else { panic!("two adapters") };
    assert_eq!(telegram.secrets["token"].expose(), "7:from-env-file");
    assert_eq!(telegram.allowed_users, ["77001", "-5"]);
    assert_eq!(telegram.keys["base_url"], "https://api.telegram.org");
    assert_eq!(telegram.keys["poll_timeout"], "25s");
    assert_eq!(second.secrets["token"].expose(), "8:from-file");
    assert!(!second.streaming && second.group_mention && second.enabled);

    let shown = super::super::show(&config);
    let _: toml::Table = shown.parse().expect("what is shown is TOML");
    for secret in ["sk-1", "from-env-file", "from-file"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(shown.contains("token = \"***\"") && shown.contains("stop budget 20s"), "{shown}");
}

#[test]
fn readable_by_everybody_is_a_warning() {
    let fixture = Fixture::new();
    fixture.write("env", "T=1:a\nnonsense\n", 0o644).write("config.toml", &format!("{PROVIDER}api_key = \"k\"\n"), 0o644);
    let warnings = fixture.load().expect("valid").warnings.concat();
    assert_eq!(
        warnings,
        "warning: ~/.config/hermes-gateway/env holds secrets and can be read by everybody; chmod 600 ~/.config/hermes-gateway/env\n\
         warning: ~/.config/hermes-gateway/env:2: not of the form NAME=VALUE; ignored\n\
         warning: ~/.config/hermes-gateway/config.toml holds secrets and can be read by everybody; chmod 600 ~/.config/hermes-gateway/config.toml\n"
    );
    fixture.write("env", "", 0o600).write("config.toml", PROVIDER, 0o644);
    assert_eq!(fixture.load().expect("valid").warnings, Vec::<String>::new());
}

#[test]
fn credentials_of_systemd_and_adapters_that_are_off() {
    let fixture = Fixture::new();
    let credentials = fixture.home.path().join("credentials");
    std::fs::create_dir(&credentials).expect("directory");
    std::fs::write(credentials.join("token"), "9:credential").expect("written");
    let text = format!("{PROVIDER}[adapters.telegram]\ntoken_file = \"token\"\n");
    let fixture = fixture.with("CREDENTIALS_DIRECTORY", credentials.to_str().expect("UTF-8"));
    fixture.write("config.toml", &text, 0o600);
    assert_eq!(fixture.load().expect("valid").config.adapters[0].secrets["token"].expose(), "9:credential");

    let off = format!("{PROVIDER}[adapters.telegram]\nenabled = false\ntoken_env = \"NOT_SET\"\n");
    assert!(!load_text(&off).expect("no secret is needed").config.adapters[0].enabled);
}

#[test]
fn tools_that_do_not_exist_are_named() {
    let printed = |enabled: &str| match load_text(&format!("{PROVIDER}[tools]\nenabled = {enabled}\n")) {
        Err(LoadError::Invalid { rendered, .. }) => rendered,
        other => panic!("{other:?}"),
    };
    let typo = printed("[\"shel\"]");
    assert!(typo.contains("unknown tool: `shel`") && typo.contains("did you mean `shell`?"), "{typo}");
    assert!(printed("[\"shell\", \"browser\"]").contains("there are shell, read_file"));
    assert!(load_text(&format!("{PROVIDER}[tools]\nenabled = [\"*\"]\n")).is_ok());
    assert!(load_text(&format!("{PROVIDER}[tools]\nenabled = [\"ha_get_state\", \"shell\"]\n")).is_ok());
}

#[test]
fn the_disconnect_timeout_of_the_environment() {
    let check = |value: &str, ask_s: u64, shares: bool, warned: bool| {
        let fixture = Fixture::new().with(DISCONNECT_TIMEOUT, value);
        fixture.write("config.toml", PROVIDER, 0o600);
        let loaded = fixture.load().expect("valid");
        let shutdown = &loaded.config.shutdown;
        assert_eq!((shutdown.ask, shutdown.ask_shares_budget), (Duration::from_secs(ask_s), shares), "{value}");
        assert_eq!(!loaded.warnings.is_empty(), warned, "{value}: {:?}", loaded.warnings);
    };
    check("8", 8, false, false);
    check("8.0", 8, false, false);
    check("1m", 60, false, false);
    check("0", 5, true, false);
    check("0.0", 5, true, false);
    check("soon", 5, false, true);
    check("-1", 5, false, true);
    check("1e9", 5, false, true);
    check("nan", 5, false, true);
}

#[test]
fn files_that_cannot_be_read() {
    let fixture = Fixture::new();
    assert_eq!(fixture.load(), Err(LoadError::Missing));
    std::fs::create_dir_all(fixture.directory().join("config.toml")).expect("directory");
    assert!(matches!(fixture.load(), Err(LoadError::Unreadable { cause, .. }) if cause == "it is not a regular file"));
    let fixture = Fixture::new();
    fixture.write("config.toml", &"#".repeat(crate::limits::CONFIG_BYTES_MAX + 1), 0o600);
    assert!(matches!(fixture.load(), Err(LoadError::Unreadable { .. })));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\[{1,2}[a-z.]{0,9}\\]{1,2}|[a-z]{1,5} ?= ?(\"[^\"]{0,5}\"?|[0-9x]{1,3}|\\[|\\{|'''|é)|\\n|.){0,12}") {
        let _ = load_text(&text);
    }
}

#[test]
fn zone_memory_and_age() {
    let config = |text: &str| load_text(&format!("{PROVIDER}{text}")).expect("valid").config;
    let default = config("");
    assert_eq!(default.memory, super::super::MemoryConfig::default());
    assert_eq!(default.keep, 90 * DAY);
    let set = config("[memory]\nlog_interval = \"0\"\nsoft_limit = \"256MB\"\n[store]\nkeep = \"0\"\n[schedule]\ntime_zone = \"UTC\"\n");
    assert_eq!((set.memory.log_interval, set.memory.soft_limit, set.keep), (Duration::ZERO, Some(256 << 20), Duration::ZERO));
    assert_eq!(set.time_zone, jiff::tz::TimeZone::UTC);
    let shown = super::super::show(&set);
    for part in ["[schedule]\ntime_zone = \"UTC\"", "soft_limit = \"256MB\"", "log_interval = \"0s\"", "[store]\nkeep = \"0s\""] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(shown.parse::<toml::Table>().is_ok(), "{shown}");
    for (text, expect) in [
        ("[memory]\nsoft_limit = \"much\"\n", "`soft_limit` is not a size"),
        ("[memory]\nsoft_limit = \"1KB\"\n", "expected 1MB to 1024GB"),
        ("[memory]\nsoft_limit = 256\n", "must be a string"),
        ("[store]\nkeep = \"1h\"\n", "expected at least 1d, or 0 for ever"),
        ("[schedule]\ntime_zone = \"Mars/Base\"\n", "unknown time zone \"Mars/Base\""),
        ("[schedule]\nzone = \"UTC\"\n", "unknown key `zone`"),
    ] {
        let Err(LoadError::Invalid { rendered, .. }) = load_text(&format!("{PROVIDER}{text}")) else { panic!("must be refused: {text}") };
        assert!(rendered.contains(expect), "{text}: {rendered}");
    }
}
