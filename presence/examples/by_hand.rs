//! A core driven by hand: bob watches alice, alice connects and goes away. A shell of sockets,
//! store and bus does the same with real ones.
//! `cargo run --release -p online-status-presence --example by_hand`

use online_status_presence::{
    Core, Hello, Now, Opening, Settings, StoreReply, StoreRequest, WatchBudget, WatchRule,
};
use protocol::{Encoding, decode};
use ring::{CoreId, Epoch, VnodeCount};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut core = Core::new(settings()?, at(0));
    for vnode in VnodeCount::new(2)?.all() {
        core.own(vnode, Epoch::new(1), 0);
    }
    let bob = core.connect(&hello("bob"))?;
    run(&mut core);
    let watch = br#"{"type":"watch","users":["alice"],"id":1}"#;
    core.receive(
        bob,
        decode(Encoding::Json, watch).map_err(|bad| bad.message)?,
    );
    run(&mut core);
    let alice = core.connect(&hello("alice"))?;
    run(&mut core);
    core.at(at(50));
    let away = br#"{"type":"status","status":"away","id":1}"#;
    core.receive(
        alice,
        decode(Encoding::Json, away).map_err(|bad| bad.message)?,
    );
    core.tick(at(100));
    run(&mut core);
    Ok(())
}

/// What a shell does after each batch of inputs: it answers for the store and the bus, and sends.
fn run(core: &mut Core) {
    while let Some(request) = core.store_requests(1, |_, _| {}).pop() {
        core.store_reply(match request {
            StoreRequest::Load { vnode, epoch, .. } => StoreReply::Loaded {
                vnode,
                epoch,
                released: true,
                users: Vec::new(),
            },
            StoreRequest::Release { vnode, epoch } => StoreReply::Released(vnode, epoch),
            StoreRequest::Owner { .. } => request.failed(),
            StoreRequest::Read { ticket, .. } => StoreReply::Read(ticket, Epoch::new(1), None),
            StoreRequest::Write { ticket, .. } => StoreReply::Written(ticket),
        });
    }
    while let Some(publication) = core.next_publication() {
        println!(
            "event: {} is {}",
            publication.user, publication.record.status
        );
        core.bus_reply(publication.ticket, true);
    }
    let mut more = true;
    while more {
        more = core.flush(1_024);
        for transmit in core.transmits() {
            let bytes = &core.arena()[transmit.range.clone()];
            println!("{:?}: {}", transmit.session, bytes.escape_ascii());
        }
    }
}

fn at(ms: u64) -> Now {
    Now {
        mono_us: ms * 1_000,
        wall_ms: 1_800_000_000_000 + ms,
    }
}

fn hello(user: &str) -> Hello<'_> {
    Hello {
        user,
        encoding: Encoding::Json,
        expires: 0,
        rule: WatchRule::Anyone,
        opening: Opening::default(),
        id: None,
    }
}

fn settings() -> Result<Settings, Box<dyn std::error::Error>> {
    Ok(Settings {
        node: "n1".into(),
        core: CoreId::new(0),
        cores: 1,
        vnodes: VnodeCount::new(2)?,
        seed: 1,
        cluster: false,
        starts_empty: None,
        grace: 15_000,
        clean_close_grace: 0,
        heartbeat: 25_000,
        heartbeat_timeout: 25_000,
        store_patience: 2_000,
        max_devices: 10,
        newest_wins: false,
        max_watches: 1_000,
        watches: WatchBudget::new(10_000),
        outbox: 65_536,
        max_message: 16_384,
        message_rate: 20,
        message_burst: 200,
        change_rate: 20,
        change_burst: 40,
        flush: 0,
        byte_rate: 65_536,
        byte_burst: 262_144,
    })
}
