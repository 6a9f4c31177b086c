//! The scripts, which a server keeps by their SHA-1 and may forget at any time.

use std::sync::LazyLock;

/// A script with its hash.
pub(crate) struct Script {
    text: &'static str,
    hashed: redis::Script,
}

impl Script {
    fn new(text: &'static str) -> Self {
        Self {
            text,
            hashed: redis::Script::new(text),
        }
    }

    /// The script's SHA-1 in lower-case hexadecimal, as `EVALSHA` wants it.
    pub(crate) fn sha1(&self) -> &str {
        self.hashed.get_hash()
    }

    pub(crate) fn text(&self) -> &'static str {
        self.text
    }
}

macro_rules! scripts {
    ($($name:ident = $file:literal,)+) => {
        $(
            pub(crate) static $name: LazyLock<Script> =
                LazyLock::new(|| Script::new(include_str!(concat!("../scripts/", $file))));
        )+
    };
}

scripts! {
    CLAIM = "claim.lua",
    LIST = "list.lua",
    WRITE = "write.lua",
    RELEASE = "release.lua",
    TRIM = "trim.lua",
    RENEW = "renew.lua",
    FORGET = "forget.lua",
    MAP = "map.lua",
    LEAD = "lead.lua",
    RESIGN = "resign.lua",
    KEPT = "kept.lua",
    POLICY = "policy.lua",
}
