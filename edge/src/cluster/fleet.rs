//! Keeps the node's lease and map: carries out the steps of `presence::Membership` on Redis and
//! brings it the answers. It decides nothing itself.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use keys::Keys;
use presence::{Found, Membership, Renewal, Step};
use program::{Trouble, Turn};
use protocol::Lease;
use redis_store::Link;
use ring::MapVersion;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tracing::{error, info, warn};

use super::place::{News, Place};
use crate::{clock, load::Busyness};

/// Between two looks whether there are keys.
const LOOK: Duration = Duration::from_millis(50);
/// How long after the start it is no trouble yet that no broker was reached, ms.
const STARTS: u64 = 10_000;

/// The members of the lease that never change.
pub(crate) struct Described {
    pub(crate) address: String,
    /// Where it takes links; empty = it has none.
    pub(crate) link: String,
    pub(crate) cores: u16,
    pub(crate) weight: u32,
    pub(crate) pins: String,
    pub(crate) ttl: Duration,
    /// From how much memory on it lets no new connection in, bytes; 0 = no limit.
    pub(crate) memory_limit: u64,
}

enum Answer {
    Renewed {
        sent: u64,
        /// The store's answer, or why there is none.
        renewal: Result<Renewal, String>,
    },
    Map {
        found: Option<Found>,
        /// What is wrong with the map that is there.
        unusable: Option<String>,
    },
}

fn now_ms() -> u64 {
    clock::mono_us() / 1_000
}

/// Waits for the keys of tokens: a node that can let nobody in must own nothing.
pub(super) async fn until_ready(place: &Place, keys: &Keys) {
    while !keys.are_ready() && !place.is_ending() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Runs until the node ends, or another process has its name.
pub(super) async fn keep(link: Link, place: &Place, described: &Described) {
    let mut membership = Membership::new(described.ttl.as_millis() as u64);
    let mut busyness = Busyness::default();
    let (sender, mut answers) = unbounded_channel();
    let mut hints = link.watch_map_as(&place.node, place.boot);
    let began = now_ms();
    let mut no_lease = Trouble::default();
    let mut no_map = Trouble::default();
    while !place.is_ending() {
        if place.take_stalled() {
            membership.stood_still(now_ms());
        }
        if place.take_read_wanted() {
            membership.map_changed();
        }
        place.set_lease_lapses(membership.lease_lapses(now_ms()));
        membership.met(place.highest_met());
        let (followed, moving) = place.progress();
        membership.progress(followed, moving);
        for step in membership.steps(now_ms()) {
            match step {
                Step::Renew { newcomer } => {
                    let lease = Lease {
                        node: place.node.to_string(),
                        boot: place.boot,
                        address: described.address.clone(),
                        cores: described.cores,
                        weight: described.weight,
                        pins: described.pins.clone(),
                        vnodes: place.homes.len() as u32,
                        draining: place.is_leaving(),
                        map_version: followed.get(),
                        highest_epoch: membership.highest_epoch().get(),
                        moving: moving as u32,
                        trouble: (place.not_publishing().filter(|_| now_ms() > began + STARTS))
                            .unwrap_or_default(),
                        link: described.link.clone(),
                        load: busyness.look(
                            clock::mono_us(),
                            &place.metrics,
                            place.consumer().as_deref(),
                            described.memory_limit,
                        ),
                    };
                    let renewing = renew(link.clone(), lease, described.ttl, newcomer);
                    send(&sender, renewing);
                }
                Step::ReadMap => {
                    let have = membership
                        .map()
                        .map_or(MapVersion::default(), |map| map.version());
                    send(&sender, read(link.clone(), have, place.homes.len()));
                }
                step => carry_out(place, &step),
            }
        }
        let now = now_ms();
        let due = Duration::from_millis(membership.next_due(now).saturating_sub(now));
        tokio::select! {
            Some(answer) = answers.recv() => match answer {
                Answer::Renewed { sent, renewal } => {
                    let error = renewal.as_ref().err().map(ToString::to_string);
                    place.unrenewed.store(error.clone().map(Arc::new));
                    match no_lease.turn(error) {
                        Some(Turn::Begins(error)) => warn!(
                            event = "lease_not_renewed",
                            "redis: the lease cannot be renewed, sessions are served all the same: {error}"
                        ),
                        Some(Turn::Ends) => {
                            info!(event = "lease_renewed", "redis: the lease is renewed again");
                        }
                        None => {}
                    }
                    let renewal = renewal.unwrap_or(Renewal::Failed);
                    if renewal == Renewal::Held {
                        place.has_lease_until(sent + described.ttl.as_millis() as u64);
                    }
                    if membership.renewed(sent, now_ms(), renewal) == Some(Step::GiveUp) {
                        give_up(place);
                    }
                }
                Answer::Map { found, unusable } => {
                    place.was_read();
                    for notice in link.take_notices() {
                        warn!(event = "redis_notice", "{notice}");
                    }
                    if unusable.is_some() {
                        place.unusable_maps.fetch_add(1, Ordering::Relaxed);
                    }
                    if found.is_some() || unusable.is_some() {
                        place.map_left_aside.store(unusable.clone().map(Arc::new));
                        match no_map.turn(unusable) {
                            Some(Turn::Begins(why)) => {
                                warn!(event = "map_left_aside", "redis: the map is left aside: {why}");
                            }
                            Some(Turn::Ends) => {
                                info!(event = "map_usable", "redis: the map can be used again");
                            }
                            None => {}
                        }
                    }
                    for step in membership.map_read(now_ms(), found) {
                        carry_out(place, &step);
                    }
                }
            },
            changed = hints.changed() => {
                // Without hints the map is read once a second all the same.
                if changed.is_err() {
                    hints = link.watch_map_as(&place.node, place.boot);
                }
                membership.map_changed();
            }
            () = place.notify.notified() => {}
            () = tokio::time::sleep(due) => {}
        }
    }
    // A lease that cannot be given back ends by itself.
    if let Err(error) = link.forget(&place.node, place.boot).await {
        warn!(
            event = "lease_left",
            "redis: the lease is left to end by itself: {error}"
        );
    }
}

fn send(sender: &UnboundedSender<Answer>, work: impl Future<Output = Answer> + 'static) {
    let sender = sender.clone();
    tokio::task::spawn_local(async move {
        // Nobody waits for it at the end.
        let _ = sender.send(work.await);
    });
}

async fn renew(link: Link, lease: Lease, ttl: Duration, newcomer: bool) -> Answer {
    let sent = now_ms();
    let renewal = match link.renew(&lease, ttl, newcomer).await {
        Ok(redis_store::Renewal::Refused) => Ok(Renewal::Refused),
        Ok(_) => Ok(Renewal::Held),
        Err(error) => Err(error.to_string()),
    };
    Answer::Renewed { sent, renewal }
}

async fn read(link: Link, have: MapVersion, vnodes: usize) -> Answer {
    let (map, incarnation, run_id) =
        tokio::join!(newer_map(&link, have), link.incarnation(), link.run_id());
    let (map, unusable) = match map {
        Ok(Some(map)) if map.count().get() != vnodes => {
            let count = map.count().get();
            let what = format!("it has {count} vnodes, and cluster.vnodes is {vnodes}");
            (None, Some(what))
        }
        Err(error @ redis_store::StoreError::CorruptMap { .. }) => (None, Some(error.to_string())),
        Ok(map) => (Some(map), None),
        // Why is said when the lease cannot be renewed.
        Err(_) => (None, None),
    };
    let found = match (map, incarnation, run_id) {
        (Some(map), Ok(incarnation), Ok(run_id)) => Some(Found {
            map,
            identity: format!("{incarnation} {run_id}"),
        }),
        _ => None,
    };
    Answer::Map { found, unusable }
}

async fn newer_map(
    link: &Link,
    have: MapVersion,
) -> Result<Option<ring::Map>, redis_store::StoreError> {
    if link.written_version().await? == Some(have) {
        return Ok(None);
    }
    link.map().await
}

fn carry_out(place: &Place, step: &Step) {
    match step {
        Step::Follow { map, before } => {
            place.map.store(Some(map.clone()));
            if let Some(links) = &place.links {
                links.look_soon();
            }
            place.tell(|| News::Follow {
                map: map.clone(),
                before: before.clone(),
            });
        }
        Step::Resume => place.tell(|| News::Resume),
        Step::Resync => {
            place.resyncs.fetch_add(1, Ordering::Relaxed);
            warn!(
                event = "store_replaced",
                "redis: another server or content than before: everything is written again"
            );
            place.tell(|| News::Resync);
        }
        Step::GiveUp => give_up(place),
        Step::Renew { .. } | Step::ReadMap => {}
    }
}

fn give_up(place: &Place) -> ! {
    error!(
        event = "node_replaced",
        node = %place.node,
        "node.id (NODE_ID) = {}: another process has this name now; this one ends, its \
         clients find their new node",
        place.node
    );
    program::log::flush();
    std::process::exit(1);
}
