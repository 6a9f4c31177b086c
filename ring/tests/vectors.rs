//! The vectors that every implementation of the hash has to agree with.

use online_status_ring::VnodeCount;
use serde_json::Value;

const VECTORS: &str = include_str!("../../client-sdk/vectors/vnode.json");

#[test]
fn users_are_in_the_vnodes_of_the_shared_vectors() {
    let vectors: Value = serde_json::from_str(VECTORS).expect("JSON");
    let users = vectors["users"].as_array().expect("users");
    assert!(users.len() >= 20);
    for entry in users {
        let user = entry["user"].as_str().expect("a user");
        for (count, vnode) in entry["vnodes"].as_object().expect("vnodes by their number") {
            let count = VnodeCount::new(count.parse().expect("a number")).expect("a power of two");
            assert_eq!(
                vnode,
                &Value::from(count.vnode(user).get()),
                "{user:?} of {count:?}"
            );
        }
    }
}
