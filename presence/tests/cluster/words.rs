//! Whose word counts: the store's against what came without it, a newer epoch's against an older
//! one's, and one device's against those that are still on their way.

use online_status_presence::{How, PeerMessage, StoreReply, StoreRequest};
use protocol::{Cause, Event, Mode, Record, Status, Stored};
use ring::{CoreId, Epoch};

use crate::{
    again::{Bench, USER, online, vnode_of},
    support::{GRACE, say, settings, version},
};

/// The other core of the node, whose sessions watch.
const WATCHING: CoreId = CoreId::new(1);

#[test]
fn who_came_while_the_store_was_away_is_read_before_it_is_written_for_the_next_owner() {
    let mut bench = Bench::new(settings("b", 1), true);
    bench.store(true, &[]);
    bench.connect();
    while let Some(request) = bench.core.store_requests(1, |_, _| {}).pop() {
        bench.core.store_reply(request.failed());
        if matches!(request, StoreRequest::Read { .. }) {
            break;
        }
    }
    bench.goes();
    assert_eq!(kept(&mut bench), [("lunch".into(), Mode::Busy, true)]);
}

/// What the store is told to keep: text, mode, whether the user is connected. It has a user without sessions
/// and answers all, claims too.
fn kept(bench: &mut Bench) -> Vec<(Box<str>, Mode, bool)> {
    let mut kept = Vec::new();
    while let Some(request) = bench.core.store_requests(1, |_, _| {}).pop() {
        let reply = match request {
            StoreRequest::Load { vnode, epoch, .. } => StoreReply::Loaded {
                vnode,
                epoch,
                released: false,
                users: Vec::new(),
            },
            StoreRequest::Release { vnode, epoch } => StoreReply::Released(vnode, epoch),
            StoreRequest::Read { ticket, .. } => {
                let stored = Stored {
                    record: Record {
                        text: "lunch".into(),
                        ..Record::default()
                    },
                    mode: Mode::Busy,
                    ..Stored::default()
                };
                StoreReply::Read(ticket, Epoch::new(1), Some(stored))
            }
            StoreRequest::Write { ticket, stored, .. } => {
                kept.push((stored.record.text, stored.mode, stored.connected));
                StoreReply::Written(ticket)
            }
            owner @ StoreRequest::Owner { .. } => owner.failed(),
        };
        bench.core.store_reply(reply);
    }
    kept
}

/// The answers to the claims did not come. The next owner waits for who claims.
#[test]
fn what_was_chosen_before_the_vnode_was_loaded_is_written_when_it_goes_again() {
    for (wish, text, mode) in [
        (r#"{"type":"status","text":"home"}"#, "home", Mode::Busy),
        (
            r#"{"type":"status","mode":"invisible"}"#,
            "lunch",
            Mode::Invisible,
        ),
    ] {
        for shown in [false, true] {
            let mut bench = Bench::new(settings("b", 1), true);
            let session = bench.connect();
            if shown {
                bench.store(false, &[]);
            }
            say(&mut bench.core, session, wish);
            bench.goes();
            assert_eq!(bench.core.sessions_of(USER), [], "they go at once");
            bench.store(false, &[]);
            assert_eq!(kept(&mut bench), [(text.into(), mode, true)]);
            let moving = bench.core.vnodes_loading() + bench.core.vnodes_leaving();
            assert_eq!(moving, 0, "all is released");
        }
    }
}

#[test]
fn what_was_chosen_before_the_vnode_was_loaded_holds_when_it_comes_back_and_nobody_else_had_the_user()
 {
    for (spoken, text) in [(false, "home"), (true, "lunch")] {
        let mut bench = Bench::new(settings("b", 1), true);
        let session = bench.connect();
        say(
            &mut bench.core,
            session,
            r#"{"type":"status","text":"home"}"#,
        );
        bench.goes();
        if spoken {
            let record = online(version(2, 1)).record;
            let event = Event::of(USER, &record, vnode_of(USER), "c", Cause::Connect);
            bench.core.bus_event(&event);
        }
        bench.comes();
        assert_eq!(kept(&mut bench), [(text.into(), Mode::Busy, true)]);
    }
}

#[test]
fn a_vnode_that_was_not_loaded_is_not_claimed_any_more_when_nobody_has_chosen_anything() {
    let mut bench = Bench::new(settings("b", 1), true);
    bench.connect();
    bench.goes();
    assert_eq!(bench.core.vnodes_loading() + bench.core.vnodes_leaving(), 0);
    assert_eq!(kept(&mut bench), []);
}

#[test]
fn what_was_chosen_before_the_store_answered_is_written_for_the_next_owner_when_the_user_has_gone()
{
    let mut bench = Bench::new(settings("b", 1), true);
    bench.store(true, &[]);
    let session = bench.connect();
    say(
        &mut bench.core,
        session,
        r#"{"type":"status","text":"home"}"#,
    );
    bench.core.closed(session, How::Clean);
    bench.goes();
    assert_eq!(kept(&mut bench), [("home".into(), Mode::Busy, false)]);
    assert_eq!(bench.core.vnodes_leaving(), 0, "it is released");
}

#[test]
fn a_device_that_says_goodbye_after_a_takeover_does_not_end_the_wait_for_the_others() {
    let mut bench = Bench::new(settings("b", 1), true);
    let mut several = online(version(1, 1));
    several.record.devices = 3;
    bench.store(true, &[(USER, several)]);
    let session = bench.connect();
    bench.core.closed(session, How::Clean);
    for _ in 0..GRACE / 100 - 1 {
        bench.tick(100);
        bench.store(true, &[]);
        let published = bench.published();
        assert!(!published.contains(&Status::Offline), "{published:?}");
    }
    for _ in 0..20 {
        bench.tick(100);
        bench.store(true, &[]);
    }
    assert_eq!(bench.published(), [Status::Offline]);
}

/// A core of another node's vnode, which shows the user as online by a word of `epoch` 2.
fn mirror() -> Bench {
    let mut bench = Bench::new(settings("b", 2), false);
    let interest = PeerMessage::Interest(USER.into());
    bench.core.peer_message(WATCHING, interest);
    bench.store(true, &[]);
    let record = online(version(2, 5)).record;
    let event = Event::of(USER, &record, vnode_of(USER), "c", Cause::Connect);
    bench.core.bus_event(&event);
    assert_eq!(shown(&mut bench), Some((Status::Online, version(2, 5))));
    bench
}

/// What the other core was told last.
fn shown(bench: &mut Bench) -> Option<(Status, protocol::Version)> {
    let mut last = None;
    while let Some(message) = bench.core.next_message_for(WATCHING) {
        if let PeerMessage::State(_, record) = message {
            last = Some((record.status, record.version));
        }
    }
    last
}

/// Has the store asked anew, whose newest owner is that of `epoch` 3, and answers with a state of epoch 1.
fn read_of_the_next_owner(bench: &mut Bench, status: Status) {
    let Some(StoreRequest::Read { ticket, .. }) = bench.core.store_requests(1, |_, _| {}).pop()
    else {
        panic!("the store is asked");
    };
    let mut there = online(version(1, 9));
    there.record.status = status;
    there.connected = status != Status::Offline;
    let read = StoreReply::Read(ticket, Epoch::new(3), Some(there));
    bench.core.store_reply(read);
}

#[test]
fn what_a_newer_owner_found_in_the_store_is_newer_than_what_never_got_there() {
    let mut bench = mirror();
    bench.core.bus_gap();
    read_of_the_next_owner(&mut bench, Status::Away);
    assert_eq!(shown(&mut bench), Some((Status::Away, version(3, 0))));
}

#[test]
fn who_may_be_on_its_way_to_a_newer_owner_is_offline_when_the_grace_period_is_over() {
    let mut bench = mirror();
    bench.core.bus_gap();
    read_of_the_next_owner(&mut bench, Status::Offline);
    assert_eq!(shown(&mut bench), None);
    for _ in 0..=GRACE / 100 {
        bench.tick(100);
    }
    read_of_the_next_owner(&mut bench, Status::Offline);
    assert_eq!(shown(&mut bench), Some((Status::Offline, version(3, 0))));
}

#[test]
fn an_event_of_an_epoch_that_is_over_is_dropped() {
    let mut bench = mirror();
    let event_of = |user: &str, epoch: u32, status: Status| {
        let mut record = online(version(epoch, 1)).record;
        record.status = status;
        Event::of(user, &record, vnode_of(USER), "d", Cause::Connect).into_owned()
    };
    // The newest owner has spoken of another user so far.
    bench.core.bus_event(&event_of("bob", 4, Status::Online));
    let fenced = event_of(USER, 3, Status::Offline);
    bench.core.bus_event(&fenced);
    assert_eq!(shown(&mut bench), None);
    bench.core.bus_event(&event_of(USER, 4, Status::Away));
    assert_eq!(shown(&mut bench), Some((Status::Away, version(4, 1))));
}

/// The epochs under which the user was published as online; the store fails what it is asked.
fn published_without_store(bench: &mut Bench) -> Vec<Epoch> {
    let asked: Vec<_> = bench.core.store_requests(usize::MAX, |_, _| {});
    for request in asked {
        bench.core.store_reply(request.failed());
    }
    published_online(bench)
}

fn published_online(bench: &mut Bench) -> Vec<Epoch> {
    let mut epochs = Vec::new();
    while let Some(event) = bench.core.next_publication() {
        assert_eq!(event.record.status, Status::Online);
        epochs.push(event.epoch);
        bench.core.bus_reply(event.ticket, true);
    }
    epochs
}

#[test]
fn who_came_without_the_store_is_published_again_when_its_vnode_comes_back_under_a_later_epoch() {
    let mut bench = Bench::new(settings("b", 1), true);
    bench.store(true, &[]);
    bench.connect();
    assert_eq!(published_without_store(&mut bench), [Epoch::new(1)]);
    // The owner in between never hears of the user.
    bench.goes();
    bench.comes();
    bench.store(true, &[]);
    assert_eq!(published_online(&mut bench), [Epoch::new(3)]);
}

#[test]
fn who_comes_as_the_bus_showed_it_is_published_under_the_new_epoch_without_the_store() {
    let mut bench = Bench::new(settings("b", 2), false);
    let interest = PeerMessage::Interest(USER.into());
    bench.core.peer_message(WATCHING, interest);
    bench.store(true, &[]);
    let record = online(version(1, 5)).record;
    let event = Event::of(USER, &record, vnode_of(USER), "c", Cause::Connect);
    bench.core.bus_event(&event);
    bench.comes();
    bench.connect();
    assert_eq!(published_without_store(&mut bench), [Epoch::new(2)]);
}

#[test]
fn who_came_and_said_goodbye_before_its_vnode_was_claimed_is_not_waited_for() {
    let mut bench = Bench::new(settings("b", 1), true);
    let session = bench.connect();
    assert_eq!(published_without_store(&mut bench), [Epoch::new(1)]);
    bench.core.closed(session, How::Clean);
    let written = bench.store(true, &[(USER, online(version(0, 1)))]);
    assert_eq!(written, [(Epoch::new(1), Status::Offline, false)]);
    assert_eq!(bench.published(), [Status::Offline]);
}

#[test]
fn what_an_invisible_user_wrote_before_the_store_failed_has_a_version_of_its_own() {
    let mut bench = Bench::new(settings("b", 2), false);
    let interest = PeerMessage::Interest(USER.into());
    bench.core.peer_message(WATCHING, interest);
    bench.store(true, &[]);
    let record = Record {
        version: version(1, 5),
        ..Record::default()
    };
    let event = Event::of(USER, &record, vnode_of(USER), "c", Cause::Close);
    bench.core.bus_event(&event);
    assert_eq!(shown(&mut bench), Some((Status::Offline, version(1, 5))));
    bench.comes();
    let session = bench.connect();
    let wish = r#"{"type":"status","mode":"invisible","text":"home"}"#;
    say(&mut bench.core, session, wish);
    bench.store(false, &[]);
    let next = shown(&mut bench).expect("the other core is told");
    assert!(next.1 > version(1, 5), "{next:?} has another text");
}
