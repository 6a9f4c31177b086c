//! What the edge and the coordinator do alike as programs. No name, label or path of theirs stands
//! here: each passes its own.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

pub mod metrics;
