#![doc = include_str!("../README.md")]
#![warn(missing_docs)]
#![forbid(unsafe_code)]

#[cfg(test)]
mod behaviour;
mod client;
mod driver;
mod machine;
mod token;
mod transport;
mod types;
mod watch;
mod wire;

pub use client::{Builder, Client, ConfigError, Setting};
pub use token::{IntoToken, TokenError};
pub use types::{
    Activity, Mode, Problem, QueryError, Reason, Record, Session, SetError, State, Status,
    TextError, UserError, Waited,
};
pub use watch::Watch;
