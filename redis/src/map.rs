//! The map in the store: read, replaced by the leader alone, announced. It owns the form of the
//! key: the writer's token (8 bytes, big-endian), then the map's bytes.

use std::sync::atomic::Ordering::Relaxed;

use ring::{Map, MapVersion};

use crate::{
    StoreError,
    call::Call,
    link::Link,
    reply::{self, Outcome},
    script,
};

/// The length of the writer's token before the map's bytes.
const TOKEN: usize = 8;
/// Where the version stands: behind the token and the map's magic.
const VERSION: std::ops::Range<usize> = TOKEN + 4..TOKEN + 12;

/// The store's answer to the writing of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapWrite {
    /// The map was written, and is announced.
    Written,
    /// A newer leader has written a map; this one was refused.
    Superseded {
        /// The fencing token of that leader.
        token: u64,
    },
    /// Another map than the one that it was to follow is there.
    NotNext {
        /// The version of that leader's map.
        version: MapVersion,
    },
}

impl Link {
    /// The map, when there is one.
    ///
    /// # Errors
    /// [`StoreError::CorruptMap`] when what is there is none.
    pub async fn map(&self) -> Result<Option<Map>, StoreError> {
        let answer = self
            .perform_one(Call::command("GET", &self.keys().map()))
            .await?;
        let Some(value) = reply::bytes(answer)? else {
            return Ok(None);
        };
        let decoded = Map::decode(value.get(TOKEN..).unwrap_or_default());
        decoded.map(Some).map_err(|error| StoreError::CorruptMap {
            version: version(&value),
            error,
        })
    }

    /// The version that was announced last; a cheap hint, that may be older or newer than the map.
    pub async fn map_version(&self) -> Result<Option<MapVersion>, StoreError> {
        let key = self.keys().map_version();
        let answer = self.perform_one(Call::command("GET", &key)).await?;
        match reply::bytes(answer)? {
            None => Ok(None),
            Some(text) => reply::number(redis::Value::BulkString(text))
                .map(|version| Some(MapVersion::new(version))),
        }
    }

    /// The version of the map that is there, without the rest of it.
    pub async fn written_version(&self) -> Result<Option<MapVersion>, StoreError> {
        let call = Call::command("GETRANGE", &self.keys().map())
            .number(VERSION.start)
            .number(VERSION.end - 1);
        let bytes = reply::bytes(self.perform_one(call).await?)?.unwrap_or_default();
        let bytes: Option<[u8; 8]> = bytes.try_into().ok();
        Ok(bytes.map(|bytes| MapVersion::new(u64::from_le_bytes(bytes))))
    }

    /// Makes `map` the map, with the leader's token, when the one that is there has the version
    /// `after` (0 = none or one that is no map at all), or when none is there. Then announces it.
    ///
    /// In the common case `map` is the successor of the map of version `after`. It may be newer
    /// than that, when a store was restored from an old copy.
    pub async fn write_map(
        &self,
        token: u64,
        after: MapVersion,
        map: &Map,
    ) -> Result<MapWrite, StoreError> {
        let write = Call::script(&script::MAP, vec![self.keys().map()])
            .arg(token.to_be_bytes())
            .arg(after.get().to_le_bytes())
            .arg(map.encode());
        let mut outcome = Outcome::of(self.perform_one(write).await?)?;
        match outcome.word.as_str() {
            "written" => {}
            "superseded" | "moved" => {
                let head = reply::bytes(outcome.next())?.unwrap_or_default();
                return Ok(match outcome.word.as_str() {
                    "superseded" => MapWrite::Superseded {
                        token: token_of(&head),
                    },
                    _ => MapWrite::NotNext {
                        version: version(&head),
                    },
                });
            }
            _ => return Err(outcome.unknown()),
        }
        self.announce(map.version()).await;
        Ok(MapWrite::Written)
    }

    /// The token of the map that is there; 0 when there is none.
    pub(crate) async fn map_token(&self) -> Result<u64, StoreError> {
        let head = Call::command("GETRANGE", &self.keys().map())
            .number(0)
            .number(TOKEN - 1);
        let head = reply::bytes(self.perform_one(head).await?)?;
        Ok(token_of(&head.unwrap_or_default()))
    }

    /// The map is written, so what fails here is only counted: readers look by themselves.
    async fn announce(&self, version: MapVersion) {
        let hints = [
            Call::kept("SET", &self.keys().map_version()).number(version),
            Call::command("PUBLISH", &self.keys().map_changed()).number(version),
        ];
        for answer in self.perform(&hints).await {
            if answer.is_err() {
                self.counts().hints_lost.fetch_add(1, Relaxed);
            }
        }
    }
}

fn token_of(value: &[u8]) -> u64 {
    value.first_chunk().copied().map_or(0, u64::from_be_bytes)
}

fn version(value: &[u8]) -> MapVersion {
    let bytes = value.get(VERSION).and_then(|bytes| bytes.first_chunk());
    MapVersion::new(bytes.copied().map_or(0, u64::from_le_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::VnodeCount;

    #[test]
    fn the_version_is_where_the_script_looks_for_it() {
        let map =
            Map::empty(VnodeCount::default()).raised(MapVersion::new(0x0102), ring::Epoch::new(1));
        let mut value = 0x0a0b_u64.to_be_bytes().to_vec();
        value.extend(map.encode());
        assert_eq!(version(&value), MapVersion::new(0x0103));
        assert_eq!(token_of(&value), 0x0a0b);
        assert_eq!(version(&value[..19]), MapVersion::new(0));
        assert_eq!(token_of(&value[..7]), 0);
    }
}
