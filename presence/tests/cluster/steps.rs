//! The steps of a followed user: on the core that owns it, and on one that watches it over a link.

use online_status_presence::{Core, Heard, SessionId, StoreReply, StoreRequest, TracedStep, What};
use protocol::{Cause, CloseCode, FromOwner, Status, ToOwner, Version};
use ring::{Epoch, Map, MapVersion, Vnode};

use crate::support::{self, answer, at, hello, id, node, settings, version, vnodes};

const EPOCH: u32 = 7;
const LINK: u32 = 5;

fn user_of(vnode: u16) -> String {
    let mut names = (0..).map(|n| format!("u{n}"));
    let there = |name: &String| vnodes().vnode(name) == Vnode::new(vnode);
    names.find(there).expect("there are many")
}

/// The core of the node `name`; `a` has vnode 0 and `b` vnode 1.
fn core(name: &str, boot: u64) -> Core {
    let mut core = Core::new(settings(name, 1), at(1));
    core.hear_by_links(false);
    let map = Map::empty(vnodes()).apply(vec![node("a", 1), node("b", 2)], &[Some(0), Some(1)]);
    let map = map.raised(MapVersion::new(1), Epoch::new(EPOCH - 1));
    core.follow(&map, None, &id(name), boot);
    serve(&mut core);
    core
}

/// Lets store and bus answer, and sends what waits.
fn serve(core: &mut Core) {
    answer(core, EPOCH);
    while core.flush(64) {}
}

fn say(core: &mut Core, session: SessionId, text: &str) {
    support::say(core, session, text);
    serve(core);
}

/// The steps since the last call; none was dropped.
fn steps(core: &mut Core) -> Vec<(What, Version)> {
    let (steps, dropped) = core.take_steps();
    assert_eq!(dropped, 0);
    let of = |step: TracedStep| (step.what, step.version);
    steps.into_iter().map(of).collect()
}

#[test]
fn a_change_is_followed_from_its_session_to_a_watcher_on_another_node() {
    let (mut a, mut b) = (core("a", 1), core("b", 2));
    let (alice, bob) = (user_of(0), user_of(1));
    let watcher = b.connect(&hello(&bob)).expect("its vnode is here");
    serve(&mut b);
    b.owner_linked(LINK);
    b.owner_says(LINK, FromOwner::Owns(Vnode::new(0), Epoch::new(EPOCH)));
    let watch = format!(r#"{{"type":"watch","users":["{alice}"]}}"#);
    say(&mut b, watcher, &watch);
    while b.next_for_owner(LINK).is_some() {}
    a.watcher_linked(LINK);
    while a.next_for_watcher(LINK).is_some() {}
    let wants = ToOwner::Interest(Epoch::new(EPOCH), alice.as_str().into());
    a.watcher_says(LINK, wants);
    serve(&mut a);
    while a.next_for_watcher(LINK).is_some() {}
    assert!(!a.has_steps() && !b.has_steps(), "nobody is followed");

    let followed = [alice.as_str().into()];
    a.trace_users(&followed);
    b.trace_users(&followed);
    a.tick(at(100));
    let session = a.connect(&hello(&alice)).expect("its vnode is here");
    serve(&mut a);
    let first = version(EPOCH, 1);
    let told = steps(&mut a);
    assert_eq!(told[0].0, What::Opened(session));
    let whats: Vec<What> = told.iter().map(|(what, _)| *what).collect();
    for what in [What::Changed(Cause::Connect), What::Stored, What::Published] {
        assert!(whats.contains(&what), "{whats:?}");
    }
    while a.next_for_watcher(LINK).is_some() {}
    steps(&mut a);

    say(&mut a, session, r#"{"type":"status","status":"away"}"#);
    let sent = a.next_for_watcher(LINK).expect("it is told");
    let told = steps(&mut a);
    let second = told[1].1;
    assert!(second > first);
    assert_eq!(told[0].0, What::Said(session));
    let rest: Vec<What> = told[1..].iter().map(|(what, _)| *what).collect();
    let expected = [
        What::Changed(Cause::Status),
        What::Storing,
        What::Stored,
        What::Publishing,
        What::Published,
        What::Linked,
    ];
    assert_eq!(rest, expected);
    assert!(told[1..].iter().all(|(_, version)| *version == second));

    b.owner_says(LINK, sent);
    serve(&mut b);
    let expected = [
        (What::Received(Heard::Link), second),
        (What::Delivered(1), second),
    ];
    assert_eq!(steps(&mut b), expected);

    a.close(
        session,
        online_status_presence::How::Clean,
        CloseCode::NORMAL,
        "",
    );
    assert_eq!(
        steps(&mut a)[0].0,
        What::Closed(session, Some(CloseCode::NORMAL))
    );
    a.trace_users(&[]);
    serve(&mut a);
    assert!(!a.has_steps());
}

/// Takes the write that waits to go to the store; the store answers it with what this gives.
fn writing(core: &mut Core) -> StoreReply {
    match core.store_requests(1, |_, _| {}).pop() {
        Some(StoreRequest::Write { ticket, .. }) => StoreReply::Written(ticket),
        other => panic!("no write: {other:?}"),
    }
}

#[test]
fn an_answer_of_the_store_tells_of_the_record_that_was_written_and_not_of_the_newest() {
    let mut a = core("a", 1);
    let alice = user_of(0);
    let session = a.connect(&hello(&alice)).expect("its vnode is here");
    serve(&mut a);
    support::say(&mut a, session, r#"{"type":"status","status":"away"}"#);
    let under_way = writing(&mut a);
    a.trace_users(&[alice.as_str().into()]);
    a.store_reply(under_way);
    // Its way had begun before anybody followed it.
    assert!(steps(&mut a).iter().all(|(what, _)| *what != What::Stored));
    serve(&mut a);
    steps(&mut a);

    support::say(
        &mut a,
        session,
        r#"{"type":"status","status":"online","mode":"busy"}"#,
    );
    let under_way = writing(&mut a);
    support::say(&mut a, session, r#"{"type":"status","status":"online"}"#);
    a.store_reply(under_way);
    let (told, _) = a.take_steps();
    let of = |what| {
        let step = told.iter().find(|step| step.what == what);
        step.map(|step| (step.version, step.status))
    };
    let written = of(What::Storing).expect("it was written");
    assert_eq!(written.1, Status::Busy);
    assert_eq!(of(What::Stored), Some(written));
}

#[test]
fn steps_that_nobody_takes_are_bounded_and_counted() {
    let mut a = core("a", 1);
    let alice = user_of(0);
    a.trace_users(&[alice.as_str().into()]);
    let session = a.connect(&hello(&alice)).expect("its vnode is here");
    for n in 0..2_000 {
        a.tick(at(100 + n * 100));
        let status = ["away", "online"][n as usize % 2];
        let text = format!(r#"{{"type":"status","status":"{status}"}}"#);
        say(&mut a, session, &text);
    }
    let (steps, dropped) = a.take_steps();
    assert_eq!(steps.len(), 1_024);
    assert!(dropped > 0);
    assert_eq!(a.take_steps().1, 0);
}
