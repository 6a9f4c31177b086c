//! Versions that clients claim to know (`known`), of users on another node. A core looks for what a
//! newer owner can have made, and must not be kept busy with what was made up.

use crate::support::{at, hello, id, node, settings, version, vnodes};
use online_status_presence::{Core, Now, SessionId, StoreReply, StoreRequest};
use protocol::{Encoding, Record, Status, Stored, Version};
use ring::{Epoch, Map, MapVersion};

/// The epoch of all vnodes.
const EPOCH: u32 = 20_000;

/// A core of node `a`, which has vnode 0; `b` has vnode 1.
struct Bench {
    core: Core,
    now: u64,
    map: Map,
    /// What the store has of every user of vnode 1.
    status: Status,
    /// Claims that the store does not answer; `None` = it answers all.
    held: Option<Vec<StoreRequest>>,
    watcher: SessionId,
    /// The text of all that the watcher was sent.
    sent: String,
}

impl Bench {
    fn new() -> Self {
        let mut core = Core::new(settings("a", 1), Now::default());
        let map = Map::empty(vnodes()).apply(vec![node("a", 1), node("b", 2)], &[Some(0), Some(1)]);
        let map = map.raised(MapVersion::new(1), Epoch::new(EPOCH - 1));
        core.follow(&map, None, &id("a"), 1);
        let mut bench = Self {
            core,
            now: 0,
            map,
            status: Status::Online,
            held: None,
            watcher: SessionId {
                index: 0,
                generation: 0,
            },
            sent: String::new(),
        };
        bench.run(100);
        bench.watcher = bench.connect(0);
        bench
    }

    /// The session of the nth user.
    fn connect(&mut self, nth: usize) -> SessionId {
        let user = names(0).nth(nth).expect("a user");
        let hello = hello(&user);
        let session = self.core.connect(&hello).expect("its vnode is here");
        self.run(100);
        session
    }

    /// Watches the users, with the version that is claimed to be known of each.
    fn watch(&mut self, users: &[String], known: Version) {
        let known = users.iter().map(|user| (user.clone(), known.get().into()));
        let known: serde_json::Map<String, serde_json::Value> = known.collect();
        let message =
            serde_json::json!({ "type": "watch", "users": users, "known": known, "id": 1 });
        let message = message.to_string();
        let message = protocol::decode(Encoding::Json, message.as_bytes()).expect("a message");
        self.core.receive(self.watcher, message);
    }

    /// Lets that time pass, with a store that answers at once; how many reads it was asked.
    fn run(&mut self, ms: u64) -> usize {
        let mut reads = 0;
        let end = self.now + ms;
        while self.now < end {
            self.now += 100;
            self.core.tick(at(self.now));
            while let Some(request) = self.core.store_requests(1, |_, _| {}).pop() {
                reads += usize::from(matches!(request, StoreRequest::Read { .. }));
                match &mut self.held {
                    Some(held) if matches!(request, StoreRequest::Load { .. }) => {
                        held.push(request);
                    }
                    _ => self.core.store_reply(answer(&request, self.status)),
                }
            }
            while self.core.flush(64) {}
            for transmit in self.core.transmits() {
                let bytes = &self.core.arena()[transmit.range.clone()];
                self.sent.push_str(&String::from_utf8_lossy(bytes));
            }
        }
        reads
    }

    fn was_told_of(&self, user: &str) -> bool {
        self.sent
            .contains(&format!("\"user\":\"{user}\",\"status\":\"online\""))
    }
}

/// Every user has this status, at the first version of the epoch.
fn answer(request: &StoreRequest, status: Status) -> StoreReply {
    match *request {
        StoreRequest::Load { vnode, epoch, .. } => StoreReply::Loaded {
            vnode,
            epoch,
            released: false,
            users: Vec::new(),
        },
        StoreRequest::Release { vnode, epoch } => StoreReply::Released(vnode, epoch),
        StoreRequest::Owner { .. } => request.failed(),
        StoreRequest::Write { ticket, .. } => StoreReply::Written(ticket),
        StoreRequest::Read { ticket, .. } => {
            let stored = Stored {
                record: Record {
                    status,
                    devices: u32::from(status == Status::Online),
                    version: version(EPOCH, 1),
                    ..Record::default()
                },
                connected: status == Status::Online,
                ..Stored::default()
            };
            StoreReply::Read(ticket, Epoch::new(EPOCH), Some(stored))
        }
    }
}

/// Users of that vnode.
fn names(vnode: u16) -> impl Iterator<Item = String> {
    let names = (0..).map(|n| format!("u{n}"));
    names.filter(move |name| vnodes().vnode(name).get() == vnode)
}

#[test]
fn a_version_that_no_owner_can_have_made_is_answered_at_once_and_asked_for_no_more() {
    for known in [
        version(EPOCH + 1_000, 0),
        version(Version::MAX_EPOCH, Version::MAX_SEQ),
    ] {
        let mut bench = Bench::new();
        let user: Vec<String> = names(1).take(1).collect();
        bench.watch(&user, known);
        assert_eq!(bench.run(40_000), 1);
        assert!(bench.was_told_of(&user[0]), "{}", bench.sent);
        assert_eq!(bench.core.counters().not_believed, 1);
    }
}

#[test]
fn what_a_newer_owner_may_have_made_is_looked_for_until_it_is_no_use() {
    let mut bench = Bench::new();
    let user: Vec<String> = names(1).take(1).collect();
    bench.watch(&user, version(EPOCH + 2, 7));
    let reads = bench.run(29_000);
    assert!(reads > 50, "{reads}");
    assert!(!bench.was_told_of(&user[0]), "nothing older is sent");
    bench.run(2_000);
    assert!(bench.was_told_of(&user[0]));
    assert_eq!(bench.run(10_000), 0);
    assert_eq!(bench.core.counters().not_believed, 0);
}

#[test]
fn a_client_that_makes_up_versions_keeps_neither_the_store_busy_nor_others_from_it() {
    const LIMIT: usize = 512;
    let mut bench = Bench::new();
    let users: Vec<String> = names(1).take(3_000).collect();
    for users in users.chunks(1_000) {
        bench.watch(users, version(EPOCH + 1, 1));
        bench.run(100);
    }
    assert_eq!(
        bench.core.counters().not_believed,
        (users.len() - LIMIT) as u64
    );
    let told = |bench: &Bench| users.iter().filter(|user| bench.was_told_of(user)).count();
    assert_eq!(
        told(&bench),
        users.len() - LIMIT,
        "the rest is answered at once"
    );
    for _ in 0..20 {
        assert!(bench.run(300) <= LIMIT);
    }
    bench.watcher = bench.connect(1);
    let other: Vec<String> = names(1).skip(3_000).take(1).collect();
    bench.watch(&other, version(EPOCH + 1, 1));
    bench.run(20_000);
    assert!(!bench.was_told_of(&other[0]), "it is looked for");
    bench.run(30_000);
    assert_eq!(told(&bench), users.len());
    assert_eq!(bench.run(10_000), 0);
}

#[test]
fn all_clients_of_a_core_keep_the_store_within_a_limit() {
    const LIMIT: usize = 1_024;
    let mut bench = Bench::new();
    let users: Vec<String> = names(1).take(20 * 64).collect();
    for (n, users) in users.chunks(64).enumerate() {
        bench.watcher = bench.connect(1 + n);
        bench.watch(users, version(EPOCH + 1, 1));
    }
    bench.run(100);
    let refused = (users.len() - LIMIT) as u64;
    assert_eq!(bench.core.counters().not_believed, refused);
    assert!(bench.run(300) <= LIMIT);
}

#[test]
fn a_session_is_not_told_that_its_own_user_is_gone_while_its_vnode_is_not_claimed_yet() {
    let mut bench = Bench::new();
    bench.status = Status::Offline;
    let user: Vec<String> = names(1).take(1).collect();
    // Somebody else knows a version that is looked for.
    bench.watch(&user, version(EPOCH + 2, 7));
    bench.run(500);
    // The vnode is this node's now, and its former owner has not let go of it.
    bench.held = Some(Vec::new());
    let map = bench.map.apply(vec![node("a", 1)], &[Some(0), Some(0)]);
    bench.core.follow(&map, Some(&bench.map), &id("a"), 1);
    bench.watcher = bench.core.connect(&hello(&user[0])).expect("it is here");
    bench.run(1_500);
    bench.watch(&user, version(EPOCH, 1));
    bench.run(10_000);
    let gone = format!("\"user\":\"{}\",\"status\":\"offline\"", user[0]);
    assert!(!bench.sent.contains(&gone), "{}", bench.sent);
    for claim in bench.held.take().expect("it held them") {
        bench.core.store_reply(answer(&claim, bench.status));
    }
    bench.run(1_000);
    assert!(bench.was_told_of(&user[0]), "{}", bench.sent);
    assert!(!bench.sent.contains(&gone), "{}", bench.sent);
}

#[test]
fn an_owner_answers_at_once_of_a_version_that_it_would_have_made_itself() {
    let mut bench = Bench::new();
    let user: Vec<String> = names(0).skip(1).take(1).collect();
    bench.watch(&user, version(EPOCH, 1_000));
    bench.run(200);
    let told = format!("[{{\"user\":\"{}\",\"status\":\"offline\"", user[0]);
    assert!(bench.sent.contains(&told), "{}", bench.sent);
    assert_eq!(bench.core.counters().not_believed, 1);
}

/// The store has nothing of any user but those who came.
#[test]
fn of_users_that_never_were_little_is_kept_whatever_clients_claim_to_know() {
    const AT_ONCE: usize = 1_000;
    let mut core = Core::new(settings("a", 1), Now::default());
    let map = Map::empty(vnodes()).apply(vec![node("a", 1)], &[Some(0), Some(0)]);
    let map = map.raised(MapVersion::new(1), Epoch::new(EPOCH - 1));
    core.follow(&map, None, &id("a"), 1);
    crate::support::answer(&mut core, EPOCH);
    let users: Vec<String> = names(0).take(2_002).collect();
    let watcher = core.connect(&hello(&users[0])).expect("it is here");
    core.connect(&hello(&users[1])).expect("it is here");
    crate::support::answer(&mut core, EPOCH);
    // How many of them the store, and then the topic, are given.
    let mut claim = |users: &[String], seq, now| {
        core.tick(at(now));
        let known = users
            .iter()
            .map(|user| (user.clone(), version(EPOCH, seq).get().into()));
        let known: serde_json::Map<String, serde_json::Value> = known.collect();
        let message = serde_json::json!({ "type": "watch", "users": users, "known": known });
        crate::support::say(&mut core, watcher, &message.to_string());
        let (mut written, mut published) = (0, 0);
        while let Some(request) = core.store_requests(1, |_, _| {}).pop() {
            core.store_reply(match request {
                StoreRequest::Read { ticket, .. } => {
                    StoreReply::Read(ticket, Epoch::new(EPOCH), None)
                }
                StoreRequest::Write { ticket, .. } => {
                    written += 1;
                    StoreReply::Written(ticket)
                }
                other => other.failed(),
            });
        }
        while let Some(publication) = core.next_publication() {
            published += 1;
            core.bus_reply(publication.ticket, true);
        }
        while core.flush(64) {}
        (written, published)
    };
    let (first, second) = users[2..].split_at(AT_ONCE);
    assert_eq!(claim(first, 1, 100), (AT_ONCE, AT_ONCE));
    assert_eq!(claim(second, 1, 200), (0, 0));
    // They have a version all the same, and who was there before one that is kept.
    assert_eq!(claim(&second[..10], AT_ONCE as u64 + 3, 300), (0, 0));
    assert_eq!(claim(&users[1..2], AT_ONCE as u64, 400), (1, 1));
    let other: Vec<String> = names(0).skip(5_000).take(10).collect();
    assert_eq!(claim(&other, 1, 1_300), (1, 1));
}
