//! The store of a cluster.
