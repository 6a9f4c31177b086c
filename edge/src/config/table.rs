//! Every setting of the edge: its name, type, default and meaning, once; those that it shares with
//! the coordinator stand in `keys` and `redis`. File, environment, flags, `config check`, `config
//! default` and the reference page all come from here.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use keys::AuthSettings;
use program::log::LogSettings;
use redis_store::{ClusterSettings, RedisSettings};
use settings::{Bytes, List, Secret};

use super::kafka::{EventKeys, Properties};
use crate::forwarded::TrustedProxies;

settings::sections! {
    pub(crate) struct Server in server {
        /// The address and port at which clients connect.
        listen: SocketAddr = "127.0.0.1:8080",
        /// Where health, metrics and administration are served.
        admin_listen: SocketAddr = "127.0.0.1:8081",
        /// The WebSocket URL that clients are told; empty = made from `listen`.
        public_url: String = "",
        /// Threads, each on a core of its own; 0 = one for each CPU the process may use.
        cores: u64 = "0" in "0"..="64",
        /// Pins each thread to a CPU.
        pin: bool = "true",
        /// Connections at a time; 0 = what the limit of open files allows. More are answered 503.
        max_connections: u64 = "0",
        /// Connections without a session at a time, those that wait for their token and plain HTTP
        /// alike; 0 = half of all. More are answered 503.
        max_unauthenticated: u64 = "0",
        /// Connections of one client, which is an IPv4 address or a /64 of IPv6; 0 = no limit. More are
        /// answered 429.
        max_per_address: u64 = "0",
        /// Connections of one network, which is a /24 of IPv4 or a /48 of IPv6; 0 = no limit. More are
        /// answered 429.
        max_per_prefix: u64 = "0",
        /// New connections a second of one client in the long run; 0 = no limit. More are answered 429.
        /// Through a proxy each request counts as one.
        connection_rate: u64 = "0" in "0"..="100000",
        /// New connections of one client at once, where there is a `connection_rate`.
        connection_burst: u64 = "100" in "1"..="1000000",
        /// TLS handshakes under way at a time; 0 = as many as `max_unauthenticated`. More are closed
        /// without a word.
        max_handshakes: u64 = "0",
        /// Memory of the process, as the kernel counts what is resident; 0B = nine tenths of what its
        /// control group allows, or of the machine's. From there on new connections are answered 503,
        /// and the sessions go on, until a tenth of the connections has gone.
        max_memory: Bytes = "0B",
        /// Proxies whose word is taken for the client's address, scheme and host: theirs in
        /// `X-Forwarded-For`, `-Proto`, `-Host` and `-Port`, or in a PROXY protocol header. Addresses and
        /// prefixes like `10.0.0.0/8,2001:db8::/32`; empty = nobody's.
        trusted_proxies: TrustedProxies = "",
        /// Connections of `trusted_proxies` begin with a PROXY protocol header, version 1 or 2. One
        /// that does not is answered 400; others' connections have none.
        proxy_protocol: bool = "false",
        /// Time for the upgrade request, TLS included; later, the connection is closed.
        upgrade_timeout: Duration = "5s" in "100ms"..="10m",
        /// Time for the token after the upgrade; later, 4408.
        auth_timeout: Duration = "5s" in "100ms"..="10m",
        /// Bytes of a request's head; more are answered 431. A token has 16KiB at most.
        max_header: Bytes = "20KiB" in "512B"..="1MiB",
        /// Bytes of a WebSocket message; more end the session with 1009.
        max_message: Bytes = "20KiB" in "1KiB"..="16MiB",
        /// Origins that browsers may connect from, like `https://example.com`, or with all below it
        /// `https://*.example.com`; empty = all.
        origins: List = "",
        /// Serves `/metrics` to clients too, not on `admin_listen` alone.
        public_metrics: bool = "false",
        /// Sessions closed a second at shutdown.
        drain_rate: u64 = "5000" in "1"..="10000000",
        /// Time for a shutdown; what is left then is closed at once.
        drain_timeout: Duration = "30s" in "0s"..="1h",
        /// How long the kernel tries to deliver bytes before it drops a connection.
        tcp_user_timeout: Duration = "30s" in "1s"..="1h",
    }

    pub(crate) struct Node in node {
        /// The node's name, 1 to 64 of `A-Z a-z 0-9 . _ -`, in a cluster no other node's; empty =
        /// `standalone`, or in a cluster the host's name.
        #[env("NODE_ID")]
        id: String = "",
    }

    pub(crate) struct Presence in presence {
        /// How long a user stays online after its last session broke.
        grace: Duration = "15s" in "0s"..="1d",
        /// How long a user stays online after its last session closed cleanly; 0s = offline at
        /// once.
        clean_close_grace: Duration = "0s" in "0s"..="1d",
        /// Time between two pings of the server to a session.
        heartbeat: Duration = "25s" in "1s"..="1h",
        /// A session is dead when nothing came for `heartbeat` and this.
        heartbeat_timeout: Duration = "10s" in "100ms"..="1h",
        /// The shortest time within which a client may promise a message of its own (`alive`), in whole
        /// seconds. For who has promised, messages are the sign of life, and not pongs.
        alive_min: Duration = "10s" in "1s"..="1h",
        /// The longest time that a client may promise. A client that has stopped and whose pings something
        /// else answers is dead to the server after what it promised and `heartbeat_timeout`.
        alive_max: Duration = "10m" in "1s"..="1h",
        /// How long a session's question waits for the store; then it is answered with
        /// `unavailable`.
        store_patience: Duration = "2s" in "100ms"..="1m",
        /// Sessions of one user; one more ends with 4409, or another does.
        max_devices: u64 = "100" in "1"..="10000",
        /// Which session ends with 4409 when a user has too many: `refuse` = the new one, `newest` = the
        /// oldest of them, so that the newest wins.
        over_max_devices: String = "refuse",
        /// Users that one session may watch.
        max_watches: u64 = "1000" in "1"..="1000000",
        /// Watches of all sessions of the edge, one a session and user watched; 0 = as many as need a
        /// quarter of `server.max_memory`. More are answered `watch_limit`.
        max_watches_total: u64 = "0",
        /// Bytes of answers that may wait for one slow session; then its further messages wait too.
        /// One that reads nothing for `heartbeat` and `heartbeat_timeout` is ended with 1013.
        outbox: Bytes = "256KiB" in "4KiB"..="1GiB",
        /// Messages a second that a session may send in the long run; more end it with 4429.
        message_rate: u64 = "100" in "1"..="1048575",
        /// Messages that a session may send at once.
        message_burst: u64 = "1200" in "1"..="1048575",
        /// Changes of a user a second that its watchers are told in the long run; a user that changes
        /// more often is told to them as it is then. 0 = no limit.
        change_rate: u64 = "20" in "0"..="1000",
        /// Changes of a user that its watchers may be told at once, where there is a `change_rate`.
        change_burst: u64 = "200" in "1"..="10000",
        /// How long changes for more than a few sessions of a core wait for others, so that a session gets them
        /// in one message; 0s = they go at once, as answers always do.
        flush: Duration = "0s" in "0s"..="1s",
        /// Bytes a second that a session may send in the long run, as they come on the wire; more end it
        /// with 4429.
        byte_rate: Bytes = "256KiB" in "1KiB"..="2GiB",
        /// Bytes that a session may send at once.
        byte_burst: Bytes = "4MiB" in "1KiB"..="2GiB",
    }

    pub(crate) struct Tls in tls {
        /// The certificate chain in PEM; with `key` it turns TLS on. Read again on SIGHUP.
        certificate: PathBuf = "",
        /// The private key of `certificate`, in PEM.
        key: PathBuf = "",
        /// More certificates for clients that ask for their names (SNI), each as `chain.pem:key.pem`. A
        /// chain's OCSP response, in DER, is stapled where a file of its name with `.ocsp` is there.
        more: List = "",
        /// Serves `server.admin_listen` by TLS too, with the same certificates.
        admin: bool = "false",
        /// Certificate authorities in PEM, one of which must have issued the certificate that each client
        /// of `server.admin_listen` shows; it turns TLS on there. Empty = no certificate is asked for.
        admin_client_ca: Option<PathBuf> = "",
    }

    pub(crate) struct Store in store {
        /// A directory to keep presence in; empty = in memory.
        data: PathBuf = "",
        /// How long an offline user is remembered, at least; it is forgotten within an hour after that.
        retention: Duration = "30d" in "1s"..="3650d",
    }

    pub(crate) struct Share in cluster {
        /// Vnodes that this node is to have before others, like `0-99,200`; empty = whichever.
        #[env("ASSIGNED_VNODES")]
        assigned_vnodes: String = "",
        /// The node's weight in the rebalance; 0 = 100 for each of its cores.
        weight: u64 = "0" in "0"..="1000000",
        /// The secret by which edges know each other, at least 32 bytes, the same everywhere, and not
        /// `auth.secret`. With it edges hear each other over links, which are encrypted, and not by the bus.
        link_key: Secret = "",
        /// Where links of other edges are taken, when there is a `link_key`.
        link_listen: SocketAddr = "127.0.0.1:8082",
        /// The host and port at which other edges reach `link_listen`; empty = as it stands there.
        link_address: String = "",
    }

    pub(crate) struct Kafka in kafka {
        /// The brokers to begin with, `host:port` separated by commas.
        #[env("KAFKA_BROKERS")]
        brokers: String = "",
        /// The topic of presence events.
        topic: String = "user_status_events",
        /// Creates the topic when it does not exist.
        create_topic: bool = "true",
        /// Partitions of a topic that is created.
        partitions: u64 = "16" in "1"..="10000",
        /// Replicas of a topic that is created; 0 = the brokers' default.
        replication: u64 = "0" in "0"..="100",
        /// How long the events of a topic that is created are kept.
        retention: Duration = "1h",
        /// How long an event waits for others to share its batch; empty = 2ms, and 50ms where there is a
        /// `cluster.link_key`, since no watcher waits for the bus then.
        linger: Option<Duration> = "",
        /// How batches are compressed: `none`, `gzip`, `snappy`, `lz4` or `zstd`.
        compression: String = "lz4",
        /// After this time without the brokers' confirmation an event is sent anew.
        message_timeout: Duration = "10s",
        /// `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`.
        security_protocol: String = "plaintext",
        /// `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `OAUTHBEARER`.
        sasl_mechanism: String = "PLAIN",
        /// The user of PLAIN and SCRAM.
        username: String = "",
        /// The password of PLAIN and SCRAM.
        password: Secret = "",
        /// Where OAUTHBEARER gets its tokens: the token endpoint of an identity provider, asked with
        /// the client-credentials grant.
        oidc_token_url: String = "",
        /// The client's name at the identity provider.
        oidc_client_id: String = "",
        /// The client's secret at the identity provider.
        oidc_client_secret: Secret = "",
        /// The scope to ask for; empty = what the provider gives by itself.
        oidc_scope: String = "",
        /// What the brokers want to know besides the token, `name=value` separated by commas.
        oidc_extensions: String = "",
        /// The certificate authorities of the identity provider, in PEM; empty = the system's.
        oidc_ca_file: Option<PathBuf> = "",
        /// The certificate authorities to trust, in PEM; empty = the system's.
        ca_file: Option<PathBuf> = "",
        /// This client's certificate chain, in PEM.
        certificate: Option<PathBuf> = "",
        /// The private key of `certificate`, in PEM.
        key: Option<PathBuf> = "",
        /// The password of an encrypted private key.
        key_password: Secret = "",
        /// Keys under which events are signed, separated by commas, each 32 bytes or more, the same at all
        /// edges of a cluster: the first one signs, and each is good. Empty = events are not signed, and
        /// all are believed.
        event_keys: EventKeys = "",
        /// What becomes of events without a signature where there are `event_keys`: `refuse`, or `accept`
        /// while edges get their keys one by one.
        unsigned_events: String = "refuse",
        /// More settings of librdkafka, like `socket.keepalive.enable=true`, separated by commas.
        properties: Properties = "",
    }
}

settings::settings! {
    pub(crate) struct Config {
        server: Server,
        node: Node,
        presence: Presence,
        auth: AuthSettings,
        tls: Tls,
        store: Store,
        cluster: ClusterSettings,
        share: Share,
        redis: RedisSettings,
        kafka: Kafka,
        log: LogSettings,
    }
}
