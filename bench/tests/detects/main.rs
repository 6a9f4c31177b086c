//! The bench against small servers of its own, which can be told to misbehave: what they do wrong has
//! to be found and called by its name, and what a client has to live with is no error.

mod fake;
mod foreign;
mod interrupted;
mod remote;

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    process::{Child, Command, Output},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use fake::Fault;

/// A run of 20 sessions that watch 5 users each.
fn bench(scenario: &str, entrance: &[&str], arguments: &[&str]) -> (Output, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_online-status-bench"));
    command.arg(scenario).args(entrance);
    command.args(["--sessions", "20", "--drain", "2", "--json", "--quiet"]);
    let output = command.args(arguments).output().expect("the bench runs");
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    (output, report)
}

/// Returns when the bench has said these words, with none at once; what it says later is read and
/// dropped, so that it is never held up.
fn until_it_says(child: &mut Child, words: Option<&str>) {
    let mut said = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    while words.is_some_and(|words| !line.contains(words)) {
        line.clear();
        assert_ne!(said.read_line(&mut line).expect("text"), 0, "it ended");
    }
    thread::spawn(move || said.read_to_end(&mut Vec::new()));
}

/// Users change 15 times a second, each of those with a session every second and a bit.
fn presence(fault: Fault, seconds: &str, arguments: &[&str]) -> Value {
    let (_, coordinator) = fake::start(fault, Duration::from_secs(4));
    let options = [
        "--watch",
        "5",
        "--rate",
        "15",
        "--grace",
        "4",
        "--duration",
        seconds,
    ];
    let (output, report) = bench(
        "presence",
        &["--coordinator", &coordinator],
        &[&options, arguments].concat(),
    );
    let passed = report["failures"] == json!([]);
    assert_eq!(output.status.code(), Some(i32::from(!passed)), "{report}");
    report
}

/// Whether nothing was wrong with the server: a machine that is too busy for the bench to be
/// punctual says nothing about it.
fn passed(report: &Value) -> bool {
    let failures = report["failures"].as_array().expect("a list");
    let invalid = |failure: &Value| {
        failure
            .as_str()
            .is_some_and(|text| text.starts_with("INVALID"))
    };
    failures.iter().all(invalid)
}

fn count(report: &Value, what: &str) -> u64 {
    report["counts"][what].as_u64().expect("a count")
}

/// Runs what does not need the processor to itself side by side.
fn at_once<T: Send>(cases: impl IntoIterator<Item = T>, case: impl Fn(T) + Sync) {
    thread::scope(|scope| {
        for one in cases {
            scope.spawn(|| case(one));
        }
    });
}

#[test]
fn a_good_server_passes() {
    let (url, _) = fake::start(Fault::StaleRoutes, Duration::from_secs(4));
    let options = [
        "--workers",
        "2",
        "--watch",
        "5",
        "--rate",
        "60",
        "--duration",
        "3",
    ];
    let (output, report) = bench("presence", &["--url", &url], &options);
    assert!(passed(&report), "{report}");
    let all_well = report["failures"] == json!([]);
    assert_eq!(output.status.code(), Some(i32::from(!all_well)));
    assert_eq!(count(&report, "delivered"), count(&report, "expected"));
    assert!(count(&report, "expected") > 300 && report["come"]["count"].as_u64() > Some(0));
    // Half of the users are the other server's, and are sent there.
    assert!(count(&report, "wrong_node") >= 10, "{report}");
    let timeline = report["timeline"].as_array().expect("rows");
    let delivered: u64 = timeline
        .iter()
        .filter_map(|row| row["deliveries"].as_u64())
        .sum();
    assert!(timeline.len() >= 3 && delivered > 300 && timeline[0]["sessions"] == 20);
}

#[test]
fn every_fault_is_found() {
    let faults = [
        (Fault::Missed, "missed"),
        (Fault::Duplicated, "duplicated"),
        (Fault::Reordered, "reordered"),
        (Fault::Flap, "flaps"),
        (Fault::Stray, "strays"),
        (Fault::Contradiction, "strays"),
    ];
    at_once(faults, |(fault, name)| {
        let report = presence(fault, "5", &["--moves", "0"]);
        assert!(
            !passed(&report) && count(&report, name) > 0,
            "{name}: {report}"
        );
    });
}

#[test]
fn what_a_client_has_to_live_with_is_no_error() {
    let faults = [
        (Fault::None, "routes"),
        (Fault::StaleRoutes, "wrong_node"),
        (Fault::Drained, "moved"),
        (Fault::Closed, "moved"),
        (Fault::Crashed, "broken"),
        (Fault::Overloaded, "put_off"),
    ];
    at_once(faults, |(fault, name)| {
        let report = presence(fault, "5", &[]);
        assert!(passed(&report), "{name}: {report}");
        assert!(count(&report, name) > 0, "{name}: {report}");
        let accounted = count(&report, "delivered") + count(&report, "conflated");
        assert_eq!(accounted, count(&report, "expected"), "{name}: {report}");
        let lost = fault != Fault::None;
        assert_eq!(report["outage"].is_null(), !lost, "{name}: {report}");
    });
}

#[test]
fn changes_of_users_that_are_cut_off_are_told_when_they_are_back_and_are_counted_apart() {
    let report = presence(Fault::Crashed, "5", &["--assert", "disturbed:max<15s"]);
    assert!(passed(&report), "{report}");
    assert!(count(&report, "held_back") > 0, "{report}");
    assert!(
        report["disturbed"]["max"].as_u64() > Some(100_000),
        "{report}"
    );
    assert!(report["outage"]["max"].as_u64() > Some(900_000), "{report}");
    let limit = presence(Fault::Crashed, "5", &["--assert", "disturbed:max<1us"]);
    assert!(!passed(&limit), "{limit}");
}

#[test]
fn a_server_that_stood_still_is_known_by_its_silence_when_sessions_are_pinged() {
    at_once([false, true], |pinged| {
        let arguments: &[&str] = match pinged {
            true => &["--moves", "0", "--probe", "0.5"],
            false => &["--moves", "0"],
        };
        let report = presence(Fault::Frozen, "8", arguments);
        assert_eq!(passed(&report), pinged, "{report}");
        let name = if pinged { "conflated" } else { "missed" };
        assert!(count(&report, name) > 0, "{report}");
        assert_eq!(count(&report, "stalled") > 0, pinged, "{report}");
    });
}

#[test]
fn what_is_passed_over_in_a_declared_outage_is_not_missed_and_all_else_is() {
    // The servers are mute from the second second to the sixth.
    let cases: [(Fault, &[&str], bool); 4] = [
        (Fault::Mute, &["--outage-at", "1:7"], true),
        (Fault::Mute, &[], false),
        (
            Fault::Mute,
            &["--outage-at", "0:1.5", "--outage-at", "8:1"],
            false,
        ),
        (
            Fault::Missed,
            &["--outage-at", "0:1.5", "--outage-at", "5:3"],
            false,
        ),
    ];
    at_once(cases, |(fault, outages, good)| {
        let report = presence(fault, "9", &[&["--moves", "0"], outages].concat());
        assert_eq!(passed(&report), good, "{outages:?}: {report}");
        assert_eq!(count(&report, "missed") > 0, !good, "{outages:?}: {report}");
        assert_eq!(count(&report, "wrong_at_end"), 0, "{report}");
        if good {
            let slowest = report["disturbed"]["max"].as_u64();
            assert!(count(&report, "conflated") > 0, "{report}");
            assert!(slowest > Some(1_000_000), "{report}");
            assert_eq!(report["outage"], Value::Null, "no session was lost");
        }
    });
}

#[test]
fn what_is_wrong_in_a_declared_outage_is_found_all_the_same() {
    let faults = [
        (Fault::Duplicated, "duplicated"),
        (Fault::Reordered, "reordered"),
        (Fault::Flap, "flaps"),
        (Fault::Contradiction, "strays"),
    ];
    at_once(faults, |(fault, name)| {
        let report = presence(fault, "5", &["--moves", "0", "--outage-at", "0:60"]);
        assert!(
            !passed(&report) && count(&report, name) > 0,
            "{name}: {report}"
        );
    });
}

#[test]
fn what_is_wrong_after_a_fault_is_found() {
    let faults = [
        (Fault::DrainedTwice, "duplicated"),
        (Fault::DrainedDeaf, "missed"),
        (Fault::DrainedDeaf, "wrong_at_end"),
        (Fault::CrashedGraceless, "flaps"),
    ];
    at_once(faults, |(fault, name)| {
        let report = presence(fault, "5", &[]);
        assert!(
            !passed(&report) && count(&report, name) > 0,
            "{name}: {report}"
        );
    });
}

#[test]
fn what_is_passed_over_may_be_tolerated_but_not_a_wrong_state_in_the_end() {
    // The fault comes with one of the last changes.
    let end = ["--moves", "0", "--outage-tolerance", "5"];
    at_once([false, true], |stubborn| {
        if stubborn {
            let report = presence(Fault::CrashedStubborn, "2.1", &end);
            assert_eq!(
                [count(&report, "missed"), count(&report, "strays")],
                [0, 0],
                "{report}"
            );
            assert!(
                count(&report, "wrong_at_end") > 0 && !passed(&report),
                "{report}"
            );
        } else {
            let report = presence(Fault::CrashedForgetful, "2.1", &end);
            assert!(
                passed(&report) && count(&report, "rolled_back") > 0,
                "{report}"
            );
        }
    });
}

#[test]
fn every_scenario_works_through_a_coordinator_that_is_not_the_first() {
    at_once(["connect", "storm", "fanout"], |scenario| {
        // Nobody listens there any more.
        let closed = TcpListener::bind("127.0.0.1:0").expect("a port");
        let dead = format!("http://{}", closed.local_addr().expect("an address"));
        drop(closed);
        let fault = match scenario {
            "fanout" => Fault::Drained,
            _ => Fault::None,
        };
        let (_, alive) = fake::start(fault, Duration::from_secs(4));
        let both = format!("{dead},{alive}");
        let options: &[&str] = match scenario {
            "fanout" => &["--workers", "2", "--rate", "20", "--duration", "4"],
            _ => &["--duration", "1"],
        };
        let (output, report) = bench(scenario, &["--coordinator", &both], options);
        assert!(passed(&report), "{scenario}: {report}");
        assert!(output.status.code() < Some(2));
        assert!(count(&report, "coordinators_lost") > 0, "{report}");
        if scenario == "fanout" {
            assert_eq!(count(&report, "expected"), 80 * 20);
            assert!(count(&report, "moved") > 0, "{report}");
        }
    });
}

#[test]
fn wrong_usage_ends_with_2_and_the_option_its_value_and_what_is_allowed() {
    let both = "--url=ws://127.0.0.1:9/ --coordinator=http://127.0.0.1:9";
    for (arguments, parts) in [
        (
            "--url https://x/",
            &["--url: \"https://x/\"", "ws://host:port/path"][..],
        ),
        ("--url ws://127.0.0.1:x/", &["--url: ", "127.0.0.1:x"]),
        (
            "--coordinator ws://127.0.0.1",
            &["--coordinator: \"ws://127.0.0.1\"", "http://host:port/path"],
        ),
        (
            "--sessions 0",
            &["--sessions 0: it must be a number above 0"],
        ),
        ("--rate nan", &["--rate NaN: it must be a number above 0"]),
        (
            "--grace=-1",
            &["--grace -1: it must be 0 to 604800 seconds"],
        ),
        ("--assert p99", &["\"p99\" is not like p99<50ms"]),
        ("--outage-at 3", &["\"3\" is not like 3:20"]),
        (
            "--outage-at 3:-1",
            &["--outage-at -1: it must be 0 to 604800 seconds"],
        ),
        ("--moves 60", &["--moves", "60", "0..=50"]),
        ("--sesions 5", &["--sesions", "--sessions"]),
        ("--message hello", &["--message: ", "${marker}"]),
        (
            "--open send",
            &["'send' for '--open", "each TEXT or await TEXT"],
        ),
        (
            "--message ${marker} --publishers 2",
            &["--publishers: only fanout"],
        ),
        (both, &["--url", "--coordinator", "cannot be used"]),
        // No mistake, and nobody there.
        ("--coordinator http://127.0.0.1:9", &["127.0.0.1:9"]),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_online-status-bench"));
        command.arg("presence").args(arguments.split(' '));
        let output = command.output().expect("the bench runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {said}");
        let missing = parts.iter().find(|part| !said.contains(**part));
        assert!(
            missing.is_none(),
            "{arguments}: without {missing:?}: {said}"
        );
        assert!(
            said.contains("online-status-bench") || said.contains("--help"),
            "{said}"
        );
    }
}
