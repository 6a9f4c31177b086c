//! A cluster of two nodes gets a third: who owns a user before and after, and what moves.
//! `cargo run --release -p online-status-ring --example rebalance`

use online_status_ring::{Map, Member, Node, NodeId, VnodeCount, assign};

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
    Ok(())
}
