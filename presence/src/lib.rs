//! The presence core: sessions, the state machine that makes users online and offline, the watch
//! index, and what has to be sent, stored and published. (input, time) in, outputs pulled out.
//! Pure: no socket, clock, thread, random source, environment or log of its own.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod attendance;
mod core;
mod counters;
mod departure;
mod fanout;
mod learning;
mod lifetime;
mod links;
mod membership;
mod ownership;
mod peers;
mod publishing;
mod recall;
mod repair;
mod session;
mod settings;
mod slots;
mod state;
mod survey;
mod sync;
mod time;
mod trace;
mod transfer;
mod unreported;
mod user;
mod users;
mod vnodes;
mod waiting;
mod watch;
mod wheel;

pub use crate::{
    core::Core,
    counters::Counters,
    fanout::Transmit,
    lifetime::{Hello, How, Opening, Refused},
    membership::{Found, Membership, Renewal, Step},
    peers::PeerMessage,
    session::SessionId,
    settings::{Now, Settings, WatchBudget},
    survey::Backlog,
    sync::{Publication, StoreReply, StoreRequest, Ticket},
    trace::{Heard, TracedStep, What},
    waiting::Answer,
};
pub use protocol::{Pattern, WatchRule};
