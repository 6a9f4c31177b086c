//! Keys from a real web server.

mod common;
mod fetching;
mod waiting;
