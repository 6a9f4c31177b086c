//! What goes wrong with the store. An error never holds a password.

use ring::{MapError, MapVersion};

/// Why something was not done, or is not known to be done. Everything but a corrupt map may be
/// tried again as it is: what was done already is not done twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No answer within the timeouts, no connection, or no permission to use it.
    #[error("{0}")]
    Unavailable(String),
    /// The server answered with an error: no permission, no memory, loading, a cluster that is down.
    #[error("{0}")]
    Refused(String),
    /// The answer is none to what was asked: a key of another type or a foreign value.
    #[error("{0}")]
    Unexpected(String),
    /// The map is there and is none. A new one may be written after `version`.
    #[error("the map in the store cannot be used: {error}")]
    CorruptMap {
        /// What stands where a map's version does; 0 when there is nothing.
        version: MapVersion,
        /// The mistake in it.
        error: MapError,
    },
}
