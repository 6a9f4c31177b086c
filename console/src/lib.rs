//! What operators see of a fleet: its nodes and cores, as JSON over HTTP and live in a terminal, and the
//! steps of a user through it. It owns the form of that JSON, the columns, and that of spans; what is true
//! of a node, its server says.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[macro_use(eprintln)]
extern crate settings;

mod ask;
mod columns;
mod fleet;
mod history;
mod otlp;
mod page;
mod screen;
mod top;
mod trace;

pub use crate::{
    fleet::{Core, Event, Fleet, Load, Node, Problem},
    history::History,
    page::{ASSETS, Asset, POLICY},
    top::{TopError, command, run},
    trace::{run_trace, trace_command},
};
