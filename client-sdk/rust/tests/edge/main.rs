//! The client against real standalone edges: what an application sees while they are killed, cut off,
//! overloaded with wishes and refuse.

mod common;
mod memory;
mod proxy;
mod view;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{Edge, Folder};
use online_status_client::{
    Activity, Client, ConfigError, Mode, Problem, Reason, SetError, State, Status, TokenError,
};
use proxy::Proxy;
use tokio::time::timeout;
use view::{PATIENCE, View, ready, signed, token, until_state};

#[tokio::test]
async fn what_a_user_does_is_seen_and_a_closed_client_is_offline_at_once() {
    let edge = Edge::start(&[]);
    let (alice, bob) = (edge.client("alice"), edge.client("bob"));
    let mut view = View::new(&alice, &["bob", "carol"]);
    view.until("carol", |carol| {
        carol.status == Status::Offline && carol.version == 0
    })
    .await;
    view.until_status("bob", Status::Online).await;
    bob.set_text("lunch").await.expect("a good text");
    view.until("bob", |bob| bob.text == "lunch").await;
    bob.set_activity(Some(Activity::Away));
    view.until_status("bob", Status::Away).await;
    bob.set_mode(Mode::Busy).await.expect("a mode");
    view.until_status("bob", Status::Busy).await;
    bob.set_mode(Mode::Invisible).await.expect("a mode");
    view.until_status("bob", Status::Offline).await;
    bob.set_mode(Mode::Auto).await.expect("a mode");
    view.until_status("bob", Status::Away).await;
    let records = alice.query(["bob", "carol"]).await.expect("an answer");
    assert_eq!(records.len(), 2);
    let too_long = bob.set_text(&"x".repeat(129)).await;
    assert!(matches!(too_long, Err(SetError::Text(_))), "{too_long:?}");
    timeout(PATIENCE, bob.close()).await.expect("it closes");
    view.until_status("bob", Status::Offline).await;
    timeout(PATIENCE, alice.close()).await.expect("it closes");
    view.ended().await;
}

#[tokio::test]
async fn an_edge_that_keeps_its_data_and_is_killed_is_noticed_by_nobody() {
    let folder = Folder::new();
    let mut edge = Edge::start(&["--data", folder.path()]);
    let (alice, bob) = (edge.client("alice"), edge.client("bob"));
    let mut view = View::new(&alice, &["bob"]);
    view.until_status("bob", Status::Online).await;
    // What watchers see at once is on the disk some milliseconds later.
    view.look_for(Duration::from_secs(1)).await;
    edge.kill();
    until_state(&bob, |state| matches!(state, State::Connecting { .. })).await;
    // Nobody can hear it, and it is not lost.
    let text = bob.set_text("back");
    edge.restart();
    timeout(PATIENCE, text)
        .await
        .expect("an answer")
        .expect("a good text");
    view.until("bob", |bob| {
        bob.text == "back" && bob.status == Status::Online
    })
    .await;
    view.look_for(Duration::from_secs(1)).await;
    view.assert_no_flap("bob");
}

#[tokio::test]
async fn a_connection_that_a_proxy_cuts_silently_is_replaced_before_anybody_notices() {
    let edge = Edge::start(&[
        "--presence-heartbeat",
        "2s",
        "--presence-heartbeat-timeout",
        "2s",
    ]);
    let proxy = Proxy::start(edge.address).await;
    let alice = edge.client("alice");
    let token = token("bob", 3_600);
    let bob = Client::builder()
        .address(format!("ws://{}/socket", proxy.address))
        .token(move || std::future::ready(token.clone()))
        .connect()
        .expect("good settings");
    let mut view = View::new(&alice, &["bob"]);
    view.until_status("bob", Status::Online).await;
    ready(&bob).await;
    proxy.cut();
    let lost = until_state(&bob, |state| !state.is_connected()).await;
    assert!(
        matches!(
            lost,
            State::Connecting {
                reason: Some(Reason::Silent(_)),
                ..
            }
        ),
        "{lost:?}"
    );
    ready(&bob).await;
    assert_eq!(proxy.connections.load(Ordering::Relaxed), 2);
    bob.set_text("here").await.expect("a good text");
    view.until("bob", |bob| bob.text == "here").await;
    view.assert_no_flap("bob");
}

#[tokio::test]
async fn a_token_is_replaced_before_it_ends_and_the_session_stays() {
    let edge = Edge::start(&[]);
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let alice = Client::builder()
        .route(edge.route())
        .token(move || {
            let calls = count.fetch_add(1, Ordering::Relaxed);
            // The first one is good for longer than a slow machine needs to connect.
            std::future::ready(token("alice", if calls == 0 { 12 } else { 3_600 }))
        })
        .connect()
        .expect("good settings");
    let session = alice.ready().await.expect("a session").session;
    tokio::time::sleep(Duration::from_secs(14)).await;
    assert_eq!(alice.ready().await.expect("a session").session, session);
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn tokens_that_are_refused_end_in_a_reason() {
    let edge = Edge::start(&[]);
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let alice = Client::builder()
        .route(edge.route())
        .token(move || {
            count.fetch_add(1, Ordering::Relaxed);
            std::future::ready(signed(
                "alice",
                3_600,
                "another secret, as long as HS256 wants",
            ))
        })
        .connect()
        .expect("good settings");
    let text = alice.set_text("nobody hears it");
    let failed = timeout(PATIENCE, alice.ready())
        .await
        .expect("an answer")
        .expect_err("no session");
    assert!(
        matches!(failed, Some(Reason::TokenRefused(_))),
        "{failed:?}"
    );
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    assert!(matches!(text.await, Err(SetError::Failed(_))));

    let bob = Client::builder()
        .route(edge.route())
        .token(|| async { Err::<String, _>(TokenError::not_allowed("bob is banned")) })
        .connect()
        .expect("good settings");
    let failed = timeout(PATIENCE, bob.ready())
        .await
        .expect("an answer")
        .expect_err("no session");
    assert_eq!(
        failed,
        Some(Reason::TokenNotAllowed("bob is banned".into()))
    );
}

#[tokio::test]
async fn a_token_function_that_panics_is_asked_again() {
    let edge = Edge::start(&[]);
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let alice = Client::builder()
        .route(edge.route())
        .token(move || {
            let calls = count.fetch_add(1, Ordering::Relaxed);
            assert!(calls != 0, "before its future");
            async move {
                assert!(calls != 1, "in its future");
                token("alice", 3_600)
            }
        })
        .connect()
        .expect("good settings");
    let failed = until_state(&alice, |state| {
        matches!(
            state,
            State::Connecting {
                reason: Some(Reason::Token(_)),
                ..
            }
        )
    });
    failed.await;
    ready(&alice).await;
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn one_session_too_many_is_final() {
    let edge = Edge::start(&["--presence-max-devices", "1"]);
    let first = edge.client("alice");
    ready(&first).await;
    let second = edge.client("alice");
    let failed = timeout(PATIENCE, second.ready())
        .await
        .expect("an answer")
        .expect_err("refused");
    assert!(
        matches!(failed, Some(Reason::Closed { code: 4409, .. })),
        "{failed:?}"
    );
}

#[tokio::test]
async fn a_server_with_other_bounds_for_life_is_left_with_its_reason() {
    let edge = Edge::start(&["--presence-alive-max", "60s"]);
    let alice = edge.client("alice");
    let failed = until_state(&alice, |state| matches!(state, State::Failed(_))).await;
    let State::Failed(Reason::Closed {
        code: 4403,
        message,
    }) = failed
    else {
        panic!("{failed:?}");
    };
    assert!(message.contains("presence.alive_max"), "{message}");
    let often = edge.builder("alice").heartbeat(Duration::from_secs(20));
    let alice = often.connect().expect("good settings");
    ready(&alice).await;
}

#[tokio::test]
async fn ten_thousand_watches_are_served_up_to_the_limit_and_the_rest_is_told() {
    let edge = Edge::start(&["--presence-max-watches", "1000"]);
    let alice = edge.client("alice");
    let mut problems = alice.problems();
    ready(&alice).await;
    let name = |n: usize| format!("00000000-0000-4000-8000-{n:012}");
    let mut few = alice.watch((0..600).map(name)).expect("good names");
    let many = alice.watch((600..10_600).map(name)).expect("good names");
    let mut seen = 0;
    while seen < 600 {
        timeout(PATIENCE, few.next())
            .await
            .expect("a record")
            .expect("the client lives");
        seen += 1;
    }
    let problem = timeout(PATIENCE, problems.recv())
        .await
        .expect("a word")
        .expect("a problem");
    assert!(
        matches!(
            problem,
            Problem::WatchLimit {
                wanted: 10_600,
                allowed: 1_000
            }
        ),
        "{problem:?}"
    );
    // Who is watched no more makes room.
    drop(few);
    let last = timeout(PATIENCE, async {
        let served = || {
            (600..10_600)
                .filter(|n| many.get(&name(*n)).is_some())
                .count()
        };
        while served() < 1_000 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    last.await.expect("the next ones are served");
    assert!(alice.state().borrow().is_connected());
}

#[tokio::test]
async fn a_slow_reader_gets_the_newest_state() {
    let edge = Edge::start(&[]);
    let (alice, bob) = (edge.client("alice"), edge.client("bob"));
    let mut users = alice.watch(["bob"]).expect("a good name");
    for n in 0..50 {
        bob.set_text(&format!("text {n}"))
            .await
            .expect("a good text");
    }
    let newest = timeout(PATIENCE, async {
        while users.get("bob").is_none_or(|bob| bob.text != "text 49") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    newest.await.expect("the newest comes");
    let first = timeout(PATIENCE, users.next())
        .await
        .expect("a record")
        .expect("the client lives");
    assert_eq!(first.text, "text 49");
    let next = timeout(Duration::from_millis(300), users.next()).await;
    assert!(next.is_err(), "{next:?}");
}

#[tokio::test]
async fn tls_is_checked_with_the_given_authority() {
    let names = || vec!["127.0.0.1".to_owned()];
    let own = rcgen::generate_simple_self_signed(names()).expect("a certificate");
    let folder = std::env::temp_dir().join(format!("online-status-client-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let certificate = file("certificate.pem", own.cert.pem());
    let key = file("key.pem", own.signing_key.serialize_pem());
    let edge = Edge::start(&["--tls-certificate", &certificate, "--tls-key", &key]);
    let client = |authority: String| {
        let token = token("alice", 3_600);
        Client::builder()
            .route(format!("https://{}", edge.address))
            .token(move || std::future::ready(token.clone()))
            .certificate_authority(authority)
            .connect()
            .expect("good settings")
    };
    ready(&client(own.cert.pem())).await;
    let other = rcgen::generate_simple_self_signed(names()).expect("a certificate");
    let wary = client(other.cert.pem());
    let refused = until_state(&wary, |state| {
        matches!(
            state,
            State::Connecting {
                reason: Some(Reason::Route(_)),
                ..
            }
        )
    });
    refused.await;
    std::fs::remove_dir_all(&folder).expect("it is there");
}

#[tokio::test]
async fn settings_that_cannot_be_are_named() {
    let token = || std::future::ready("x");
    let builder = || Client::builder().token(token);
    let error = |built: online_status_client::Builder| built.connect().expect_err("an error");
    assert_eq!(error(builder()), ConfigError::NoTarget);
    assert_eq!(
        error(Client::builder().route("http://x")),
        ConfigError::NoToken
    );
    assert!(matches!(
        error(builder().route("ws://x")),
        ConfigError::Route(_)
    ));
    assert!(matches!(
        error(builder().address("http://x")),
        ConfigError::Address(_)
    ));
    assert_eq!(
        error(builder().route("http://x").address("ws://x/")),
        ConfigError::TwoTargets
    );
    let short = builder()
        .route("http://x")
        .heartbeat(Duration::from_secs(1));
    assert!(matches!(error(short), ConfigError::Heartbeat(_)));
    let long = Client::builder()
        .address("ws://n1.test/socket")
        .token(|| std::future::ready(String::new()))
        .heartbeat(Duration::from_secs(241));
    assert!(matches!(error(long), ConfigError::Heartbeat(_)));
    let never = builder()
        .route("http://x")
        .reconnect_delay(Duration::ZERO, PATIENCE);
    assert!(matches!(error(never), ConfigError::Delay(..)));
    let none = builder().route("http://x").certificate_authority("no PEM");
    assert!(matches!(error(none), ConfigError::Authority(_)));
    let alice = builder()
        .route("http://127.0.0.1:1")
        .connect()
        .expect("good settings");
    for bad in ["", "a\u{7}b", &"é".repeat(129)] {
        alice.watch([bad]).expect_err("no name");
    }
}
