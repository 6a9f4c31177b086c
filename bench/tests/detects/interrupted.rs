//! Ctrl-C: what was measured until then is judged and reported, by all workers alike.

use std::{
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{count, fake, until_it_says};

/// Runs the bench in a process group, as a shell does, and interrupts the group some time after
/// the bench said `after`; with none, after its start.
fn interrupted(arguments: &[&str], after: Option<&str>, wait: Duration) -> (Option<i32>, Value) {
    let (url, _) = fake::start(fake::Fault::None, Duration::from_secs(4));
    let mut child = Command::new(env!("CARGO_BIN_EXE_online-status-bench"))
        .args([
            "presence",
            "--url",
            &url,
            "--sessions",
            "20",
            "--watch",
            "5",
        ])
        .args(["--rate", "40", "--duration", "600", "--json"])
        .args(arguments)
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the bench starts");
    until_it_says(&mut child, after);
    thread::sleep(wait);
    let group = format!("-{}", child.id());
    let signal = Command::new("kill").args(["-INT", "--", &group]).status();
    assert!(signal.expect("kill runs").success());
    let output = child.wait_with_output().expect("the bench ends");
    let report = serde_json::from_slice(&output.stdout).expect("a report");
    (output.status.code(), report)
}

#[test]
fn an_interrupted_run_is_judged_by_what_was_changed_until_then() {
    let began = Instant::now();
    let (code, report) = interrupted(
        &["--workers", "3"],
        Some("the measured part begins"),
        Duration::from_secs(2),
    );
    assert_eq!(code, Some(1), "{report}");
    assert!(began.elapsed() < Duration::from_secs(60));
    assert!(report["interrupted"].as_f64() > Some(1.0), "{report}");
    let first = report["failures"][0].as_str().expect("a failure");
    assert!(first.starts_with("INTERRUPTED: after "), "{report}");
    let changes = count(&report, "changes");
    assert!(changes > 40 && changes < 40 * 60, "{report}");
    assert_eq!(count(&report, "missed"), 0, "{report}");
    assert_eq!(count(&report, "wrong_at_end"), 0, "{report}");
    let accounted = count(&report, "delivered") + count(&report, "conflated");
    assert_eq!(accounted, count(&report, "expected"), "{report}");
}

#[test]
fn a_run_that_is_interrupted_before_its_measured_part_says_so() {
    let (code, report) = interrupted(
        &["--connect-rate", "1", "--quiet"],
        None,
        Duration::from_secs(2),
    );
    assert_eq!(code, Some(1), "{report}");
    assert_eq!(report["interrupted"], json!(0.0));
    let first = report["failures"][0].as_str().expect("a failure");
    assert_eq!(first, "INTERRUPTED: before the measured part", "{report}");
    assert!(count(&report, "ready") < 20 && count(&report, "changes") == 0);
    let speed = report["connected_per_second"].as_f64();
    assert!(speed < Some(3.0), "{report}");
}
