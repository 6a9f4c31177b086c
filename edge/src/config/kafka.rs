//! How the bus of the cluster is reached: the section `kafka` as the bus takes it. It owns the names
//! of the values that are a choice.

use std::time::Duration;

use kafka_bus::{Compression, Mechanism, Said, SecurityProtocol, is_secret};
use settings::{Kind, SettingsError};
use tracing::{error, info};

use super::Config;

/// How long an event waits for others where no watcher waits for it. Brokers take about half the CPU of 2 ms,
/// and in the long run watchers are told no more changes of a user either (`presence.change_rate`).
const LINGER_BESIDE_LINKS: Duration = Duration::from_millis(50);

/// Properties of librdkafka; the values of those that hold secrets are never shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Properties(Vec<(String, String)>);

impl Kind for Properties {
    const ALLOWED: &'static str = "name=value, separated by commas";
    const IS_SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim);
        parts
            .filter(|part| !part.is_empty())
            .map(|part| match part.split_once('=') {
                Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
                None => Err("a part of it has no equals sign".into()),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn show(&self) -> String {
        let one = |(name, value): &(String, String)| match is_secret(name) {
            true => format!("{name}=(set)"),
            false => format!("{name}={value}"),
        };
        self.0.iter().map(one).collect::<Vec<_>>().join(",")
    }
}

/// Keys under which events are signed; never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct EventKeys(Vec<String>);

impl std::fmt::Debug for EventKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl Kind for EventKeys {
    const ALLOWED: &'static str = "keys of 32 bytes or more, separated by commas, never shown";
    const IS_SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim);
        let keys: Vec<String> = parts
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect();
        kafka_bus::EventKeys::new(&keys, false)?;
        Ok(Self(keys))
    }

    fn show(&self) -> String {
        match self.0.is_empty() {
            true => String::new(),
            false => "(set)".into(),
        }
    }
}

/// The value that `text` is the name of; else the error names the setting and what is allowed.
fn choice<T: Copy>(
    setting: &str,
    text: &str,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<T, SettingsError> {
    let found = all.iter().copied().find(|value| name(*value) == text);
    found.ok_or_else(|| {
        let allowed: Vec<_> = all.iter().map(|value| name(*value)).collect();
        let allowed = allowed.join(", ");
        SettingsError(vec![format!(
            "kafka.{setting} = {text:?}: allowed are {allowed}"
        )])
    })
}

impl Config {
    /// How the bus of the cluster is reached; the error names the setting.
    pub(crate) fn kafka_options(&self) -> Result<kafka_bus::Options, SettingsError> {
        let kafka = &self.kafka;
        let vnodes = self.cluster.count().expect("checked with the rest");
        let defaults = kafka_bus::Options::default();
        let mut options = kafka_bus::Options {
            brokers: kafka.brokers.clone(),
            topic: kafka.topic.clone(),
            vnodes,
            client_id: format!("online-status-{}", self.node.id),
            create_topic: kafka.create_topic,
            partitions: kafka.partitions as i32,
            replication: (kafka.replication > 0).then_some(kafka.replication as u16),
            retention: kafka.retention,
            linger: kafka.linger.unwrap_or(match self.share.link_key.is_set() {
                true => LINGER_BESIDE_LINKS,
                false => defaults.linger,
            }),
            message_timeout: kafka.message_timeout,
            extra: kafka.properties.0.clone(),
            log: |said, line| match said {
                Said::Change => info!(event = "kafka_change", "kafka: {line}"),
                Said::Error => error!(event = "kafka_error", "kafka: {line}"),
            },
            ..defaults
        };
        options.compression = choice(
            "compression",
            &kafka.compression,
            &Compression::ALL,
            Compression::name,
        )?;
        let accepts_unsigned = choice(
            "unsigned_events",
            &kafka.unsigned_events,
            &[false, true],
            |accepts| if accepts { "accept" } else { "refuse" },
        )?;
        options.event_keys = kafka_bus::EventKeys::new(&kafka.event_keys.0, accepts_unsigned)
            .map_err(|rule| SettingsError(vec![format!("kafka.event_keys: {rule}")]))?;
        let security = &mut options.security;
        security.protocol = choice(
            "security_protocol",
            &kafka.security_protocol,
            &SecurityProtocol::ALL,
            SecurityProtocol::name,
        )?;
        security.mechanism = choice(
            "sasl_mechanism",
            &kafka.sasl_mechanism,
            &Mechanism::ALL,
            Mechanism::name,
        )?;
        security.username.clone_from(&kafka.username);
        security.password = kafka.password.expose().to_owned();
        security.oidc = kafka_bus::Oidc {
            token_url: kafka.oidc_token_url.clone(),
            client_id: kafka.oidc_client_id.clone(),
            client_secret: kafka.oidc_client_secret.expose().to_owned(),
            scope: kafka.oidc_scope.clone(),
            extensions: kafka.oidc_extensions.clone(),
            ca_file: kafka.oidc_ca_file.clone(),
        };
        security.ca_file.clone_from(&kafka.ca_file);
        security.cert_file.clone_from(&kafka.certificate);
        security.key_file.clone_from(&kafka.key);
        security.key_password = kafka.key_password.expose().to_owned();
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_events_are_long_and_are_not_shown() {
        let long = "a key of the tests that is long enough";
        let keys = EventKeys::parse(&format!("{long}, {long}2")).expect("two keys");
        assert_eq!((keys.0.len(), &*keys.show()), (2, "(set)"));
        assert!(!format!("{keys:?}").contains(long));
        let error = EventKeys::parse("hush, hush").expect_err("too short");
        assert!(error.contains("32 bytes"), "{error}");
        assert!(!error.contains("hush"), "{error}");
    }

    #[test]
    fn properties_are_pairs_and_secrets_among_them_are_not_shown() {
        let text = "linger.ms=7, sasl.oauthbearer.assertion.private.key.passphrase=hush";
        let properties = Properties::parse(text).expect("pairs");
        let shown = properties.show();
        assert!(shown.starts_with("linger.ms=7,"), "{shown}");
        assert!(!shown.contains("hush"), "{shown}");
        assert!(Properties::parse("linger.ms").is_err());
    }
}
