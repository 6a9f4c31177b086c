//! What a check of the configuration says of the store. It owns the words; where they are shown is
//! the program's business.

use ring::VnodeCount;

use crate::{Link, Options};

/// Asks the store what it is, within its timeouts, and gives a sentence for each thing to know; that
/// it cannot be reached is one of them. Nothing is written. It blocks, and runs in no tokio runtime.
///
/// # Errors
/// When there is a server that no cluster can use, too old or a replica, or a map of another number
/// of vnodes than `vnodes`.
pub fn inspect(options: Options, vnodes: VnodeCount) -> Result<Vec<String>, String> {
    let link = Link::open(options).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("Redis cannot be asked: {error}"))?;
    let answer = runtime.block_on(link.run_id());
    let (address, health) = (link.address(), link.health());
    let mut lines = link.take_notices();
    match (answer, &health.version) {
        (Err(error), _) if health.unusable.is_some() => return Err(error.to_string()),
        (Err(error), _) => {
            lines.push(format!("Redis was not asked what it is: {error}"));
        }
        (Ok(_), Some(version)) => {
            let policy = health.policy.as_deref().unwrap_or("not told");
            lines.push(format!(
                "Redis at {address} has version {version}; its maxmemory-policy is {policy}."
            ));
        }
        // What it does not tell was said above.
        (Ok(_), None) => {}
    }
    // A map that cannot be read is replaced by the coordinators, and they say so.
    if let Ok(Some(map)) = runtime.block_on(link.map())
        && map.count() != vnodes
    {
        return Err(format!(
            "the map in Redis at {address} has {} vnodes, and cluster.vnodes is {}: it has to be the same in \
             a cluster, for ever",
            map.count().get(),
            vnodes.get()
        ));
    }
    Ok(lines)
}
