//! What an edge holds of the machine's memory.

use crate::common::Edge;

#[test]
fn an_edge_without_sessions_holds_little_and_no_huge_page() {
    let edge = Edge::start(&["--server-cores", "2"]);
    assert_eq!(edge.memory("AnonHugePages"), 0);
    let own = edge.memory("Anonymous");
    assert!(own < 5 << 20, "{own} bytes before the first session");
}
