//! How brokers are reached and a process proves who it is. It owns which settings belong together
//! and which of them a build can do: what it cannot do is a named error, never a silent fallback.

use std::{fmt, path::PathBuf};

use rdkafka::ClientConfig;

use crate::{built::Built, error::OpenError};

/// The transport to the brokers, with or without a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecurityProtocol {
    /// TCP without TLS or login.
    Plaintext,
    /// TLS, without a login by name; needs this crate's feature `tls`.
    Ssl,
    /// TCP and SASL: only inside a network that is trusted.
    SaslPlaintext,
    /// TLS and SASL; needs this crate's feature `tls`.
    SaslSsl,
}

/// How this process proves who it is with SASL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// SASL PLAIN (RFC 4616): the password itself is sent.
    Plain,
    /// SCRAM with SHA-256 (RFC 7677); needs this crate's feature `tls`.
    ScramSha256,
    /// RFC 7677 with SHA-512; needs this crate's feature `tls`.
    ScramSha512,
    /// RFC 7628, with tokens of [`Oidc`]; needs this crate's feature `tls`.
    OauthBearer,
}

/// How brokers are reached and this process proves who it is.
#[derive(Clone)]
pub struct Security {
    /// The transport to the brokers.
    pub protocol: SecurityProtocol,
    /// The login mechanism, for the SASL protocols.
    pub mechanism: Mechanism,
    /// The name to log in with, for PLAIN and SCRAM.
    pub username: String,
    /// The password, for PLAIN and SCRAM; never shown.
    pub password: String,
    /// The identity provider, for OAUTHBEARER.
    pub oidc: Oidc,
    /// Certificate authorities to trust, PEM; `None` = the system's.
    pub ca_file: Option<PathBuf>,
    /// This process's certificate chain, PEM, where brokers ask for one; together with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// The file of the certificate's private key, PEM.
    pub key_file: Option<PathBuf>,
    /// The password of an encrypted `key_file`; never shown.
    pub key_password: String,
}

/// Where the tokens of OAUTHBEARER come from: the client-credentials grant of an identity provider
/// (RFC 6749 §4.4). librdkafka fetches them and fetches new ones in time.
#[derive(Clone, Default)]
pub struct Oidc {
    /// The address that gives tokens, `https://` or `http://`.
    pub token_url: String,
    /// The name of this process at the identity provider.
    pub client_id: String,
    /// The client's secret at the token endpoint; no message and no metric has it.
    pub client_secret: String,
    /// Asked for in the token; empty = what the provider gives by itself.
    pub scope: String,
    /// `name=value` pairs for the broker, separated by commas (RFC 7628 §3.1).
    pub extensions: String,
    /// Certificate authorities of the identity provider, PEM; `None` = the system's.
    pub ca_file: Option<PathBuf>,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            protocol: SecurityProtocol::Plaintext,
            mechanism: Mechanism::Plain,
            username: String::new(),
            password: String::new(),
            oidc: Oidc::default(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            key_password: String::new(),
        }
    }
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Security")
            .field("protocol", &self.protocol)
            .field("mechanism", &self.mechanism)
            .field("user", &self.user())
            .finish_non_exhaustive()
    }
}

impl SecurityProtocol {
    /// All protocols, in the order in which an error lists them.
    pub const ALL: [Self; 4] = [
        Self::Plaintext,
        Self::Ssl,
        Self::SaslPlaintext,
        Self::SaslSsl,
    ];

    /// The protocol with this name in settings; `None` for another name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|value| value.name() == name)
    }

    /// The protocol's name in settings, as librdkafka spells it.
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
    /// All mechanisms, in the order in which an error lists them.
    pub const ALL: [Self; 4] = [
        Self::Plain,
        Self::ScramSha256,
        Self::ScramSha512,
        Self::OauthBearer,
    ];

    /// The mechanism with this name in settings; `None` for another name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|value| value.name() == name)
    }

    /// The mechanism's name in settings, as librdkafka spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }
}

impl Security {
    /// `extra`: properties that the operator gave, which may stand for what has no setting.
    pub(crate) fn check(&self, built: Built, extra: &[(String, String)]) -> Result<(), OpenError> {
        let needs = |is_built: bool, setting, value: &str| match is_built {
            true => Ok(()),
            false => Err(OpenError::NotBuilt {
                setting,
                value: value.into(),
            }),
        };
        if self.protocol.has_tls() {
            needs(built.tls, "security_protocol", self.protocol.name())?;
        } else if self.ca_file.is_some() || self.cert_file.is_some() {
            return Err(OpenError::Unused {
                settings: "kafka.ca_file, kafka.certificate and kafka.key",
                needed: "kafka.security_protocol = ssl or sasl_ssl",
            });
        }
        if self.protocol.has_sasl() {
            match self.mechanism {
                Mechanism::Plain => {}
                Mechanism::ScramSha256 | Mechanism::ScramSha512 => {
                    needs(built.tls, "sasl_mechanism", self.mechanism.name())?;
                }
                Mechanism::OauthBearer => {
                    needs(built.oidc, "sasl_mechanism", self.mechanism.name())?;
                }
            }
            match self.mechanism {
                Mechanism::OauthBearer => self.oidc.check(extra)?,
                mechanism => {
                    given(&self.username, "username", mechanism.name())?;
                    given(&self.password, "password", mechanism.name())?;
                }
            }
        } else if !self.username.is_empty() || !self.oidc.token_url.is_empty() {
            return Err(OpenError::Unused {
                settings: "kafka.username, kafka.password and those of kafka.oidc_…",
                needed: "kafka.security_protocol = sasl_ssl or sasl_plaintext",
            });
        }
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => Err(missing("key", "kafka.certificate")),
            (None, Some(_)) => Err(missing("certificate", "kafka.key")),
            _ => Ok(()),
        }
    }

    /// Opens the files that are used: librdkafka says what OpenSSL says of one that is not there.
    pub(crate) fn check_files(&self) -> Result<(), OpenError> {
        for (setting, file) in [
            ("kafka.ca_file", &self.ca_file),
            ("kafka.certificate", &self.cert_file),
            ("kafka.key", &self.key_file),
            ("kafka.oidc_ca_file", &self.oidc.ca_file),
        ] {
            let Some(file) = file else { continue };
            let opened = std::fs::File::open(file);
            opened.map_err(|error| OpenError::File {
                setting,
                file: file.clone(),
                reason: error.to_string(),
            })?;
        }
        Ok(())
    }

    pub(crate) fn apply(&self, config: &mut ClientConfig) {
        config.set("security.protocol", self.protocol.name());
        if self.protocol.has_sasl() {
            config.set("sasl.mechanism", self.mechanism.name());
            match self.mechanism {
                Mechanism::OauthBearer => self.oidc.apply(config),
                _ => {
                    config
                        .set("sasl.username", &self.username)
                        .set("sasl.password", &self.password);
                }
            }
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
            if !self.key_password.is_empty() {
                config.set("ssl.key.password", &self.key_password);
            }
        }
    }

    /// Who this process says it is; empty = the brokers decide by its certificate, or not at all.
    pub(crate) fn user(&self) -> &str {
        match (self.protocol.has_sasl(), self.mechanism) {
            (false, _) => "",
            (true, Mechanism::OauthBearer) => &self.oidc.client_id,
            (true, _) => &self.username,
        }
    }

    /// What must not appear in any line for people.
    pub(crate) fn secrets(&self) -> [&String; 3] {
        [&self.password, &self.key_password, &self.oidc.client_secret]
    }
}

fn given(value: &str, setting: &'static str, needed_by: &'static str) -> Result<(), OpenError> {
    match value.is_empty() {
        true => Err(missing(setting, needed_by)),
        false => Ok(()),
    }
}

fn missing(name: &'static str, needed_by: &'static str) -> OpenError {
    OpenError::Missing { name, needed_by }
}

impl Oidc {
    fn check(&self, extra: &[(String, String)]) -> Result<(), OpenError> {
        let has = |part| extra.iter().any(|(name, _)| name.contains(part));
        // librdkafka then knows the address by itself.
        if has("oauthbearer.metadata.authentication.type") {
            return Ok(());
        }
        given(&self.token_url, "oidc_token_url", "OAUTHBEARER")?;
        let url = &self.token_url;
        if !url.starts_with("https://") && !url.starts_with("http://") {
            return Err(OpenError::Range {
                name: "oidc_token_url",
                rule: "a URL that begins with https:// or http://",
                value: format!("{url:?}"),
            });
        }
        let host = url
            .split("://")
            .nth(1)
            .and_then(|rest| rest.split(['/', '?', '#']).next());
        if host.is_some_and(|host| host.contains('@')) {
            // Errors of the fetch have the whole URL.
            return Err(OpenError::Range {
                name: "oidc_token_url",
                rule: "a URL without a user: kafka.oidc_client_id and kafka.oidc_client_secret say who asks",
                value: "(hidden)".into(),
            });
        }
        // A signed assertion stands for the two (RFC 7523).
        if has("oauthbearer.assertion.") {
            return Ok(());
        }
        given(&self.client_id, "oidc_client_id", "OAUTHBEARER")?;
        given(&self.client_secret, "oidc_client_secret", "OAUTHBEARER")
    }

    fn apply(&self, config: &mut ClientConfig) {
        config.set("sasl.oauthbearer.method", "oidc");
        for (name, value) in [
            ("token.endpoint.url", &self.token_url),
            ("client.id", &self.client_id),
            ("client.secret", &self.client_secret),
            ("scope", &self.scope),
            ("extensions", &self.extensions),
        ] {
            if !value.is_empty() {
                config.set(format!("sasl.oauthbearer.{name}"), value);
            }
        }
        let ca = self.ca_file.as_deref().map(|file| file.to_string_lossy());
        // A libcurl that is built along knows no place where systems keep certificates.
        config.set("https.ca.location", ca.as_deref().unwrap_or("probe"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use rdkafka::producer::{BaseProducer, DefaultProducerContext};

    const ALL: Built = Built {
        tls: true,
        oidc: true,
    };

    fn said_by(built: Built, change: impl FnOnce(&mut Security)) -> String {
        let mut security = Security::default();
        change(&mut security);
        let error = security.check(built, &[]).expect_err("not allowed");
        error.to_string()
    }

    fn said(change: impl FnOnce(&mut Security)) -> String {
        said_by(ALL, change)
    }

    #[test]
    fn each_mechanism_names_what_it_lacks() {
        let plain = |s: &mut Security| s.protocol = SecurityProtocol::SaslPlaintext;
        assert_eq!(said(plain), "kafka.username is not set: PLAIN needs it");
        let no_password = said(|s| {
            plain(s);
            s.username = "edge".into();
        });
        assert_eq!(no_password, "kafka.password is not set: PLAIN needs it");
        let oauth = |s: &mut Security| {
            s.protocol = SecurityProtocol::SaslSsl;
            s.mechanism = Mechanism::OauthBearer;
        };
        assert!(said(oauth).starts_with("kafka.oidc_token_url is not set"));
        let no_id = |s: &mut Security| {
            oauth(s);
            s.oidc.token_url = "https://id.example/token".into();
        };
        assert!(said(no_id).starts_with("kafka.oidc_client_id is not set"));
        let no_scheme = said(|s| {
            oauth(s);
            s.oidc.token_url = "id.example/token".into();
        });
        assert!(no_scheme.contains("\"id.example/token\""), "{no_scheme}");
        let user = said(|s| {
            oauth(s);
            s.oidc.token_url = "https://edge:hush@id.example/token".into();
        });
        assert!(
            user.contains("without a user") && !user.contains("hush"),
            "{user}"
        );
        let mut security = Security::default();
        no_id(&mut security);
        let assertion = [("sasl.oauthbearer.assertion.file".into(), "a.jwt".into())];
        security.check(ALL, &assertion).expect("it needs no secret");
    }

    #[test]
    fn a_certificate_needs_its_key_and_what_would_not_be_used_is_refused() {
        let no_key = said(|s| {
            s.protocol = SecurityProtocol::Ssl;
            s.cert_file = Some("c.pem".into());
        });
        assert_eq!(no_key, "kafka.key is not set: kafka.certificate needs it");
        let no_tls = said(|s| s.ca_file = Some("ca.pem".into()));
        assert!(no_tls.contains("kafka.security_protocol = ssl"), "{no_tls}");
        let no_sasl = said(|s| {
            s.protocol = SecurityProtocol::Ssl;
            s.username = "edge".into();
        });
        assert!(no_sasl.contains("kafka.security_protocol = sasl_ssl"));
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
    fn librdkafka_takes_every_mechanism_of_this_build() {
        for mechanism in Mechanism::ALL {
            let mut options = Options {
                brokers: "127.0.0.1:9".into(),
                ..Options::default()
            };
            options.security = Security {
                protocol: SecurityProtocol::SaslPlaintext,
                mechanism,
                username: "edge".into(),
                password: "secret".into(),
                oidc: Oidc {
                    token_url: "http://127.0.0.1:9/token".into(),
                    client_id: "edge".into(),
                    client_secret: "secret".into(),
                    extensions: "logicalCluster=lkc-1".into(),
                    ..Oidc::default()
                },
                ..Security::default()
            };
            if options.check().is_ok() {
                options
                    .producer()
                    .create::<BaseProducer<DefaultProducerContext>>()
                    .unwrap_or_else(|error| panic!("{mechanism:?}: {error}"));
            } else {
                assert!(mechanism != Mechanism::Plain && !cfg!(feature = "tls"));
            }
        }
    }

    #[test]
    fn what_a_build_lacks_is_named_with_the_feature_that_has_it() {
        let none = Built {
            tls: false,
            oidc: false,
        };
        let protocol = said_by(none, |s| s.protocol = SecurityProtocol::SaslSsl);
        assert_eq!(
            protocol,
            "kafka.security_protocol = sasl_ssl: this build has no TLS for Kafka; \
             build with the feature kafka-tls, which is on unless it is turned off"
        );
        for mechanism in [Mechanism::ScramSha512, Mechanism::OauthBearer] {
            let said = said_by(none, |s| {
                s.protocol = SecurityProtocol::SaslPlaintext;
                s.mechanism = mechanism;
            });
            assert!(said.contains(mechanism.name()), "{said}");
        }
    }
}
