//! Who owns which users: the hash from a user to its vnode, the map of vnodes to nodes, and the
//! rebalance that moves as few vnodes as can be. The same code places vnodes on a node's cores.
//! Pure: values in, values out; no I/O, clock or randomness.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod assign;
mod map;
mod set;
mod types;

pub use crate::{
    assign::{AssignError, Member, assign, next_moves},
    map::{Map, MapError, Node},
    set::{VnodeSet, VnodeSetError},
    types::{
        CoreId, Epoch, MapVersion, NodeId, NodeIdError, Vnode, VnodeCount, VnodeCountError, hash,
    },
};
