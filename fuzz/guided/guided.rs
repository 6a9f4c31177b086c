//! One target of `fuzz::targets`, whose name is `TARGET`, driven by libFuzzer: `run` beside this file
//! builds and starts it. It owns the way from the name to the function.
#![no_main]

use std::sync::LazyLock;

use fuzz::targets::ALL;
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("TARGET").unwrap_or_default();
    match ALL.into_iter().find(|(known, _)| *known == name) {
        Some((_, target)) => target,
        None => panic!("TARGET is one of {:?}", ALL.map(|(name, _)| name)),
    }
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));
