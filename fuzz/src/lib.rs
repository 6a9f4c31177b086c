//! Hostile inputs for tests: the good inputs of a corpus, changed at random, and bytes that are
//! nothing. How many of them a test tries is `PROPTEST_CASES`, by default few enough for each test run.
//! It owns the corpus, a folder a target, how inputs are changed, and the targets of the libraries.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

pub mod targets;

use std::path::Path;

use proptest::prelude::*;

/// Bytes that mean something to one of the readers.
const TELLING: [u8; 16] = [
    0, 1, 0x7f, 0x80, 0xff, 0xc0, 0xed, b'"', b'\\', b'{', b'[', b'-', b'9', b'\n', 0x9f, 0xbf,
];

/// One change of an input.
#[derive(Debug, Clone)]
enum Change {
    /// The byte there becomes this one.
    Set(usize, u8),
    /// This byte comes in there.
    Insert(usize, u8),
    /// So many bytes are cut out from there.
    Cut(usize, usize),
    /// So many bytes from there come a second time, at the end.
    Repeat(usize, usize),
    /// Everything from there is gone.
    End(usize),
}

/// The inputs of a target's folder.
///
/// # Panics
/// When the folder cannot be read or is empty.
#[must_use]
pub fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let files = std::fs::read_dir(&folder).expect("a folder of the corpus");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    let read = |path| std::fs::read(path).expect("a file of the corpus");
    let inputs: Vec<Vec<u8>> = paths.into_iter().map(read).collect();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    inputs
}

/// Inputs that are mostly like these good ones.
pub fn hostile(good: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let like_good = (
        prop::sample::select(good),
        prop::collection::vec(change(), 0..6),
    );
    let like_good = like_good.prop_map(|(mut bytes, changes)| {
        for change in changes {
            apply(&mut bytes, &change);
        }
        bytes
    });
    prop_oneof![
        9 => like_good,
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let byte = prop_oneof![
        1 => any::<u8>(),
        2 => prop::sample::select(TELLING.to_vec()),
    ];
    let at = any::<u16>().prop_map(usize::from);
    (0_u8..8, at, byte, 0_usize..64).prop_map(|(kind, at, byte, length)| match kind {
        0..=2 => Change::Set(at, byte),
        3 | 4 => Change::Insert(at, byte),
        5 => Change::Cut(at, length),
        6 => Change::Repeat(at, length),
        _ => Change::End(at),
    })
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let length = bytes.len();
    let within = |at: usize| at % (length + 1);
    match *change {
        Change::Set(at, byte) => {
            if let Some(there) = bytes.get_mut(within(at)) {
                *there = byte;
            }
        }
        Change::Insert(at, byte) => bytes.insert(within(at), byte),
        Change::Cut(at, count) => {
            let from = within(at);
            bytes.drain(from..(from + count).min(length));
        }
        Change::Repeat(at, count) => {
            let from = within(at);
            bytes.extend_from_within(from..(from + count).min(length));
        }
        Change::End(at) => bytes.truncate(within(at)),
    }
}
