//! What makes a message of the topic an event: its signature, its key and its vnode. It looks at no other
//! message.

use protocol::{Event, EventError};
use ring::Vnode;

use crate::Options;

/// Why a message of the topic is passed over.
#[derive(Debug, thiserror::Error)]
pub enum BadMessage {
    /// The message has no key.
    #[error("a message has no key; an event's key is its user")]
    NoKey,
    /// The message has no value: a tombstone of a compacted topic.
    #[error("a message has no value")]
    NoValue,
    /// An event without a signature, where there has to be one.
    #[error(
        "an event is not signed: who wrote it has none of kafka.event_keys, or is an edge that has none \
         yet (kafka.unsigned_events)"
    )]
    Unsigned,
    /// An event with a signature of none of the cluster's keys.
    #[error("an event's signature is of none of kafka.event_keys")]
    Signature,
    /// The message's value is not an event.
    #[error(transparent)]
    Event(#[from] EventError),
    /// A key that is not the event's user.
    #[error("an event's key is not its user")]
    KeyDiffers,
    /// A vnode that is not the user's: a writer with another count of vnodes.
    #[error("an event has the vnode {found}; its user's is {expected}")]
    Vnode {
        /// The vnode that the event names.
        found: Vnode,
        /// The vnode of the event's user.
        expected: Vnode,
    },
}

/// The event of a message with this key and value.
pub(crate) fn check<'a>(
    key: &[u8],
    value: Option<&'a [u8]>,
    options: &Options,
) -> Result<Event<'a>, BadMessage> {
    let value = value.ok_or(BadMessage::NoValue)?;
    options.event_keys.check(value)?;
    let event = Event::decode(value)?;
    if event.user.as_bytes() != key {
        return Err(BadMessage::KeyDiffers);
    }
    let expected = options.vnodes.vnode(&event.user);
    if event.vnode != expected {
        let found = event.vnode;
        return Err(BadMessage::Vnode { found, expected });
    }
    Ok(event)
}
