//! The rebalance: which member should own which vnode, with the fewest moves, and in which steps.
//! Members are the nodes of a cluster or the cores of a node; all of this is by their index.

use crate::{Vnode, VnodeSet};

/// The weight and the pins of one candidate for vnodes: a node of the cluster, or a core of a node.
#[derive(Debug, Clone, Default)]
pub struct Member {
    /// The member's share is this over the sum of all weights. With 0 it gets its pins only.
    pub weight: u32,
    /// Vnodes that the member gets before anything is shared out.
    pub pins: VnodeSet,
}

/// Why [`assign`] has no answer. Both cases are mistakes in pins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// Two members pin the same vnode.
    #[error("vnode {vnode} is pinned to member {first} and to member {second}")]
    PinnedTwice {
        /// The vnode that both pins name.
        vnode: Vnode,
        /// Index of the first member that pins it.
        first: usize,
        /// Index of the later member that pins it.
        second: usize,
    },
    /// A pin names a vnode that the map does not have.
    #[error("member {member} pins vnode {vnode}, and there are {count} vnodes")]
    NoSuchVnode {
        /// The vnode that the pin names.
        vnode: Vnode,
        /// Index of the member with that pin.
        member: usize,
        /// The map's number of vnodes.
        count: usize,
    },
}

/// The owner of each vnode, from the owners now. Entries of `current` that are no index of
/// `members` count as unowned.
///
/// Pins come first. A member whose pins are more than its weighted share of everything gets just
/// these; the others share what is left by weight, each getting its share rounded down or up, its
/// pins included. Which of them get one more is chosen so that the number of vnodes that leave a
/// living owner is the least that these bounds allow. Without any weight, unpinned vnodes stay
/// with nobody. O(Q + N log N) without pins. The same input gives the same output.
///
/// # Errors
/// When two members pin one vnode, or a pin is beyond `current`.
pub fn assign(
    current: &[Option<usize>],
    members: &[Member],
) -> Result<Vec<Option<usize>>, AssignError> {
    let pinned = pins(current.len(), members)?;
    let mut held = vec![0_usize; members.len()];
    for (owner, pin) in current.iter().zip(&pinned) {
        if let (Some(owner), None) = (owner, pin)
            && let Some(held) = held.get_mut(*owner)
        {
            *held += 1;
        }
    }
    let mut room = quotas(&pinned, members, &held);
    let mut next = pinned;
    // Owners keep what fits, lowest vnodes first; the rest is free.
    let mut free = Vec::new();
    for (vnode, slot) in next
        .iter_mut()
        .enumerate()
        .filter(|(_, slot)| slot.is_none())
    {
        match current[vnode].filter(|owner| room.get(*owner).is_some_and(|room| *room > 0)) {
            Some(owner) => {
                room[owner] -= 1;
                *slot = Some(owner);
            }
            None => free.push(vnode),
        }
    }
    let takers = room
        .iter()
        .enumerate()
        .flat_map(|(n, room)| std::iter::repeat_n(n, *room));
    for (vnode, taker) in free.into_iter().zip(takers) {
        next[vnode] = Some(taker);
    }
    Ok(next)
}

fn pins(count: usize, members: &[Member]) -> Result<Vec<Option<usize>>, AssignError> {
    let mut pinned = vec![None; count];
    for (member, Member { pins, .. }) in members.iter().enumerate() {
        for vnode in pins.iter() {
            match pinned.get_mut(vnode.index()) {
                None => {
                    return Err(AssignError::NoSuchVnode {
                        vnode,
                        member,
                        count,
                    });
                }
                Some(Some(first)) => {
                    return Err(AssignError::PinnedTwice {
                        vnode,
                        first: *first,
                        second: member,
                    });
                }
                Some(slot) => *slot = Some(member),
            }
        }
    }
    Ok(pinned)
}

/// How many unpinned vnodes each member gets; `held` are those it has.
fn quotas(pinned: &[Option<usize>], members: &[Member], held: &[usize]) -> Vec<usize> {
    let mut pins = vec![0_usize; members.len()];
    for owner in pinned.iter().flatten() {
        pins[*owner] += 1;
    }
    let mut quota = vec![0; members.len()];
    let mut sharing: Vec<usize> = (0..members.len())
        .filter(|n| members[*n].weight > 0)
        .collect();
    let mut vnodes = pinned.len();
    for (n, member) in members.iter().enumerate() {
        vnodes -= if member.weight == 0 { pins[n] } else { 0 };
    }
    // Members with more pins than share leave less for the others, whose shares then shrink.
    let total = loop {
        let total: u128 = sharing.iter().map(|n| u128::from(members[*n].weight)).sum();
        let saturated =
            |n: &usize| pins[*n] as u128 * total > vnodes as u128 * u128::from(members[*n].weight);
        let (full, rest): (Vec<usize>, Vec<usize>) = sharing.into_iter().partition(saturated);
        sharing = rest;
        if full.is_empty() {
            break total;
        }
        vnodes -= full.iter().map(|n| pins[*n]).sum::<usize>();
    };
    if sharing.is_empty() {
        return quota;
    }
    let share = |n: usize| {
        let product = vnodes as u128 * u128::from(members[n].weight);
        ((product / total) as usize, product % total)
    };
    let mut spare = vnodes;
    for n in &sharing {
        let (floor, _) = share(*n);
        quota[*n] = floor - pins[*n];
        spare -= floor;
    }
    // One more for those that hold more than their floor (each saves one move), then for those
    // with the largest remainder.
    let mut order = sharing;
    order.retain(|n| share(*n).1 > 0);
    order.sort_by_key(|n| (held[*n] <= quota[*n], std::cmp::Reverse(share(*n).1), *n));
    for n in order.into_iter().take(spare) {
        quota[n] += 1;
    }
    quota
}

/// The next vnodes to move on the way from `current` to `target`: at most `budget` away from and
/// at most `budget` to each member. Vnodes without an owner move at once: nobody is served there.
///
/// # Panics
/// When `current` and `target` have not the same number of vnodes.
#[must_use]
pub fn next_moves(
    current: &[Option<usize>],
    target: &[Option<usize>],
    budget: usize,
) -> Vec<Vnode> {
    assert_eq!(current.len(), target.len(), "both are of one cluster");
    let members = current
        .iter()
        .chain(target)
        .flatten()
        .max()
        .map_or(0, |most| most + 1);
    let (mut leaving, mut coming) = (vec![0; members], vec![0; members]);
    let mut moves = Vec::new();
    for (vnode, (from, to)) in current.iter().zip(target).enumerate() {
        if from == to {
            continue;
        }
        if let Some(from) = from {
            let full = to.is_some_and(|to| coming[to] >= budget);
            if full || leaving[*from] >= budget {
                continue;
            }
            leaving[*from] += 1;
            if let Some(to) = to {
                coming[*to] += 1;
            }
        }
        moves.push(Vnode::new(vnode as u16));
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VnodeCount;
    use proptest::prelude::*;

    fn moved(current: &[Option<usize>], next: &[Option<usize>], members: usize) -> usize {
        let living = |owner: &Option<usize>| owner.is_some_and(|owner| owner < members);
        current
            .iter()
            .zip(next)
            .filter(|(a, b)| living(a) && a != b)
            .count()
    }

    fn counts(owners: &[Option<usize>], members: usize) -> Vec<usize> {
        let mut counts = vec![0; members];
        for owner in owners.iter().flatten() {
            counts[*owner] += 1;
        }
        counts
    }

    fn weighted(weights: &[u32]) -> Vec<Member> {
        let member = |weight: &u32| Member {
            weight: *weight,
            pins: VnodeSet::default(),
        };
        weights.iter().map(member).collect()
    }

    /// The fewest moves to any assignment in which every member has its share rounded down or up:
    /// tries every such distribution of counts.
    fn fewest_moves(
        held: &[usize],
        floors: &[usize],
        ceils: &[usize],
        left: usize,
    ) -> Option<usize> {
        let Some((first, rest)) = held.split_first() else {
            return (left == 0).then_some(0);
        };
        (floors[0]..=ceils[0].min(left))
            .filter_map(|count| {
                let others = fewest_moves(rest, &floors[1..], &ceils[1..], left - count)?;
                Some(others + first.saturating_sub(count))
            })
            .min()
    }

    proptest! {
        #[test]
        fn everyone_has_its_share_rounded_and_the_moves_are_the_fewest_possible(
            current in prop::collection::vec(prop::option::of(0_usize..7), 0..48),
            weights in prop::collection::vec(0_u32..5, 1..6),
        ) {
            let members = weighted(&weights);
            let next = assign(&current, &members).expect("no pins");
            prop_assert_eq!(&next, &assign(&current, &members).expect("no pins"));
            let total: usize = weights.iter().map(|weight| *weight as usize).sum();
            if total == 0 {
                prop_assert!(next.iter().all(Option::is_none));
                return Ok(());
            }
            let share = |weight: &u32| current.len() * *weight as usize;
            let floors: Vec<usize> = weights.iter().map(|w| share(w) / total).collect();
            let ceils: Vec<usize> = weights.iter().map(|w| share(w).div_ceil(total)).collect();
            for (n, count) in counts(&next, weights.len()).into_iter().enumerate() {
                prop_assert!(floors[n] <= count && count <= ceils[n]);
            }
            let living: Vec<_> =
                current.iter().map(|owner| owner.filter(|n| *n < weights.len())).collect();
            let held = counts(&living, weights.len());
            prop_assert_eq!(
                Some(moved(&current, &next, weights.len())),
                fewest_moves(&held, &floors, &ceils, current.len())
            );
        }

        #[test]
        fn pins_win_and_the_others_share_what_is_left_by_weight(
            current in prop::collection::vec(prop::option::of(0_usize..5), 64),
            weights in prop::collection::vec(0_u32..5, 2..5),
            pins in prop::collection::vec(prop::option::weighted(0.2, 0_usize..4), 64),
        ) {
            let mut members = weighted(&weights);
            let count = VnodeCount::new(64).expect("a power of two");
            for (n, member) in members.iter_mut().enumerate() {
                let mine = (0..64).filter(|vnode| pins[*vnode] == Some(n));
                let text: Vec<String> = mine.map(|vnode| vnode.to_string()).collect();
                member.pins = VnodeSet::parse(&text.join(","), count).expect("all exist");
            }
            let next = assign(&current, &members).expect("no vnode twice");
            for (pin, owner) in pins.iter().zip(&next) {
                if let Some(pin) = pin && *pin < members.len() {
                    prop_assert_eq!(*owner, Some(*pin));
                }
            }
            let counts = counts(&next, members.len());
            let pinned = |n: usize| pins.iter().filter(|pin| **pin == Some(n)).count();
            if weights.iter().any(|weight| *weight > 0) {
                // Nobody with room is more than one (weighted) vnode behind anyone else with room.
                prop_assert!(next.iter().all(Option::is_some) || pins.iter().flatten().count() > 0);
                for (a, b) in (0..members.len()).flat_map(|a| (0..members.len()).map(move |b| (a, b))) {
                    let (wa, wb) = (weights[a] as usize, weights[b] as usize);
                    if wa > 0 && wb > 0 && counts[a] > pinned(a) {
                        prop_assert!((counts[a] - 1) * wb <= (counts[b] + 1) * wa);
                    }
                }
            }
        }

        #[test]
        fn paced_moves_reach_the_target_and_never_exceed_the_budget(
            current in prop::collection::vec(prop::option::of(0_usize..4), 40),
            target in prop::collection::vec(prop::option::of(0_usize..4), 40),
            budget in 1_usize..5,
        ) {
            let mut now = current;
            for _ in 0..80 {
                let moves = next_moves(&now, &target, budget);
                for member in 0..4 {
                    let taken = moves.iter().filter(|v| now[v.index()].is_some());
                    let leaving = taken.clone().filter(|v| now[v.index()] == Some(member)).count();
                    let coming = taken.filter(|v| target[v.index()] == Some(member)).count();
                    prop_assert!(leaving <= budget && coming <= budget);
                }
                for vnode in &moves {
                    now[vnode.index()] = target[vnode.index()];
                }
                prop_assert!(moves.is_empty() == (now == target) || !moves.is_empty());
            }
            prop_assert_eq!(now, target);
        }
    }

    #[test]
    fn a_joining_node_takes_its_share_and_nothing_else_moves() {
        let three = assign(&vec![None; 4096], &weighted(&[100; 3])).expect("no pins");
        let four = assign(&three, &weighted(&[100; 4])).expect("no pins");
        assert_eq!(counts(&four, 4), [1024; 4]);
        let changed: Vec<_> = three.iter().zip(&four).filter(|(a, b)| a != b).collect();
        assert_eq!(changed.len(), 1024);
        assert!(changed.iter().all(|(_, to)| **to == Some(3)));
    }

    #[test]
    #[should_panic(expected = "both are of one cluster")]
    fn moves_between_different_numbers_of_vnodes_are_none() {
        let _ = next_moves(&[None; 4], &[Some(0); 8], 1);
    }

    #[test]
    fn a_vnode_pinned_twice_or_beyond_the_map_is_named() {
        let count = VnodeCount::default();
        let pinned = |text| Member {
            weight: 1,
            pins: VnodeSet::parse(text, count).expect("all exist"),
        };
        let error =
            assign(&vec![None; 4096], &[pinned("1-5"), pinned("9,3")]).expect_err("3 twice");
        assert_eq!(
            error.to_string(),
            "vnode 3 is pinned to member 0 and to member 1"
        );
        let error = assign(&[None; 16], &[pinned("20")]).expect_err("beyond");
        assert_eq!(
            error.to_string(),
            "member 0 pins vnode 20, and there are 16 vnodes"
        );
    }
}
