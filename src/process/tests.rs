//! Real children: trees that detach, ignore signals, flood, fork and hang.

// Tests look at the system with std's own means.
#![allow(clippy::disallowed_methods)]

use super::*;
use crate::clock::now;
use crate::limits;
use crate::thread::CancelToken;
use std::time::Instant;

struct Lab {
    children: Children,
    threads: Threads,
    folder: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let threads = Threads::new();
        Self { children: Children::new(instance_mark(folder.path()), &threads), threads, folder }
    }

    fn spec(&self, command: &str) -> Spec {
        Spec::shell(command, self.folder.path(), Deadline::after(Duration::from_secs(60)))
    }

    fn run(&self, command: &str) -> Finished {
        self.children.run(&self.spec(command), &CancelToken::new(), &mut |_| ()).expect("starts")
    }

    /// The processes, living ones, that carry this lab's mark or that of one tree.
    fn marked(&self, tree: &str) -> Vec<ProcessId> {
        let prefix = format!("{}:{tree}", self.children.shared().mark);
        let alive = table::snapshot().into_iter().filter(table::Process::alive);
        let marked = alive.filter(|process| table::mark_of(process.pid).is_some_and(|mark| mark.starts_with(&prefix)));
        marked.map(|process| process.pid).collect()
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn pid_in(&self, name: &str) -> ProcessId {
        let file = self.file(name);
        until(&format!("{name} has a pid"), || std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n')));
        std::fs::read_to_string(file).expect("it was there").trim().parse().expect("a number")
    }
}

/// Polls for a state; the test fails if it does not come.
fn until(what: &str, mut there: impl FnMut() -> bool) {
    let end = now() + Duration::from_secs(20);
    while !there() {
        assert!(now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn is_alive(pid: ProcessId) -> bool {
    table::read_process(pid).is_some_and(|process| process.alive())
}

#[test]
fn output_and_exit_are_told() {
    let lab = Lab::new();
    let check = |command: &str, exit: Exit, output: &str| {
        let finished = lab.run(command);
        assert_eq!((finished.exit, finished.output.as_str(), finished.leftover), (exit, output, false), "{command}");
    };
    check("echo hi", Exit::Code(0), "hi\n");
    check("echo out; echo err >&2; echo out2; exit 3", Exit::Code(3), "out\nerr\nout2\n");
    check("kill -9 $$", Exit::Signal(9), "");
    check("kill -40 $$", Exit::Signal(40), "");
    check("cat; tty", Exit::Code(1), "not a tty\n");
    check("ps -o sid= -p $$ | tr -d ' ' | grep -qx $$ && echo own session", Exit::Code(0), "own session\n");
    check("false | true; (exit 7)", Exit::Code(7), "");
    assert_eq!(Exit::Signal(9).to_string(), "killed by SIGKILL");
    assert_eq!(Exit::Signal(40).to_string(), "killed by signal 40");
    assert_eq!(lab.children.count(), 0);
}

#[test]
fn what_cannot_start_says_why() {
    let lab = Lab::new();
    let token = CancelToken::new();
    let fail = |spec: &Spec| lab.children.run(spec, &token, &mut |_| ()).expect_err("does not start").to_string();
    let program = |words: &[&str]| Spec { program: Program::Arguments(words.iter().map(Into::into).collect()), ..lab.spec("") };
    assert_eq!(fail(&program(&["no-such-program"])), "cannot run no-such-program: entity not found");
    assert_eq!(fail(&program(&["/etc"])), "cannot run /etc: Permission denied (os error 13)");
    assert_eq!(fail(&program(&[])), "no program given");
    assert_eq!(fail(&program(&["echo", "a\0b"])), "a NUL byte cannot be passed to a program; remove it");
    let elsewhere = Spec { directory: "/no/such/place".into(), ..lab.spec("true") };
    assert_eq!(fail(&elsewhere), "cannot change into /no/such/place: No such file or directory (os error 2)");
    let bad = lab.children.start(&elsewhere, "s", &token).expect_err("does not start").to_string();
    assert_eq!(bad, "cannot change into /no/such/place: No such file or directory (os error 2)");
    until("the failed ones are reaped", || lab.children.count() == 0);
}

#[test]
fn a22_a24_a_background_grandchild_neither_delays_nor_survives() {
    let lab = Lab::new();
    let finished = lab.run("sleep 100 & echo $!; echo hi");
    assert!(finished.elapsed < Duration::from_millis(1500), "{:?}", finished.elapsed);
    assert!(finished.output.ends_with("hi\n") && finished.exit == Exit::Code(0) && finished.leftover);
    let sleeper: ProcessId = finished.output.lines().next().expect("a line").parse().expect("a pid");
    assert!(!is_alive(sleeper), "it has outlived the call");
    assert!(lab.marked("").is_empty());
}

#[test]
fn a25_whoever_detaches_is_found() {
    let lab = Lab::new();
    let commands = [
        "setsid sleep 1001 </dev/null >/dev/null 2>&1 & echo $! > pid",
        "(setsid sh -c 'echo $$ > pid; exec sleep 1002' </dev/null >/dev/null 2>&1 &) ; sleep 0.05",
        "setsid sh -c '(setsid sh -c \"echo \\$\\$ > pid; sleep 1003; true\" &) ; exit' >/dev/null 2>&1; true",
        "(setsid sh -c 'trap \"\" TERM HUP INT; echo $$ > pid; while :; do sleep 0.2; done' >/dev/null 2>&1 &); until test -s pid; do sleep 0.01; done",
        "setsid sh -c 'kill -STOP $$' >/dev/null 2>&1 & echo $! > pid; sleep 0.05",
    ];
    for command in commands {
        ends_with_what_it_detached(&lab, command);
    }
}

fn ends_with_what_it_detached(lab: &Lab, command: &str) {
    let _ = std::fs::remove_file(lab.file("pid"));
    let finished = lab.run(command);
    assert!(finished.elapsed < Duration::from_secs(4), "{command}: {:?}", finished.elapsed);
    if let Ok(text) = std::fs::read_to_string(lab.file("pid"))
        && let Ok(pid) = text.trim().parse()
    {
        until(&format!("it is gone: {command}"), || !is_alive(pid));
    }
    until("nothing is left", || lab.children.count() == 0 && lab.marked("").is_empty());
}

#[test]
fn a25_whoever_detaches_without_the_mark_is_found() {
    // In a process of its own: an orphan without a mark belongs to the last tree that ended, and in this process the
    // trees of the other tests end all the time.
    const ALONE: &str = "PROCESS_TEST_UNMARKED";
    if std::env::var_os(ALONE).is_none() {
        let name = "process::tests::a25_whoever_detaches_without_the_mark_is_found";
        let program = std::env::current_exe().expect("this program");
        let output = std::process::Command::new(program).args(["--exact", name]).env(ALONE, "1").output().expect("starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let setsid =
        "(env -i /usr/bin/setsid /bin/sh -c 'echo $$ > pid; exec sleep 1004' >/dev/null 2>&1 &); until test -s pid; do sleep 0.01; done";
    ends_with_what_it_detached(&Lab::new(), setsid);
}

#[test]
fn ending_one_tree_leaves_the_others_alone() {
    let lab = Lab::new();
    let token = CancelToken::new();
    let other =
        lab.children.start(&lab.spec("(setsid sh -c 'echo $$ > other; exec sleep 1005' &) ; sleep 1006"), "s", &token).expect("starts");
    let detached = lab.pid_in("other");
    let finished = lab.run("(setsid sh -c 'echo $$ > mine; exec sleep 1007' &) ; until test -s mine; do sleep 0.01; done");
    assert_eq!(finished.exit, Exit::Code(0));
    let mine = lab.pid_in("mine");
    until("the tool's own is gone", || !is_alive(mine));
    assert!(is_alive(detached), "another tree was touched");
    assert_eq!(lab.children.poll("s", other).expect("known").state, JobState::Running);
    assert_ne!(lab.children.kill("s", other).expect("known").state, JobState::Running);
    until("both ends are done", || lab.children.count() == 0);
    assert!(!is_alive(detached));
}

#[test]
fn a_tree_that_ignores_term_is_killed_and_the_call_is_bounded() {
    let lab = Lab::new();
    let spec =
        Spec { deadline: Deadline::after(Duration::from_millis(300)), ..lab.spec("trap '' TERM; echo a; while :; do sleep 0.1; done") };
    let finished = lab.children.run(&spec, &CancelToken::new(), &mut |_| ()).expect("starts");
    assert_eq!((finished.exit, finished.output.as_str()), (Exit::TimedOut, "a\n"));
    assert!(finished.elapsed < Duration::from_secs(3), "{:?}", finished.elapsed);
    until("nothing is left", || lab.children.count() == 0 && lab.marked("").is_empty());
}

#[test]
fn the_last_words_after_term_are_heard() {
    let lab = Lab::new();
    let command = "trap 'echo bye; exit 5' TERM; echo a; while :; do sleep 0.01; done";
    let spec = Spec { deadline: Deadline::after(Duration::from_millis(400)), ..lab.spec(command) };
    let finished = lab.children.run(&spec, &CancelToken::new(), &mut |_| ()).expect("starts");
    assert!(finished.exit == Exit::TimedOut && finished.output.ends_with("bye\n"), "{finished:?}");
}

#[test]
fn a_small_fork_storm_is_ended() {
    let lab = Lab::new();
    let command = "f() { for i in 1 2 3 4; do (trap '' TERM; setsid sleep 1008) & done; }; for i in 1 2 3 4 5; do f & done; sleep 100";
    let spec = Spec { deadline: Deadline::after(Duration::from_millis(500)), ..lab.spec(command) };
    let finished = lab.children.run(&spec, &CancelToken::new(), &mut |_| ()).expect("starts");
    assert_eq!(finished.exit, Exit::TimedOut);
    until("nothing is left", || lab.children.count() == 0 && lab.marked("").is_empty());
}

#[test]
fn a_flood_is_bounded_in_memory_and_counted() {
    let lab = Lab::new();
    let mut seen = 0;
    let spec = lab.spec("yes | head -c 50000000; echo end");
    let finished = lab.children.run(&spec, &CancelToken::new(), &mut |bytes| seen += bytes.len()).expect("starts");
    assert_eq!((finished.exit, seen), (Exit::Code(0), 50_000_004));
    assert!(finished.output.len() < limits::TOOL_OUTPUT_BYTES_MAX + 100);
    assert_eq!(finished.left_out as usize, seen - limits::TOOL_OUTPUT_BYTES_MAX);
    assert!(finished.output.contains(&format!("[{} bytes left out]", finished.left_out)) && finished.output.ends_with("y\nend\n"));
}

#[test]
fn an_endless_flood_ends_at_the_deadline() {
    let lab = Lab::new();
    let spec = Spec { deadline: Deadline::after(Duration::from_millis(300)), ..lab.spec("trap '' TERM; yes") };
    let finished = lab.children.run(&spec, &CancelToken::new(), &mut |_| ()).expect("starts");
    assert_eq!(finished.exit, Exit::TimedOut);
    assert!(finished.elapsed < Duration::from_secs(3), "{:?}", finished.elapsed);
}

#[test]
fn a22_cancel_comes_back_at_once_whatever_the_tree_does() {
    let commands =
        ["sleep 100", "trap '' TERM; while :; do sleep 0.1; done", "setsid -w sh -c 'trap \"\" TERM; while :; do sleep 0.1; done'", "yes"];
    for command in commands {
        let lab = Lab::new();
        let token = CancelToken::new();
        let (sender, ended) = crossbeam_channel::bounded::<(Finished, Instant)>(1);
        std::thread::scope(|scope| {
            let (spec, runner) = (lab.spec(&format!("echo ready; {command}")), token.clone());
            let children = lab.children.clone();
            scope.spawn(move || {
                let finished = children.run(&spec, &runner, &mut |_| ()).expect("starts");
                sender.send((finished, now())).expect("the test listens");
            });
            until("the tree runs", || !lab.marked("").is_empty());
            std::thread::sleep(Duration::from_millis(50));
            let cancelled = now();
            token.cancel();
            let cut = cancelled.elapsed();
            let (finished, back) = ended.recv_timeout(Duration::from_secs(5)).expect("comes back");
            assert_eq!(finished.exit, Exit::Cancelled);
            assert!(back - cancelled < Duration::from_millis(100), "{command}: {:?}", back - cancelled);
            assert!(cut < Duration::from_millis(20), "{command}: the cut itself took {cut:?}");
        });
        until("nothing is left", || lab.children.count() == 0 && lab.marked("").is_empty());
    }
}

#[test]
fn a79_nothing_starts_once_the_token_is_cancelled() {
    let lab = Lab::new();
    let token = CancelToken::new();
    token.cancel();
    let finished = lab.children.run(&lab.spec("touch ran"), &token, &mut |_| ()).expect("no error");
    assert_eq!(finished.exit, Exit::Cancelled);
    assert!(matches!(lab.children.start(&lab.spec("touch ran"), "s", &token), Err(SpawnError::Closing)));
    assert!(!lab.file("ran").exists());
}

#[test]
fn a25_end_all_leaves_nothing_and_nothing_starts_afterwards() {
    let lab = Lab::new();
    let token = CancelToken::new();
    for command in
        ["sleep 100", "trap '' TERM; echo $$ > stubborn; while :; do sleep 0.1; done", "(setsid sh -c 'exec sleep 1009' &); sleep 100"]
    {
        lab.children.start(&lab.spec(command), "s", &token).expect("starts");
    }
    lab.pid_in("stubborn");
    let started = now();
    let report = lab.children.end_all(Deadline::after(Duration::from_secs(5)));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert!(report.term >= 3 && report.kill >= 1 && report.left == 0, "{report:?}");
    assert_eq!((lab.children.count(), lab.marked("").len()), (0, 0));
    let refused = lab.children.run(&lab.spec("true"), &token, &mut |_| ());
    assert!(matches!(refused, Err(SpawnError::Closing)));
    until("the children thread has ended", || lab.threads.list().is_empty());
}

#[test]
fn a30_no_secret_passes_to_a_child_and_no_descriptor() {
    let lab = Lab::new();
    let open = std::fs::File::open("/etc/hostname").expect("a file");
    // Not close-on-exec, as a careless library would have it.
    nix::fcntl::fcntl(&open, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).expect("set");
    // The test runner's own environment plays the gateway's.
    assert!(std::env::vars().any(|(name, _)| name.starts_with("CARGO")), "run by cargo, so there is something to hide");
    let finished = lab.run("env; ls /proc/self/fd | tr '\\n' ' '");
    assert!(!finished.output.contains("CARGO"), "{}", finished.output);
    assert!(finished.output.contains(&format!("{MARK_VARIABLE}={}:1\n", lab.children.shared().mark)));
    assert!(finished.output.ends_with("0 1 2 3 "), "3 is ls's own: {}", finished.output);
    // Signals 1 to 31; the C library keeps two of the others to itself.
    let masks = lab.run("grep -E '^Sig(Blk|Ign)' /proc/self/status").output;
    for line in masks.lines() {
        let mask = u64::from_str_radix(line.rsplit('\t').next().expect("a mask"), 16).expect("hexadecimal");
        assert_eq!(mask & 0x7fff_ffff, 0, "{line}");
    }
}

#[test]
fn standard_input_is_fed_without_a_deadlock() {
    let lab = Lab::new();
    let input = "x".repeat(3_000_000);
    let run = |command: &str| {
        let spec = Spec { stdin: input.clone().into_bytes(), ..lab.spec(command) };
        lab.children.run(&spec, &CancelToken::new(), &mut |_| ()).expect("starts").output
    };
    assert_eq!(run("wc -c").trim(), "3000000");
    assert_eq!(run("cat | wc -c").trim(), "3000000");
    assert_eq!(run("exec <&-; echo closed"), "closed\n");
    assert_eq!(run("head -c 2; echo"), "xx\n");
}

#[test]
fn a54_descriptors_do_not_leak() {
    let lab = Lab::new();
    lab.run("true");
    let pipes = || {
        let entries = std::fs::read_dir("/proc/self/fd").expect("readable").filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        entries.filter(|link| link.to_string_lossy().starts_with("pipe:")).count()
    };
    let before = pipes();
    for _ in 0..25 {
        lab.run("true; sleep 100 &");
    }
    // Other tests hold pipes of their own at the same time; a leak would leave seventy-five.
    assert!(pipes() < before + 40, "{} pipes before, {} after", before, pipes());
    assert_eq!(lab.children.count(), 0);
}

#[test]
fn a27_background_jobs_live_on_and_belong_to_their_session() {
    let lab = Lab::new();
    let token = CancelToken::new();
    let children = &lab.children;
    let id =
        children.start(&lab.spec("echo one; until test -e go; do sleep 0.01; done; echo two; exit 4"), "mine", &token).expect("starts");
    // The end of the turn that started it.
    token.cancel();
    until("it has spoken", || children.poll("mine", id).is_some_and(|info| info.output_bytes == 4));
    assert_eq!(children.poll("mine", id).expect("known").state, JobState::Running);
    assert_eq!((children.poll("other", id), children.kill("other", id)), (None, None));
    assert_eq!((children.list(Some("mine")).len(), children.list(Some("other")).len(), children.list(None).len()), (1, 0, 1));
    std::fs::write(lab.file("go"), "").expect("written");
    until("it has ended", || matches!(children.poll("mine", id), Some(JobInfo { state: JobState::Ended(Exit::Code(4)), .. })));
    until("it is read", || children.log("mine", id, None, 100).is_some_and(|piece| piece.text == "one\ntwo\n"));
    assert_eq!(children.log("mine", id, Some(4), 2).expect("known").text, "tw");
    until("the tree is gone", || children.count() == 0);
}

#[test]
fn background_jobs_have_a_deadline_and_a_limit() {
    let lab = Lab::new();
    let token = CancelToken::new();
    let short = Spec { deadline: Deadline::after(Duration::from_millis(100)), ..lab.spec("sleep 100") };
    let id = lab.children.start(&short, "s", &token).expect("starts");
    until("its time is up", || matches!(lab.children.poll("s", id), Some(JobInfo { state: JobState::Ended(Exit::TimedOut), .. })));
    for _ in 0..limits::BACKGROUND_JOBS_MAX {
        lab.children.start(&lab.spec("sleep 100"), "s", &token).expect("starts");
    }
    assert!(matches!(lab.children.start(&lab.spec("sleep 100"), "s", &token), Err(SpawnError::TooMany { .. })));
    assert_eq!(lab.children.kill_session("s"), limits::BACKGROUND_JOBS_MAX);
    until("all are gone", || lab.children.count() == 0);
    for _ in 0..limits::BACKGROUND_JOBS_KEPT_MAX {
        lab.children.start(&lab.spec("true"), "s", &token).expect("starts");
    }
    until("all are gone", || lab.children.count() == 0);
    assert!(lab.children.list(None).len() <= limits::BACKGROUND_JOBS_KEPT_MAX + limits::BACKGROUND_JOBS_MAX);
}

#[test]
fn a28_a_process_of_a_tool_is_recognised() {
    let lab = Lab::new();
    let id = lab.children.start(&lab.spec("(setsid sh -c 'echo $$ > pid; exec sleep 1010' &); sleep 100"), "s", &CancelToken::new());
    let detached = lab.pid_in("pid");
    let leader = lab.children.poll("s", id.expect("starts")).expect("known").pid;
    assert!(lab.children.is_inside(leader) && lab.children.is_inside(detached));
    assert!(!lab.children.is_inside(1) && !lab.children.is_inside(system::own_pid()) && !lab.children.is_inside(ProcessId::MAX));
    let mut neighbour = std::process::Command::new("sleep").arg("100").spawn().expect("starts");
    assert!(!lab.children.is_inside(neighbour.id() as ProcessId));
    assert_eq!(lab.children.end_all(Deadline::after(Duration::from_secs(5))).left, 0);
    assert!(neighbour.try_wait().expect("still ours to wait for").is_none());
    neighbour.kill().expect("killed");
    assert!(!neighbour.wait().expect("not stolen").success());
}

/// The name under which this test program runs itself again as a gateway that is about to be killed.
const ROLE: &str = "PROCESS_TEST_ROLE";

/// Not a test by itself: the body of the processes that the tests below start.
#[test]
fn as_another_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (role, place) = role.split_once(' ').expect("role and place");
    let threads = Threads::new();
    let children = Children::new(instance_mark(std::path::Path::new(place)), &threads);
    let spec = Spec::shell(
        "(setsid sh -c 'trap \"\" TERM; echo $$ > detached; while :; do sleep 0.1; done' &); echo $$ > leader; sleep 100; true",
        place,
        Deadline::after(Duration::from_secs(60)),
    );
    children.start(&spec, "s", &CancelToken::new()).expect("starts");
    if role == "emergency" {
        let there = |name: &str| std::fs::read_to_string(format!("{place}/{name}")).is_ok_and(|text| text.ends_with('\n'));
        until("both are there", || there("leader") && there("detached"));
        let started = now();
        children.kill_everything_now();
        assert!(started.elapsed() < Duration::from_secs(1));
        std::fs::write(format!("{place}/killed"), "").expect("written");
    }
    std::thread::sleep(Duration::from_secs(60));
}

fn another_process(role: &str, place: &std::path::Path) -> std::process::Child {
    std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "process::tests::as_another_process", "--nocapture"])
        .env(ROLE, format!("{role} {}", place.display()))
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("starts")
}

#[test]
fn a25_what_a_killed_predecessor_left_is_swept() {
    // In a process of its own: what the predecessor leaves is re-parented to it, and there the trees of the other
    // tests of this program would end it as a stranger of theirs.
    const ALONE: &str = "PROCESS_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = "process::tests::a25_what_a_killed_predecessor_left_is_swept";
        let program = std::env::current_exe().expect("this program");
        let output = std::process::Command::new(program).args(["--exact", name]).env(ALONE, "1").output().expect("starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let lab = Lab::new();
    let mut predecessor = another_process("predecessor", lab.folder.path());
    let (leader, detached) = (lab.pid_in("leader"), lab.pid_in("detached"));
    predecessor.kill().expect("killed");
    predecessor.wait().expect("waited");
    until("the leader has died with its gateway", || !is_alive(leader));
    assert!(is_alive(detached), "there is something to sweep");
    // Of another state directory: not to be touched.
    let stranger = Lab::new();
    assert_eq!(stranger.children.sweep_leftovers(Deadline::after(Duration::from_secs(3))), EndReport::default());
    assert!(is_alive(detached));
    let started = now();
    let report = lab.children.sweep_leftovers(Deadline::after(Duration::from_secs(5)));
    assert!(report.term >= 1 && report.kill >= 1 && report.left == 0, "{report:?}");
    assert!(!is_alive(detached) && started.elapsed() < Duration::from_secs(4));
}

#[test]
fn the_guardian_kills_everything_at_once() {
    let lab = Lab::new();
    let mut gateway = another_process("emergency", lab.folder.path());
    let (leader, detached) = (lab.pid_in("leader"), lab.pid_in("detached"));
    until("it says so", || lab.file("killed").exists());
    until("both are dead", || !is_alive(leader) && !is_alive(detached));
    assert!(is_alive(gateway.id() as ProcessId), "never itself");
    gateway.kill().expect("killed");
    gateway.wait().expect("waited");
}
