//! Vnodes that are claimed a second time, since the store may have lost something, and what the
//! store may have of them.

use online_status_presence::{
    Core, How, Now, PeerMessage, SessionId, Settings, StoreReply, StoreRequest,
};
use protocol::{Cause, Encoding, Event, Mode, Record, Status, Stored, decode};
use ring::{CoreId, Epoch, Map, Vnode};

use crate::support::{at, hello, id, node, settings, version, vnodes};

pub(crate) const USER: &str = "alice";

pub(crate) fn online(of: protocol::Version) -> Stored {
    Stored {
        record: Record {
            status: Status::Online,
            devices: 1,
            version: of,
            ..Record::default()
        },
        connected: true,
        ..Stored::default()
    }
}

/// What the store was told to keep, in order: epoch, status, whether the user is connected.
pub(crate) type Written = Vec<(Epoch, Status, bool)>;

/// A core of node b, which has all vnodes under epoch 1 or none.
pub(crate) struct Bench {
    pub(crate) core: Core,
    map: Map,
    now: u64,
    /// The epoch that the store says the vnodes have.
    claimed: Epoch,
}

impl Bench {
    pub(crate) fn new(settings: Settings, mine: bool) -> Self {
        let nodes = ["b", "c"].map(|name| node(name, 1)).to_vec();
        let owner = Some(usize::from(!mine));
        let map = Map::empty(vnodes()).apply(nodes, &[owner, owner]);
        let mut core = Core::new(settings, Now::default());
        core.follow(&map, None, &id("b"), 1);
        Self {
            core,
            map,
            now: 0,
            claimed: Epoch::new(1),
        }
    }

    /// Moves the vnodes to node c.
    pub(crate) fn goes(&mut self) {
        self.follow(Some(1));
    }

    /// Moves the vnodes back from node c.
    pub(crate) fn comes(&mut self) {
        self.follow(Some(0));
    }

    fn follow(&mut self, owner: Option<usize>) {
        let nodes = self.map.nodes().to_vec();
        let next = self.map.apply(nodes, &[owner, owner]);
        self.core.follow(&next, Some(&self.map), &id("b"), 1);
        self.map = next;
    }

    pub(crate) fn connect(&mut self) -> SessionId {
        let hello = hello(USER);
        self.core.connect(&hello).expect("its vnode is here")
    }

    pub(crate) fn tick(&mut self, ms: u64) {
        self.now += ms;
        self.core.tick(at(self.now));
    }

    /// The store answers everything; claims only when `claims`, with `listed` for each vnode.
    pub(crate) fn store(&mut self, claims: bool, listed: &[(&str, Stored)]) -> Written {
        let mut written = Vec::new();
        let mut waiting = Vec::new();
        while let Some(request) = self.core.store_requests(1, |_, _| {}).pop() {
            let reply = match request {
                StoreRequest::Load { vnode, epoch, .. } if claims => StoreReply::Loaded {
                    vnode,
                    epoch,
                    released: false,
                    users: listed
                        .iter()
                        .map(|(name, stored)| ((*name).into(), stored.clone()))
                        .collect(),
                },
                StoreRequest::Load { .. } => {
                    waiting.push(request.failed());
                    continue;
                }
                StoreRequest::Release { vnode, epoch } => StoreReply::Released(vnode, epoch),
                StoreRequest::Owner { vnode } => StoreReply::Owner(vnode, Some(self.claimed)),
                StoreRequest::Read { ticket, .. } => StoreReply::Read(ticket, Epoch::new(1), None),
                StoreRequest::Write {
                    ticket,
                    epoch,
                    stored,
                    ..
                } => {
                    written.push((epoch, stored.record.status, stored.connected));
                    StoreReply::Written(ticket)
                }
            };
            self.core.store_reply(reply);
        }
        for reply in waiting {
            self.core.store_reply(reply);
        }
        written
    }
}

impl Bench {
    /// What the bus was given, all of which it takes.
    pub(crate) fn published(&mut self) -> Vec<Status> {
        let mut published = Vec::new();
        while let Some(event) = self.core.next_publication() {
            published.push(event.record.status);
            self.core.bus_reply(event.ticket, true);
        }
        published
    }
}

pub(crate) fn vnode_of(user: &str) -> Vnode {
    vnodes().vnode(user)
}

#[test]
fn what_an_owner_has_is_written_when_its_vnode_goes_while_it_is_claimed_again() {
    let mut bench = Bench::new(settings("b", 1), true);
    bench.store(true, &[]);
    bench.connect();
    let epoch = Epoch::new(1);
    assert_eq!(bench.store(true, &[]), [(epoch, Status::Online, true)]);
    bench.core.resync();
    bench.goes();
    assert_eq!(bench.store(true, &[]), [(epoch, Status::Online, true)]);
    assert_eq!(bench.core.vnodes_leaving(), 0, "all is released");
}

#[test]
fn what_another_owner_has_written_unnoticed_is_not_written_over_when_the_vnode_comes_back() {
    let mut bench = Bench::new(settings("b", 1), true);
    bench.store(true, &[]);
    let session = bench.connect();
    bench.store(true, &[]);
    let set = r#"{"type":"status","text":"before","mode":"busy"}"#;
    let message = decode(Encoding::Json, set.as_bytes()).expect("a message");
    bench.core.receive(session, message);
    bench.store(true, &[]);
    bench.published();
    // Node c has it under epoch 2, of which node b does not hear.
    let nodes = bench.map.nodes().to_vec();
    let unseen = bench.map.apply(nodes.clone(), &[Some(1), Some(1)]);
    let back = unseen.apply(nodes, &[Some(0), Some(0)]);
    bench.core.follow(&back, Some(&bench.map), &id("b"), 1);
    bench.map = back;
    let mut there = online(version(2, 9));
    there.record.text = "there".into();
    bench.store(true, &[(USER, there)]);
    let event = bench.core.next_publication().expect("it is said again");
    let record = event.record;
    assert_eq!((record.status, &*record.text), (Status::Online, "there"));
    assert_eq!(record.version.epoch(), Epoch::new(3));
}

#[test]
fn a_write_that_is_refused_late_is_made_again_under_the_epoch_that_is_left() {
    let mut bench = Bench::new(settings("b", 1), true);
    bench.store(true, &[]);
    bench.connect();
    let Some(StoreRequest::Read { ticket, .. }) = bench.core.store_requests(1, |_, _| {}).pop()
    else {
        panic!("the store is asked");
    };
    bench
        .core
        .store_reply(StoreReply::Read(ticket, Epoch::new(1), None));
    // Its answer comes when the vnode has gone, come back, and gone again.
    let Some(StoreRequest::Write { ticket, .. }) = bench.core.store_requests(1, |_, _| {}).pop()
    else {
        panic!("the store is told");
    };
    bench.goes();
    bench.comes();
    assert_eq!(bench.store(true, &[]), []);
    bench.goes();
    assert_eq!(bench.store(true, &[]), []);
    let refused = StoreReply::WriteFenced(ticket, Epoch::new(2));
    bench.core.store_reply(refused);
    let written = bench.store(true, &[]);
    assert_eq!(written, [(Epoch::new(3), Status::Online, true)]);
    assert_eq!(bench.core.vnodes_leaving(), 0, "it is released");
}

#[test]
fn a_store_that_lost_something_is_told_all_of_a_vnode_before_its_release() {
    let mut bench = Bench::new(settings("b", 1), true);
    bench.store(true, &[]);
    bench.connect();
    let online = (Epoch::new(1), Status::Online, true);
    assert_eq!(bench.store(true, &[]), [online]);
    bench.goes();
    bench.core.resync();
    assert_eq!(bench.store(true, &[]), [online]);
    assert_eq!(bench.core.vnodes_leaving(), 0, "it is released");
}

#[test]
fn a_release_that_failed_is_made_again_after_what_has_to_be_written_again() {
    let mut bench = Bench::new(settings("b", 1), true);
    bench.store(true, &[]);
    bench.connect();
    bench.store(true, &[]);
    bench.goes();
    while let Some(request) = bench.core.store_requests(1, |_, _| {}).pop() {
        assert!(
            matches!(request, StoreRequest::Release { .. }),
            "{request:?}"
        );
        bench.core.store_reply(request.failed());
    }
    bench.core.resync();
    bench.tick(100);
    let mut asked = Vec::new();
    while let Some(request) = bench.core.store_requests(1, |_, _| {}).pop() {
        match request {
            StoreRequest::Write { ticket, .. } => {
                asked.push("write");
                bench.core.store_reply(StoreReply::Written(ticket));
            }
            StoreRequest::Release { vnode, epoch } => {
                if vnode == vnode_of(USER) {
                    asked.push("release");
                }
                bench.core.store_reply(StoreReply::Released(vnode, epoch));
            }
            StoreRequest::Load { vnode, epoch, .. } => {
                if vnode == vnode_of(USER) {
                    asked.push("claim");
                }
                bench.core.store_reply(StoreReply::Loaded {
                    vnode,
                    epoch,
                    released: false,
                    users: Vec::new(),
                });
            }
            StoreRequest::Owner { vnode } => {
                let there = Some(Epoch::new(1));
                bench.core.store_reply(StoreReply::Owner(vnode, there));
            }
            other @ StoreRequest::Read { .. } => panic!("{other:?}"),
        }
    }
    assert_eq!(asked, ["claim", "write", "release"]);
    assert_eq!(bench.core.vnodes_leaving(), 0);
}

#[test]
fn who_came_and_left_while_the_store_was_away_is_written_when_it_is_back() {
    let mut bench = Bench::new(settings("b", 1), true);
    bench.store(true, &[]);
    bench.core.resync();
    let session = bench.connect();
    assert_eq!(bench.store(false, &[]), []);
    bench.core.closed(session, How::Clean);
    while bench.core.flush(64) {}
    assert_eq!(bench.store(false, &[]), []);
    while let Some(event) = bench.core.next_publication() {
        bench.core.bus_reply(event.ticket, true);
    }
    bench.tick(100);
    assert_eq!(bench.core.counters().users, 1, "it is not forgotten");
    let written = bench.store(true, &[]);
    assert_eq!(written, [(Epoch::new(1), Status::Offline, false)]);
    while let Some(event) = bench.core.next_publication() {
        bench.core.bus_reply(event.ticket, true);
    }
    bench.tick(100);
    assert_eq!(bench.core.counters().users, 0);
}

/// The user comes, leaves, and is forgotten; the store then has it as connected, as before it left.
fn left_and_forgotten() -> Bench {
    let mut bench = Bench::new(settings("b", 2), true);
    bench.store(true, &[]);
    let session = bench.connect();
    bench.store(true, &[]);
    bench.core.closed(session, How::Clean);
    let written = bench.store(true, &[]);
    assert_eq!(written, [(Epoch::new(1), Status::Offline, false)]);
    bench.published();
    bench.tick(100);
    assert_eq!(bench.core.counters().users, 0, "it is forgotten");
    bench
}

#[test]
fn whom_an_owner_saw_leave_a_store_that_went_back_does_not_show_again() {
    let mut bench = left_and_forgotten();
    bench.core.resync();
    let stale = [(USER, online(version(1, 1)))];
    let written = bench.store(true, &stale);
    assert_eq!(written, [(Epoch::new(1), Status::Offline, false)]);
    for _ in 0..300 {
        bench.tick(100);
        bench.store(true, &stale);
        assert!(bench.published().iter().all(|s| *s == Status::Offline));
    }
    assert_eq!(bench.core.counters().users, 0);
}

#[test]
fn whom_an_owner_saw_leave_is_not_shown_to_who_asks_before_the_store_is_told() {
    let mut bench = left_and_forgotten();
    bench
        .core
        .peer_message(CoreId::new(1), PeerMessage::Interest(USER.into()));
    let Some(StoreRequest::Read { ticket, .. }) = bench.core.store_requests(1, |_, _| {}).pop()
    else {
        panic!("the store is asked");
    };
    let stale = StoreReply::Read(ticket, Epoch::new(1), Some(online(version(1, 1))));
    bench.core.store_reply(stale);
    let written = bench.store(true, &[]);
    assert_eq!(written, [(Epoch::new(1), Status::Offline, false)]);
    assert_eq!(bench.published(), [Status::Offline]);
}

#[test]
fn whom_an_owner_saw_leave_is_not_shown_by_its_successor_when_the_store_lost_the_release() {
    let mut bench = left_and_forgotten();
    bench.goes();
    assert_eq!(bench.store(false, &[]), []);
    assert_eq!(bench.core.vnodes_leaving(), 0, "it is released");
    bench.core.resync();
    let stale = [(USER, online(version(1, 1)))];
    assert_eq!(bench.store(false, &stale), [], "the store does not answer");
    let written = bench.store(true, &stale);
    assert_eq!(written, [(Epoch::new(1), Status::Offline, false)]);
    assert_eq!(bench.core.vnodes_leaving(), 0, "it is released again");
    bench.published();
    bench.tick(100);
    assert_eq!(bench.core.counters().users, 0);
}

#[test]
fn whom_an_owner_saw_leave_is_not_shown_when_its_vnode_goes_before_it_is_claimed_again() {
    let mut bench = left_and_forgotten();
    bench.core.resync();
    bench.goes();
    let written = bench.store(true, &[(USER, online(version(1, 1)))]);
    assert_eq!(written, [(Epoch::new(1), Status::Offline, false)]);
    assert_eq!(bench.core.vnodes_leaving(), 0, "it is released");
}

#[test]
fn an_invisible_user_stays_so_when_its_successor_did_not_know_and_the_store_is_told_again() {
    let mut bench = Bench::new(settings("b", 1), true);
    bench.store(true, &[]);
    let session = bench.connect();
    bench.store(true, &[]);
    let wish = br#"{"type":"status","mode":"invisible"}"#;
    let wish = protocol::decode(Encoding::Json, wish).expect("a message");
    bench.core.receive(session, wish);
    bench.store(true, &[]);
    bench.goes();
    while let Some(request) = bench.core.store_requests(1, |_, _| {}).pop() {
        bench.core.store_reply(request.failed());
    }
    let record = online(version(2, 1)).record;
    let event = Event::of(USER, &record, vnode_of(USER), "c", Cause::Connect);
    bench.core.bus_event(&event);
    bench.core.resync();
    let mut modes = Vec::new();
    while let Some(request) = bench.core.store_requests(1, |_, _| {}).pop() {
        if let StoreRequest::Write { stored, .. } = &request {
            modes.push(stored.mode);
        }
        if modes.is_empty() {
            bench.core.store_reply(request.failed());
        }
    }
    assert_eq!(modes, [Mode::Invisible]);
}

#[test]
fn who_was_there_at_a_release_that_the_store_lost_is_written_before_it_is_made_again() {
    let mut bench = Bench::new(settings("b", 1), true);
    bench.store(true, &[]);
    bench.connect();
    let online = (Epoch::new(1), Status::Online, true);
    assert_eq!(bench.store(true, &[]), [online]);
    bench.published();
    bench.goes();
    bench.store(false, &[]);
    bench.tick(100);
    assert_eq!(bench.core.counters().users, 0, "it is forgotten");
    bench.core.resync();
    assert_eq!(bench.store(true, &[]), [online]);
    bench.published();
    assert_eq!(bench.core.vnodes_leaving(), 0, "it is released again");
    // Its successor has claimed it.
    bench.claimed = Epoch::new(2);
    bench.core.resync();
    assert_eq!(bench.store(true, &[]), []);
    bench.tick(100);
    assert_eq!(bench.core.counters().users, 0);
}

/// What the core claims when the store may have lost something, which says that the vnodes have that
/// epoch.
fn claimed_again(bench: &mut Bench, there: Epoch) -> usize {
    bench.core.resync();
    let mut claims = 0;
    while let Some(request) = bench.core.store_requests(1, |_, _| {}).pop() {
        let reply = match request {
            StoreRequest::Owner { vnode } => StoreReply::Owner(vnode, Some(there)),
            StoreRequest::Load { vnode, epoch, .. } => {
                claims += 1;
                StoreReply::LoadFenced(vnode, epoch, epoch.next())
            }
            other => panic!("{other:?}"),
        };
        bench.core.store_reply(reply);
    }
    claims
}

#[test]
fn what_was_released_is_claimed_again_only_in_a_store_that_went_back_to_that_epoch() {
    for (there, claims) in [(0, 0), (1, vnodes().get()), (2, 0)] {
        let mut bench = Bench::new(settings("b", 1), true);
        bench.store(true, &[]);
        bench.goes();
        bench.store(true, &[]);
        assert_eq!(
            claimed_again(&mut bench, Epoch::new(there)),
            claims,
            "{there}"
        );
        assert_eq!(
            claimed_again(&mut bench, Epoch::new(1)),
            0,
            "{there}: it is over"
        );
    }
}

#[test]
fn what_has_a_successor_is_not_looked_at_again() {
    let mut bench = Bench::new(settings("b", 1), true);
    bench.store(true, &[]);
    bench.goes();
    bench.store(true, &[]);
    for there in [1, 2] {
        bench.claimed = Epoch::new(there);
        for _ in 0..11 {
            bench.tick(100);
            bench.store(true, &[]);
        }
    }
    assert_eq!(claimed_again(&mut bench, Epoch::new(1)), 0);
}

#[test]
fn whom_another_owner_has_had_since_then_is_adopted() {
    let mut bench = left_and_forgotten();
    bench.core.resync();
    let written = bench.store(true, &[(USER, online(version(2, 1)))]);
    assert_eq!(written, [(Epoch::new(1), Status::Online, true)]);
}

#[test]
fn a_user_that_the_store_has_under_another_vnode_is_left_aside() {
    let mut bench = Bench::new(settings("b", 1), false);
    let owner = |vnode: Vnode| Some(usize::from(vnode == vnode_of(USER)));
    let owners: Vec<_> = vnodes().all().map(owner).collect();
    let next = bench.map.apply(bench.map.nodes().to_vec(), &owners);
    bench.core.follow(&next, Some(&bench.map), &id("b"), 1);
    assert_eq!(bench.core.vnodes_owned(), 1);
    assert_eq!(bench.store(true, &[(USER, online(version(1, 1)))]), []);
    assert_eq!(bench.core.counters().users, 0);
}

#[test]
fn without_a_grace_period_a_new_owner_is_not_waited_for_without_end() {
    let settings = Settings {
        grace: 0,
        ..settings("b", 2)
    };
    let mut bench = Bench::new(settings, false);
    let of_another_core = PeerMessage::Interest(USER.into());
    bench.core.peer_message(CoreId::new(1), of_another_core);
    bench.store(true, &[]);
    let record = online(version(1, 5)).record;
    let event = Event::of(USER, &record, vnode_of(USER), "c", Cause::Connect);
    bench.core.bus_event(&event);
    let nodes = [node("b", 1), node("d", 1)].to_vec();
    let next = bench.map.apply(nodes, &[Some(1), Some(1)]);
    bench.core.follow(&next, Some(&bench.map), &id("b"), 1);
    let mut reads = 0;
    for _ in 0..100 {
        bench.tick(100);
        if let Some(request) = bench.core.store_requests(1, |_, _| {}).pop() {
            reads += 1;
            bench.core.store_reply(request.failed());
        }
    }
    assert!(reads > 0, "the store is asked whether the user is there");
}

#[test]
fn a_claim_that_is_fenced_after_its_vnode_was_left_ends_all_work_for_it() {
    let mut bench = Bench::new(settings("b", 1), true);
    bench.store(true, &[]);
    bench.connect();
    bench.store(true, &[]);
    bench.core.resync();
    let claims: Vec<_> = bench.core.store_requests(usize::MAX, |_, _| {});
    bench.goes();
    assert_eq!(bench.core.vnodes_leaving(), 2);
    for claim in claims {
        let StoreRequest::Load { vnode, epoch, .. } = claim else {
            panic!("{claim:?} while all vnodes are claimed");
        };
        let fenced = StoreReply::LoadFenced(vnode, epoch, Epoch::new(2));
        bench.core.store_reply(fenced);
    }
    assert_eq!(bench.core.vnodes_leaving(), 0);
    let mut asked = bench.core.store_requests(usize::MAX, |_, _| {}).into_iter();
    let writes = asked.find(|request| matches!(request, StoreRequest::Write { .. }));
    assert_eq!((writes, bench.published()), (None, vec![]));
}

#[test]
fn a_core_that_stood_still_tells_the_bus_nothing_before_it_has_looked_whose_its_vnodes_are() {
    let mut bench = Bench::new(settings("b", 1), true);
    bench.store(true, &[]);
    bench.connect();
    bench.store(true, &[]);
    bench.core.at(at(5_000));
    assert!(bench.core.is_held());
    assert_eq!(bench.published(), []);
    bench.core.resume();
    assert_eq!(bench.published(), [Status::Online]);
}

#[test]
fn a_core_that_stood_still_shows_nobody_whom_the_store_was_not_asked_for() {
    let mut bench = Bench::new(settings("b", 1), true);
    bench.store(true, &[]);
    bench.connect();
    bench.core.at(at(5_000));
    let fail = |bench: &mut Bench| {
        let request = bench.core.store_requests(1, |_, _| {}).pop();
        let failed = request.expect("the user is read").failed();
        bench.core.store_reply(failed);
    };
    fail(&mut bench);
    bench.core.resume();
    assert_eq!(bench.published(), []);
    fail(&mut bench);
    assert_eq!(bench.published(), [Status::Online]);
}
