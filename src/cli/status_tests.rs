//! What `status` prints, character by character.

use super::*;
use crate::service::fake::{adapter_report, sample_report};
use crate::service::lock::HolderInfo;

const TERMINAL: Style = Style { terminal: true, colour: false, symbols: true, width: 120 };

fn check(report: &StatusReport, style: Style, exit: u8, expect: &str) {
    let shown = render(report, style);
    assert_eq!(shown, expect, "\n--- shown ---\n{shown}");
    assert_eq!(verdict(report).0, exit);
}

#[test]
fn healthy() {
    check(
        &sample_report(),
        TERMINAL,
        0,
        "\
● hermes-gateway 0.1.0   running 3d 4h   pid 4242   RSS 3.8 MiB   threads 2   stop budget 25s
  adapters   telegram   connected   3d 4h   last heard 2 s ago   in 1 204  out 1 377
  turns      telegram:77001   38 s   shell: cargo build (pid 5120, 36 s)
  queue      inbox 1 waiting   outbox 0   dead letters 0
  store      11.8 MiB   last commit 4 ms
",
    );
}

#[test]
fn degraded_and_plain() {
    let mut report = sample_report();
    report.adapters.push(AdapterReport {
        error: Some("TLS handshake timed out".to_owned()),
        attempt: 5,
        next_try_ms: Some(8000),
        since_ms: 41_000,
        ..adapter_report("feishu", AdapterState::Retrying)
    });
    report.adapters.push(AdapterReport { platform: "local".to_owned(), ..adapter_report("local", AdapterState::Connecting) });
    report.turns.clear();
    check(
        &report,
        Style::PLAIN,
        1,
        "\
hermes-gateway 0.1.0   running 3d 4h   pid 4242   RSS 3.8 MiB   threads 2   stop budget 25s
  adapters   telegram   connected   3d 4h   last heard 2 s ago   in 1 204  out 1 377
             feishu     retrying    41 s    TLS handshake timed out   next try in 8 s (attempt 5)
  queue      inbox 1 waiting   outbox 0   dead letters 0
  store      11.8 MiB   last commit 4 ms
degraded: feishu is not connected
",
    );
}

#[test]
fn stuck_control_and_what_to_do() {
    let mut report = sample_report();
    report.unresponsive = Some("stuck 14 s in \"handle StoreCommitted\"".to_owned());
    report.threads[0] = ThreadReport {
        name: "control".to_owned(),
        activity: "handle StoreCommitted".to_owned(),
        for_ms: 14_000,
        due_ms: Some(-4000),
        abandoned: false,
    };
    report.turns.clear();
    check(
        &report,
        TERMINAL,
        2,
        "\
✗ hermes-gateway 0.1.0   UNRESPONSIVE   pid 4242   RSS 3.8 MiB   threads 2   stop budget 25s
  control    stuck 14 s in \"handle StoreCommitted\"  (limit 10 s)
  adapters   telegram   connected   3d 4h   last heard 2 s ago   in 1 204  out 1 377
  threads    control   overdue 4 s   14 s   handle StoreCommitted
  queue      inbox 1 waiting   outbox 0   dead letters 0
  store      11.8 MiB   last commit 4 ms
  what to do: hermes-gateway restart        (does not need the control thread)
",
    );
}

#[test]
fn what_makes_it_degraded() {
    let check = |change: &dyn Fn(&mut StatusReport), expect: &[&str]| {
        let mut report = sample_report();
        change(&mut report);
        let (exit, wrong) = verdict(&report);
        assert_eq!((exit, wrong.iter().map(String::as_str).collect::<Vec<_>>()), (u8::from(!expect.is_empty()), expect.to_vec()));
    };
    check(&|_| (), &[]);
    check(&|report| report.state = GatewayState::Draining, &["it is ending: running turns may finish"]);
    check(&|report| report.store.error = Some("disk full".to_owned()), &["the store takes nothing: disk full"]);
    check(&|report| report.threads[1].abandoned = true, &["1 threads were abandoned"]);
    check(&|report| report.threads[1].due_ms = Some(-1), &["thread store is overdue"]);
    check(&|report| report.adapters[0].state = AdapterState::Failed, &["telegram has failed"]);
}

#[test]
fn colours_and_widths() {
    let mut report = sample_report();
    report.turns[0].activity = "\x1b[31mx".repeat(50);
    let shown = render(&report, Style { colour: true, width: 80, ..TERMINAL });
    assert!(shown.starts_with("\x1b[32m●\x1b[0m hermes-gateway"), "{shown}");
    assert_eq!(shown.matches('\x1b').count(), 2, "escapes of others do not reach the terminal");
    assert!(shown.lines().skip(1).all(|line| line.chars().count() <= 80), "{shown}");
}

#[test]
fn one_that_does_not_answer() {
    let holder = HolderInfo { version: "0.1.0".to_owned(), ..HolderInfo::default() };
    let instance = Instance { directory: "/x".into(), holder, socket: "/x/s".into() };
    assert_eq!(
        render_mute(&instance, &ClientError::NoAnswer, Style::PLAIN),
        "\
hermes-gateway 0.1.0   UNRESPONSIVE
  lock       held; the gateway does not answer
  process    its process cannot be seen from here
  what to do: hermes-gateway restart        (does not need its help)
"
    );
}
