//! Everything of online-status that crosses a wire: client messages, the presence record in the
//! store, the event on the topic, the store's keys, and WebSocket framing towards clients.
//! Pure: bytes and values in, bytes and values out; no socket, clock, thread or random source.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod words;

pub mod client;
pub mod close;
pub mod event;
pub mod frame;
pub mod keys;
pub mod lease;
pub mod link;
pub mod names;
pub mod policy;
pub mod record;
pub mod server;
pub mod survey;
pub mod trace;
mod varint;
pub mod version;
pub mod watch_rule;

pub use client::{
    BadMessage, ClientMessage, Encoding, MAX_USERS_PER_MESSAGE, MessageId, Request, decode,
};
pub use close::CloseCode;
pub use event::{Cause, Event, EventError};
pub use frame::{FrameStart, Opcode};
pub use keys::{Keys, partition};
pub use lease::{CoreLoad, DELIVERY_WINDOW_MS, Lease, LeaseError, Load};
pub use link::{FromOwner, LinkError, LinkHello, ToOwner};
pub use policy::Policy;
pub use record::{
    Activity, MAX_TEXT, MAX_USER, Mode, Record, Status, Stored, StoredError, UserId, UserIdError,
    check_user,
};
pub use server::{
    ErrorCode, Limits, ListKind, ServerMessage, Welcome, begin_list, end_list, list_record,
};
pub use survey::Survey;
pub use trace::TraceStep;
pub use version::Version;
pub use watch_rule::{Pattern, WatchRule};
