//! What every edge is asked: who answers is put together, who does not is named.

use redis_store::testing::RedisServer;
use serde_json::json;

use crate::common::{Coordinator, Edge, admin, until};

/// Does `asks` while these nodes answer the question that it asks: the name, and the JSON.
pub(crate) fn answered<T>(
    redis: &RedisServer,
    answers: &[(&str, &str)],
    asks: impl FnOnce() -> T,
) -> T {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let id = until("there is a question", || {
                let fields = redis.cli(&["HKEYS", "os:{policy}:entries"]);
                let mut asked = fields.lines().filter_map(|it| it.strip_prefix("survey:"));
                Some(asked.next()?.split(':').next()?.to_owned())
            });
            for (node, found) in answers {
                let _ = redis.cli(&["HSET", &format!("os:survey:{id}"), node, found]);
            }
        });
        asks()
    })
}

#[test]
fn the_answers_of_the_edges_make_one_and_who_is_silent_is_named() {
    let redis = RedisServer::start();
    // Half of that is how long an edge may take.
    let flags = ["--coordinator-request-timeout", "2s"];
    let coordinator = Coordinator::start(&redis, "c1", &flags);
    let (_a, _b, _c) = (
        Edge::start(&redis, "a"),
        Edge::start(&redis, "b"),
        Edge::start(&redis, "c"),
    );
    coordinator.ready();
    until("all edges are there", || {
        let fleet = coordinator.json("/nodes");
        (fleet["nodes"].as_array()?.len() == 3).then_some(())
    });
    let token = admin();
    let headers = [("authorization", token.as_str())];
    let answers = [
        (
            "a",
            r#"{"total":70,"sessions":[{"user":"bob","session":"a-0-1"}]}"#,
        ),
        ("b", r#"{"total":0,"sessions":[]}"#),
        ("c", "nonsense"),
    ];
    // On a busy machine the answers may come too late.
    let told = until("the answers come in time", || {
        let told = answered(&redis, &answers, || {
            coordinator.ask("GET", "/watchers?userId=alice", &headers, b"")
        });
        assert_eq!(told.status, 200, "{}", told.text());
        let told = told.json();
        (told["silent"] == json!(["c"])).then_some(told)
    });
    assert_eq!(
        told,
        json!({
            "user": "alice", "total": 70, "notNamed": 69, "silent": ["c"],
            "nodes": [{ "node": "a", "total": 70 }, { "node": "b", "total": 0 }],
            "sessions": [{ "node": "a", "user": "bob", "session": "a-0-1" }],
        })
    );
    // The question is gone with its answer, and who asked it is in the log.
    assert_eq!(redis.cli(&["HLEN", "os:{policy}:entries"]).trim(), "0");
    assert!(coordinator.log().contains(r#"asked who watches \"alice\""#));
}
