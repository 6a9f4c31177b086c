//! A cluster of two nodes gets a third: who owns a user before and after, and what moves. Then what
//! one node more and one node less cost in larger fleets.
//! `cargo run --release -p online-status-ring --example rebalance`

use online_status_ring::{Map, Member, Node, NodeId, VnodeCount, assign, next_moves};

/// Vnodes in motion from or to a node: the default of `rebalance.max_in_motion`.
const IN_MOTION: usize = 64;

fn node(name: &str) -> Result<Node, Box<dyn std::error::Error>> {
    Ok(Node {
        id: NodeId::parse(name)?,
        boot: 1,
        address: format!("wss://{name}.example/socket"),
        weight: 100,
    })
}

/// The map after `map` in which `nodes` share the vnodes by weight.
fn next(map: &Map, nodes: Vec<Node>) -> Result<Map, Box<dyn std::error::Error>> {
    let member = |node: &Node| Member {
        weight: node.weight,
        ..Member::default()
    };
    let members: Vec<Member> = nodes.iter().map(member).collect();
    let owners = assign(&map.owners_among(&nodes), &members)?;
    Ok(map.apply(nodes, &owners))
}

/// How many vnodes have another owner in `after`, and in how many steps they get there.
fn moves(before: &Map, after: &Map) -> (usize, usize) {
    let (mut now, to) = (
        before.owners_among(after.nodes()),
        after.owners_among(after.nodes()),
    );
    let (mut moved, mut steps) = (0, 0);
    loop {
        let step = next_moves(&now, &to, IN_MOTION);
        if step.is_empty() {
            return (moved, steps);
        }
        moved += step.len();
        steps += 1;
        for vnode in step {
            now[vnode.index()] = to[vnode.index()];
        }
    }
}

/// A fleet that grew node by node to `size`, then one that comes, then one that dies.
fn fleet(count: VnodeCount, size: usize) -> Result<(), Box<dyn std::error::Error>> {
    let nodes: Vec<Node> = (0..=size)
        .map(|number| node(&format!("edge-{number}")))
        .collect::<Result<_, _>>()?;
    let mut map = Map::empty(count);
    for so_many in 1..=size {
        map = next(&map, nodes[..so_many].to_vec())?;
    }
    let (come, in_steps) = moves(&map, &next(&map, nodes.clone())?);
    let (gone, at_once) = moves(&map, &next(&map, nodes[1..size].to_vec())?);
    println!(
        "{size} nodes of {} vnodes: the map has {} bytes; one more moves {come} in {in_steps} step(s), a dead one's {gone} in {at_once}",
        count.get(),
        map.encode().len(),
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count = VnodeCount::default();
    let two = next(&Map::empty(count), vec![node("n1")?, node("n2")?])?;
    let three = next(&two, vec![node("n1")?, node("n2")?, node("n3")?])?;
    for map in [&two, &three] {
        let vnode = count.vnode("alice");
        let (owner, epoch) = map.owner(vnode).ok_or("every vnode has an owner")?;
        println!(
            "map {}: alice is in vnode {vnode}, at {} under epoch {epoch}",
            map.version(),
            owner.address
        );
    }
    let moved = count.all().filter(|v| two.epoch(*v) != three.epoch(*v));
    println!("{} of {} vnodes moved", moved.count(), count.get());
    for vnodes in [4_096, 65_536] {
        for size in [10, 100, 1_000] {
            fleet(VnodeCount::new(vnodes)?, size)?;
        }
    }
    Ok(())
}
