//! Lookups a second of one core, and the rebalance when a node comes to a thousand.

use divan::{Bencher, black_box, counter::ItemsCount};
use online_status_ring::{Map, Member, Node, NodeId, VnodeCount, assign};

fn main() {
    divan::main();
}

fn users() -> Vec<String> {
    (0..1_024)
        .map(|n| format!("user-{n}@example.com"))
        .collect()
}

#[divan::bench]
fn vnode_of_a_user(bencher: Bencher<'_, '_>) {
    let (users, count) = (users(), VnodeCount::new(4_096).expect("a power of two"));
    bencher.counter(ItemsCount::new(users.len())).bench(|| {
        for user in &users {
            black_box(count.vnode(black_box(user)));
        }
    });
}

#[divan::bench]
fn owner_of_a_user(bencher: Bencher<'_, '_>) {
    let (users, count) = (users(), VnodeCount::new(4_096).expect("a power of two"));
    let node = |n: usize| Node {
        boot: 1,
        id: NodeId::parse(&format!("n{n}")).expect("a name"),
        address: format!("wss://n{n}.example/socket"),
        weight: 1,
    };
    let owners: Vec<_> = (0..count.get()).map(|vnode| Some(vnode % 100)).collect();
    let map = Map::empty(count).apply((0..100).map(node).collect(), &owners);
    bencher.counter(ItemsCount::new(users.len())).bench(|| {
        for user in &users {
            black_box(map.owner(count.vnode(black_box(user))));
        }
    });
}

#[divan::bench(args = [4_096, 65_536])]
fn the_thousandth_node_comes(bencher: Bencher<'_, '_>, vnodes: usize) {
    let members = vec![
        Member {
            weight: 1,
            ..Member::default()
        };
        1_000
    ];
    let nobody = vec![None; vnodes];
    let before = assign(&nobody, &members[..999]).expect("no pins");
    bencher.bench(|| assign(black_box(&before), black_box(&members)));
}
