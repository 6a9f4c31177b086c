//! Two nodes that hear each other over links: `a` has vnode 0 and `b` vnode 1. What a link loses, and who
//! has the vnode next, makes no difference in the end.

use crate::support::{at, hello, id, node, settings, version, vnodes};
use online_status_presence::{Core, SessionId, StoreReply, StoreRequest};
use protocol::{Encoding, FromOwner, Record, Status, Stored, ToOwner};
use ring::{Epoch, Map, MapVersion, Vnode};

const EPOCH: u32 = 7;
/// The link on which `a` watches.
const LINK: u32 = 5;

fn user_of(vnode: u16) -> String {
    let mut names = (0..).map(|n| format!("u{n}"));
    let there = |name: &String| vnodes().vnode(name) == Vnode::new(vnode);
    names.find(there).expect("there are many")
}

fn state(epoch: u32, seq: u64, status: Status) -> FromOwner {
    let record = Record {
        status,
        devices: u32::from(status != Status::Offline),
        version: version(epoch, seq),
        ..Record::default()
    };
    FromOwner::State(Epoch::new(epoch), user_of(1).into(), record)
}

/// The core of node `a`, whose session watches the user of `b`.
struct Watching {
    core: Core,
    session: SessionId,
    now: u64,
    reads: u32,
    /// What the store has of the user.
    stored: Option<Stored>,
}

impl Watching {
    fn new() -> Self {
        let mut core = Core::new(settings("a", 1), at(1));
        core.hear_by_links(false);
        let map = Map::empty(vnodes()).apply(vec![node("a", 1), node("b", 2)], &[Some(0), Some(1)]);
        let map = map.raised(MapVersion::new(1), Epoch::new(EPOCH - 1));
        core.follow(&map, None, &id("a"), 1);
        let mut this = Self {
            core,
            session: SessionId {
                index: 0,
                generation: 0,
            },
            now: 1,
            reads: 0,
            stored: None,
        };
        this.serve();
        let user = user_of(0);
        this.session = this.core.connect(&hello(&user)).expect("its vnode is here");
        this.serve();
        this.say(&format!(r#"{{"type":"watch","users":["{}"]}}"#, user_of(1)));
        this
    }

    fn say(&mut self, text: &str) -> String {
        let message = protocol::decode(Encoding::Json, text.as_bytes()).expect("a message");
        self.core.receive(self.session, message);
        self.serve()
    }

    /// Lets store and bus answer; what the session is sent.
    fn serve(&mut self) -> String {
        while let Some(request) = self.core.store_requests(1, |_, _| {}).pop() {
            let reply = match request {
                StoreRequest::Load { vnode, epoch, .. } => StoreReply::Loaded {
                    vnode,
                    epoch,
                    released: true,
                    users: Vec::new(),
                },
                StoreRequest::Read { ticket, vnode, .. } => {
                    let other = vnode == Vnode::new(1);
                    self.reads += u32::from(other);
                    let stored = self.stored.clone().filter(|_| other);
                    StoreReply::Read(ticket, Epoch::new(EPOCH), stored)
                }
                StoreRequest::Write { ticket, .. } => StoreReply::Written(ticket),
                StoreRequest::Release { vnode, epoch } => StoreReply::Released(vnode, epoch),
                other @ StoreRequest::Owner { .. } => other.failed(),
            };
            self.core.store_reply(reply);
        }
        while let Some(publication) = self.core.next_publication() {
            self.core.bus_reply(publication.ticket, true);
        }
        let mut sent = String::new();
        loop {
            let more = self.core.flush(100);
            sent += &String::from_utf8_lossy(self.core.arena());
            if !more {
                return sent;
            }
        }
    }

    fn hear(&mut self, message: FromOwner) -> String {
        self.core.owner_says(LINK, message);
        self.serve()
    }

    fn tells(&mut self, link: u32) -> Vec<ToOwner> {
        std::iter::from_fn(|| self.core.next_for_owner(link)).collect()
    }

    fn pass(&mut self, ms: u64) -> String {
        let end = self.now + ms;
        while self.now < end {
            self.now += 100;
            self.core.tick(at(self.now));
        }
        self.serve()
    }
}

fn interest(epoch: u32) -> ToOwner {
    ToOwner::Interest(Epoch::new(epoch), user_of(1).into())
}

#[test]
fn interest_goes_to_who_says_that_it_owns_and_ends_with_the_last_watch() {
    let mut a = Watching::new();
    a.core.owner_linked(LINK);
    assert_eq!(a.tells(LINK), [], "nobody has said that it owns the vnode");
    a.hear(FromOwner::Owns(Vnode::new(1), Epoch::new(EPOCH)));
    assert_eq!(a.tells(LINK), [interest(EPOCH)]);
    assert!(
        a.hear(state(EPOCH, 1, Status::Online))
            .contains(r#""status":"online""#)
    );
    assert_eq!(
        a.hear(state(EPOCH, 1, Status::Online)),
        "",
        "the same twice"
    );
    a.say(&format!(
        r#"{{"type":"unwatch","users":["{}"]}}"#,
        user_of(1)
    ));
    assert_eq!(a.tells(LINK), [ToOwner::Uninterest(user_of(1).into())]);
    // One that crossed it is not kept, and who sent it is told once more.
    a.hear(state(EPOCH, 2, Status::Away));
    assert_eq!(a.tells(LINK), [ToOwner::Uninterest(user_of(1).into())]);
    a.pass(200);
    assert_eq!(a.core.counters().users, 1, "the session's own user");
}

#[test]
fn a_former_owner_is_not_heard_and_the_next_is_asked_anew() {
    let mut a = Watching::new();
    a.core.owner_linked(LINK);
    a.hear(FromOwner::Owns(Vnode::new(1), Epoch::new(EPOCH)));
    a.tells(LINK);
    a.core.owner_linked(6);
    a.core
        .owner_says(6, FromOwner::Owns(Vnode::new(1), Epoch::new(EPOCH + 1)));
    assert_eq!(a.hear(state(EPOCH, 9, Status::Busy)), "", "it was fenced");
    assert_eq!(
        (a.tells(LINK), a.tells(6)),
        (vec![], vec![interest(EPOCH + 1)])
    );
    a.core.owner_says(6, state(EPOCH + 1, 1, Status::Away));
    assert!(a.serve().contains(r#""status":"away""#));
    // What the former one announces late, by a link that was slow, changes nothing.
    a.hear(FromOwner::Owns(Vnode::new(1), Epoch::new(EPOCH)));
    assert_eq!((a.tells(LINK), a.tells(6)), (vec![], vec![]));
}

#[test]
fn whom_no_link_covers_is_read_from_the_store_until_one_does() {
    let mut a = Watching::new();
    a.core.owner_linked(LINK);
    a.hear(FromOwner::Owns(Vnode::new(1), Epoch::new(EPOCH)));
    a.tells(LINK);
    let before = a.reads;
    a.pass(5_000);
    assert_eq!((a.reads, a.core.counters().unheard), (before, 0));
    a.core.unlinked(LINK);
    a.stored = Some(Stored {
        record: Record {
            status: Status::Busy,
            version: version(EPOCH, 3),
            ..Record::default()
        },
        ..Stored::default()
    });
    assert!(a.pass(2_000).contains(r#""status":"busy""#));
    let counters = a.core.counters();
    assert_eq!(counters.unheard, 1);
    assert!(counters.unheard_reads > 0);
    a.core.owner_linked(8);
    a.core
        .owner_says(8, FromOwner::Owns(Vnode::new(1), Epoch::new(EPOCH)));
    assert_eq!(a.tells(8), [interest(EPOCH)]);
    a.pass(1_600);
    let reads = a.reads;
    a.pass(5_000);
    assert_eq!((a.reads, a.core.counters().unheard), (reads, 0));
}

#[test]
fn an_owner_answers_interest_tells_each_change_and_forgets_it_with_the_vnode() {
    let mut a = Watching::new();
    a.core.watcher_linked(9);
    let says = |a: &mut Watching| -> Vec<FromOwner> {
        std::iter::from_fn(|| a.core.next_for_watcher(9)).collect()
    };
    let owns = FromOwner::Owns(Vnode::new(0), Epoch::new(EPOCH));
    assert_eq!(says(&mut a), [owns]);
    let user: Box<str> = user_of(0).into();
    let late = ToOwner::Interest(Epoch::new(EPOCH - 1), user.clone());
    a.core.watcher_says(9, late);
    assert_eq!(
        says(&mut a),
        [],
        "it goes by the word of an owner before this one"
    );
    let asks = ToOwner::Interest(Epoch::new(EPOCH), user);
    a.core.watcher_says(9, asks.clone());
    let status = |messages: &[FromOwner]| match messages {
        [FromOwner::State(_, _, record)] => Some(record.status),
        _ => None,
    };
    assert_eq!(status(&says(&mut a)), Some(Status::Online));
    a.say(r#"{"type":"status","status":"away"}"#);
    assert_eq!(status(&says(&mut a)), Some(Status::Away));
    // Another node has it now.
    let map = Map::empty(vnodes()).apply(vec![node("b", 2)], &[Some(0), Some(0)]);
    let map = map.raised(MapVersion::new(2), Epoch::new(EPOCH + 1));
    a.core.follow(&map, None, &id("a"), 1);
    a.serve();
    assert_eq!(says(&mut a), [FromOwner::Left(Vnode::new(0))]);
    a.core.watcher_says(9, asks);
    a.pass(300);
    assert_eq!((says(&mut a), a.core.counters().users), (vec![], 0));
}

#[test]
fn what_only_a_watcher_has_seen_of_the_owners_epoch_is_asked_of_the_owner_and_answered_soon() {
    let mut a = Watching::new();
    let user = user_of(1);
    a.core.owner_linked(LINK);
    a.hear(FromOwner::Owns(Vnode::new(1), Epoch::new(EPOCH)));
    a.tells(LINK);
    a.hear(state(EPOCH, 3, Status::Online));
    let known = version(EPOCH, 9).get();
    a.say(&format!(r#"{{"type":"unwatch","users":["{user}"]}}"#));
    let watch = format!(r#"{{"type":"watch","users":["{user}"],"known":{{"{user}":{known}}}}}"#);
    a.say(&watch);
    assert_eq!(a.tells(LINK), [interest(EPOCH)], "the owner is asked again");
    assert_eq!(a.pass(5_000), "", "it has not answered");
    // What it had sent before it was asked.
    assert_eq!(a.hear(state(EPOCH, 3, Status::Online)), "");
    assert_eq!(a.pass(800), "");
    assert!(
        a.hear(state(EPOCH, 9, Status::Away)).is_empty(),
        "the watcher has it"
    );
    assert_eq!(a.pass(40_000), "");

    // One that nobody has made.
    a.say(&format!(r#"{{"type":"unwatch","users":["{user}"]}}"#));
    a.say(&watch.replace(&known.to_string(), &version(EPOCH, 90).get().to_string()));
    a.tells(LINK);
    a.hear(state(EPOCH, 9, Status::Away));
    let told = a.pass(1_200);
    assert!(told.contains(r#""status":"away""#), "{told}");
}

#[test]
fn an_owner_that_is_lost_denies_nothing() {
    let mut a = Watching::new();
    let user = user_of(1);
    a.core.owner_linked(LINK);
    a.hear(FromOwner::Owns(Vnode::new(1), Epoch::new(EPOCH)));
    a.tells(LINK);
    a.hear(state(EPOCH, 3, Status::Online));
    a.say(&format!(r#"{{"type":"unwatch","users":["{user}"]}}"#));
    let known = version(EPOCH, 9).get();
    a.say(&format!(
        r#"{{"type":"watch","users":["{user}"],"known":{{"{user}":{known}}}}}"#
    ));
    a.tells(LINK);
    a.hear(state(EPOCH, 3, Status::Online));
    a.core.unlinked(LINK);
    assert_eq!(a.pass(20_000), "", "its newest state may be with nobody");
}
