//! What the librdkafka of this build can do, as it says itself: a build may lack OpenSSL or libcurl.

use std::sync::OnceLock;

use rdkafka::ClientConfig;

/// What can be left out of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Built {
    /// Whether the build has TLS and SCRAM.
    pub(crate) tls: bool,
    /// Whether the build has OAUTHBEARER with tokens of an identity provider.
    pub(crate) oidc: bool,
}

impl Built {
    /// What the librdkafka of this build can do.
    pub(crate) fn this() -> Self {
        static THIS: OnceLock<Built> = OnceLock::new();
        *THIS.get_or_init(|| {
            let config = ClientConfig::new().create_native_config();
            let features = config.and_then(|config| config.get("builtin.features"));
            Self::of(&features.unwrap_or_default())
        })
    }

    fn of(features: &str) -> Self {
        let has = |name| features.split(',').any(|feature| feature.trim() == name);
        Self {
            tls: has("ssl") && has("sasl_scram"),
            oidc: has("oidc"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_build_lacks_nothing_and_each_lack_is_seen() {
        let all = Built {
            tls: true,
            oidc: true,
        };
        #[cfg(feature = "tls")]
        assert_eq!(Built::this(), all);
        assert_eq!(Built::of("ssl, sasl_scram, http, oidc"), all);
        assert!(!Built::of("gzip,ssl,sasl_scram,sasl_oauthbearer").oidc);
        assert!(!Built::of("gzip,snappy,lz4,sasl_plain").tls);
    }
}
