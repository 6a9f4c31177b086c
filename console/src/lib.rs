//! What operators see of a fleet: its nodes and cores, as JSON over HTTP and live in a terminal. It
//! owns the form of that JSON and the columns; what is true of a node, its server says.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[macro_use(print, println)]
extern crate settings;

mod ask;
mod columns;
mod fleet;
mod history;
mod page;
mod screen;
mod top;

pub use crate::{
    fleet::{Core, Event, Fleet, Load, Node, Problem},
    history::History,
    page::{ASSETS, Asset, POLICY},
    top::{TopError, command, run},
};
