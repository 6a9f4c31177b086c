//! How brokers are reached and a process proves who it is. It owns which of that this build can
//! do; what it cannot do is a named error, never a silent fallback.

use std::{fmt, path::PathBuf};

use rdkafka::ClientConfig;

use crate::error::OpenError;

/// How brokers are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecurityProtocol {
    /// TCP.
    Plaintext,
    /// TLS; needs this crate's feature `tls`.
    Ssl,
    /// TCP and SASL: only inside a network that is trusted.
    SaslPlaintext,
    /// TLS and SASL; needs this crate's feature `tls`.
    SaslSsl,
}

/// How a name and password are proved with SASL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// The password itself is sent.
    Plain,
    /// RFC 7677; needs this crate's feature `tls`.
    ScramSha256,
    /// RFC 7677 with SHA-512; needs this crate's feature `tls`.
    ScramSha512,
}

/// How brokers are reached and this process proves who it is.
#[derive(Clone)]
pub struct Security {
    /// The transport.
    pub protocol: SecurityProtocol,
    /// For the SASL protocols.
    pub mechanism: Mechanism,
    /// For the SASL protocols.
    pub username: String,
    /// For the SASL protocols. Never shown.
    pub password: String,
    /// Whom to trust (PEM); `None` = the system's certificates.
    pub ca_file: Option<PathBuf>,
    /// This process's certificate (PEM), where brokers ask for one; together with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// Its private key (PEM).
    pub key_file: Option<PathBuf>,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            protocol: SecurityProtocol::Plaintext,
            mechanism: Mechanism::ScramSha512,
            username: String::new(),
            password: String::new(),
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Security")
            .field("protocol", &self.protocol)
            .field("mechanism", &self.mechanism)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl SecurityProtocol {
    /// Every value.
    pub const ALL: [Self; 4] = [
        Self::Plaintext,
        Self::Ssl,
        Self::SaslPlaintext,
        Self::SaslSsl,
    ];

    /// The value that settings call so.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|value| value.name() == name)
    }

    /// How settings call it, as librdkafka does.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslSsl => "sasl_ssl",
        }
    }

    const fn has_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    const fn has_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

impl Mechanism {
    /// Every value.
    pub const ALL: [Self; 3] = [Self::Plain, Self::ScramSha256, Self::ScramSha512];

    /// The value that settings call so.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|value| value.name() == name)
    }

    /// How settings call it, as librdkafka does.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl Security {
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let no_tls = !cfg!(feature = "tls");
        let tls = |setting| OpenError::NotBuilt {
            setting,
            feature: "tls",
        };
        if self.protocol.has_tls() && no_tls {
            return Err(tls("security_protocol = ssl or sasl_ssl"));
        }
        if self.protocol.has_sasl() {
            if self.mechanism != Mechanism::Plain && no_tls {
                return Err(tls("sasl_mechanism = SCRAM-SHA-256 or SCRAM-SHA-512"));
            }
            if self.username.is_empty() {
                return Err(OpenError::Missing("username", "SASL needs it"));
            }
            if self.password.is_empty() {
                return Err(OpenError::Missing("password", "SASL needs it"));
            }
        }
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => Err(OpenError::Missing("key", "a certificate needs its key")),
            (None, Some(_)) => Err(OpenError::Missing(
                "certificate",
                "a key needs its certificate",
            )),
            _ => Ok(()),
        }
    }

    pub(crate) fn apply(&self, config: &mut ClientConfig) {
        config.set("security.protocol", self.protocol.name());
        if self.protocol.has_sasl() {
            config
                .set("sasl.mechanism", self.mechanism.name())
                .set("sasl.username", &self.username)
                .set("sasl.password", &self.password);
        }
        if self.protocol.has_tls() {
            for (name, file) in [
                ("ssl.ca.location", &self.ca_file),
                ("ssl.certificate.location", &self.cert_file),
                ("ssl.key.location", &self.key_file),
            ] {
                if let Some(file) = file {
                    config.set(name, file.to_string_lossy());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use rdkafka::producer::{BaseProducer, DefaultProducerContext};

    fn options(security: Security) -> Options {
        Options {
            brokers: "127.0.0.1:9092".into(),
            security,
            ..Options::default()
        }
    }

    fn said(change: impl FnOnce(&mut Security)) -> String {
        let mut security = Security::default();
        change(&mut security);
        let options = options(security);
        options.check().expect_err("not allowed").to_string()
    }

    #[test]
    fn sasl_needs_a_name_and_a_password_and_a_certificate_its_key() {
        let plain = |s: &mut Security| {
            s.protocol = SecurityProtocol::SaslPlaintext;
            s.mechanism = Mechanism::Plain;
        };
        assert!(said(plain).contains("username"));
        let no_password = said(|s| {
            plain(s);
            s.username = "edge".into();
        });
        assert!(no_password.contains("password"));
        let no_key = said(|s| s.cert_file = Some("c.pem".into()));
        assert!(no_key.contains("setting key is missing"));
    }

    #[test]
    fn protocols_and_mechanisms_are_found_by_their_names() {
        for value in SecurityProtocol::ALL {
            assert_eq!(SecurityProtocol::parse(value.name()), Some(value));
        }
        for value in Mechanism::ALL {
            assert_eq!(Mechanism::parse(value.name()), Some(value));
        }
        assert_eq!(SecurityProtocol::parse("tls"), None);
        assert_eq!(Mechanism::parse("GSSAPI"), None);
    }

    #[test]
    fn sasl_plain_works_in_every_build() {
        let options = options(Security {
            protocol: SecurityProtocol::SaslPlaintext,
            mechanism: Mechanism::Plain,
            username: "edge".into(),
            password: "secret".into(),
            ..Security::default()
        });
        options.check().expect("allowed");
        options
            .producer()
            .create::<BaseProducer<DefaultProducerContext>>()
            .expect("librdkafka has it built in");
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn tls_and_scram_name_the_feature_they_need() {
        for protocol in [SecurityProtocol::Ssl, SecurityProtocol::SaslSsl] {
            assert!(said(|s| s.protocol = protocol).contains("`tls`"));
        }
        assert!(said(|s| s.protocol = SecurityProtocol::SaslPlaintext).contains("SCRAM"));
    }
}
