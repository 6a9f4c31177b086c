//! Every setting of the edge: its name, type, default and meaning, once. File, environment, flags,
//! `config check`, `config default` and the reference page all come from here.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use settings::{Bytes, List, Secret};

settings::settings! {
    pub(crate) struct Config;
    server as Server {
        /// Where clients connect.
        listen: SocketAddr = "127.0.0.1:8080",
        /// Where health, metrics and administration are served.
        admin_listen: SocketAddr = "127.0.0.1:8081",
        /// The WebSocket URL that clients are told; empty = made from `listen`.
        public_url: String = "",
        /// Threads, each on a core of its own; 0 = one for each CPU the process may use.
        cores: u64 = "0",
        /// Pins each thread to a CPU.
        pin: bool = "true",
        /// Connections at a time; 0 = what the limit of open files allows. More are answered 503.
        max_connections: u64 = "0",
        /// Connections without a session at a time, those that wait for their token and plain HTTP
        /// alike; 0 = half of all. More are answered 503.
        max_unauthenticated: u64 = "0",
        /// Connections of one address; 0 = no limit. More are answered 429.
        max_per_address: u64 = "0",
        /// Time for the upgrade request, TLS included; later, the connection is closed.
        upgrade_timeout: Duration = "5s",
        /// Time for the token after the upgrade; later, 4408.
        auth_timeout: Duration = "5s",
        /// Bytes of a request's head; more are answered 431.
        max_header: Bytes = "8KiB",
        /// Bytes of a WebSocket message; more end the session with 1009.
        max_message: Bytes = "16KiB",
        /// Origins that browsers may connect from, like `https://example.com`; empty = all.
        origins: List = "",
        /// Sessions closed a second at shutdown.
        drain_rate: u64 = "5000",
        /// Time for a shutdown; what is left then is closed at once.
        drain_timeout: Duration = "30s",
        /// How long the kernel tries to deliver bytes before it drops a connection.
        tcp_user_timeout: Duration = "30s",
    }
    node as Node {
        /// The node's name, 1 to 64 of `A-Z a-z 0-9 . _ -`, in a cluster no other node's; empty =
        /// `standalone`, or in a cluster the host's name.
        #[env("NODE_ID")]
        id: String = "",
    }
    presence as Presence {
        /// How long a user stays online after its last session broke.
        grace: Duration = "15s",
        /// The same after a clean close; 0s = offline at once.
        clean_close_grace: Duration = "0s",
        /// Between two pings.
        heartbeat: Duration = "25s",
        /// A session is dead when nothing came for `heartbeat` and this.
        heartbeat_timeout: Duration = "10s",
        /// How long a question waits for the store.
        store_patience: Duration = "2s",
        /// Sessions of one user; more are refused with 4409.
        max_devices: u64 = "100",
        /// Users that one session may watch.
        max_watches: u64 = "1000",
        /// Bytes of answers that may wait for one slow session; then its further messages wait too.
        /// One that reads nothing for `heartbeat` and `heartbeat_timeout` is ended with 1013.
        outbox: Bytes = "256KiB",
        /// Messages a second that a session may send in the long run; more end it with 4429.
        message_rate: u64 = "100",
        /// Messages that a session may send at once.
        message_burst: u64 = "1200",
        /// Who may watch whom: `open`, or `claim`: whom the token's `watch` claim lists.
        watch_policy: String = "open",
    }
    auth as Auth {
        /// The secret of HS256, HS384 and HS512 tokens, at least 32 bytes.
        #[env("JWT_SECRET")]
        secret: Secret = "",
        /// Algorithms that are accepted; each needs the kind of key that belongs to it.
        algorithms: List = "HS256",
        /// A public key in PEM, for RS, PS, ES and EdDSA tokens.
        public_key: PathBuf = "",
        /// A JSON Web Key Set file; read again on SIGHUP.
        jwks_file: PathBuf = "",
        /// The same from a web server, `https://…` or `http://…`: fetched at the start, every
        /// `jwks_refresh`, on SIGHUP, and when a token names a key that is not known. Public keys only.
        jwks_url: String = "",
        /// Between two fetches.
        jwks_refresh: Duration = "5m",
        /// The certificate authorities to trust with `https://`, in PEM; empty = the system's.
        jwks_ca_file: PathBuf = "",
        /// What `iss` must be; empty = anything.
        issuer: String = "",
        /// What `aud` must contain; empty = anything.
        audience: String = "",
        /// By how much clocks may differ.
        leeway: Duration = "0s",
        /// The scope that bulk and admin endpoints need.
        admin_scope: String = "presence:admin",
    }
    tls as Tls {
        /// The certificate chain in PEM; with `key` it turns TLS on. Read again on SIGHUP.
        certificate: PathBuf = "",
        /// The private key in PEM.
        key: PathBuf = "",
    }
    store as Store {
        /// A directory to keep presence in; empty = in memory.
        data: PathBuf = "",
        /// How long an offline user is remembered.
        retention: Duration = "30d",
    }
    cluster as Cluster {
        /// How many vnodes there are, a power of two, for the cluster's life.
        vnodes: u64 = "4096",
        /// Vnodes that this node is to have before others, like `0-99,200`; empty = whichever.
        #[env("ASSIGNED_VNODES")]
        assigned_vnodes: String = "",
        /// The node's weight in the rebalance; 0 = 100 for each of its cores.
        weight: u64 = "0",
        /// How long the node counts as alive without renewing its lease.
        lease_ttl: Duration = "5s",
    }
    redis as Redis {
        /// The store of a cluster: `redis://` or `rediss://` (TLS), with user and password; several
        /// nodes of a Redis Cluster separated by commas.
        #[env("REDIS_URL")]
        url: Secret = "",
        /// What every key begins with.
        prefix: String = "os:",
        /// The certificate authorities to trust with `rediss://`, in PEM; empty = the system's.
        ca_file: PathBuf = "",
        /// How long a connection may take.
        connect_timeout: Duration = "1s",
        /// How long an answer may take.
        response_timeout: Duration = "2s",
    }
    kafka as Kafka {
        /// The brokers to begin with, `host:port` separated by commas.
        #[env("KAFKA_BROKERS")]
        brokers: String = "",
        /// The topic of presence events.
        topic: String = "user_status_events",
        /// Creates the topic when it does not exist.
        create_topic: bool = "true",
        /// Partitions of a topic that is created.
        partitions: u64 = "16",
        /// Replicas of a topic that is created; 0 = the brokers' default.
        replication: u64 = "0",
        /// How long the events of a topic that is created are kept.
        retention: Duration = "1h",
        /// How long an event waits for others to share its batch.
        linger: Duration = "2ms",
        /// How batches are compressed: `none`, `gzip`, `snappy`, `lz4` or `zstd`.
        compression: String = "lz4",
        /// After this time without the brokers' confirmation an event is sent anew.
        message_timeout: Duration = "10s",
        /// `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`.
        security_protocol: String = "plaintext",
        /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
        sasl_mechanism: String = "PLAIN",
        /// The user of SASL.
        username: String = "",
        /// The password of SASL.
        password: Secret = "",
        /// The certificate authorities to trust, in PEM; empty = the system's.
        ca_file: PathBuf = "",
        /// This client's certificate, in PEM.
        certificate: PathBuf = "",
        /// Its private key, in PEM.
        key: PathBuf = "",
        /// More settings of librdkafka, like `socket.keepalive.enable=true`.
        properties: List = "",
    }
}
