//! The map of vnodes to nodes: versions, epochs, and the compact form that travels.
//! It owns the rule that an epoch grows with each change of owner and never falls.

use xxhash_rust::xxh3::xxh3_64;

use crate::{Epoch, MapVersion, NodeId, Vnode, VnodeCount};

/// A node in the map: its name, its process, and where its clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The node's configured name, unique in the cluster.
    pub id: NodeId,
    /// The process behind the name, drawn at random at its start: another process under the same
    /// name has another one, and none of the former one's vnodes.
    pub boot: u64,
    /// The whole WebSocket URL that clients of its vnodes use; at most 65,535 bytes.
    pub address: String,
    /// The node's weight in [`crate::assign`], as in [`crate::Member`].
    pub weight: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    /// Index into `Map::nodes`, or [`NOBODY`].
    owner: u16,
    epoch: Epoch,
}

const NOBODY: u16 = u16::MAX;
const MAGIC: &[u8; 4] = b"OSM\x02";

/// The owner and the epoch of each vnode: one immutable version of the cluster's layout. The
/// leading
/// coordinator makes the next one with [`Map::apply`]; edges follow the newest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    version: MapVersion,
    nodes: Vec<Node>,
    slots: Vec<Slot>,
}

/// Why [`Map::decode`] refuses bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The bytes do not begin like a map of this release.
    #[error("not a map of a known format")]
    Format,
    /// The bytes were cut off or changed on the way.
    #[error("the map's checksum is wrong: it was cut off or changed")]
    Checksum,
    /// A part has a value it cannot have.
    #[error("the map has a bad {0}")]
    Bad(&'static str),
}

impl Map {
    /// The number of maps for which [`Map::with_room`] leaves room at least.
    pub const ROOM: u32 = 8;

    /// The map of a new cluster: version 0, no nodes, no owners, every epoch 0.
    #[must_use]
    pub fn empty(count: VnodeCount) -> Self {
        let slot = Slot {
            owner: NOBODY,
            epoch: Epoch::default(),
        };
        Self {
            version: MapVersion::default(),
            nodes: Vec::new(),
            slots: vec![slot; count.get()],
        }
    }

    /// The map's version: each map that [`Map::apply`] or [`Map::raised`] makes has a higher one.
    #[must_use]
    pub fn version(&self) -> MapVersion {
        self.version
    }

    /// The number of vnodes, the same in every map of a cluster.
    #[must_use]
    pub fn count(&self) -> VnodeCount {
        VnodeCount::new(self.slots.len()).expect("a map is only made with an allowed count")
    }

    /// The nodes of the map, in the order that [`Map::apply`] was given; some may own nothing.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The vnode's owner and epoch; `None` when nobody owns it.
    ///
    /// # Panics
    /// When the vnode is beyond the map's count.
    #[must_use]
    pub fn owner(&self, vnode: Vnode) -> Option<(&Node, Epoch)> {
        let slot = self.slots[vnode.index()];
        self.nodes
            .get(usize::from(slot.owner))
            .map(|node| (node, slot.epoch))
    }

    /// The newest epoch of `vnode`; it stays when the vnode loses its owner.
    ///
    /// # Panics
    /// When the vnode is beyond the map's count.
    #[must_use]
    pub fn epoch(&self, vnode: Vnode) -> Epoch {
        self.slots[vnode.index()].epoch
    }

    /// The vnodes of one node, with their epochs, in order.
    pub fn owned_by<'a>(&'a self, node: &NodeId) -> impl Iterator<Item = (Vnode, Epoch)> + 'a {
        let index = self.nodes.iter().position(|other| other.id == *node);
        self.slots
            .iter()
            .enumerate()
            .filter_map(move |(vnode, slot)| {
                let mine = index == Some(usize::from(slot.owner));
                mine.then(|| (Vnode::new(vnode as u16), slot.epoch))
            })
    }

    /// Each vnode's owner as an index of `nodes`, by name: the input of [`crate::assign`].
    #[must_use]
    pub fn owners_among(&self, nodes: &[Node]) -> Vec<Option<usize>> {
        let index: Vec<Option<usize>> = self
            .nodes
            .iter()
            .map(|node| nodes.iter().position(|other| other.id == node.id))
            .collect();
        let owner = |slot: &Slot| index.get(usize::from(slot.owner)).copied().flatten();
        self.slots.iter().map(owner).collect()
    }

    /// The highest epoch of any vnode; 0 in an empty map.
    #[must_use]
    pub fn highest_epoch(&self) -> Epoch {
        self.slots
            .iter()
            .map(|slot| slot.epoch)
            .max()
            .unwrap_or_default()
    }

    /// The same owners in a map that is newer than `version`, under epochs that are all newer than
    /// `epoch` and than their own: what follows a map that was lost.
    #[must_use]
    pub fn raised(&self, version: MapVersion, epoch: Epoch) -> Self {
        let raise = |slot: &Slot| Slot {
            owner: slot.owner,
            epoch: slot.epoch.max(epoch).next(),
        };
        Self {
            version: MapVersion::new(self.version.max(version).get() + 1),
            nodes: self.nodes.clone(),
            slots: self.slots.iter().map(raise).collect(),
        }
    }

    /// This map, which [`Map::apply`] made of `former`, with room between both for maps that were written and
    /// lost: its version, and the epochs that are newer than in `former`, are higher by `room` times
    /// [`Map::ROOM`].
    #[must_use]
    pub fn with_room(mut self, former: &Self, room: u32) -> Self {
        let room = room * Self::ROOM;
        self.version = MapVersion::new(self.version.get() + u64::from(room));
        for (slot, former) in self.slots.iter_mut().zip(&former.slots) {
            if slot.epoch > former.epoch {
                slot.epoch = Epoch::new(slot.epoch.get() + room);
            }
        }
        self
    }

    /// Whether nobody has had the vnode between its owner in `former` and the one in this newer map, as far
    /// as both can tell: the epoch is the next one, or all that lies between is room.
    ///
    /// # Panics
    /// When the vnode is beyond a map's count.
    #[must_use]
    pub fn succeeds(&self, former: &Self, vnode: Vnode) -> bool {
        let epochs = self
            .epoch(vnode)
            .get()
            .wrapping_sub(former.epoch(vnode).get());
        let versions = self.version.get().wrapping_sub(former.version.get());
        epochs == 1 || (epochs > Self::ROOM && u64::from(epochs) == versions)
    }

    /// The next map: `nodes`, and for each vnode its owner among them. A vnode that gets another
    /// owner, one at all, or its owner's next life, gets the next epoch.
    ///
    /// # Panics
    /// When `owners` has not one entry a vnode, names a node that is not there, or there are
    /// 65,535 nodes or more.
    #[must_use]
    pub fn apply(&self, nodes: Vec<Node>, owners: &[Option<usize>]) -> Self {
        assert_eq!(owners.len(), self.slots.len(), "one owner a vnode");
        assert!(
            nodes.len() < usize::from(NOBODY),
            "too many nodes for a map"
        );
        let lives = |node: &Node| {
            self.nodes
                .iter()
                .any(|o| o.id == node.id && o.boot == node.boot)
        };
        let lives: Vec<bool> = nodes.iter().map(lives).collect();
        let now = self.owners_among(&nodes);
        let slot = |(vnode, next): (usize, &Option<usize>)| {
            let epoch = self.slots[vnode].epoch;
            match *next {
                None => Slot {
                    owner: NOBODY,
                    epoch,
                },
                Some(next) => {
                    assert!(next < nodes.len(), "an owner is one of the nodes");
                    let epoch = if now[vnode] == Some(next) && lives[next] {
                        epoch
                    } else {
                        epoch.next()
                    };
                    Slot {
                        owner: next as u16,
                        epoch,
                    }
                }
            }
        };
        let slots = owners.iter().enumerate().map(slot).collect();
        Self {
            version: MapVersion::new(self.version.get() + 1),
            nodes,
            slots,
        }
    }

    /// The compact form, little-endian: magic and format `OSM` 2, version u64, log2 of the count
    /// u8, number of nodes u16, each node (length u8 and name, boot u64, length u16 and address,
    /// weight u32), then runs of equal vnodes (length u32, owner u16, epoch u32), and xxh3_64 of it all.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(self.version.get().to_le_bytes());
        out.push(self.slots.len().ilog2() as u8);
        out.extend((self.nodes.len() as u16).to_le_bytes());
        for node in &self.nodes {
            out.push(node.id.len() as u8);
            out.extend(node.id.as_bytes());
            out.extend(node.boot.to_le_bytes());
            let address = &node.address.as_bytes()[..node.address.len().min(usize::from(u16::MAX))];
            out.extend((address.len() as u16).to_le_bytes());
            out.extend(address);
            out.extend(node.weight.to_le_bytes());
        }
        for run in self.slots.chunk_by(|a, b| a == b) {
            out.extend((run.len() as u32).to_le_bytes());
            out.extend(run[0].owner.to_le_bytes());
            out.extend(run[0].epoch.get().to_le_bytes());
        }
        out.extend(xxh3_64(&out).to_le_bytes());
        out
    }

    /// The map in `bytes`, which may come from anywhere.
    ///
    /// # Errors
    /// When the bytes are not exactly what [`Map::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, MapError> {
        use MapError::{Bad, Checksum, Format};
        if !bytes.starts_with(MAGIC) {
            return Err(Format);
        }
        let (body, checksum) = bytes.split_last_chunk().ok_or(Checksum)?;
        if xxh3_64(body) != u64::from_le_bytes(*checksum) {
            return Err(Checksum);
        }
        let mut rest = &body[MAGIC.len()..];
        let version = u64::from_le_bytes(take(&mut rest).ok_or(Bad("version"))?);
        let [log2] = take(&mut rest).ok_or(Bad("count"))?;
        let count = 1_usize.checked_shl(log2.into()).ok_or(Bad("count"))?;
        let count = VnodeCount::new(count).map_err(|_| Bad("count"))?;
        let number = u16::from_le_bytes(take(&mut rest).ok_or(Bad("number of nodes"))?);
        let mut nodes: Vec<Node> = Vec::new();
        for _ in 0..number {
            let [length] = take(&mut rest).ok_or(Bad("node"))?;
            let id = text(&mut rest, length.into()).ok_or(Bad("node's name"))?;
            let boot = u64::from_le_bytes(take(&mut rest).ok_or(Bad("node's boot"))?);
            let length = u16::from_le_bytes(take(&mut rest).ok_or(Bad("node"))?);
            let address = text(&mut rest, length.into())
                .ok_or(Bad("node's address"))?
                .to_owned();
            let weight = u32::from_le_bytes(take(&mut rest).ok_or(Bad("node's weight"))?);
            let id = NodeId::parse(id).map_err(|_| Bad("node's name"))?;
            nodes.push(Node {
                id,
                boot,
                address,
                weight,
            });
        }
        let mut slots = Vec::with_capacity(count.get());
        while !rest.is_empty() {
            let length = u32::from_le_bytes(take(&mut rest).ok_or(Bad("run"))?) as usize;
            let owner = u16::from_le_bytes(take(&mut rest).ok_or(Bad("run"))?);
            let epoch = Epoch::new(u32::from_le_bytes(take(&mut rest).ok_or(Bad("run"))?));
            if length == 0 || length > count.get() - slots.len() {
                return Err(Bad("run's length"));
            }
            if owner != NOBODY && usize::from(owner) >= nodes.len() {
                return Err(Bad("owner"));
            }
            slots.resize(slots.len() + length, Slot { owner, epoch });
        }
        if slots.len() != count.get() {
            return Err(Bad("number of vnodes"));
        }
        Ok(Self {
            version: MapVersion::new(version),
            nodes,
            slots,
        })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*first)
}

fn text<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a str> {
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    std::str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nodes(count: usize) -> Vec<Node> {
        let node = |n| Node {
            id: NodeId::parse(&format!("edge-{n}")).expect("a good name"),
            boot: 1,
            address: format!("ws://127.0.0.1:{}/socket", 8100 + n),
            weight: 100,
        };
        (0..count).map(node).collect()
    }

    #[test]
    fn an_epoch_grows_exactly_when_the_owner_changes() {
        let count = VnodeCount::new(4).expect("a power of two");
        let first = Map::empty(count).apply(nodes(2), &[Some(0), Some(0), Some(1), None]);
        let second = first.apply(nodes(2), &[Some(0), Some(1), None, None]);
        let third = second.apply(nodes(2), &[Some(0), Some(1), Some(1), Some(0)]);
        let epochs = |map: &Map| count.all().map(|v| map.epoch(v).get()).collect::<Vec<_>>();
        assert_eq!(epochs(&first), [1, 1, 1, 0]);
        assert_eq!(epochs(&second), [1, 2, 1, 0]);
        assert_eq!(epochs(&third), [1, 2, 2, 1]);
        assert_eq!(third.version(), MapVersion::new(3));
        let owned: Vec<_> = third.owned_by(&nodes(2)[1].id).collect();
        assert_eq!(
            owned,
            [
                (Vnode::new(1), Epoch::new(2)),
                (Vnode::new(2), Epoch::new(2))
            ]
        );
    }

    #[test]
    fn the_stored_form_is_pinned_because_two_releases_read_each_others_maps() {
        let count = VnodeCount::new(4).expect("a power of two");
        let node = Node {
            address: "ws://h".into(),
            ..nodes(1).remove(0)
        };
        let map = Map::empty(count).apply(vec![node], &[Some(0), Some(0), Some(0), None]);
        let head = b"OSM\x02\x01\0\0\0\0\0\0\0\x02\x01\0";
        let node = b"\x06edge-0\x01\0\0\0\0\0\0\0\x06\0ws://h\x64\0\0\0";
        let runs = b"\x03\0\0\0\0\0\x01\0\0\0\x01\0\0\0\xff\xff\0\0\0\0";
        let written = [
            &head[..],
            node,
            runs,
            &0x4338_4597_1186_595c_u64.to_le_bytes(),
        ]
        .concat();
        assert_eq!(map.encode(), written);
        assert_eq!(Map::decode(&written), Ok(map));
        let newer = [b"OSM\x03", &written[4..]].concat();
        assert_eq!(Map::decode(&newer), Err(MapError::Format));
    }

    #[test]
    fn another_life_of_a_node_and_a_lost_map_get_newer_epochs() {
        let count = VnodeCount::new(2).expect("a power of two");
        let map = Map::empty(count).apply(nodes(2), &[Some(0), Some(1)]);
        let mut reborn = nodes(2);
        reborn[1].boot = 2;
        let next = map.apply(reborn, &[Some(0), Some(1)]);
        let epochs = |map: &Map| count.all().map(|v| map.epoch(v).get()).collect::<Vec<_>>();
        assert_eq!(epochs(&next), [1, 2]);
        let raised = next.raised(MapVersion::new(9), Epoch::new(7));
        assert_eq!((epochs(&raised), raised.version().get()), (vec![8, 8], 10));
        assert_eq!(raised.highest_epoch(), Epoch::new(8));
    }

    #[test]
    #[should_panic(expected = "one owner a vnode")]
    fn a_map_has_an_entry_for_each_vnode() {
        let count = VnodeCount::new(4).expect("a power of two");
        let _ = Map::empty(count).apply(nodes(1), &[Some(0)]);
    }

    #[test]
    #[should_panic(expected = "an owner is one of the nodes")]
    fn an_owner_is_one_of_the_nodes() {
        let count = VnodeCount::new(2).expect("a power of two");
        let _ = Map::empty(count).apply(nodes(1), &[Some(0), Some(1)]);
    }

    #[test]
    #[should_panic(expected = "no epoch after the highest")]
    fn an_epoch_does_not_start_anew_after_the_highest() {
        let map = Map::empty(VnodeCount::new(1).expect("a power of two"));
        let _ = map.raised(MapVersion::new(1), Epoch::MAX);
    }

    #[test]
    fn the_worst_map_of_4096_vnodes_stays_below_50_kb() {
        let count = VnodeCount::default();
        let owners: Vec<_> = (0..4096).map(|vnode| Some(vnode % 3)).collect();
        let map = Map::empty(count).apply(nodes(3), &owners);
        assert!(map.encode().len() < 50_000);
    }

    #[test]
    fn a_map_with_room_is_newer_than_those_that_were_lost_and_succeeds_the_one_before() {
        let count = VnodeCount::new(2).expect("a power of two");
        let first = Map::empty(count).apply(nodes(2), &[Some(0), Some(1)]);
        let lost = first.apply(nodes(2), &[Some(1), Some(1)]);
        let lost_too = lost.apply(nodes(2), &[Some(0), Some(1)]);
        let next = first
            .apply(nodes(1), &[Some(0), Some(0)])
            .with_room(&first, 2);
        let vnode = Vnode::new(1);
        assert!(next.version() > lost_too.version());
        assert_eq!(next.epoch(vnode).get(), 1 + 1 + 2 * Map::ROOM);
        assert_eq!(next.epoch(Vnode::new(0)), first.epoch(Vnode::new(0)));
        assert!(next.succeeds(&first, vnode) && lost.succeeds(&first, Vnode::new(0)));
        assert!(
            !lost_too.succeeds(&first, Vnode::new(0)),
            "it had another owner"
        );
        let raised = first.raised(MapVersion::new(7), Epoch::new(30));
        assert!(!raised.succeeds(&first, vnode), "nobody knows who had it");
    }

    proptest! {
        #[test]
        fn a_map_comes_back_and_any_changed_byte_is_noticed(
            owners in prop::collection::vec(prop::option::of(0_usize..3), 16),
            at in any::<prop::sample::Index>(),
            flip in 1_u8..,
        ) {
            let count = VnodeCount::new(16).expect("a power of two");
            let map = Map::empty(count).apply(nodes(3), &owners);
            let mut bytes = map.encode();
            prop_assert_eq!(Map::decode(&bytes), Ok(map));
            let cut = at.index(bytes.len());
            prop_assert!(Map::decode(&bytes[..cut]).is_err());
            bytes[cut] ^= flip;
            prop_assert!(Map::decode(&bytes).is_err());
        }

        #[test]
        fn bytes_with_a_good_checksum_and_bad_content_are_an_error_and_no_panic(
            content in prop::collection::vec(any::<u8>(), 0..200)
        ) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(content);
            bytes.extend(xxh3_64(&bytes).to_le_bytes());
            if let Ok(map) = Map::decode(&bytes) {
                prop_assert_eq!(map.encode(), bytes);
            }
        }

        #[test]
        fn epochs_never_fall(
            steps in prop::collection::vec(
                prop::collection::vec(prop::option::of(0_usize..3), 8), 1..10)
        ) {
            let count = VnodeCount::new(8).expect("a power of two");
            let mut map = Map::empty(count);
            for owners in steps {
                let next = map.apply(nodes(3), &owners);
                for vnode in count.all() {
                    prop_assert!(next.epoch(vnode) >= map.epoch(vnode));
                }
                map = next;
            }
        }
    }
}
