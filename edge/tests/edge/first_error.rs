//! Every mistake in a configuration, as its user meets it: what is said has the program's name, the file
//! and line, variable or flag, the value, and what to do; and never a secret.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    process::{Command, Output},
};

use crate::common::{Folder, SECRET};

mod surroundings;

/// In every place that takes a secret; nothing that is said may have it.
const HIDDEN: &str = "hunter2";

fn edge(folder: &Folder, arguments: &[&str], variables: &[(&str, OsString)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_online-status-edge"));
    for name in ["JWT_SECRET", "REDIS_URL", "KAFKA_BROKERS", "NODE_ID"] {
        command.env_remove(name);
    }
    command
        .args(arguments)
        .current_dir(&folder.0)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .output()
        .expect("it runs")
}

/// What is said about it; `code` is what the process ends with.
#[track_caller]
fn said(code: i32, output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains(HIDDEN), "a secret: {text}");
    text
}

#[track_caller]
fn assert_said(text: &str, parts: &[&str]) {
    assert!(
        text.contains("error: online-status-edge: "),
        "no name: {text}"
    );
    for part in parts {
        assert!(text.contains(part), "without {part:?}: {text}");
    }
}

#[test]
fn a_mistake_in_the_file_is_named_with_its_line() {
    let folder = Folder::new();
    let example = "`online-status-edge config default` prints one with all settings";
    for (content, parts) in [
        (
            "[server",
            &["edge.toml, line 1: it is no TOML", example][..],
        ),
        (
            "\n[auth]\nsecret = \"hunter2\n",
            &["edge.toml, line 3: it is no TOML", example],
        ),
        (
            "[auth]\nsecret = \"hunter2\"\nsecret = \"hunter2\"\n",
            &["edge.toml, line 3: it is no TOML: duplicate key"],
        ),
        (
            "[presence]\ngrase = \"1s\"\n",
            &[
                "edge.toml, line 2: there is no setting presence.grase (did you mean presence.grace?)",
            ],
        ),
        (
            "[auth]\nsecert = \"hunter2\"\n",
            &["edge.toml, line 2: there is no setting auth.secert (did you mean auth.secret?)"],
        ),
        (
            "\n\n[zoo]\nlion = 1\n",
            &["edge.toml, line 4: there is no setting zoo.lion", example],
        ),
        (
            "listen = \"127.0.0.1:8080\"\n",
            &["edge.toml, line 1: listen is in no section; it stands below [server]"],
        ),
        (
            "server = 5\n",
            &[
                "edge.toml, line 1: server is in no section",
                "the line [server]",
            ],
        ),
        (
            "[[server]]\npin = true\n",
            &["line 1: server is in no section", "the line [server]"],
        ),
        (
            "[node.id]\nx = 1\n",
            &["node.id (edge.toml, line 1): it is one value, and no section; allowed is a text"],
        ),
        (
            "[auth]\naudience = [[\"a\"]]\n",
            &["auth.audience (edge.toml, line 2): it is a list with more than texts"],
        ),
        (
            "[server]\ncores = \"two\"\n",
            &["server.cores = \"two\" (edge.toml, line 2): it is not a whole number"],
        ),
        (
            "[server]\ncores = 2.5\n",
            &["server.cores = \"2.5\" (edge.toml, line 2): it is not a whole number"],
        ),
        (
            "[server]\ncores = -1\n",
            &["server.cores = \"-1\" (edge.toml, line 2)"],
        ),
        (
            "[server]\npin = \"yes\"\n",
            &[
                "server.pin = \"yes\" (edge.toml, line 2)",
                "allowed is true or false",
            ],
        ),
        (
            "[presence]\ngrace = 15\n",
            &[
                "presence.grace = \"15\" (edge.toml, line 2): it has no unit of time",
                "like 25s",
            ],
        ),
        (
            "[presence]\ngrace = \"2weeks\"\n",
            &["presence.grace = \"2weeks\" (edge.toml, line 2): \"weeks\" is no unit of time"],
        ),
        (
            "[server]\nmax_header = \"8kb\"\n",
            &["server.max_header = \"8kb\" (edge.toml, line 2): \"kb\" is no unit of size"],
        ),
        (
            "[auth]\n# How much.\nleeway = \"1h\"\n",
            &[
                "auth.leeway = 1h: allowed are 0s to 10m",
                "auth.leeway = \"1h\" comes from edge.toml, line 3",
            ],
        ),
        (
            "[auth]\nsecret = \"hunter2\"\n",
            &[
                "at least 32 are needed",
                "auth.secret = (hidden) comes from edge.toml, line 2",
            ],
        ),
        (
            "[kafka]\nproperties = \"a=1,hunter2\"\n",
            &["kafka.properties = (hidden) (edge.toml, line 2): a part of it has no equals sign"],
        ),
    ] {
        folder.file("edge.toml", content);
        let output = edge(&folder, &["config", "check", "-c", "edge.toml"], &[]);
        assert_said(&said(2, &output), parts);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_reason() {
    let folder = Folder::new();
    std::fs::write(folder.0.join("latin.toml"), b"[node]\nid = \"\xe4\"\n").expect("a file");
    for (name, what) in [
        ("none.toml", "No such file or directory"),
        (".", "it is a directory"),
        ("latin.toml", "it is no UTF-8 text"),
    ] {
        let output = edge(&folder, &["standalone", "--config", name], &[]);
        let parts = [
            &format!("--config {name}: {what}"),
            "`online-status-edge config default`",
        ];
        assert_said(&said(2, &output), &parts);
    }
}

#[test]
fn a_mistake_in_the_environment_is_named_with_its_variable() {
    let folder = Folder::new();
    let text = |text: &str| OsString::from(text);
    for (name, value, parts) in [
        (
            "ONLINE_STATUS_PRESENCE_GRASE",
            text("1s"),
            &[
                "the variable ONLINE_STATUS_PRESENCE_GRASE (did you mean ONLINE_STATUS_PRESENCE_GRACE?)",
            ][..],
        ),
        (
            "ONLINE_STATUS_AUTH_SECERT",
            text(HIDDEN),
            &["(did you mean ONLINE_STATUS_AUTH_SECRET?)"],
        ),
        (
            "ONLINE_STATUS_ZOO",
            text("1"),
            &["`online-status-edge config doc` lists all"],
        ),
        (
            "ONLINE_STATUS_PORT",
            text("8080"),
            &["the variable ONLINE_STATUS_PORT"],
        ),
        (
            "NODE_ID",
            OsString::from_vec(vec![0xff]),
            &["NODE_ID: its value is no UTF-8 text"],
        ),
        (
            "NODE_ID",
            text("a b"),
            &[
                "node.id = \"a b\"",
                "comes from NODE_ID",
                "allowed are 1 to 64",
            ],
        ),
        (
            "JWT_SECRET",
            text(HIDDEN),
            &["auth.secret (JWT_SECRET) has 7 bytes: at least 32 are needed"],
        ),
        (
            "ONLINE_STATUS_SERVER_LISTEN",
            text("localhost:8080"),
            &[
                "server.listen = \"localhost:8080\" (ONLINE_STATUS_SERVER_LISTEN): \"localhost\" is no IP address",
            ],
        ),
        (
            "ASSIGNED_VNODES",
            text("9-3"),
            &[
                "cluster.assigned_vnodes (ASSIGNED_VNODES)",
                "the range \"9-3\" ends before it starts",
            ],
        ),
        (
            "REDIS_URL",
            text("http://:hunter2@h"),
            &["redis.url (REDIS_URL)", "redis:// or rediss://"],
        ),
    ] {
        let output = edge(&folder, &["config", "check"], &[(name, value)]);
        assert_said(&said(2, &output), parts);
    }
}

#[test]
fn a_mistake_in_flags_or_between_settings_is_named_with_each_of_them() {
    let folder = Folder::new();
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    let other =
        rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    folder.file("cert.pem", pair.cert.pem());
    folder.file("key.pem", pair.signing_key.serialize_pem());
    folder.file("other.key", other.signing_key.serialize_pem());
    folder.file("empty", "");
    for (flags, parts) in [
        (
            &["--server-listen", "::1:8080"][..],
            &[
                "server.listen = \"::1:8080\" (--server-listen)",
                "as [::1]:8080",
            ][..],
        ),
        (
            &["--server-admin-listen", "0.0.0.0:8080"],
            &[
                "server.listen = 127.0.0.1:8080 and server.admin_listen = 0.0.0.0:8080 are the same port",
                "comes from --server-admin-listen",
                "server.listen = \"127.0.0.1:8080\" is the default",
            ],
        ),
        (
            &[
                "--redis-url",
                "redis://h",
                "--cluster-link-key",
                SECRET,
                "--cluster-link-listen",
                "127.0.0.1:8081",
            ],
            &["server.admin_listen = 127.0.0.1:8081 and cluster.link_listen = 127.0.0.1:8081 are"],
        ),
        (
            &["--server-listen", ":8080"],
            &["0.0.0.0:8080, or [::]:8080"],
        ),
        (
            &["--server-cores", "65"],
            &[
                "server.cores = 65: allowed are 0 to 64",
                "comes from --server-cores",
            ],
        ),
        (
            &["--presence-heartbeat", "10ms"],
            &["presence.heartbeat = 10ms: allowed are 1s to 1h"],
        ),
        (
            &["--server-max-header", "1B"],
            &["server.max_header = 1B: allowed are 512B to 1MiB"],
        ),
        (
            &["--cluster-vnodes", "100"],
            &[
                "cluster.vnodes: 100 is not a count of vnodes",
                "a power of two",
            ],
        ),
        (
            &["--cluster-lease-ttl", "2m"],
            &["cluster.lease_ttl = 2m: allowed are 1s to 1m"],
        ),
        (
            &["--server-public-url", "https://a.example"],
            &[
                "server.public_url = \"https://a.example\"",
                "ws:// or wss://",
            ],
        ),
        (
            &["--server-origins", "a.example"],
            &["server.origins has \"a.example\"", "https://example.com"],
        ),
        (
            &["--auth-watch-policy", "all"],
            &["auth.watch_policy = \"all\": allowed are open and claim"],
        ),
        (
            &["--auth-algorithms", "none"],
            &["auth.algorithms", "\"none\"", "HS256"],
        ),
        (
            &["--auth-algorithms", "RS256"],
            &["auth.algorithms", "auth.public_key is not set"],
        ),
        (
            &["--auth-public-key", "no.pem"],
            &["auth.public_key = \"no.pem\": No such file"],
        ),
        (
            &["--auth-jwks-file", "empty"],
            &["auth.jwks_file = \"empty\": it is no JSON Web Key Set"],
        ),
        (
            &[
                "--auth-jwks-file",
                "empty",
                "--auth-jwks-url",
                "https://a.example/",
            ],
            &[
                "only one may be given",
                "comes from --auth-jwks-file",
                "comes from --auth-jwks-url",
            ],
        ),
        (
            &["--tls-key", "other.key"],
            &[
                "both or none must be given",
                "tls.key = \"other.key\" comes from --tls-key",
                "tls.certificate is not set: --tls-certificate VALUE",
            ],
        ),
        (
            &["--tls-certificate", "no.pem", "--tls-key", "other.key"],
            &[
                "tls.certificate = \"no.pem\"",
                "No such file",
                "/no.pem: give the path of a file that is there",
            ],
        ),
        (
            &["--tls-certificate", "cert.pem", "--tls-key", "."],
            &["tls.key = \".\"", "is a directory: give the path of a file"],
        ),
        (
            &[
                "--tls-certificate",
                "cert.pem",
                "--tls-key",
                "key.pem",
                "--tls-more",
                "no.pem:key.pem",
            ],
            &[
                "tls.more = \"no.pem\"",
                "/no.pem: give the path of a file that is there",
            ],
        ),
        (
            &[
                "--tls-certificate",
                "cert.pem",
                "--tls-key",
                "key.pem",
                "--tls-admin-client-ca",
                "empty",
            ],
            &["tls.admin_client_ca = \"empty\": there is no certificate in it"],
        ),
        (
            &["--tls-certificate", "empty", "--tls-key", "other.key"],
            &["tls.certificate = \"empty\": there is no certificate in it"],
        ),
        (
            &["--tls-certificate", "cert.pem", "--tls-key", "empty"],
            &["tls.key = \"empty\": there is no private key in it"],
        ),
        (
            &["--tls-certificate", "cert.pem", "--tls-key", "other.key"],
            &["tls.certificate = \"cert.pem\" and tls.key = \"other.key\" do not fit together"],
        ),
        (
            &["--redis-url", "redis://h", "--redis-ca-file", "cert.pem"],
            &["redis.ca_file", "rediss://", "comes from --redis-ca-file"],
        ),
        (
            &["--kafka-compression", "zip"],
            &["kafka.compression = \"zip\"", "lz4"],
        ),
        (
            &["--kafka-security-protocol", "tls"],
            &["kafka.security_protocol = \"tls\"", "sasl_ssl"],
        ),
        (
            &["--kafka-brokers", "kafka://h:9092"],
            &["kafka.brokers (KAFKA_BROKERS) has \"kafka://h:9092\": allowed is host:port"],
        ),
        (
            &[
                "--kafka-brokers",
                "h:9093",
                "--kafka-security-protocol",
                "ssl",
                "--kafka-ca-file",
                "no.pem",
            ],
            &["kafka.ca_file = \"no.pem\": No such file"],
        ),
    ] {
        let output = edge(&folder, &[&["config", "check"], flags].concat(), &[]);
        assert_said(&said(2, &output), parts);
    }
}
