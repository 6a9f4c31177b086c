//! Runs the neutral behaviour tests of `client-sdk/behaviour` on the state machine: the format is its
//! README's. Each file runs twice: with a steady clock that stands still while the machine sleeps, as
//! Linux has it, and with one that goes on.

pub(crate) mod schema;
mod world;

use std::path::{Path, PathBuf};

use schema::Checker;
use serde_json::Value;
use world::{Checkers, World};

/// Files about what only a browser does, beside those that say so: to open a connection whose server
/// named no subprotocol, and to keep the reason for itself why an upgrade was refused.
const BROWSERS: [&str; 2] = ["no-subprotocol.json", "refused-upgrades.json"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../behaviour")
}

fn read(name: &str) -> Value {
    let text = std::fs::read_to_string(folder().join(name)).expect(name);
    serde_json::from_str(&text).expect(name)
}

/// Steps, after those of the file that they begin with.
fn steps(file: &Value) -> Vec<Value> {
    let mut own = file["steps"].as_array().expect("steps").clone();
    // Browsers are not told why an upgrade was refused, and their clients ask.
    while let Some(health) = own.iter().position(|step| step["expect"] == "health") {
        let end = own
            .iter()
            .position(|step| step["code"] == "refused")
            .expect("an error");
        own.drain(health - 1..=end);
    }
    let mut all = match file["begin"].as_str() {
        Some(begin) => steps(&read(&format!("{begin}.json"))),
        None => Vec::new(),
    };
    all.extend(own);
    all
}

fn run(file: &Value, counts_sleep: bool, checkers: &Checkers) -> Result<(), String> {
    let steps = steps(file);
    let world = std::cell::RefCell::new(World::new(file, counts_sleep, checkers));
    for (n, step) in steps.iter().enumerate() {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut world = world.borrow_mut();
            if step.get("expect").is_some() {
                return world.expect(step);
            }
            if let Some(ms) = step["advance"].as_u64() {
                world.expect_nothing();
                return world.advance(ms);
            }
            if let Some(ms) = step["sleep"].as_u64() {
                world.expect_nothing();
                return world.sleep(ms);
            }
            if let Some(ms) = step["set"].as_i64() {
                return world.set(ms);
            }
            world.do_step(step);
            world.settle();
        }));
        if let Err(panic) = done {
            let why = panic.downcast_ref::<String>().cloned();
            let why = why.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
            return Err(format!("step {n} {step}: {}", why.unwrap_or_default()));
        }
    }
    let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        world.borrow().expect_nothing();
    }));
    end.map_err(|panic| format!("in the end: {:?}", panic.downcast_ref::<String>()))
}

#[test]
fn the_client_does_what_every_client_does() {
    let mut names: Vec<_> = std::fs::read_dir(folder())
        .expect("the folder of behaviour tests")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .filter(|name| name.ends_with(".json"))
        .collect();
    names.sort();
    let checkers = Checkers {
        sent: Checker::new("clientMessage"),
        said: Checker::new("serverMessage"),
    };
    let (mut ran, mut failed) = (0, Vec::new());
    for name in &names {
        let file = read(name);
        let in_page = file["needs"]
            .as_array()
            .is_some_and(|needs| !needs.is_empty());
        if in_page || BROWSERS.contains(&name.as_str()) {
            continue;
        }
        ran += 1;
        for counts_sleep in [false, true] {
            if let Err(why) = run(&file, counts_sleep, &checkers) {
                failed.push(format!("{name} ({}), {counts_sleep}: {why}", file["name"]));
            }
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {ran} failed:\n{}",
        failed.len(),
        failed.join("\n")
    );
    assert_eq!(checkers.sent.missing(), [""; 0]);
    assert_eq!(checkers.said.missing(), [""; 0]);
    assert!(
        ran >= 40,
        "only {ran} files of {} were for this client",
        names.len()
    );
}
