//! An edge without a store, killed and started again: only watchers know who was there.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use online_status_client::{State, Status};

use crate::{
    common::Edge,
    view::{View, ready, until_state},
};

const GRACE: Duration = Duration::from_secs(4);

#[tokio::test]
async fn a_watcher_who_is_back_before_the_others_sees_those_leave_who_do_not_return_and_no_others()
{
    // Of two cores, so that half of the users are another's than their watcher's.
    let mut edge = Edge::start(&["--presence-grace", "4s", "--server-cores", "2"]);
    let alice = edge.client("alice");
    let name = |kind: &str, n: usize| format!("{kind}-{n}");
    let (back, lost): (Vec<_>, Vec<_>) = (0..8).map(|n| (name("back", n), name("lost", n))).unzip();
    let watched: Vec<&str> = back.iter().chain(&lost).map(String::as_str).collect();
    let clients: Vec<_> = watched.iter().map(|user| edge.client(user)).collect();
    for client in &clients {
        ready(client).await;
    }
    let mut view = View::new(&alice, &watched);
    for user in &watched {
        view.until_status(user, Status::Online).await;
    }
    let version = |view: &View, user: &str| view.last(user).expect("it was seen").version;
    let before: HashMap<&str, u64> = watched
        .iter()
        .map(|&user| (user, version(&view, user)))
        .collect();
    edge.kill();
    until_state(&alice, |state| matches!(state, State::Connecting { .. })).await;
    drop(clients);
    let started = Instant::now();
    edge.restart();
    ready(&alice).await;
    // Answered after the snapshot. Who only asks is told what there is.
    let asked = alice.query([&back[0]]).await.expect("an answer");
    assert_eq!(asked[0].status, Status::Offline);
    let clients: Vec<_> = back.iter().map(|user| edge.client(user)).collect();
    for user in &back {
        view.until(user, |record| record.version > before[user.as_str()])
            .await;
    }
    for user in &lost {
        let gone = view.until_status(user, Status::Offline).await;
        assert!(started.elapsed() >= GRACE, "{:?}", started.elapsed());
        // Else it is the client that has lost its patience.
        assert!(gone.version > before[user.as_str()], "{gone:?}");
    }
    for user in &back {
        view.assert_no_flap(user);
    }
    drop(clients);
}
