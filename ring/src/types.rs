//! The numbers and names of the ring: vnodes, epochs, nodes, cores, and the hash from a user to
//! its vnode. It owns the hash, which is fixed for a cluster's life.

use xxhash_rust::xxh3::xxh3_64;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($inner);

        impl $name {
            /// Wraps a raw number; every value of the type is allowed.
            #[must_use]
            pub const fn new(value: $inner) -> Self {
                Self(value)
            }

            /// The raw number, as it is encoded and logged.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// One of the slots that users hash to.
    Vnode(u16)
}
number! {
    /// The fencing token of a vnode: one higher at each change of owner.
    Epoch(u32)
}
number! {
    /// The version of a map, which only grows.
    MapVersion(u64)
}
number! {
    /// A core: one pinned thread of a node, counted from 0.
    CoreId(u16)
}

impl Vnode {
    /// The vnode as an index into a table with one entry a vnode.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl Epoch {
    /// The highest epoch that the type holds; no owner ever gets it.
    pub const MAX: Self = Self(u32::MAX);

    /// The epoch of the next owner.
    ///
    /// # Panics
    /// After [`Epoch::MAX`]: a fencing token that starts anew would let an old owner write.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.0.checked_add(1) {
            Some(next) => Self(next),
            None => panic!("there is no epoch after the highest"),
        }
    }
}

/// Why a text is not the name of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a node's name: 1 to 64 of A-Z a-z 0-9 . _ - are allowed")]
pub struct NodeIdError(String);

/// The name of a node: 1 to 64 of `A-Z a-z 0-9 . _ -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Box<str>);

impl NodeId {
    /// The name in `name`.
    ///
    /// # Errors
    /// When it is empty, longer than 64 bytes, or has other characters than those above.
    pub fn parse(name: &str) -> Result<Self, NodeIdError> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=64).contains(&name.len()) && name.bytes().all(good) {
            Ok(Self(name.into()))
        } else {
            Err(NodeIdError(name.chars().take(80).collect()))
        }
    }
}

impl std::ops::Deref for NodeId {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a number cannot be a cluster's count of vnodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a count of vnodes: it must be a power of two from 1 to 65536")]
pub struct VnodeCountError(pub usize);

/// The user's hash: xxh3_64 (seed 0) of its UTF-8 bytes.
#[must_use]
pub fn hash(user: &str) -> u64 {
    xxh3_64(user.as_bytes())
}

/// How many vnodes a cluster has: a power of two from 1 to 65,536, fixed for the cluster's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VnodeCount {
    log2: u8,
}

impl Default for VnodeCount {
    /// 4,096 vnodes, the count of every cluster that does not choose another.
    fn default() -> Self {
        Self { log2: 12 }
    }
}

impl VnodeCount {
    /// A count of vnodes.
    ///
    /// # Errors
    /// When `count` is no power of two, or above 65,536.
    pub fn new(count: usize) -> Result<Self, VnodeCountError> {
        if count.is_power_of_two() && count <= 1 << 16 {
            Ok(Self {
                log2: count.ilog2() as u8,
            })
        } else {
            Err(VnodeCountError(count))
        }
    }

    /// The number of vnodes, 1 to 65,536.
    #[must_use]
    pub const fn get(self) -> usize {
        1 << self.log2
    }

    /// The user's vnode: the top bits of its [`hash`].
    #[must_use]
    pub fn vnode(self, user: &str) -> Vnode {
        // In 128 bits, since a shift by 64 is one too many for a count of 1.
        Vnode((u128::from(hash(user)) >> (64 - self.log2)) as u16)
    }

    /// All vnodes in ascending order.
    pub fn all(self) -> impl DoubleEndedIterator<Item = Vnode> + ExactSizeIterator {
        (0..self.get()).map(|index| Vnode(index as u16))
    }
}
