//! The flush window: what waits for other changes, for how long, and what does not.

use std::collections::BTreeMap;

use online_status_presence::{Core, SessionId, Settings, Transmit};
use ring::Epoch;

use crate::support::{answer, at, hello, say, settings, vnodes};

const WINDOW: u64 = 20;

pub(crate) fn core(window: u64) -> Core {
    let settings = Settings {
        cluster: false,
        flush: window,
        message_burst: 10_000,
        change_rate: 0,
        ..settings("n1", 1)
    };
    let mut core = Core::new(settings, at(0));
    for vnode in vnodes().all() {
        core.own(vnode, Epoch::new(1), 0);
    }
    core
}

/// What each session but the first, who changes and has answers, is sent at this time.
fn sent(core: &mut Core, ms: u64) -> BTreeMap<SessionId, String> {
    core.at(at(ms));
    answer(core, 1);
    let mut sent = BTreeMap::new();
    loop {
        let more = core.flush(64);
        let of_others = |transmit: &&Transmit| transmit.session.index != 0;
        for transmit in core.transmits().iter().filter(of_others) {
            let bytes = &core.arena()[transmit.range.clone()];
            let text: &mut String = sent.entry(transmit.session).or_default();
            text.push_str(&String::from_utf8_lossy(bytes));
        }
        if !more {
            return sent;
        }
    }
}

/// Alice, and so many who watch her, who are at rest.
pub(crate) fn watched(core: &mut Core, watchers: usize) -> (SessionId, Vec<SessionId>) {
    let alice = core.connect(&hello("alice")).expect("let in");
    let mut all = Vec::new();
    sent(core, 0);
    for n in 0..watchers {
        let session = core.connect(&hello(&format!("w{n}"))).expect("let in");
        say(core, session, r#"{"type":"watch","users":["alice"]}"#);
        all.push(session);
    }
    sent(core, 0);
    (alice, all)
}

pub(crate) fn status(core: &mut Core, session: SessionId, text: &str) {
    let message = format!(r#"{{"type":"status","text":"{text}"}}"#);
    say(core, session, &message);
}

#[test]
fn changes_for_many_wait_for_others_and_go_as_the_newest_in_one_frame() {
    let mut core = core(WINDOW);
    let (alice, watchers) = watched(&mut core, 500);
    for n in 0..10 {
        status(&mut core, alice, &format!("text {n}"));
        assert!(sent(&mut core, 100 + n).is_empty());
        assert_eq!(core.flush_due(), Some((100 + WINDOW) * 1_000));
    }
    assert!(sent(&mut core, 100 + WINDOW - 1).is_empty());
    let sent_then = sent(&mut core, 100 + WINDOW);
    assert!(sent_then.keys().eq(watchers.iter()));
    for text in sent_then.values() {
        assert!(text.contains("text 9"), "{text}");
        assert_eq!(text.matches(r#""alice""#).count(), 1, "{text}");
    }
    assert_eq!(core.flush_due(), None);
    // The next window begins with the next change.
    status(&mut core, alice, "later");
    assert!(sent(&mut core, 121).is_empty());
    assert_eq!(core.flush_due(), Some((121 + WINDOW) * 1_000));
    assert_eq!(sent(&mut core, 141).len(), 500);
}

#[test]
fn changes_for_few_go_at_once() {
    let mut core = core(WINDOW);
    let (alice, watchers) = watched(&mut core, 20);
    for n in 0..10 {
        status(&mut core, alice, &format!("text {n}"));
        assert!(sent(&mut core, 100 + n).keys().eq(watchers.iter()));
        assert_eq!(core.flush_due(), None);
    }
}

#[test]
fn an_answer_goes_at_once_and_what_waits_for_its_session_goes_with_it() {
    let mut core = core(WINDOW);
    let (alice, watchers) = watched(&mut core, 100);
    status(&mut core, alice, "once");
    assert!(sent(&mut core, 100).is_empty());
    say(&mut core, watchers[7], r#"{"type":"ping"}"#);
    say(
        &mut core,
        watchers[9],
        r#"{"type":"watch","users":["bob"],"id":3}"#,
    );
    core.closed(watchers[11], online_status_presence::How::Broken);
    let at_once = sent(&mut core, 101);
    assert!(at_once.keys().eq([&watchers[7], &watchers[9]]));
    assert!(at_once[&watchers[7]].contains("once") && at_once[&watchers[9]].contains("once"));
    let others = sent(&mut core, 100 + WINDOW);
    assert_eq!(others.len(), 97);
    assert!(!others.contains_key(&watchers[7]) && !others.contains_key(&watchers[9]));
}

#[test]
fn without_a_window_every_change_goes_at_once() {
    let mut core = core(0);
    let (alice, _) = watched(&mut core, 500);
    for n in 0..3 {
        status(&mut core, alice, &format!("text {n}"));
        assert_eq!(sent(&mut core, 100 + n).len(), 500);
        assert_eq!(core.flush_due(), None);
    }
}
