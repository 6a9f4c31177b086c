//! What a change and a delivery cost, in things that can be counted on any machine.

use online_status_presence::{Core, SessionId, StoreReply, StoreRequest};

use crate::window::{core, status, watched};

const WATCHERS: u64 = 1_000;
const CHANGES: u64 = 100;

/// Requests to the store and the bus, and sends to watchers.
#[derive(Default)]
struct Cost {
    writes: u64,
    events: u64,
    sends: u64,
}

fn change(core: &mut Core, alice: SessionId, n: u64, cost: &mut Cost) {
    status(
        core,
        alice,
        if n.is_multiple_of(2) { "here" } else { "there" },
    );
    while let Some(request) = core.store_requests(1, |_, _| {}).pop() {
        let StoreRequest::Write { ticket, .. } = request else {
            panic!("nothing else is asked of the store: {request:?}");
        };
        cost.writes += 1;
        core.store_reply(StoreReply::Written(ticket));
    }
    while let Some(publication) = core.next_publication() {
        cost.events += 1;
        core.bus_reply(publication.ticket, true);
    }
    while {
        let more = core.flush(64);
        cost.sends += core.transmits().len() as u64;
        more
    } {}
}

#[test]
fn a_delivery_allocates_nothing_and_a_change_is_one_write_and_one_event() {
    let mut core = core(0);
    let (alice, _) = watched(&mut core, WATCHERS as usize);
    // Until what is kept for the next change has its size.
    for n in 0..10 {
        change(&mut core, alice, n, &mut Cost::default());
    }
    let mut cost = Cost::default();
    let allocated = allocation_counter::measure(|| {
        for n in 0..CHANGES {
            change(&mut core, alice, n, &mut cost);
        }
    });
    assert_eq!((cost.writes, cost.events), (CHANGES, CHANGES));
    // The watchers', and the answer to who changed.
    assert_eq!(cost.sends, CHANGES * (WATCHERS + 1));
    let a_change = allocated.count_total / CHANGES;
    assert!(a_change <= 12, "{a_change} allocations a change");
    assert_eq!(allocated.bytes_current, 0, "nothing is kept of a change");
}
