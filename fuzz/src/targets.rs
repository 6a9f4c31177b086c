//! What reads the bytes of others in the libraries, held against the rules of each: a function a
//! format, which panics when a rule is broken. Those of the edge's sockets are in `edge/src/hostile.rs`.

use std::sync::{Arc, LazyLock};

use protocol::{
    Encoding, Event, FromOwner, Lease, LinkHello, Load, MAX_USERS_PER_MESSAGE, MessageId, Request,
    Stored, ToOwner, Version, check_user,
    client::MAX_ID,
    policy::{self, Entry, Policy, Subject},
};
use ring::{Map, MapVersion, VnodeCount, VnodeSet};
use token::{KeySet, Options, Verifier};
use xxhash_rust::xxh3::xxh3_64;

/// A target's name, which is that of its folder in the corpus, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets of this file.
pub const ALL: [Target; 12] = [
    ("client-json", client_json),
    ("client-cbor", client_cbor),
    ("event", event),
    ("record", record),
    ("lease", lease),
    ("link", link),
    ("pins", pins),
    ("map", map),
    ("policy", policy_entry),
    ("decree", decree),
    ("jwks", jwks),
    ("token", token),
];

/// A client's message as JSON.
pub fn client_json(bytes: &[u8]) {
    client(Encoding::Json, bytes);
}

/// A client's message as CBOR.
pub fn client_cbor(bytes: &[u8]) {
    client(Encoding::Cbor, bytes);
}

fn client(encoding: Encoding, bytes: &[u8]) {
    let is_id = |id: &Option<MessageId>| match id {
        Some(MessageId::Text(id)) => id.len() <= MAX_ID,
        Some(MessageId::Integer(_)) | None => true,
    };
    let message = match protocol::decode(encoding, bytes) {
        Ok(message) => message,
        Err(bad) => {
            // It is echoed, so that what came in must not come back in full.
            assert!(!bad.message.is_empty() && bad.message.len() < 1_000 && is_id(&bad.id));
            return;
        }
    };
    assert!(is_id(&message.id));
    match message.request {
        Request::Watch { users, known } => {
            are_users(&users);
            let mut versions = known.iter();
            assert!(versions.all(|(_, version)| Version::from_u64(*version).is_some()));
        }
        Request::Unwatch { users } | Request::Query { users } => are_users(&users),
        Request::Auth { alive, .. } => assert!(alive != Some(0)),
        Request::Status { status, mode, text } => {
            assert!(status.is_some() || mode.is_some() || text.is_some());
            let text = text.unwrap_or_default();
            assert!(text.len() <= protocol::MAX_TEXT && !text.chars().any(char::is_control));
        }
        Request::Ping | Request::Bye => {}
    }
}

fn are_users(users: &[impl AsRef<str>]) {
    assert!(users.len() <= MAX_USERS_PER_MESSAGE);
    assert!(users.iter().all(|user| check_user(user.as_ref()).is_ok()));
}

/// An event of the topic. What is written of it is read as it was.
pub fn event(bytes: &[u8]) {
    let Ok(event) = Event::decode(bytes) else {
        return;
    };
    assert!(check_user(&event.user).is_ok() && event.text.len() <= protocol::MAX_TEXT);
    assert_eq!(event.version.epoch(), event.epoch);
    let mut written = Vec::new();
    event.encode(&mut written);
    let again = Event::decode(&written).expect("it was written here");
    assert_eq!(again, event);
}

/// A record of the store, of which there is one form only.
pub fn record(bytes: &[u8]) {
    let Ok(stored) = Stored::decode(bytes) else {
        return;
    };
    let mut written = Vec::new();
    stored.encode(&mut written);
    assert_eq!(Stored::decode(&written), Ok(stored));
    assert_eq!(written, bytes);
}

/// A node's lease.
pub fn lease(bytes: &[u8]) {
    let Ok(lease) = Lease::decode(bytes) else {
        return;
    };
    assert_eq!(*lease.id(), *lease.node);
    let mut again = Lease::decode(lease.encode().as_bytes()).expect("it was written here");
    let rates = |load: &Load| {
        [
            load.events_per_second,
            load.cpu,
            load.deliveries_per_second,
            load.store_writes_per_second,
        ]
    };
    // serde_json reads a number with a fraction to the last digit but one.
    for (read, written) in rates(&again.load).iter().zip(rates(&lease.load)) {
        assert!((read - written).abs() <= written.abs() * 1e-12);
    }
    again.load = lease.load.clone();
    assert_eq!(again.encode(), lease.encode());
}

/// What comes over a link: a hello, and batches in both directions. What is read of a batch is what is
/// written again.
pub fn link(bytes: &[u8]) {
    if let Ok(hello) = LinkHello::decode(bytes) {
        let mut written = Vec::new();
        hello.encode(&mut written);
        assert_eq!(written, bytes);
    }
    let (mut left, mut written) = (bytes, Vec::new());
    while let Ok(Some(message)) = FromOwner::decode(&mut left) {
        if let FromOwner::State(_, user, record) = &message {
            assert!(check_user(user).is_ok() && record.text.len() <= protocol::MAX_TEXT);
        }
        message.encode(&mut written);
    }
    assert!(bytes.starts_with(&written));
    let (mut left, mut written) = (bytes, Vec::new());
    while let Ok(Some(message)) = ToOwner::decode(&mut left) {
        assert!(check_user(message.user()).is_ok());
        message.encode(&mut written);
    }
    assert!(bytes.starts_with(&written));
}

/// The vnodes that a lease asks for.
pub fn pins(bytes: &[u8]) {
    let count = VnodeCount::default();
    let text = String::from_utf8_lossy(bytes);
    let Ok(set) = VnodeSet::parse(&text, count) else {
        return;
    };
    let vnodes: Vec<_> = set.iter().collect();
    assert!(vnodes.is_sorted_by(|a, b| a < b) && vnodes.len() <= count.get());
    assert!(vnodes.iter().all(|vnode| set.contains(*vnode)));
    assert!(VnodeSet::parse(&set.to_string(), count) == Ok(set));
}

/// A map, as it stands there, and as one whose checksum is right.
pub fn map(bytes: &[u8]) {
    one_map(bytes);
    let body = &bytes[..bytes.len().saturating_sub(8)];
    one_map(&[body, &xxh3_64(body).to_le_bytes()].concat());
}

fn one_map(bytes: &[u8]) {
    let Ok(map) = Map::decode(bytes) else {
        return;
    };
    let again = Map::decode(&map.encode()).expect("it was written here");
    assert_eq!(again.encode(), map.encode());
    // What an edge and a coordinator ask of it.
    let highest = map.highest_epoch();
    for vnode in map.count().all() {
        assert!(map.epoch(vnode) <= highest);
        if let Some((node, _)) = map.owner(vnode) {
            assert!(map.nodes().contains(node));
        }
    }
    let owned = map
        .nodes()
        .iter()
        .map(|node| map.owned_by(&node.id).count());
    let _: usize = owned.sum();
    if map.version() < MapVersion::new(u64::MAX) && highest.get() < u32::MAX {
        let owners = map.owners_among(map.nodes());
        let next = map.apply(map.nodes().to_vec(), &owners);
        assert!(next.version() > map.version());
    }
}

/// An entry of the policy, under the name in the first line.
pub fn policy_entry(bytes: &[u8]) {
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let name = String::from_utf8_lossy(lines.next().unwrap_or_default());
    let Some(subject) = Subject::of_field(&name) else {
        return;
    };
    assert_eq!(subject.field(), name);
    let Ok(entry) = Entry::decode(lines.next().unwrap_or_default()) else {
        return;
    };
    let again = Entry::decode(entry.encode().as_bytes()).expect("it was written here");
    assert_eq!(again, entry);
    in_force(subject, &entry);
}

fn in_force(subject: Subject, entry: &Entry) {
    let mut policy = Policy::default();
    policy.set(subject.clone(), Some(entry.clone()));
    let _ = (policy::shown(&subject, entry), policy::revocations(&policy));
    let line = policy::audit("admin", &subject, Some(entry));
    assert!(!line.contains(['\n', '\r']), "a line of the log is one");
    let _ = policy.news_since(&Policy::default());
    let blocked = policy.blocks("alice", "bob");
    assert!(!blocked || matches!(subject, Subject::Blocks(_)));
    let is_in = policy.is_in("staff", "bob");
    assert!(!is_in || matches!(subject, Subject::Group(_)));
    policy.set(subject, None);
    assert!(policy.is_empty());
}

/// What an administrator asks for.
pub fn decree(bytes: &[u8]) {
    const NOW: u64 = 1_795_480_000_000;
    if let Ok((subject, entry)) = policy::revocation(bytes, "admin", NOW, 0) {
        assert!(entry.before <= NOW, "no token that is yet to come");
        in_force(subject, &entry);
    }
    if let Ok(Some(entry)) = policy::List::Blocks.read(bytes, "admin", NOW) {
        are_users(&entry.blocked);
        assert!(entry.blocked.len() <= policy::MAX_LISTED);
        in_force(Subject::Blocks("alice".into()), &entry);
    }
    if let Ok(Some(entry)) = policy::List::Group.read(bytes, "admin", NOW) {
        are_users(&entry.members);
        assert!(entry.members.len() <= policy::MAX_LISTED);
        in_force(Subject::Group("staff".into()), &entry);
    }
}

/// The tokens of the corpus that are good, of which each is signed by another kind of key.
const GOOD: [&str; 4] = [
    include_str!("../corpus/token/hs256"),
    include_str!("../corpus/token/rs256"),
    include_str!("../corpus/token/es256"),
    include_str!("../corpus/token/eddsa"),
];

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let algorithms = ["HS256", "RS256", "ES256", "EdDSA"];
    let options = Options {
        secret: token::DEVELOPMENT_SECRET.into(),
        algorithms: algorithms.map(str::to_owned).into(),
        jwks_url: "http://127.0.0.1/".into(),
        by_claim: true,
        ..Options::default()
    };
    let keys = KeySet::served(include_bytes!("../corpus/jwks/four")).expect("a key set");
    let verifier = Verifier::new(&options).expect("a secret, and a set that is served");
    let verifier = verifier.serving(Arc::new(keys));
    for good in GOOD {
        verifier.verify(good, 0).expect(good);
    }
    verifier
});

/// A key set that somebody serves: it has no secrets, and lets in nobody whom it should not.
pub fn jwks(bytes: &[u8]) {
    let Ok(set) = KeySet::served(bytes) else {
        return;
    };
    assert!(set.has_the_keys_of(&set) && set.ids().len() <= set.len());
    let _ = (VERIFIER.can_use(&set), VERIFIER.left_out(&set));
    let verifier = VERIFIER.serving(Arc::new(set));
    assert!(
        verifier.verify(GOOD[0], 0).is_ok(),
        "a secret is no served key"
    );
    for good in &GOOD[1..] {
        let _ = verifier.check(good, 0);
    }
}

/// A token: only those are taken that were signed.
pub fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match VERIFIER.check(text, 0) {
        Ok(claims) => {
            assert!(GOOD.contains(&text), "nobody signed this");
            let _ = (
                claims.rule.allows("bob", |_| true),
                claims.has_scope("admin"),
            );
        }
        // Its words go to clients and into logs.
        Err(refused) => assert!(refused.error.to_string().len() < 500),
    }
}
