//! The invariants of one node over many seeds. A failure names its seed; to see it happen:
//! `cargo run --release -p online-status-simulation -- --single --seed N --trace`.

use online_status_simulation::{Plan, World};

#[test]
fn the_invariants_hold_over_two_thousand_seeds() {
    for seed in 0..2_000 {
        World::new(Plan::of(seed), false).run();
    }
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
