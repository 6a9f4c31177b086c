//! What a client says of its session with its token: in `auth`, or in the target of an upgrade whose
//! head has the token. It owns the bounds of a promise, and what is said when they are not kept.

use presence::Opening;
use protocol::Activity;

use crate::{config::Presence, http::Request};

/// The opening, when the promise is within the server's bounds; else what is wrong.
pub(crate) fn opening(
    presence: &Presence,
    status: Option<Activity>,
    alive: Option<u32>,
) -> Result<Opening, String> {
    // In whole seconds within the bounds.
    let least = presence.alive_min.as_millis().div_ceil(1_000);
    let most = u128::from(presence.alive_max.as_secs());
    let promise = |seconds: u32| {
        u16::try_from(seconds)
            .ok()
            .filter(|promised| (least..=most).contains(&u128::from(*promised)))
            .ok_or_else(|| {
                format!(
                    "alive must be {least} to {most} seconds here, not {seconds} \
                     (presence.alive_min, presence.alive_max)"
                )
            })
    };
    let alive = alive.map(promise).transpose()?;
    Ok(Opening { status, alive })
}

/// The opening in a request's target.
pub(crate) fn of_target(presence: &Presence, request: &Request) -> Result<Opening, String> {
    let one = |name: &str| {
        let mut values = request.parameters(name);
        match (values.pop(), values.is_empty()) {
            (None, _) => Ok(None),
            (Some(Some(value)), true) => Ok(Some(value)),
            (Some(_), _) => Err(format!("{name} must be there once, in UTF-8")),
        }
    };
    let status = one("status")?
        .map(|word| Activity::parse(&word).ok_or("status must be online or away"))
        .transpose()?;
    let seconds = |text: String| match text.parse() {
        Ok(seconds @ 1..) => Ok(seconds),
        _ => Err("alive must be a whole number of seconds, at least 1"),
    };
    opening(presence, status, one("alive")?.map(seconds).transpose()?)
}
