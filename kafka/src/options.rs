//! What an operator sets, the rules for it, and the librdkafka properties that come of it. It
//! owns their names and defaults; no secret of it may reach a log or an error.

use std::{fmt, time::Duration};

use rdkafka::{
    ClientConfig,
    config::RDKafkaLogLevel,
    producer::{BaseProducer, DefaultProducerContext},
};
use ring::VnodeCount;

use crate::{
    EventKeys, Security,
    built::Built,
    error::{OpenError, open_error},
    notes::Notes,
    security::SecurityProtocol,
};

/// The settings of a producer or consumer. `kafka/README.md` gives the reason of each default.
#[derive(Clone)]
pub struct Options {
    /// Where to begin: `host:port`, separated by commas. The other brokers are learnt from them.
    pub brokers: String,
    /// The topic of the events: 1 to 249 of `A-Z a-z 0-9 . _ -`.
    pub topic: String,
    /// The cluster's count of vnodes, which decides a vnode's partition.
    pub vnodes: VnodeCount,
    /// How this process is called in the brokers' logs and quotas.
    pub client_id: String,
    /// How long an event waits for others to share its batch; adds to the latency.
    pub linger: Duration,
    /// The compression of batches.
    pub compression: Compression,
    /// After this time without the brokers' confirmation an event counts as not delivered.
    pub message_timeout: Duration,
    /// Events that may wait in the producer; more are refused as [`crate::Full`].
    pub queue_messages: u32,
    /// KiB of events that may wait in the producer; more are refused as [`crate::Full`].
    pub queue_kbytes: u32,
    /// Creates the topic when it does not exist.
    pub create_topic: bool,
    /// The number of partitions of a topic that is created.
    pub partitions: i32,
    /// Replicas of a topic that is created; `None` = the brokers' default.
    pub replication: Option<u16>,
    /// How long the brokers keep the events of a topic that is created.
    pub retention: Duration,
    /// How long a broker may hold back an answer while it has no events.
    pub fetch_wait: Duration,
    /// KiB of events that may wait in the consumer; fetching pauses above.
    pub fetch_kbytes: u32,
    /// How often the topic's partitions are listed again.
    pub metadata_interval: Duration,
    /// How brokers are reached and this process proves who it is.
    pub security: Security,
    /// Under which keys events are signed, and whose are believed.
    pub event_keys: EventKeys,
    /// Any librdkafka properties; they win over this crate's, except for those that its
    /// guarantees rest on, which are refused.
    pub extra: Vec<(String, String)>,
    /// Takes a line for people: changes of state and errors, at most a few a minute. By default
    /// nobody reads them.
    pub log: fn(Said, &str),
}

/// What a line for people is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// A change of state, mostly for the better.
    Change,
    /// An error, of which more of the same kind may be left out.
    Error,
}

/// The compression of a batch, chosen by the producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Batches are not compressed.
    None,
    /// Gzip: much CPU, small batches.
    Gzip,
    /// Snappy: little CPU.
    Snappy,
    /// LZ4: the least CPU.
    Lz4,
    /// Zstandard: smaller than LZ4, for more CPU.
    Zstd,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            brokers: String::new(),
            topic: "user_status_events".into(),
            vnodes: VnodeCount::default(),
            client_id: "online-status".into(),
            linger: Duration::from_millis(2),
            compression: Compression::Lz4,
            message_timeout: Duration::from_secs(10),
            queue_messages: 100_000,
            queue_kbytes: 64 * 1024,
            create_topic: false,
            partitions: 16,
            replication: None,
            retention: Duration::from_secs(3600),
            fetch_wait: Duration::from_millis(100),
            fetch_kbytes: 16 * 1024,
            metadata_interval: Duration::from_secs(60),
            security: Security::default(),
            event_keys: EventKeys::default(),
            extra: Vec::new(),
            log: |_, _| {},
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extra: Vec<_> = self.extra.iter().map(|(name, _)| name).collect();
        f.debug_struct("Options")
            .field("brokers", &self.brokers)
            .field("topic", &self.topic)
            .field("security", &self.security)
            .field("extra", &extra)
            .finish_non_exhaustive()
    }
}

/// Why a property is not free to choose: order, delivery reports, gaps and the reading without a
/// group rest on it. Others are refused since a setting stands for them.
const BUS: &str = "the bus depends on it";
pub(crate) const RESERVED: [(&str, &str); 36] = [
    ("acks", BUS),
    ("allow.auto.create.topics", BUS),
    ("auto.offset.reset", BUS),
    ("bootstrap.servers", "kafka.brokers"),
    ("delivery.report.only.error", BUS),
    ("enable.auto.commit", BUS),
    ("enable.auto.offset.store", BUS),
    ("enable.gapless.guarantee", BUS),
    ("enable.idempotence", BUS),
    ("enable.partition.eof", BUS),
    ("https.ca.location", "kafka.oidc_ca_file"),
    ("max.in.flight", BUS),
    ("max.in.flight.requests.per.connection", BUS),
    ("message.send.max.retries", BUS),
    ("metadata.broker.list", "kafka.brokers"),
    ("queuing.strategy", BUS),
    ("request.required.acks", BUS),
    ("retries", BUS),
    ("sasl.mechanism", "kafka.sasl_mechanism"),
    ("sasl.mechanisms", "kafka.sasl_mechanism"),
    (
        "sasl.oauthbearer.client.credentials.client.id",
        "kafka.oidc_client_id",
    ),
    (
        "sasl.oauthbearer.client.credentials.client.secret",
        "kafka.oidc_client_secret",
    ),
    ("sasl.oauthbearer.client.id", "kafka.oidc_client_id"),
    ("sasl.oauthbearer.client.secret", "kafka.oidc_client_secret"),
    ("sasl.oauthbearer.extensions", "kafka.oidc_extensions"),
    (
        "sasl.oauthbearer.method",
        "kafka.sasl_mechanism = OAUTHBEARER",
    ),
    ("sasl.oauthbearer.scope", "kafka.oidc_scope"),
    (
        "sasl.oauthbearer.token.endpoint.url",
        "kafka.oidc_token_url",
    ),
    ("sasl.password", "kafka.password"),
    ("sasl.username", "kafka.username"),
    ("security.protocol", "kafka.security_protocol"),
    ("ssl.ca.location", "kafka.ca_file"),
    ("ssl.certificate.location", "kafka.certificate"),
    ("ssl.key.location", "kafka.key"),
    ("statistics.interval.ms", BUS),
    ("transactional.id", BUS),
];

/// Whether librdkafka takes it for a broker's address: what it does not it leaves out without a word. A
/// protocol's name may stand before it, as in a broker's `listeners`.
fn is_address(broker: &str) -> bool {
    let broker = match broker.split_once("://") {
        None => broker,
        Some((protocol, rest)) => match SecurityProtocol::parse(&protocol.to_ascii_lowercase()) {
            Some(_) => rest,
            None => return false,
        },
    };
    let strange = |c: char| c.is_whitespace() || "/@?#".contains(c);
    let (host, port) = match broker.rsplit_once(':') {
        // An address of IPv6 without a port.
        Some((host, _)) if host.contains(':') && !host.ends_with(']') => (broker, None),
        Some((host, port)) => (host, Some(port)),
        None => (broker, None),
    };
    let good = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    !host.is_empty() && !host.contains(strange) && port.is_none_or(good)
}

/// How often librdkafka reports on itself: connections and high watermarks come from it.
pub(crate) const STATISTICS_INTERVAL: Duration = Duration::from_secs(2);

impl Options {
    /// Checks everything that can be checked without a broker.
    pub fn check(&self) -> Result<(), OpenError> {
        let brokers = self.brokers.split(',').map(str::trim);
        let mut brokers = brokers.filter(|broker| !broker.is_empty()).peekable();
        if brokers.peek().is_none() {
            return Err(OpenError::NoBrokers);
        }
        if let Some(broker) = brokers.find(|broker| !is_address(broker)) {
            return Err(OpenError::Broker(broker.chars().take(260).collect()));
        }
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=249).contains(&self.topic.len())
            || !self.topic.bytes().all(good)
            || [".", ".."].contains(&self.topic.as_str())
        {
            return Err(OpenError::Topic(self.topic.chars().take(260).collect()));
        }
        self.check_ranges()?;
        self.security.check(Built::this(), &self.extra)?;
        let reserved = |name: &str| RESERVED.iter().find(|(reserved, _)| *reserved == name);
        match self.extra.iter().find_map(|(name, _)| reserved(name)) {
            Some((name, why)) => Err(OpenError::Reserved(name, why)),
            None => Ok(()),
        }
    }

    /// Checks the rest of what can be checked without a broker: the properties, and the files that
    /// they name.
    pub fn check_client(&self) -> Result<(), OpenError> {
        self.check()?;
        self.security.check_files()?;
        let notes = Notes::new(self);
        let wrong = |error| open_error(&error, &notes);
        self.consumer().create_native_config().map_err(wrong)?;
        let mut config = self.producer();
        // Without a broker there is nothing to connect to.
        config.remove("bootstrap.servers");
        let made = config.create::<BaseProducer<DefaultProducerContext>>();
        made.map(drop).map_err(wrong)
    }

    fn check_ranges(&self) -> Result<(), OpenError> {
        let check = |good: bool, name, rule, value: &dyn fmt::Debug| {
            let value = format!("{value:?}");
            good.then_some(())
                .ok_or(OpenError::Range { name, rule, value })
        };
        let ms = Duration::from_millis;
        check(
            self.linger <= ms(1000),
            "linger",
            "at most 1 s",
            &self.linger,
        )?;
        check(
            (ms(1000)..=ms(300_000)).contains(&self.message_timeout)
                && self.message_timeout > self.linger,
            "message_timeout",
            "1 s to 5 min, and above `linger`",
            &self.message_timeout,
        )?;
        check(
            (1..=10_000_000).contains(&self.queue_messages),
            "queue_messages",
            "1 to 10,000,000",
            &self.queue_messages,
        )?;
        for (name, value) in [
            ("queue_kbytes", self.queue_kbytes),
            ("fetch_kbytes", self.fetch_kbytes),
        ] {
            check(
                (1..=2_097_151).contains(&value),
                name,
                "1 to 2,097,151 KiB",
                &value,
            )?;
        }
        check(
            (1..=10_000).contains(&self.partitions),
            "partitions",
            "1 to 10,000",
            &self.partitions,
        )?;
        check(
            (ms(60_000)..=ms(365 * 86_400_000)).contains(&self.retention),
            "retention",
            "1 min to 365 d",
            &self.retention,
        )?;
        check(
            (ms(1)..=ms(5000)).contains(&self.fetch_wait),
            "fetch_wait",
            "1 ms to 5 s",
            &self.fetch_wait,
        )?;
        // librdkafka keeps what it knows for three times as long, in microseconds of 32 bits.
        check(
            (ms(500)..=ms(600_000)).contains(&self.metadata_interval),
            "metadata_interval",
            "500 ms to 10 min",
            &self.metadata_interval,
        )
    }

    /// What must not appear in any line for people.
    pub(crate) fn secrets(&self) -> Vec<String> {
        self.extra
            .iter()
            .filter(|(name, _)| is_secret(name))
            .map(|(_, value)| value)
            .chain(self.security.secrets())
            .filter(|value| !value.is_empty())
            .cloned()
            .collect()
    }

    /// The properties that both clients have.
    fn common(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            // What is shown of it is decided line by line.
            .set_log_level(RDKafkaLogLevel::Info)
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", &self.client_id)
            .set("client.software.name", "online-status")
            // Only the settings decide whether, and how, the topic is created.
            .set("allow.auto.create.topics", "false")
            .set("socket.nagle.disable", "true")
            .set("socket.keepalive.enable", "true")
            .set("socket.timeout.ms", "10000")
            .set("socket.connection.setup.timeout.ms", "5000")
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "2000")
            // After a broker that stood still, librdkafka connects to none until this is over.
            .set("metadata.recovery.rebootstrap.trigger.ms", "5000")
            .set("statistics.interval.ms", ms(STATISTICS_INTERVAL))
            .set(
                "topic.metadata.refresh.interval.ms",
                ms(self.metadata_interval),
            );
        self.security.apply(&mut config);
        config
    }

    /// The properties of the producer, for librdkafka.
    pub(crate) fn producer(&self) -> ClientConfig {
        let mut config = self.common();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", ms(self.linger))
            .set("batch.num.messages", "10000")
            .set("compression.type", self.compression.name())
            .set("message.timeout.ms", ms(self.message_timeout))
            .set(
                "queue.buffering.max.messages",
                self.queue_messages.to_string(),
            )
            .set("queue.buffering.max.kbytes", self.queue_kbytes.to_string());
        self.with_extra(config)
    }

    /// The properties of the consumer, for librdkafka.
    pub(crate) fn consumer(&self) -> ClientConfig {
        let mut config = self.common();
        config
            // librdkafka assigns partitions only to a client with a group; it is never joined.
            .set("group.id", format!("{}-unused", self.client_id))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // A lost position has to be told, not repaired in silence.
            .set("auto.offset.reset", "error")
            // A foreign transaction that hangs must not hold events back.
            .set("isolation.level", "read_uncommitted")
            .set("fetch.min.bytes", "1")
            .set("fetch.wait.max.ms", ms(self.fetch_wait))
            .set("fetch.error.backoff.ms", "100")
            .set("fetch.queue.backoff.ms", "20")
            .set("queued.max.messages.kbytes", self.fetch_kbytes.to_string());
        self.with_extra(config)
    }

    fn with_extra(&self, mut config: ClientConfig) -> ClientConfig {
        for (name, value) in &self.extra {
            config.set(name, value);
        }
        config
    }
}

/// Whether the value of this librdkafka property must not be shown.
#[must_use]
pub fn is_secret(property: &str) -> bool {
    [
        "password",
        "passphrase",
        "secret",
        ".pem",
        "sasl.oauthbearer.config",
    ]
    .iter()
    .any(|part| property.contains(part))
}

fn ms(duration: Duration) -> String {
    duration.as_millis().to_string()
}

impl Compression {
    /// All compressions, in the order in which an error lists them.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The compression with this name in settings; `None` for another name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|value| value.name() == name)
    }

    /// The name of the compression in settings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::open_error;
    use rdkafka::producer::{BaseProducer, DefaultProducerContext};

    fn good() -> Options {
        Options {
            brokers: "127.0.0.1:9092".into(),
            ..Options::default()
        }
    }

    /// What is said about the default options after `change`.
    fn said(change: impl FnOnce(&mut Options)) -> String {
        let mut options = good();
        change(&mut options);
        options.check().expect_err("not allowed").to_string()
    }

    #[test]
    fn the_defaults_need_nothing_but_brokers() {
        good().check().expect("allowed");
        assert!(said(|o| o.brokers.clear()).contains("host:port"));
        assert!(said(|o| o.brokers = " , ".into()).contains("host:port"));
        for wrong in [
            "kafka://h:9092",
            "http://h",
            "h:0",
            "h:99999",
            "h:port",
            "u@h:1",
            ":9092",
            "a b",
        ] {
            let error = said(|o| o.brokers = format!("good:9092, {wrong}"));
            assert!(error.contains(&format!("has {wrong:?}")), "{error}");
        }
        for right in ["h", "h:1,10.0.0.1:2, [::1]:3,::1,", "PLAINTEXT://h:1"] {
            let mut options = good();
            options.brokers = right.into();
            options.check().expect("allowed");
        }
    }

    #[test]
    fn librdkafka_takes_every_property_of_both_clients() {
        good()
            .producer()
            .create::<BaseProducer<DefaultProducerContext>>()
            .expect("good properties");
        good()
            .consumer()
            .create_native_config()
            .expect("they exist");
    }

    #[test]
    fn what_is_out_of_range_is_named_with_its_rule_and_value() {
        assert!(said(|o| o.topic = "a b".into()).contains("\"a b\""));
        assert!(said(|o| o.topic = "x".repeat(250)).contains("1 to 249"));
        let late = said(|o| o.linger = Duration::from_secs(2));
        assert!(late.contains("kafka.linger = 2s: allowed is at most 1 s"));
        assert!(said(|o| o.message_timeout = Duration::ZERO).contains("message_timeout"));
        assert!(said(|o| o.queue_messages = 0).contains("queue_messages"));
        assert!(said(|o| o.queue_kbytes = u32::MAX).contains("queue_kbytes"));
        assert!(said(|o| o.fetch_kbytes = 0).contains("fetch_kbytes"));
        assert!(said(|o| o.partitions = 0).contains("partitions"));
        assert!(said(|o| o.retention = Duration::ZERO).contains("retention"));
        assert!(said(|o| o.fetch_wait = Duration::ZERO).contains("fetch_wait"));
        assert!(said(|o| o.metadata_interval = Duration::ZERO).contains("metadata_interval"));
    }

    #[test]
    fn every_compression_is_found_by_its_name() {
        for value in Compression::ALL {
            assert_eq!(Compression::parse(value.name()), Some(value));
        }
        assert_eq!(Compression::parse("LZ4"), None);
    }

    #[test]
    fn extra_properties_win_except_for_those_the_guarantees_rest_on() {
        let mut options = good();
        options.extra = vec![("linger.ms".into(), "77".into())];
        options.check().expect("allowed");
        assert_eq!(options.producer().get("linger.ms"), Some("77"));
        for (name, why) in RESERVED {
            let said = said(|o| o.extra.push((name.into(), "1".into())));
            assert!(said.contains(name) && said.ends_with(why), "{said}");
        }
    }

    #[test]
    fn an_unknown_property_is_named_and_no_error_or_debug_text_has_a_secret() {
        let mut options = good();
        options.security.password = "hush-hush".into();
        options.extra = vec![("ssl.key.password".into(), "quiet".into())];
        let text = format!("{options:?}");
        assert!(
            !text.contains("hush-hush") && !text.contains("quiet"),
            "{text}"
        );
        assert!(text.contains("ssl.key.password"));

        options.extra = vec![("no.such.password".into(), "quiet".into())];
        let health = crate::ProducerHealth::new(&options);
        let error = options.producer().create_native_config().err();
        let error = open_error(&error.expect("unknown"), &health.base.notes).to_string();
        assert!(error.contains("no.such.password"), "{error}");
        assert!(!error.contains("quiet"), "{error}");
    }
}
