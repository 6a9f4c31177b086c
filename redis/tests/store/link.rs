//! The link: a server that is away, hangs, refuses or talks nonsense, and how it is reached.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use crate::common::{connect, options, run_one, stored, until, user};
use redis_store::{Done, Link, Op, Options, OptionsError, StoreError, testing::RedisServer};
use ring::{Epoch, Vnode};

const SECRET: &str = "hunter2@x";
const SECRET_IN_URL: &str = "hunter2%40x";

fn write(number: u64) -> Op {
    Op::Write {
        vnode: Vnode::new(1),
        epoch: Epoch::new(1),
        records: vec![(user(number), stored(1, 1, true))],
    }
}

fn impatient(url: &str) -> Link {
    Link::open(Options {
        connect_timeout: Duration::from_millis(200),
        response_timeout: Duration::from_millis(200),
        ..Options::new(url)
    })
    .expect("good options")
}

fn assert_no_secret(error: &StoreError) {
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn while_the_server_is_away_operations_fail_at_once_and_then_it_is_found_again() {
    let mut server = RedisServer::start();
    let link = connect(&server.url());
    let mut watch = link.watch_map();
    watch.changed().await.expect("subscribed");
    assert_eq!(run_one(&link, write(1)).await, Ok(Done::Written));
    server.stop();
    let begun = Instant::now();
    for n in 0..1_000 {
        let error = run_one(&link, write(n)).await.expect_err("nobody is there");
        let StoreError::Unavailable(text) = &error else {
            panic!("{error:?}")
        };
        assert!(
            text.contains(&format!("127.0.0.1:{}", server.port())),
            "{text}"
        );
    }
    assert!(begun.elapsed() < Duration::from_secs(20));
    let attempts = link.counters().failed_connects;
    assert!(
        (1..500).contains(&attempts),
        "{attempts} attempts to connect"
    );
    server.start_again();
    until(async || run_one(&link, write(1)).await.ok()).await;
    watch.changed().await.expect("subscribed again");
    assert_eq!(link.counters().connects, 2);
}

#[tokio::test]
async fn a_server_that_lets_nobody_in_is_quoted() {
    // Redis 7.0 writes this, as what it says in protected mode, before anything was asked, and closes.
    let server = RedisServer::start_with(&["--maxclients", "1"]);
    let only = until(async || {
        // The one who asked whether the server is up may still be there.
        let mut only = TcpStream::connect(("127.0.0.1", server.port())).ok()?;
        only.write_all(b"PING\r\n").ok()?;
        let mut answer = [0; 7];
        only.read_exact(&mut answer).ok()?;
        (&answer == b"+PONG\r\n").then_some(only)
    })
    .await;
    let link = impatient(&server.url());
    let error = run_one(&link, write(1)).await.expect_err("it is full");
    let text = error.to_string();
    assert!(text.contains("max number of clients reached"), "{text}");
    drop(only);
    until(async || run_one(&link, write(1)).await.ok()).await;
}

#[tokio::test]
async fn a_link_that_has_worked_is_not_told_to_speak_tls() {
    let server = RedisServer::start();
    let link = impatient(&server.url());
    until(async || run_one(&link, write(1)).await.ok()).await;
    let address = ("127.0.0.1", server.port());
    drop(server);
    let stranger = TcpListener::bind(address).expect("the port is free");
    std::thread::spawn(move || stranger.incoming().for_each(drop));
    let closes = async |link: &Link| {
        let error = run_one(link, write(1)).await.err()?.to_string();
        let is_refused = error.contains("refused") || error.contains("too slow");
        (!is_refused && error.contains("cannot be used")).then_some(error)
    };
    let error = until(async || closes(&link).await).await;
    assert!(!error.contains("rediss://"), "{error}");
    let other = impatient(&format!("redis://127.0.0.1:{}", address.1));
    let error = until(async || closes(&other).await).await;
    assert!(error.contains("rediss://"), "{error}");
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_and_found_again() {
    let server = RedisServer::start();
    let link = impatient(&server.url());
    until(async || run_one(&link, write(1)).await.ok()).await;
    let process = server.process_id().expect("it runs").to_string();
    let signal = |name: &str| {
        let done = Command::new("kill").args([name, &process]).status();
        assert!(done.expect("kill").success());
    };
    signal("-STOP");
    let begun = Instant::now();
    let ops = (0..3_000).map(write).collect();
    let done = link.run(ops).await;
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(
        done.iter()
            .all(|d| matches!(d, Err(StoreError::Unavailable(_))))
    );
    signal("-CONT");
    until(async || run_one(&link, write(1)).await.ok()).await;
}

#[tokio::test]
async fn nothing_listens_and_nobody_waits_for_long() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let link = impatient(&format!("redis://127.0.0.1:{port}"));
    let begun = Instant::now();
    let error = link.incarnation().await.expect_err("it never answers");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    drop(listener);
    let error = link.incarnation().await.expect_err("nobody is there");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

/// Answers every command with the same bytes, but for the first, which is `INFO`.
fn odd_server(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("redis://{}", listener.local_addr().expect("its address"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            std::thread::spawn(move || {
                let mut answered = 0;
                let mut buffer = [0; 65_536];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..read]);
                    let commands = text.matches("\r\n*").count() + 1;
                    for _ in 0..commands {
                        let answer = if answered < 1 { b"+x:y\r\n" } else { answer };
                        answered += 1;
                        if stream.write_all(answer).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn odd_answers_are_errors_and_no_panics() {
    let answers: [&[u8]; 12] = [
        b"+OK\r\n",
        b"+x\r\n",
        b":-1\r\n",
        b"$-1\r\n",
        b"$1\r\n\xff\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"*1\r\n*0\r\n",
        b"*2\r\n$7\r\nclaimed\r\n$-1\r\n",
        b"*4\r\n$4\r\npage\r\n:1\r\n*1\r\n$1\r\na\r\n*0\r\n",
        b"-ODD it is\r\n",
        b"what\r\n",
    ];
    let vnode = Vnode::new(1);
    let epoch = Epoch::new(1);
    for answer in answers {
        let link = impatient(&odd_server(answer));
        let ops = vec![
            Op::Claim {
                vnode,
                epoch,
                wait_below: Epoch::default(),
                since_ms: 0,
            },
            write(1),
            Op::Read {
                vnode,
                users: vec![user(1), user(2)],
            },
            Op::Trim {
                vnode,
                epoch,
                before_ms: 1,
                limit: 1,
            },
            Op::Release { vnode, epoch },
        ];
        for op in ops {
            let done = run_one(&link, op.clone()).await;
            let odd = match &done {
                Ok(Done::Records(_, records)) => records.iter().all(Option::is_none),
                done => done.is_err(),
            };
            assert!(odd, "{op:?} -> {done:?} from {answer:?}");
        }
        let lead = link.lead("c", Duration::from_secs(1), Some(1)).await;
        assert_ne!(lead, Ok(Some(1)));
        let _ = (
            link.map().await,
            link.map_version().await,
            link.leader().await,
        );
        let _ = (
            link.leases().await,
            link.run_id().await,
            link.drained().await,
        );
        let _ = link.incarnation().await;
        let written = link
            .write_map(
                1,
                ring::MapVersion::new(0),
                &ring::Map::empty(ring::VnodeCount::default()),
            )
            .await;
        assert!(written.is_err(), "{written:?} from {answer:?}");
    }
}

#[tokio::test]
async fn the_documented_acl_rule_is_enough_and_no_error_holds_the_password() {
    let rule = crate::common::documented_acl_rule(SECRET);
    let server = RedisServer::start();
    let set: Vec<&str> = ["acl", "setuser"]
        .into_iter()
        .chain(rule.split(' '))
        .collect();
    assert_eq!(server.cli(&set).trim(), "OK");
    let url = |password| {
        format!(
            "redis://online-status:{password}@127.0.0.1:{}",
            server.port()
        )
    };
    // What policy.lua looks for beyond the usual: as many as it keeps in mind were taken away, and somebody else
    // wrote its version.
    let taken: Vec<String> = (0..10_000).map(|n| format!("user:{n}")).collect();
    let words = ["lpush", "os:{policy}:taken-away"].into_iter();
    let _ = server.cli(
        &words
            .chain(taken.iter().map(String::as_str))
            .collect::<Vec<_>>(),
    );
    let _ = server.cli(&["hset", "os:{policy}:state", "version", "foreign"]);
    // And INCRBY: the map has a higher token than was given.
    let before = connect(&server.url());
    let map = ring::Map::empty(ring::VnodeCount::default());
    let written = before.write_map(9, ring::MapVersion::new(0), &map).await;
    assert_eq!(written, Ok(redis_store::MapWrite::Written));
    let _ = server.cli(&[
        "acl",
        "setuser",
        "default",
        "resetkeys",
        "nocommands",
        "+info",
        "+config|resetstat",
    ]);
    let _ = server.cli(&["config", "resetstat"]);

    let link = connect(&url(SECRET_IN_URL));
    crate::common::exercise(&link).await;
    let other = connect(&format!("{}/3", url(SECRET_IN_URL)));
    other.incarnation().await.expect("another database");
    let node = ring::NodeId::parse("n1").expect("a good name");
    let mut watch = link.watch_map_as(&node, 1);
    watch.changed().await.expect("subscribed");
    let alive = link.alive(&[(node.clone(), 1)]).await;
    assert_eq!(alive, Ok(Some([(node, 1)].into())));
    assert!(link.take_notices().is_empty());
    assert_each_right_is_used(&rule, &server.cli(&["info", "commandstats"]));

    let wrong = connect(&url("hunter2wrong"));
    let error = wrong.incarnation().await.expect_err("a wrong password");
    assert!(
        error.to_string().contains("authentication failed"),
        "{error}"
    );
    assert!(error.to_string().contains("REDIS_URL"), "{error}");
    assert_no_secret(&error);
    let closed = RedisServer::start();
    assert_eq!(
        closed.cli(&["config", "set", "requirepass", SECRET]).trim(),
        "OK"
    );
    let error = connect(&closed.url()).incarnation().await;
    let error = error.expect_err("no password").to_string();
    assert!(
        error.contains("NOAUTH") && error.contains("REDIS_URL"),
        "{error}"
    );
    let anonymous = connect(&server.url());
    let error = anonymous.incarnation().await.expect_err("no permission");
    assert!(error.to_string().contains("no permissions"), "{error}");
    for text in [
        format!("{link:?}"),
        format!("{:?}", options(&url(SECRET_IN_URL))),
    ] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

/// Each command of the rule was called, and none was that is not of it; by what the server counted.
fn assert_each_right_is_used(rule: &str, counted: &str) {
    let called: Vec<&str> = (counted.lines())
        .filter_map(|line| line.trim().strip_prefix("cmdstat_")?.split_once(':'))
        .filter(|(_, stats)| !stats.starts_with("calls=0,"))
        .map(|(name, _)| name)
        .collect();
    let granted: Vec<&str> = (rule.split(' '))
        .filter_map(|word| word.strip_prefix('+'))
        .collect();
    // What a Redis Cluster is asked (`cluster.rs` has the rule too), and a subscription that lasts.
    let elsewhere = ["cluster|slots", "asking", "ping"];
    for right in &granted {
        let is_used = called.contains(right) || elsewhere.contains(right);
        assert!(is_used, "+{right} is granted and not used: {called:?}");
    }
    // Whoever connects may say who it is; the rest is the test's own.
    let own = ["auth", "config|resetstat", "hello", "client|setinfo"];
    for command in called {
        let is_granted = granted.contains(&command) || own.contains(&command);
        assert!(is_granted, "{command} is used and not granted");
    }
    let rejected = counted.lines().find(|line| {
        let calls = line.split_once("rejected_calls=");
        calls.is_some_and(|(_, calls)| !calls.starts_with("0,"))
    });
    assert_eq!(rejected, None);
}

#[tokio::test]
async fn a_server_that_quotes_the_password_is_not_repeated() {
    let server = RedisServer::start_with(&["--rename-command", "AUTH", "LOGIN"]);
    let link = connect(&format!(
        "redis://:{SECRET_IN_URL}@127.0.0.1:{}",
        server.port()
    ));
    let error = link.incarnation().await.expect_err("it does not know AUTH");
    assert_no_secret(&error);
    let mut server = server;
    server.stop();
    for _ in 0..2 {
        assert_no_secret(&link.incarnation().await.expect_err("nobody is there"));
    }
}

#[tokio::test]
async fn with_a_private_authority_the_link_is_encrypted() {
    let files = crate::common::Certificates::new("tls");
    let server = RedisServer::start_with(&files.arguments());
    let ca = files.ca.clone();
    for host in ["127.0.0.1", "localhost"] {
        let link = Link::open(Options {
            ca_file: Some(ca.clone()),
            ..options(&format!("rediss://{host}:{}", server.port()))
        })
        .expect("good options");
        crate::common::exercise(&link).await;
        let mut watch = link.watch_map();
        watch.changed().await.expect("subscribed");
    }
    let distrustful = connect(&format!("rediss://127.0.0.1:{}", server.port()));
    let error = distrustful
        .incarnation()
        .await
        .expect_err("an unknown authority");
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    let plain = impatient(&server.url());
    let error = plain.incarnation().await.expect_err("it speaks TLS only");
    assert!(error.to_string().contains("rediss://"), "{error}");
    let empty = files.file("empty.pem", "");
    for (path, words) in [
        (empty, "no certificate"),
        (files.directory.join("none.pem"), "No such file"),
    ] {
        let error = Link::open(Options {
            ca_file: Some(path),
            ..options("rediss://127.0.0.1")
        })
        .expect_err("a bad file");
        assert!(matches!(error, OptionsError::CaFile { .. }));
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn the_url_chooses_the_database() {
    let server = RedisServer::start();
    let (zero, three) = (
        connect(&server.url()),
        connect(&format!("{}/3", server.url())),
    );
    assert_eq!(run_one(&three, write(1)).await, Ok(Done::Written));
    let read = Op::Read {
        vnode: Vnode::new(1),
        users: vec![user(1)],
    };
    assert_eq!(
        run_one(&zero, read).await,
        Ok(Done::Records(Epoch::new(0), vec![None]))
    );
    assert_eq!(
        server.cli(&["-n", "3", "exists", "os:{v1}:users"]).trim(),
        "1"
    );
}

#[test]
fn each_wrong_option_is_named_at_once_and_the_password_is_not() {
    let cases = [
        ("", "REDIS_URL", "is not set"),
        ("redis+sentinel://:hunter2@a,b", "node 2", "the name that"),
        ("redis+sentinel://:hunter2@a,b/", "node 2", "the name that"),
        ("redis+sentinel://a,,b/m", "node 2", "is empty"),
        ("redis+sentinel://:hunter2@/m", "node 1", "is empty"),
        (
            "redis+sentinel://u:hunter2@a,u:hunter2@b/m",
            "node 1",
            "first host",
        ),
        (
            "redis+sentinel://:hunter2@a/m/one",
            "node 1",
            "database number",
        ),
        (
            "redis+sentinel://:hunter2@a:port/m",
            "node 1",
            "is not redis+sentinel",
        ),
        ("redis+sentinel://:hunter2@a/m?x=1", "node 1", "query"),
        (
            "http+sentinel://:hunter2@a/m",
            "node 1",
            "rediss+sentinel://",
        ),
        ("sentinel://:hunter2@a/m", "node 1", "redis+sentinel://"),
        ("127.0.0.1", "node 1", "must begin with redis://"),
        ("http://hunter2@h", "node 1", "must begin with redis://"),
        ("redis://:hunter2@", "node 1", "is not redis://"),
        ("redis://:hunter2@h:port", "node 1", "is not redis://"),
        ("redis://:hunter2@h/one", "node 1", "database number"),
        ("redis://:hunter2@h?protocol=resp3", "node 1", "query"),
        ("rediss://:hunter2@h#insecure", "node 1", "fragment"),
        ("redis://a,", "node 2", "is empty"),
        ("redis://a,rediss://b", "node 2", "scheme of the first"),
        (
            "redis://u:hunter2@a,u:hunter3@b",
            "node 2",
            "user and password",
        ),
        ("redis://a/1,b", "node 1", "only number 0"),
        ("redis://a,b/1", "node 2", "only number 0"),
    ];
    for (url, node, words) in cases {
        let error = Link::open(Options::new(url)).expect_err(url);
        for text in [error.to_string(), format!("{error:?}")] {
            assert!(!text.contains("hunter"), "{url}: {text}");
        }
        let text = error.to_string();
        assert!(text.contains(node) && text.contains(words), "{url}: {text}");
    }
    for url in [
        "redis://a",
        "redis://a:1,b:2",
        "redis://u:p@a,redis://b,u:p@c",
        "rediss://[::1]:7000/2",
        "redis+sentinel://a/m",
        "redis+sentinel://u:p@a:1,b,[::1],[::1]:2/my-master/3",
        "rediss+sentinel://:p@a,b/m",
    ] {
        assert!(Link::open(Options::new(url)).is_ok(), "{url}");
    }
    let names = ["connect_timeout", "response_timeout"];
    for (name, timeout) in
        [(0, 9), (1, 60_001)].map(|(n, ms)| (names[n], Duration::from_millis(ms)))
    {
        let mut options = Options::new("redis://a");
        if name == "connect_timeout" {
            options.connect_timeout = timeout;
        } else {
            options.response_timeout = timeout;
        }
        let error = Link::open(options).expect_err(name);
        assert!(error.to_string().contains(name), "{error}");
    }
    let error = Link::open(Options {
        prefix: "{os}".into(),
        ..Options::new("redis://a")
    });
    assert!(matches!(error, Err(OptionsError::Prefix(_))));
    let error = Link::open(Options {
        ca_file: Some("ca.pem".into()),
        ..Options::new("redis://a")
    });
    assert!(matches!(error, Err(OptionsError::CaFileWithoutTls)));
    for (url, user, password, words) in [
        ("redis://a", "", "hunter2", "names no Sentinels"),
        ("redis://a", "u", "", "names no Sentinels"),
        (
            "redis+sentinel://a/m",
            "u",
            "",
            "without redis.sentinel_password",
        ),
    ] {
        let error = Link::open(Options {
            sentinel_username: user.into(),
            sentinel_password: password.into(),
            ..Options::new(url)
        });
        let text = error.expect_err("a wrong option").to_string();
        assert!(text.contains(words) && !text.contains("hunter2"), "{text}");
    }
}
