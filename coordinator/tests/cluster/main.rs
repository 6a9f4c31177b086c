//! Real coordinators with a real Redis, and edges that do what the control expects of edges.

mod common;
mod faults;
mod fleet;
mod http;
mod process;
mod survey;
mod top;
mod trace;
