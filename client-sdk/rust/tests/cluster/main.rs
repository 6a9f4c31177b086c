//! Clients in a development cluster whose processes are stopped, killed and paused: what the
//! applications are shown. It starts a cluster of its own, takes minutes and half a machine, so that it
//! runs when it is asked for:
//!
//! ```sh
//! cargo build --release --workspace
//! cargo test --release -p online-status-client --test cluster -- --ignored --nocapture
//! ```

#[path = "../edge/proxy.rs"]
mod proxy;
#[path = "../edge/view.rs"]
#[allow(dead_code, reason = "shared with the tests of one edge")]
mod view;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use online_status_client::{Builder, Client, State, Status};
use proxy::Proxy;
use tokio::time::{sleep, timeout};
use view::{SECRET, View, ready, token};

const USERS: usize = 60;
/// The number of users that each watches: those after it.
const WATCHED: usize = 10;
/// Longer than a takeover, a back-off and an outage of Kafka together.
const SETTLED: Duration = Duration::from_secs(60);

/// A cluster of `scripts/dev-cluster`, gone with the test.
struct Cluster {
    script: PathBuf,
    folder: PathBuf,
}

impl Cluster {
    fn up() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let name = format!("online-status-client-cluster-{}", std::process::id());
        let cluster = Self {
            script: root.join("scripts/dev-cluster"),
            folder: std::env::temp_dir().join(name),
        };
        let base = std::env::var("ONLINE_STATUS_TEST_PORT_BASE").unwrap_or_else(|_| "22400".into());
        cluster.run(&["up", "--no-build", "--port-base", &base]);
        cluster
    }

    fn run(&self, words: &[&str]) -> String {
        let done = Command::new(&self.script)
            .args(words)
            .env("ONLINE_STATUS_DEV_DIR", &self.folder)
            .env("JWT_SECRET", SECRET)
            .output()
            .expect("bash");
        let error = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{words:?}: {error}");
        String::from_utf8(done.stdout).expect("UTF-8")
    }

    /// Runs a command of the development cluster, while the load goes on.
    async fn does(self: &Arc<Self>, verb: &'static str, name: &'static str) {
        let cluster = self.clone();
        let done = tokio::task::spawn_blocking(move || cluster.run(&[verb, name]));
        done.await.expect("it does");
    }

    fn routes(&self) -> Vec<String> {
        let env = self.run(&["env"]);
        let urls = env
            .lines()
            .find_map(|line| line.strip_prefix("COORDINATOR_URLS="));
        urls.expect("coordinators")
            .split(',')
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut down = Command::new(&self.script);
        // The test's own failure is what is told.
        let _ = down
            .arg("down")
            .env("ONLINE_STATUS_DEV_DIR", &self.folder)
            .output();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn name(n: usize) -> String {
    format!("user-{}", n % USERS)
}

fn client(routes: &[String], user: &str) -> Client {
    let token = token(user, 3_600);
    let builder = Client::builder().token(move || std::future::ready(token.clone()));
    let builder = routes.iter().cloned().fold(builder, Builder::route);
    builder.connect().expect("good settings")
}

/// A user that says something new every second, until it is told to end; what it said last, and how
/// long it was without a session at most.
async fn speak(client: Client, user: String, ends: Arc<AtomicBool>) -> (Client, String, Duration) {
    let mut states = client.state();
    let outages = tokio::spawn(async move {
        let (mut longest, mut since) = (Duration::ZERO, None);
        loop {
            match (&*states.borrow_and_update(), since) {
                (State::Connected(_), Some(began)) => {
                    longest = longest.max(Instant::elapsed(&began));
                    since = None;
                }
                (State::Connected(_), None) => {}
                (_, None) => since = Some(Instant::now()),
                (_, Some(_)) => {}
            }
            if timeout(Duration::from_secs(1), states.changed())
                .await
                .is_ok_and(|ok| ok.is_err())
            {
                return longest;
            }
            if ends.load(Ordering::Relaxed) && since.is_none() {
                return longest;
            }
        }
    });
    let mut n = 0;
    let mut last = String::new();
    while !outages.is_finished() {
        n += 1;
        last = format!("{user} says {n}");
        // A newer one takes its place, whether it was heard or not.
        drop(client.set_text(&last));
        sleep(Duration::from_secs(1)).await;
    }
    timeout(SETTLED, client.set_text(&last))
        .await
        .expect("an answer")
        .expect("a good text");
    (client, last, outages.await.expect("it ends"))
}

/// Watches for as long as the fault and what follows take; nobody may be shown offline.
async fn look(client: Client, n: usize, ends: Arc<AtomicBool>) -> View {
    let users: Vec<String> = (1..=WATCHED).map(|k| name(n + k)).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let mut view = View::new(&client, &users);
    for user in &users {
        view.until_status(user, Status::Online).await;
    }
    while !ends.load(Ordering::Relaxed) {
        view.look_for(Duration::from_millis(500)).await;
    }
    view
}

/// Everybody speaks and looks while a fault happens.
async fn under<F: Future<Output = ()>>(what: &str, routes: &[String], fault: F) {
    let ends = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..USERS).map(|n| client(routes, &name(n))).collect();
    for client in &clients {
        ready(client).await;
    }
    let looking: Vec<_> = clients
        .iter()
        .enumerate()
        .map(|(n, client)| tokio::spawn(look(client.clone(), n, ends.clone())))
        .collect();
    let speaking: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(n, client)| tokio::spawn(speak(client, name(n), ends.clone())))
        .collect();
    sleep(Duration::from_secs(5)).await;
    fault.await;
    sleep(Duration::from_secs(5)).await;
    ends.store(true, Ordering::Relaxed);
    let (mut said, mut outages, mut clients) = (Vec::new(), Vec::new(), Vec::new());
    for speaking in speaking {
        let (client, last, outage) = speaking.await.expect("a user speaks");
        said.push(last);
        outages.push(outage);
        clients.push(client);
    }
    let mut changes = 0;
    for (n, looking) in looking.into_iter().enumerate() {
        let mut view = looking.await.expect("versions only grow");
        for k in 1..=WATCHED {
            let user = name(n + k);
            let last = &said[(n + k) % USERS];
            let heard = timeout(SETTLED, view.until(&user, |record| record.text == *last)).await;
            heard.unwrap_or_else(|_| panic!("{what}: {user} said {last}"));
            view.assert_no_flap(&user);
        }
        changes += view.seen.values().map(Vec::len).sum::<usize>();
    }
    outages.sort();
    let (middle, longest) = (outages[USERS / 2], outages[USERS - 1]);
    println!("| `{what}` | {changes} | 0 | 0 | 0 | {middle:.1?} | {longest:.1?} |");
    for client in clients {
        timeout(SETTLED, client.close()).await.expect("it closes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes minutes: see above"]
async fn nobody_flaps_goes_back_or_misses_the_last_state_while_the_cluster_suffers() {
    let cluster = Arc::new(Cluster::up());
    let routes = cluster.routes();
    println!(
        "| fault | changes shown | flaps | versions back | last states missed | time without a session: median | longest |"
    );
    println!("|---|---|---|---|---|---|---|");
    under("roll-edges", &routes, async {
        for edge in ["edge-1", "edge-2", "edge-3"] {
            cluster.does("stop", edge).await;
            cluster.does("start", edge).await;
            sleep(Duration::from_secs(8)).await;
        }
    })
    .await;
    under("kill-edge", &routes, async {
        cluster.does("kill", "edge-2").await;
        sleep(Duration::from_secs(8)).await;
        cluster.does("start", "edge-2").await;
        sleep(Duration::from_secs(10)).await;
    })
    .await;
    under("stop-redis", &routes, async {
        cluster.does("stop", "redis").await;
        sleep(Duration::from_secs(10)).await;
        cluster.does("start", "redis").await;
    })
    .await;
    under("stop-kafka", &routes, async {
        cluster.does("stop", "kafka").await;
        sleep(Duration::from_secs(10)).await;
        cluster.does("start", "kafka").await;
    })
    .await;
    under("kill-coordinators", &routes, async {
        cluster.does("kill", "coordinator-1").await;
        cluster.does("kill", "coordinator-2").await;
        sleep(Duration::from_secs(3)).await;
        cluster.does("start", "coordinator-1").await;
        cluster.does("start", "coordinator-2").await;
    })
    .await;
    silent_cut(&cluster, &routes).await;
}

/// A proxy before one edge stops to pass anything on, without a word.
async fn silent_cut(cluster: &Arc<Cluster>, routes: &[String]) {
    let env = cluster.run(&["env"]);
    let edge = env
        .lines()
        .find_map(|line| line.strip_prefix("EDGE_1_ADDRESS=ws://"));
    let edge = edge
        .and_then(|address| address.strip_suffix("/socket"))
        .expect("an edge");
    let proxy = Proxy::start(edge.parse().expect("an address")).await;
    let user = user_of("edge-1", routes).await;
    let token = token(&user, 3_600);
    let behind = Client::builder()
        .address(format!("ws://{}/socket", proxy.address))
        .token(move || std::future::ready(token.clone()))
        .connect()
        .expect("good settings");
    ready(&behind).await;
    let watcher = client(routes, "watcher");
    let mut view = View::new(&watcher, &[&user]);
    view.until_status(&user, Status::Online).await;
    proxy.cut();
    let cut = Instant::now();
    timeout(
        SETTLED,
        behind.state().wait_for(|state| !state.is_connected()),
    )
    .await
    .expect("it notices")
    .expect("it lives");
    ready(&behind).await;
    let outage = cut.elapsed();
    behind.set_text("here").await.expect("a good text");
    view.until(&user, |record| record.text == "here").await;
    // Beyond the time after which the edge takes the old connection for dead, and the grace.
    view.look_for(Duration::from_secs(60).saturating_sub(outage))
        .await;
    view.assert_no_flap(&user);
    let changes = view.seen[&user].len();
    println!("| `silent-cut` | {changes} | 0 | 0 | 0 | {outage:.1?} | {outage:.1?} |");
}

/// A user of the edge of that name.
async fn user_of(edge: &str, routes: &[String]) -> String {
    for n in 0..100 {
        let user = format!("behind-{n}");
        let client = client(routes, &user);
        let session = client.ready().await.expect("a session");
        client.close().await;
        if session.node == edge {
            return user;
        }
    }
    panic!("the edge has none of 100 users");
}
