//! Each target with the inputs of its corpus as they are, and with as many changed ones as
//! `PROPTEST_CASES` says.

use fuzz::{corpus, hostile, targets};
use proptest::test_runner::{Config, TestRunner};

fn try_out(name: &str) {
    let (name, target) = targets::ALL
        .into_iter()
        .find(|(known, _)| *known == name)
        .expect("a target");
    let good = corpus(name);
    for bytes in &good {
        target(bytes);
    }
    let mut runner = TestRunner::new(Config::default());
    let tried = runner.run(&hostile(good), |bytes| {
        target(&bytes);
        Ok(())
    });
    tried.unwrap_or_else(|error| panic!("{name}: {error}"));
}

macro_rules! tests {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            try_out($name);
        })*

        #[test]
        fn every_target_is_tried() {
            let tried = [$($name),*];
            let all = targets::ALL.map(|(name, _)| name);
            assert_eq!(tried, all);
        }
    };
}

tests! {
    messages_of_clients_in_json: "client-json",
    messages_of_clients_in_cbor: "client-cbor",
    events_of_the_topic: "event",
    records_of_the_store: "record",
    leases_of_nodes: "lease",
    hellos_and_batches_of_links: "link",
    vnodes_that_a_lease_asks_for: "pins",
    maps: "map",
    entries_of_the_policy: "policy",
    what_administrators_ask_for: "decree",
    key_sets: "jwks",
    tokens: "token",
}
