//! Runs seeds of the simulation by hand: `online-status-simulation --seed 7 --trace`.

use clap::Parser;
use online_status_simulation::{Plan, World};

/// Runs the seeded simulation and checks the invariants.
#[derive(Parser)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Print what happens.
    #[arg(long)]
    trace: bool,
}

fn main() {
    let arguments = Arguments::parse();
    for seed in arguments.seed..arguments.seed + arguments.count {
        World::new(Plan::of(seed), arguments.trace).run();
    }
    println!(
        "{} seeds from {}: all invariants hold",
        arguments.count, arguments.seed
    );
}
