//! A user that changes as fast as it can: its watchers hear so many changes a second, and the last.

use online_status_presence::{Core, Settings};
use ring::Epoch;

use crate::support::{answer, at, hello, say, settings, vnodes};

/// What a shell does after each batch of inputs; the frames with records that went out.
fn run(core: &mut Core) -> Vec<String> {
    answer(core, 1);
    let mut frames = Vec::new();
    while {
        let more = core.flush(64);
        for transmit in core.transmits() {
            let bytes = &core.arena()[transmit.range.clone()];
            let text = String::from_utf8_lossy(bytes).into_owned();
            if text.contains(r#""presence""#) {
                frames.push(text);
            }
        }
        more
    } {}
    frames
}

#[test]
fn watchers_of_a_user_that_flips_hear_so_many_changes_a_second_and_always_the_last() {
    let settings = Settings {
        cluster: false,
        change_rate: 5,
        change_burst: 10,
        message_rate: 10_000,
        message_burst: 10_000,
        ..settings("n1", 1)
    };
    let mut core = Core::new(settings, at(0));
    for vnode in vnodes().all() {
        core.own(vnode, Epoch::new(1), 0);
    }

    let alice = core.connect(&hello("alice")).expect("let in");
    let bob = core.connect(&hello("bob")).expect("let in");
    run(&mut core);
    say(&mut core, bob, r#"{"type":"watch","users":["alice"]}"#);
    run(&mut core);
    // 1,000 changes in 10 s.
    let mut heard = Vec::new();
    for step in 1..=1_000_u64 {
        core.tick(at(step * 10));
        let status = if step % 2 == 0 { "online" } else { "away" };
        say(
            &mut core,
            alice,
            &format!(r#"{{"type":"status","status":"{status}"}}"#),
        );
        heard.extend(run(&mut core));
    }
    // The burst and five a second, which timers of 100 ms may make fewer.
    assert!((45..=60).contains(&heard.len()), "{} frames", heard.len());
    assert_eq!(core.counters().changes, 2 + 1_000);
    assert!(core.counters().paced > 900);
    // The last state comes, whether or not it was told at once; and nothing else.
    say(&mut core, alice, r#"{"type":"status","text":"the last"}"#);
    let mut last = run(&mut core);
    for step in 0..100 {
        core.tick(at(10_000 + step * 10));
        last.extend(run(&mut core));
    }
    assert!(!last.is_empty() && last.len() <= 5, "{last:?}");
    assert!(last[last.len() - 1].contains("the last"), "{last:?}");
    for step in 0..100 {
        core.tick(at(11_000 + step * 100));
        assert!(run(&mut core).is_empty());
    }
    // Who begins to watch in between has the newest in its snapshot, and not a second time.
    for step in 0..20_u64 {
        let text = format!(r#"{{"type":"status","text":"{step}"}}"#);
        say(&mut core, alice, &text);
        run(&mut core);
    }
    say(&mut core, bob, r#"{"type":"watch","users":["alice"]}"#);
    assert!(run(&mut core).is_empty());
    for step in 0..20 {
        core.tick(at(21_000 + step * 100));
        assert!(run(&mut core).is_empty());
    }
}
