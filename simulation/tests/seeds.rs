//! The invariants of one node over many seeds. A failure names its seed; to see it happen:
//! `cargo run --release -p online-status-simulation -- --single --seed N --trace`.

use online_status_simulation::{Plan, World};

#[test]
fn the_invariants_hold_over_two_thousand_seeds() {
    for seed in 0..2_000 {
        World::new(Plan::of(seed), false).run();
    }
}

/// It is told what is new to it once for each question that it asks.
#[test]
fn a_client_that_asks_twice_may_be_told_twice() {
    World::new(Plan::of(8_741), false).run();
}

#[test]
fn the_invariants_hold_with_thousands_of_users() {
    for seed in 0..8 {
        World::new(
            Plan {
                seed,
                users: 2_000,
                steps: 400,
            },
            false,
        )
        .run();
    }
}
