//! Links between two real edges, one of which is reached through a relay that the test owns: it keeps
//! what passes, and may lead somewhere else.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use ring::{Node, NodeId};
use serde_json::json;

use crate::{
    cluster::{Cluster, user},
    common::{Client, Edge, free_port},
};

const KEY: &str = "the key of the links of this cluster";
const OTHER_KEY: &str = "a key that no edge of the cluster has";

/// Where the relay leads, and the connections through it.
struct Way {
    to: SocketAddr,
    open: Vec<TcpStream>,
    passed: Vec<u8>,
}

/// Carries bytes both ways.
struct Relay {
    address: SocketAddr,
    way: Arc<Mutex<Way>>,
}

impl Relay {
    fn to(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let way = Way {
            to,
            open: Vec::new(),
            passed: Vec::new(),
        };
        let way = Arc::new(Mutex::new(way));
        let relay = Self {
            address,
            way: Arc::clone(&way),
        };
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.expect("a connection");
                let mut shared = way.lock().expect("no panic");
                let Ok(far) = TcpStream::connect(shared.to) else {
                    continue;
                };
                let twin = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
                shared.open.extend([twin(&near), twin(&far)]);
                for (from, to) in [(twin(&near), twin(&far)), (far, near)] {
                    let way = Arc::clone(&way);
                    std::thread::spawn(move || carry(from, to, &way));
                }
            }
        });
        relay
    }

    /// Leads elsewhere from now on, also who is connected.
    fn lead_to(&self, to: SocketAddr) {
        let mut way = self.way.lock().expect("no panic");
        way.to = to;
        for stream in way.open.drain(..) {
            // It may be closed.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn has_carried(&self, what: &str) -> bool {
        let way = self.way.lock().expect("no panic");
        let mut places = way.passed.windows(what.len());
        places.any(|place| place == what.as_bytes())
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, way: &Mutex<Way>) {
    let mut bytes = [0; 4_096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let passes = &bytes[..count];
        way.lock().expect("no panic").passed.extend(passes);
        if to.write_all(passes).is_err() {
            break;
        }
    }
    // The other side may have closed.
    let _ = to.shutdown(Shutdown::Both);
}

/// Node `n1` with vnode 0 and node `n2` with vnode 1, which `n1` reaches through a relay.
struct Pair {
    cluster: Cluster,
    other: Edge,
    relay: Relay,
    /// Where each takes links.
    links: [SocketAddr; 2],
}

impl Pair {
    fn start() -> Self {
        let links = [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
        let [own, others] = links.map(|address| address.to_string());
        let key = ["--cluster-link-key", KEY, "--cluster-link-listen"];
        let cluster = Cluster::start_with(&[&key[..], &[&own]].concat());
        let former = cluster.map(2, 1);
        let relay = Relay::to(links[1]);
        let address = relay.address.to_string();
        let at = [&others, "--cluster-link-address", &address];
        let other = launch(&cluster, "n2", &[&key[..], &at].concat());
        other.until_metric("online_status_lease_held", "", 1.0);
        let node = |name: &str| {
            let leases = cluster.leases();
            let lease = leases.iter().find(|lease| lease.node == name);
            Node {
                id: NodeId::parse(name).expect("a name"),
                boot: lease.expect("it is held").boot,
                address: format!("ws://{name}.example/socket"),
                weight: 100,
            }
        };
        let map = former.apply(vec![node("n1"), node("n2")], &[Some(0), Some(1)]);
        cluster.write(former.version(), &map);
        let pair = Self {
            cluster,
            other,
            relay,
            links,
        };
        pair.until_linked();
        pair
    }

    fn until_linked(&self) {
        for edge in [&self.cluster.edge, &self.other] {
            edge.until_metric("online_status_link_owners", "", 1.0);
            edge.until_metric("online_status_link_watchers", "", 1.0);
        }
    }

    fn until_trouble(&mut self, why: &str) {
        self.cluster.edge.until(why, |edge| {
            let (status, body) = edge.get_admin("/readyz");
            assert_eq!(status, 200, "{body}");
            body.contains("no link to n2 at ") && body.contains(why)
        });
    }
}

fn launch(cluster: &Cluster, name: &str, more: &[&str]) -> Edge {
    let (url, brokers) = (cluster.redis.url(), cluster.kafka.bootstrap_servers());
    let flags = ["--redis-url", &url, "--kafka-brokers", &brokers];
    let quick = ["--cluster-vnodes", "2", "--server-cores", "1"];
    Edge::launch_named(name, None, &[&flags[..], &quick, more].concat())
}

/// A client of the other node writes a text, and a watcher of this one reads it.
fn assert_is_heard(watcher: &mut Client, client: &mut Client, text: &str) {
    client.say(&json!({ "type": "status", "text": text }));
    while watcher.change()["text"] != text {}
}

#[test]
fn nobody_on_the_way_reads_who_is_watched_and_what_is_told() {
    let pair = Pair::start();
    let bob = user("a-name-that-can-be-found", 1);
    let mut watcher = pair.cluster.edge.user(&user("watcher", 0));
    let mut client = pair.other.user(&bob);
    watcher.watch(&[&bob]);
    let text = "a text that can be found";
    assert_is_heard(&mut watcher, &mut client, text);
    // It came over the link: the edge asked nobody else.
    let asked = pair
        .cluster
        .edge
        .metric("online_status_unheard_reads_total", "");
    assert_eq!(asked, 0.0);
    // The counts are told with a tick.
    let least = text.len() as f64 + 1.0;
    (pair.other).until_metric_reaches("online_status_link_sent_bytes_total", "", least);
    let own = pair.links[0].to_string();
    for secret in [&*bob, text, KEY, &own] {
        assert!(!pair.relay.has_carried(secret), "{secret}");
    }
}

#[test]
fn who_is_another_edge_or_none_gets_no_link_and_says_nothing_that_is_believed() {
    let mut pair = Pair::start();
    let bob = user("bob", 1);
    let mut watcher = pair.cluster.edge.user(&user("watcher", 0));
    let mut client = pair.other.user(&bob);
    watcher.watch(&[&bob]);
    assert_is_heard(&mut watcher, &mut client, "over the link");

    // Back to where it came from: all that the edge says is under the right key.
    pair.relay.lead_to(pair.links[0]);
    pair.until_trouble("another process is there: n1");
    // From Redis.
    assert_is_heard(&mut watcher, &mut client, "without a link");

    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let flags = ["--cluster-link-key", OTHER_KEY, "--cluster-link-listen"];
    let stranger = launch(
        &pair.cluster,
        "n3",
        &[&flags[..], &[&at.to_string()]].concat(),
    );
    stranger.until_metric("online_status_lease_held", "", 1.0);
    pair.relay.lead_to(at);
    pair.until_trouble("cluster.link_key differs");
    stranger.until_metric_reaches("online_status_link_refused_total", "", 1.0);
    assert_eq!(stranger.metric("online_status_link_watchers", ""), 0.0);

    // A build of before takes the first bytes for a length, and closes.
    let former = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    pair.relay.lead_to(former.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in former.incoming() {
            let mut length = [0; 4];
            // Who is gone already sends none.
            let _ = stream.expect("a connection").read_exact(&mut length);
        }
    });
    pair.until_trouble("no TLS handshake with it");
    assert_is_heard(&mut watcher, &mut client, "without a link still");

    pair.relay.lead_to(pair.links[1]);
    pair.until_linked();
    assert_is_heard(&mut watcher, &mut client, "over a link again");
}

#[test]
fn a_build_without_tls_is_told_the_format_and_strangers_are_closed_and_counted() {
    let pair = Pair::start();
    let refused = "online_status_link_refused_total";
    let before = pair.cluster.edge.metric(refused, "");
    let connect = || {
        let stream = TcpStream::connect(pair.links[0]).expect("it listens");
        let patience = Some(Duration::from_secs(20));
        stream.set_read_timeout(patience).expect("a timeout");
        stream
    };
    let mut hello = b"osl\x01".to_vec();
    hello.extend([7; 32]);
    hello.extend(b"\x07\x02\x02n9\x0b127.0.0.1:9");
    let mut former = connect();
    former
        .write_all(&[&[hello.len() as u8, 0, 0, 0], &hello[..]].concat())
        .expect("it is read");
    let mut answer = Vec::new();
    former.read_to_end(&mut answer).expect("it closes");
    assert_eq!(answer, b"\x04\0\0\0osl\x02");

    let strangers: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        // A handshake of TLS that is none.
        b"\x16\x03\x01\x00\x04\xff\xff\xff\xff",
        // The longest of all, of which no more comes.
        b"\x16\x03\x01\x40\x00\x01\xff\xff\xff",
        b"",
    ];
    for said in strangers {
        let mut stream = connect();
        stream.write_all(said).expect("it is read");
        // An alert may come, or a reset.
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 16, "{answer:?}");
    }
    let all = before + 1.0 + strangers.len() as f64;
    pair.cluster.edge.until_metric(refused, "", all);
    pair.until_linked();
}
