//! Tokens that wait for the keys that they were signed with.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use keys::{Keys, MAX_WAITING, NoWait, Refusal, Source};
use token::TokenError;
use tokio::task::JoinSet;

use crate::common::{NEVER, PATIENCE, Server, Signer, ok, set, source, start, until};

fn clock() -> u64 {
    9_000
}

/// What becomes of the token, which waits for so long at most.
async fn in_time(keys: &Keys, token: &str, patience: Duration) -> Result<(), Refusal> {
    let claims = keys.verify_in_time(token, clock, patience, tokio::time::sleep);
    claims.await.map(drop)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.expect("a runtime").block_on(future)
}

fn ready(source: &Source) -> Arc<Keys> {
    let keys = start(source);
    until("ready", || keys.are_ready());
    keys
}

#[test]
fn the_first_token_of_a_new_key_waits_for_the_set_and_is_let_in() {
    let (server, a, b) = (Server::start(), Signer::new("a"), Signer::new("b"));
    server.serves(&[&a]);
    let keys = ready(&source(server.url()));
    server.serves(&[&b]);
    run(async {
        assert_eq!(in_time(&keys, &b.token(), PATIENCE).await, Ok(()));
        // What is gone from the set counts no more, and is asked for once more.
        let gone = in_time(&keys, &a.token(), PATIENCE).await;
        let error = TokenError::UnknownKey;
        assert_eq!(
            gone,
            Err(Refusal {
                error,
                no_wait: None
            })
        );
    });
    let waited = keys.fetches().waited;
    assert_eq!((waited.let_in, waited.refused, waited.in_vain), (1, 1, 0));
    assert_eq!(keys.fetches().waiting, 0);
}

#[test]
fn a_key_that_changed_behind_its_name_or_without_one_is_fetched_for_its_signature() {
    let (server, old, new) = (Server::start(), Signer::new("k"), Signer::new("k"));
    let unnamed = |signer: &Signer| {
        let set = set(&[signer]).replace(r#","kid":"k""#, "");
        assert!(!set.contains("kid"));
        ok(&set)
    };
    for named in [Some("k"), None] {
        let answer = |signer: &Signer| match named {
            Some(_) => ok(&set(&[signer])),
            None => unnamed(signer),
        };
        server.answers(answer(&old));
        let keys = ready(&source(server.url()));
        server.answers(answer(&new));
        run(async {
            let verdict = in_time(&keys, &new.token_named(named), PATIENCE).await;
            assert_eq!(verdict, Ok(()), "{named:?}");
            let verdict = in_time(&keys, &old.token_named(named), PATIENCE).await;
            let error = TokenError::Signature;
            assert_eq!(
                verdict,
                Err(Refusal {
                    error,
                    no_wait: None
                }),
                "{named:?}"
            );
        });
    }
}

#[test]
fn many_that_wait_cause_one_fetch_and_one_too_many_is_refused_at_once() {
    let (server, a, b) = (Server::start(), Signer::new("a"), Signer::new("b"));
    server.serves(&[&a]);
    let keys = ready(&source(server.url()));
    let asked = server.asked();
    let (held, new) = (Arc::new(AtomicUsize::new(1)), ok(&set(&[&b])));
    let holds = Arc::clone(&held);
    server.answers_by(move |_| {
        while holds.load(Relaxed) > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        new.clone().into_bytes()
    });
    run(async {
        let mut waiting = JoinSet::new();
        for _ in 0..MAX_WAITING {
            let (keys, token) = (Arc::clone(&keys), b.token());
            waiting.spawn(async move { in_time(&keys, &token, PATIENCE).await });
        }
        while keys.fetches().waiting < MAX_WAITING {
            tokio::task::yield_now().await;
        }
        let verdict = in_time(&keys, &b.token(), PATIENCE).await;
        assert_eq!(verdict.expect_err("full").no_wait, Some(NoWait::Full));
        // Whose key is known waits for nobody.
        assert_eq!(in_time(&keys, &a.token(), Duration::ZERO).await, Ok(()));
        held.store(0, Relaxed);
        while let Some(verdict) = waiting.join_next().await {
            assert_eq!(verdict.expect("no panic"), Ok(()));
        }
    });
    let fetches = keys.fetches();
    assert_eq!((fetches.waiting, fetches.waited.too_many), (0, 1));
    assert_eq!(fetches.waited.let_in, MAX_WAITING as u64);
    // One that was under way when they came, and the one that they asked for, at most.
    assert!(server.asked() <= asked + 2, "{}", server.asked());
}

#[test]
fn who_waits_in_vain_is_told_why() {
    let (server, a, b) = (Server::start(), Signer::new("a"), Signer::new("b"));
    server.serves(&[&a]);
    let why = |keys: &Arc<Keys>, patience: Duration| {
        let refusal = run(in_time(keys, &b.token(), patience)).expect_err("not known");
        assert_eq!(refusal.error, TokenError::UnknownKey);
        refusal.no_wait
    };
    // It was fetched a moment ago.
    let seldom = Source {
        min_gap: NEVER,
        ..source(server.url())
    };
    let keys = ready(&seldom);
    assert_eq!(
        why(&keys, PATIENCE),
        None,
        "a change may be followed by another"
    );
    let asked = server.asked();
    for _ in 0..100 {
        assert!(matches!(why(&keys, PATIENCE), Some(NoWait::TooSoon(_))));
    }
    assert_eq!(server.asked(), asked);
    // Its server is slow, then says what is no set, then is gone.
    let keys = ready(&source(server.url()));
    server.answers_by(|_| {
        std::thread::sleep(Duration::from_millis(500));
        b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n".to_vec()
    });
    let began = Instant::now();
    assert_eq!(why(&keys, Duration::from_millis(50)), Some(NoWait::Late));
    assert!(began.elapsed() < Duration::from_millis(450));
    assert_eq!(why(&keys, PATIENCE), Some(NoWait::Failed));
    let waited = keys.fetches().waited;
    assert_eq!(
        (waited.in_vain, waited.let_in, keys.fetches().waiting),
        (2, 0, 0)
    );
    assert_eq!(run(in_time(&keys, &a.token(), Duration::ZERO)), Ok(()));
}

#[test]
fn strangers_with_random_keys_make_no_fetch_come_earlier_and_others_are_let_in_meanwhile() {
    let (server, a, b) = (Server::start(), Signer::new("a"), Signer::new("b"));
    server.serves(&[&a]);
    let gap = Duration::from_millis(400);
    let slow = Source {
        min_gap: gap,
        ..source(server.url())
    };
    let keys = ready(&slow);
    let (began, before) = (Instant::now(), server.asked());
    run(async {
        let mut strangers = JoinSet::new();
        for n in 0..20 {
            let (keys, other) = (Arc::clone(&keys), Signer::new("other"));
            strangers.spawn(async move {
                while began.elapsed() < Duration::from_secs(2) {
                    let token = other.token_named(Some(&format!("{n}-{:?}", began.elapsed())));
                    assert!(in_time(&keys, &token, PATIENCE).await.is_err());
                }
            });
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.serves(&[&a, &b]);
        assert_eq!(in_time(&keys, &b.token(), PATIENCE).await, Ok(()));
        strangers.join_all().await;
    });
    let most = began.elapsed().as_millis() / gap.as_millis() + 2;
    assert!(
        (server.asked() - before) as u128 <= most,
        "{}",
        server.asked()
    );
}

#[test]
fn one_who_leaves_while_it_waits_takes_its_place_along() {
    let (server, a, b) = (Server::start(), Signer::new("a"), Signer::new("b"));
    server.serves(&[&a]);
    let keys = ready(&source(server.url()));
    server.answers_by(|_| {
        std::thread::sleep(Duration::from_millis(300));
        Vec::new()
    });
    run(async {
        let token = b.token();
        let waits = in_time(&keys, &token, PATIENCE);
        assert!(
            tokio::time::timeout(Duration::from_millis(20), waits)
                .await
                .is_err()
        );
        assert_eq!(keys.fetches().waiting, 0);
    });
}
