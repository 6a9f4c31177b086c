//! Runs seeds of the simulations by hand: `online-status-simulation --seed 7 --trace`.

use clap::Parser;
use online_status_simulation::{
    Plan, World,
    cluster::{self, Fault},
};

/// Runs the seeded simulations and checks the invariants.
#[derive(Parser)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// One node instead of a cluster.
    #[arg(long)]
    single: bool,
    /// These kinds of faults in every cluster, whatever its seed says: `StoreAway,Kill`.
    #[arg(long, value_delimiter = ',', value_parser = fault)]
    faults: Vec<Fault>,
    /// So many users in every cluster.
    #[arg(long)]
    users: Option<u64>,
    /// Nodes hear each other over links in every cluster, and these break in some.
    #[arg(long)]
    links: bool,
    /// So many changes of a user a second are told to its watchers, in every process of every cluster.
    #[arg(long)]
    change_rate: Option<u32>,
    /// Go on after a failure, and count them.
    #[arg(long)]
    all: bool,
    /// Print what happens.
    #[arg(long)]
    trace: bool,
}

/// Seeds between two lines of progress.
const PROGRESS: u64 = 1_000;

fn fault(name: &str) -> Result<Fault, String> {
    let named = |fault: &Fault| format!("{fault:?}") == name;
    let found = Fault::ALL.into_iter().find(named);
    found.ok_or_else(|| format!("the faults are {:?}", Fault::ALL))
}

fn main() {
    let arguments = Arguments::parse();
    let mut failures = 0;
    for seed in arguments.seed..arguments.seed + arguments.count {
        let trace = arguments.trace;
        let (faults, links) = (arguments.faults.clone(), arguments.links);
        let run = move || {
            if arguments.single {
                World::new(Plan::of(seed), trace).run();
            } else {
                let mut plan = cluster::Plan::of(seed);
                if !faults.is_empty() {
                    plan = plan.with(&faults);
                }
                if links {
                    plan = plan.with_links();
                }
                plan.users = arguments.users.unwrap_or(plan.users);
                plan.change_rate = arguments.change_rate;
                cluster::World::new(plan, trace).run();
            }
        };
        if !arguments.all {
            run();
        } else if std::panic::catch_unwind(run).is_err() {
            failures += 1;
        }
        let done = seed - arguments.seed + 1;
        if done % PROGRESS == 0 && done < arguments.count {
            eprintln!("{done} of {} seeds run, {failures} fail", arguments.count);
        }
    }
    if failures > 0 {
        println!("{failures} of {} seeds fail", arguments.count);
        std::process::exit(1);
    }
    println!(
        "{} seeds from {}: all invariants hold",
        arguments.count, arguments.seed
    );
}
