//! The coordinator: which node owns which vnodes, decided from leases and handed out as the map.
//! `control` decides and is pure; the rest is the shell around it.
#![forbid(unsafe_code)]

pub mod control;
