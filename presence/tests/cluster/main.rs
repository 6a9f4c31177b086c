//! A core among those of other nodes.

mod again;
mod claims;
mod contract;
mod counted;
mod cut_off_owner;
mod handover;
mod links;
mod pace;
mod steps;
mod support;
mod whole_way;
mod window;
mod words;
