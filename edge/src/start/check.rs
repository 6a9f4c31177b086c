//! What a start would refuse here, as far as that shows without one. It leaves nothing behind, and takes
//! nothing from an edge that runs.

use super::{Mode, RESERVED_DESCRIPTORS, StartError, check_development, cores};
use crate::{config::Config, decrees::Decrees, send_ring::SendRing, store::Durable};

/// What else there is to know of a start with these settings, on this host and by this user.
///
/// # Errors
/// What a start refuses.
pub(crate) fn check(config: &Config, mode: Mode) -> Result<Vec<String>, StartError> {
    let mut notes = Vec::new();
    check_development(config)?;
    if config.is_development() {
        notes.push(
            "auth.secret (JWT_SECRET) is not set: an edge that is a service does not start, and another one \
             accepts tokens of the public development secret"
                .to_owned(),
        );
    }
    let (_, cores) = cores(config)?;
    let connections = program::connections(RESERVED_DESCRIPTORS + 16 * cores as u64)?;
    let wanted = config.server.max_connections;
    notes.extend(program::few_connections(
        connections,
        "server.max_connections",
        wanted,
    ));
    SendRing::new().map_err(StartError::Uring)?;
    let has_links = mode == Mode::Cluster && config.share.link_key.is_set();
    for (setting, address) in &config.addresses()[..if has_links { 3 } else { 2 }] {
        notes.extend(program::may_listen(setting, *address)?);
    }
    if mode == Mode::Cluster {
        notes.extend(config.links_on_loopback());
    }
    let data = &config.store.data;
    if mode == Mode::Standalone && !data.as_os_str().is_empty() {
        if Durable::check(data)? {
            notes.push(format!(
                "store.data = {}: another process has its database open now, and a start refuses that",
                data.display()
            ));
        }
        Decrees::check(data)?;
    }
    Ok(notes)
}
