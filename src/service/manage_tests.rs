//! Tests of the service commands against a fake systemd.

use super::super::systemd::tests::FakeCommands;
use super::*;

fn site() -> Site {
    Site {
        booted: true,
        init: "systemd".to_owned(),
        user: "ana".to_owned(),
        uid: 1000,
        runtime_directory: Some("/run/user/1000".into()),
        user_bus: true,
        linger: true,
        ..Site::default()
    }
}

#[test]
fn a76_preflight_names_the_remedy() {
    let root = Site { root: true, user: "root".to_owned(), uid: 0, ..site() };
    let check = |site: &Site, scope: Scope, change: bool, expect: Option<(&str, &str)>| {
        let found = site.check(scope, change).err();
        match (&found, expect) {
            (None, None) => {}
            (Some(found), Some((what, fix))) => assert!(found.what.contains(what) && found.fix.contains(fix), "{found:?}"),
            _ => panic!("{site:?} {scope:?}: {found:?}"),
        }
    };
    check(&site(), Scope::User, true, None);
    check(&root, Scope::System, true, None);
    check(&site(), Scope::System, false, None);
    check(&site(), Scope::System, true, Some(("only be changed by root", "sudo hermes-gateway service")));
    let sudo = Site { sudo_user: Some("ana".to_owned()), ..root.clone() };
    check(&sudo, Scope::System, true, None);
    check(&sudo, Scope::User, true, Some(("not of ana", "without sudo")));
    let no_session = Site { runtime_directory: None, user_bus: false, ..site() };
    check(&no_session, Scope::User, false, Some(("XDG_RUNTIME_DIR is not set", "sudo loginctl enable-linger ana")));
    check(&no_session, Scope::User, false, Some(("/run/user/1000", "machinectl shell ana@")));
    check(&Site { user_bus: false, ..site() }, Scope::User, false, Some(("does not run", "user@1000.service")));
    let other = |init: &str| Site { booted: false, init: init.to_owned(), ..site() };
    check(&other("runit"), Scope::User, true, Some(("first process is runit", "service print --for runit")));
    check(&other("s6-svscan"), Scope::System, true, Some(("s6-svscan", "service print --for s6")));
    check(&other("tini"), Scope::System, false, Some(("not booted with systemd", "in a container")));
}

struct Scene {
    scratch: tempfile::TempDir,
    site: Site,
}

impl Scene {
    fn new() -> Self {
        Self { scratch: tempfile::tempdir().expect("scratch directory"), site: site() }
    }

    fn path(&self) -> PathBuf {
        self.scratch.path().join("units/hermes-gateway.service")
    }

    fn service<'a>(&'a self, commands: &'a FakeCommands) -> Service<'a> {
        Service {
            manager: Manager::new(commands, Scope::User),
            site: &self.site,
            unit: "hermes-gateway.service".to_owned(),
            path: self.path(),
        }
    }

    fn spec(&self, budget: u64) -> UnitSpec {
        UnitSpec {
            scope: Scope::User,
            account: Account::Own,
            program: "/usr/bin/hermes-gateway".into(),
            config: "/home/ana/.config/hermes-gateway/config.toml".into(),
            profile: "default".to_owned(),
            state_dir: None,
            home: Some("/home/ana".into()),
            stop_budget: Duration::from_secs(budget),
            systemd_version: Some(252),
        }
    }

    fn install(&self, commands: &FakeCommands, budget: u64, approve: bool) -> (Result<(), Trouble>, String) {
        let mut told = String::new();
        let result = self.service(commands).install(&self.spec(budget), true, &mut |_| approve, &mut |what, text| {
            told.push_str(&format!("{what}: {text}\n"));
        });
        (result, told)
    }
}

const DOWN: &str = "LoadState=loaded\nActiveState=inactive\nSubState=dead\nResult=success\nUnitFileState=enabled\nMainPID=0\n";
const UP: &str = "LoadState=loaded\nActiveState=active\nSubState=running\nResult=success\nUnitFileState=enabled\nMainPID=42\n";
const UP_AGAIN: &str = "LoadState=loaded\nActiveState=active\nSubState=running\nResult=success\nUnitFileState=enabled\nMainPID=43\n";
const NEW: &str = "LoadState=loaded\nActiveState=inactive\nSubState=dead\nUnitFileState=disabled\nMainPID=0\n";
const NONE: &str = "LoadState=not-found\nActiveState=inactive\nSubState=dead\nMainPID=0\n";
const SHOW: &str = "systemctl --user show";

fn fake(shows: &[&str]) -> FakeCommands {
    let quiet = ["daemon-reload", "enable", "disable", "start", "stop", "restart", "reset-failed"];
    let base = quiet.iter().fold(FakeCommands::default(), |fake, verb| fake.on(&format!("systemctl --user {verb}"), 0, ""));
    shows.iter().fold(base, |fake, text| fake.on(SHOW, 0, text))
}

#[test]
fn a75_an_installation_can_be_repeated() {
    let scene = Scene::new();
    let commands = fake(&[NEW, DOWN, DOWN, DOWN, UP]);
    let (result, told) = scene.install(&commands, 25, false);
    assert_eq!(result, Ok(()), "{told}");
    assert!(told.contains("written") && told.contains("running, pid 42"), "{told}");
    assert!(commands.did("systemctl --user enable -- hermes-gateway.service") && commands.did("systemctl --user start"));
    assert_eq!(std::fs::read_to_string(scene.path()).expect("written"), unit::render(&scene.spec(25)));

    let commands = fake(&[UP]);
    let (result, told) = scene.install(&commands, 25, false);
    assert_eq!(result, Ok(()));
    assert!(told.contains("up to date") && told.contains("already running, pid 42"), "{told}");
    for verb in ["daemon-reload", "enable", "start", "restart"] {
        assert!(!commands.did(&format!("systemctl --user {verb}")), "{verb}");
    }
}

#[test]
fn a_unit_that_has_changed_is_shown_and_started_anew() {
    let scene = Scene::new();
    assert_eq!(scene.install(&fake(&[DOWN, DOWN, DOWN, UP]), 25, false).0, Ok(()));
    let commands = fake(&[UP, UP, UP, UP, UP_AGAIN]);
    let (result, told) = scene.install(&commands, 40, false);
    assert_eq!(result, Ok(()), "{told}");
    assert!(told.contains("- TimeoutStopSec=30s\n") && told.contains("+ TimeoutStopSec=45s\n") && told.contains("pid 43"), "{told}");
    assert!(commands.did("systemctl --user daemon-reload") && commands.did("systemctl --user restart"));
}

#[test]
fn an_edited_unit_is_not_rewritten_without_consent() {
    let scene = Scene::new();
    assert_eq!(scene.install(&fake(&[DOWN, DOWN, DOWN, UP]), 25, false).0, Ok(()));
    let edited = std::fs::read_to_string(scene.path()).expect("written").replace("TimeoutStopSec=30s", "TimeoutStopSec=15s");
    std::fs::write(scene.path(), &edited).expect("edited");
    let error = scene.install(&fake(&[UP]), 25, false).0.expect_err("refused");
    assert!(error.what.contains("edited by hand") && error.fix.contains("--yes"), "{error}");
    assert_eq!(std::fs::read_to_string(scene.path()).expect("there"), edited);
    assert_eq!(scene.install(&fake(&[UP, UP, UP, UP, UP_AGAIN]), 25, true).0, Ok(()));
    assert_eq!(std::fs::read_to_string(scene.path().with_extension("service.old")).expect("kept"), edited);
}

#[test]
fn what_systemd_does_not_show_is_not_believed() {
    let scene = Scene::new();
    let failed = "LoadState=loaded\nActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=78\nUnitFileState=enabled\n";
    let error = scene.install(&fake(&[DOWN, DOWN, DOWN, failed]), 25, false).0.expect_err("does not run");
    assert!(error.what.contains("failed (failed, exit-code, status 78): its configuration is wrong"), "{error}");
    let error = scene.service(&fake(&[NONE])).start(&mut |_, _| ()).expect_err("not installed");
    assert!(error.fix.contains("service install --user"), "{error}");
    let refused = FakeCommands::default().on(SHOW, 1, "Failed to connect to bus: No medium found");
    assert!(scene.service(&refused).stop(&mut |_, _| ()).expect_err("no bus").what.contains("No medium found"));
}

#[test]
fn stop_and_uninstall_can_be_repeated() {
    let scene = Scene::new();
    assert_eq!(scene.install(&fake(&[DOWN, DOWN, DOWN, UP]), 25, false).0, Ok(()));
    let mut told = String::new();
    let mut tell = |what: &str, text: &str| told.push_str(&format!("{what}: {text}\n"));
    let killed = DOWN.replace("success", "timeout");
    assert_eq!(scene.service(&fake(&[UP, &killed])).stop(&mut tell), Ok(()));
    assert_eq!(scene.service(&fake(&[DOWN])).stop(&mut tell), Ok(()));
    let commands = fake(&[UP, UP, DOWN, NONE]);
    assert_eq!(scene.service(&commands).uninstall(&mut tell), Ok(()));
    assert!(commands.did("systemctl --user stop") && commands.did("systemctl --user disable") && !scene.path().exists());
    assert_eq!(scene.service(&fake(&[NONE])).uninstall(&mut tell), Ok(()));
    for line in ["had to kill it", "is not running", "removed", "is not installed"] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let vendor =
        format!("{UP}FragmentPath=/usr/lib/systemd/user/hermes-gateway.service\n").replace("active\n", "inactive\n").replace("42", "0");
    let error = scene.service(&fake(&[&vendor])).uninstall(&mut |_, _| ()).expect_err("from a package");
    assert!(error.what.contains("/usr/lib/systemd"), "{error}");
}

#[test]
fn files_that_a_service_cannot_use() {
    let scratch = tempfile::tempdir().expect("scratch directory");
    let config = scratch.path().join("config.toml");
    std::fs::write(&config, "").expect("written");
    let mode = |path: &Path, mode: u32| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
    let system =
        |program: &str| UnitSpec { scope: Scope::System, program: program.into(), config: config.clone(), ..Scene::new().spec(25) };
    mode(scratch.path(), 0o755);
    mode(&config, 0o644);
    assert_eq!(check_files(&system("/usr/bin/hermes-gateway")), Ok(()));
    assert!(check_files(&system("/home/ana/bin/hermes-gateway")).expect_err("hidden").fix.contains("sudo install -m 755"));
    assert!(check_files(&system("/usr/bin/hermes-gateway (deleted)")).is_err());
    mode(&config, 0o600);
    let error = check_files(&system("/usr/bin/hermes-gateway")).expect_err("unreadable");
    assert!(error.fix.contains(&format!("sudo chmod 644 {}", config.display())) && error.fix.contains("env"), "{error}");
    mode(scratch.path(), 0o700);
    assert!(check_files(&system("/usr/bin/hermes-gateway")).expect_err("unreadable").fix.contains("chmod 755"));
    let named = |name: &str| UnitSpec { account: Account::Named(name.to_owned()), ..system("/usr/bin/hermes-gateway") };
    assert_eq!(check_files(&named("root")), Ok(()));
    assert!(check_files(&named("no-such-user-here")).is_err());
}
