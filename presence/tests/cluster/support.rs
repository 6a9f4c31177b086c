//! What tests of a cluster's core begin with: two vnodes, and nothing that time ends by itself.

use online_status_presence::{
    Core, Hello, Now, Opening, SessionId, Settings, StoreReply, StoreRequest, WatchBudget,
};
use protocol::{Encoding, Version, WatchRule, decode};
use ring::{CoreId, Epoch, Node, NodeId, VnodeCount};

pub(crate) const GRACE: u64 = 15_000;

pub(crate) fn vnodes() -> VnodeCount {
    VnodeCount::new(2).expect("a power of two")
}

pub(crate) fn version(epoch: u32, seq: u64) -> Version {
    Version::new(Epoch::new(epoch), seq).expect("in range")
}

pub(crate) fn id(name: &str) -> NodeId {
    NodeId::parse(name).expect("a name")
}

/// A node of that name, with that process behind it.
pub(crate) fn node(name: &str, boot: u64) -> Node {
    Node {
        id: id(name),
        boot,
        address: format!("ws://{name}/socket"),
        weight: 100,
    }
}

/// A session of the user as most are.
pub(crate) fn hello(user: &str) -> Hello<'_> {
    Hello {
        opening: Opening::default(),
        user,
        encoding: Encoding::Json,
        expires: 0,
        rule: WatchRule::Anyone,
        id: None,
    }
}

/// The time at which every clock shows `ms`.
pub(crate) fn at(ms: u64) -> Now {
    Now {
        mono_us: ms * 1_000,
        wall_ms: ms,
    }
}

/// The settings of a node's first core.
pub(crate) fn settings(node: &str, cores: u16) -> Settings {
    Settings {
        node: node.into(),
        core: CoreId::new(0),
        cores,
        vnodes: vnodes(),
        seed: 1,
        cluster: true,
        starts_empty: None,
        grace: GRACE,
        clean_close_grace: 0,
        heartbeat: 3_000_000,
        heartbeat_timeout: 3_000_000,
        store_patience: 2_000,
        max_devices: 10,
        max_watches: 10_000,
        newest_wins: false,
        watches: WatchBudget::new(u64::MAX),
        outbox: 1 << 24,
        max_message: 16_384,
        message_rate: 100,
        message_burst: 100,
        change_rate: 20,
        change_burst: 40,
        flush: 0,
        byte_rate: 1 << 20,
        byte_burst: 1 << 24,
    }
}

/// Lets a store that has nobody, and whose newest epoch is this one, and the bus answer all that they are asked.
pub(crate) fn answer(core: &mut Core, claimed: u32) {
    while let Some(request) = core.store_requests(1, |_, _| {}).pop() {
        core.store_reply(match request {
            StoreRequest::Load { vnode, epoch, .. } => StoreReply::Loaded {
                vnode,
                epoch,
                released: true,
                users: Vec::new(),
            },
            StoreRequest::Read { ticket, .. } => {
                StoreReply::Read(ticket, Epoch::new(claimed), None)
            }
            StoreRequest::Write { ticket, .. } => StoreReply::Written(ticket),
            other => other.failed(),
        });
    }
    while let Some(publication) = core.next_publication() {
        core.bus_reply(publication.ticket, true);
    }
}

/// The session's client sends this message.
pub(crate) fn say(core: &mut Core, session: SessionId, text: &str) {
    let message = decode(Encoding::Json, text.as_bytes()).expect("good");
    core.receive(session, message);
}
