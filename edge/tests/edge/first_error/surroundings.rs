//! What is wrong around the settings: what a cluster lacks, what the host does not allow, how the program
//! was called, and variables that somebody else made.

use super::*;

#[test]
fn what_a_cluster_lacks_is_said_all_at_once_and_that_a_standalone_edge_lacks_nothing() {
    let folder = Folder::new();
    let output = edge(&folder, &["run", "--listen", "0.0.0.0:8080"], &[]);
    let parts = [
        "redis.url (REDIS_URL) is not set",
        "REDIS_URL=redis://127.0.0.1:6379",
        "kafka.brokers (KAFKA_BROKERS) is not set",
        "A standalone edge needs none: it is started by `online-status-edge standalone`",
        "server.public_url is not set, and server.listen = 0.0.0.0:8080",
        "ws://edge-1.example:8080/socket",
    ];
    assert_said(&said(2, &output), &parts);
    let cluster = ["--redis-url", "redis://h", "--kafka-brokers", "h:9092"];
    for (flags, parts) in [
        (&["--node-id", "a b"][..], &["node.id = \"a b\""][..]),
        (
            &["--kafka-topic", "a b"],
            &["kafka.topic = \"a b\": allowed are 1 to 249"],
        ),
        (
            &["--kafka-linger", "2s"],
            &[
                "kafka.linger = 2s: allowed is at most 1 s",
                "comes from --kafka-linger",
            ],
        ),
        (
            &[
                "--cluster-link-key",
                SECRET,
                "--cluster-link-listen",
                "0.0.0.0:8080",
            ],
            &[
                "server.listen = 127.0.0.1:8080 and cluster.link_listen = 0.0.0.0:8080 are the same port",
                "comes from --cluster-link-listen",
            ],
        ),
        (
            &["--kafka-properties", "acks=0"],
            &["kafka.properties has acks, which is not free to choose"],
        ),
        (
            &[
                "--kafka-security-protocol",
                "ssl",
                "--kafka-certificate",
                "a.pem",
            ],
            &["kafka.key is not set: kafka.certificate needs it"],
        ),
        (
            &["--kafka-security-protocol", "sasl_plaintext"],
            &["kafka.username is not set: PLAIN needs it"],
        ),
    ] {
        for command in COMMANDS {
            let output = edge(&folder, &[command, &cluster, flags].concat(), &[]);
            assert_said(&said(2, &output), parts);
        }
    }
    // With one of the two alone it may be a standalone edge that is meant.
    let output = edge(
        &folder,
        &["config", "check", "--redis-url", "redis://127.0.0.1:1"],
        &[],
    );
    said(0, &output);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let line = "# `online-status-edge run` refuses this, `standalone` does not: kafka.brokers (KAFKA_BROKERS) is not set";
    assert!(text.contains(line), "{text}");
}

/// A start, and the check of its settings, which has to refuse the same. Of a cluster's, with the flags of one.
const COMMANDS: [&[&str]; 2] = [&["run"], &["config", "check"]];
/// The same of a standalone edge.
const STANDALONE: [&[&str]; 2] = [&["standalone"], &["config", "check"]];

#[test]
fn what_this_host_does_not_allow_is_said_with_what_to_do() {
    let folder = Folder::new();
    folder.file("file", "");
    std::fs::create_dir(folder.0.join("damaged")).expect("a folder");
    folder.file("damaged/presence.redb", [7; 5_000]);
    std::fs::create_dir(folder.0.join("decreed")).expect("a folder");
    folder.file("decreed/policy.json", "[]");
    let with = [
        "--server-admin-listen",
        "127.0.0.1:0",
        "--auth-secret",
        SECRET,
    ];
    for (code, flags, parts) in [
        (
            1,
            &["--listen", "192.0.2.1:8080"][..],
            &[
                "server.listen = 192.0.2.1:8080: cannot listen there",
                "has no address 192.0.2.1",
                "`ip address`",
            ][..],
        ),
        (
            2,
            &["--listen", "127.0.0.1:0", "--data", "file"],
            &["store.data = file", "it must be a directory"],
        ),
        (
            1,
            &["--listen", "127.0.0.1:0", "--data", "damaged"],
            &["presence.redb cannot be used: ", "when it is moved away"],
        ),
        // No file can be made there, root's neither.
        (
            1,
            &["--listen", "127.0.0.1:0", "--data", "/sys/kernel/data"],
            &["store.data = /sys/kernel/data: ", "may write to"],
        ),
        (
            1,
            &["--listen", "127.0.0.1:0", "--data", "decreed"],
            &["store.data: \"decreed/policy.json\"", "cannot be read"],
        ),
    ] {
        for command in STANDALONE {
            let output = edge(&folder, &[command, &with, flags].concat(), &[]);
            assert_said(&said(code, &output), parts);
        }
    }
    // A check makes nothing.
    let new = ["config", "check", "--data", "new/data"];
    said(0, &edge(&folder, &[&new, &with[..]].concat(), &[]));
    assert!(!folder.0.join("new").exists());
    for (most, command) in
        (["10", "64"].into_iter()).flat_map(|most| STANDALONE.map(|it| (most, it)))
    {
        let binary = env!("CARGO_BIN_EXE_online-status-edge");
        let line = format!("ulimit -n {most}; exec \"$0\" \"$@\"");
        let output = Command::new("sh")
            .args(["-c", &line, binary])
            .args(command)
            .args(["--listen", "127.0.0.1:0"])
            .args(with)
            .current_dir(&folder.0)
            .output();
        let parts = [
            &*format!("the limit of open files is {most}, and "),
            "are for the program itself",
            "LimitNOFILE",
            "ulimit -n",
        ];
        let text = said(1, &output.expect("a shell"));
        assert_said(&text, &parts);
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    // The most that may be set are 64.
    if std::thread::available_parallelism().is_ok_and(|count| count.get() < 64) {
        let parts = [
            "server.cores = 64: more than the",
            "server.pin = false",
            "comes from --server-cores",
        ];
        for command in STANDALONE {
            let most = ["--server-cores", "64"];
            let output = edge(&folder, &[command, &with, &most].concat(), &[]);
            assert_said(&said(1, &output), &parts);
        }
    }
    // Under the public secret everybody is an administrator.
    for (flag, setting) in [
        ("--listen", "server.listen"),
        ("--server-admin-listen", "server.admin_listen"),
    ] {
        for command in STANDALONE {
            let output = edge(&folder, &[command, &[flag, "0.0.0.0:0"]].concat(), &[]);
            let is = format!("{setting} = 0.0.0.0:0 is not a loopback address");
            let parts = [&*is, "set JWT_SECRET", "openssl rand -base64 32"];
            assert_said(&said(1, &output), &parts);
        }
    }
}

#[test]
fn what_is_in_a_file_that_is_no_certificate_or_key_is_said() {
    let folder = Folder::new();
    folder.file("empty", "");
    folder.file("text", "hunter2\n");
    let pem =
        |label: &str| format!("-----BEGIN {label}-----\naHVudGVyMg==\n-----END {label}-----\n");
    folder.file("cert.pem", pem("CERTIFICATE"));
    folder.file("key.pem", pem("PRIVATE KEY"));
    folder.file("locked.pem", pem("ENCRYPTED PRIVATE KEY"));
    let old =
        "EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\naHVudGVyMg==";
    folder.file(
        "old.pem",
        format!("-----BEGIN {old}\n-----END EC PRIVATE KEY-----\n"),
    );
    folder.file("cut.pem", "-----BEGIN CERTIFICATE-----\naHVudGVyMg");
    folder.file("der", b"\x30\x82\x01\x00\x30\x82");
    folder.file("p12", b"\x30\x82\x01\x00\x02\x01\x03\x30");
    let good = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    folder.file("good.pem", good.cert.pem());
    let ssl = [
        "run",
        "--redis-url",
        "redis://h",
        "--kafka-brokers",
        "h:9093",
        "--kafka-security-protocol",
        "ssl",
    ];
    for (given, file, part) in [
        ("tls-certificate", "empty", "/empty is empty"),
        (
            "tls-certificate",
            "text",
            "/text is no PEM: that has a line",
        ),
        ("tls-certificate", "key.pem", "/key.pem has: PRIVATE KEY"),
        (
            "tls-certificate",
            "cut.pem",
            "/cut.pem was cut off: its CERTIFICATE has no line -----END",
        ),
        ("tls-certificate", "der", "openssl x509 -inform der -in"),
        ("tls-certificate", "p12", "openssl pkcs12 -nodes -in"),
        ("tls-key", "cert.pem", "/cert.pem has: CERTIFICATE"),
        (
            "tls-key",
            "locked.pem",
            "locked.pem has a passphrase; without one: openssl pkey",
        ),
        (
            "tls-key",
            "old.pem",
            "old.pem has a passphrase; without one: openssl pkey",
        ),
        ("kafka-ca-file", "key.pem", "key.pem has: PRIVATE KEY"),
        (
            "kafka-key",
            "locked.pem",
            "has a passphrase: kafka.key_password has to be that",
        ),
    ] {
        let flag = format!("--{given}");
        let (mut words, pair) = match given.split_once('-').expect("a section") {
            ("tls", "key") => (vec!["standalone"], &["--tls-certificate", "cert.pem"][..]),
            ("tls", _) => (vec!["standalone"], &["--tls-key", "key.pem"][..]),
            (_, "key") => (ssl.to_vec(), &["--kafka-certificate", "good.pem"][..]),
            _ => (ssl.to_vec(), &[][..]),
        };
        words.extend([&flag, file]);
        words.extend(pair);
        assert_said(&said(2, &edge(&folder, &words, &[])), &[part]);
    }
}

#[test]
fn what_is_wrong_with_a_certificate_or_key_that_nobody_trusts_is_said() {
    let folder = Folder::new();
    let openssl = |line: &str| {
        let words = line.split(' ');
        let made = Command::new("openssl")
            .args(words)
            .current_dir(&folder.0)
            .output();
        let made = made.expect("OpenSSL is there");
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{line}: {said}");
    };
    let own = "-x509 -days 2 -subj /CN=localhost -nodes";
    let named = "-addext subjectAltName=DNS:localhost";
    openssl(&format!(
        "req {own} {named} -newkey rsa:1024 -keyout short.key -out short.pem"
    ));
    openssl("rsa -traditional -in short.key -out short.pkcs1");
    openssl(&format!(
        "req {own} {named} -newkey ec -pkeyopt ec_paramgen_curve:secp256k1 -keyout curve.key -out curve.pem"
    ));
    openssl("req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout v1.key -out v1.csr");
    openssl("x509 -req -in v1.csr -signkey v1.key -days 2 -out v1.pem");
    openssl(&format!(
        "req {own} -newkey rsa:2048 -keyout nameless.key -out nameless.pem"
    ));
    for (certificate, key, parts) in [
        (
            "short.pem",
            "short.key",
            &["tls.key = \"short.key\": it is an RSA key of fewer than 2048 bits"][..],
        ),
        (
            "short.pem",
            "short.pkcs1",
            &["tls.key = \"short.pkcs1\": it is an RSA key of fewer than 2048 bits"],
        ),
        (
            "curve.pem",
            "curve.key",
            &[
                "tls.key = \"curve.key\": it is no key that is taken",
                "P-256",
            ],
        ),
        (
            "v1.pem",
            "v1.key",
            &[
                "tls.certificate = \"v1.pem\": it is X.509 of version 1",
                "subjectAltName=DNS:",
            ],
        ),
        ("nameless.pem", "v1.key", &["do not fit together"]),
    ] {
        let pair = ["--tls-certificate", certificate, "--tls-key", key];
        let output = edge(&folder, &[&["config", "check"], &pair[..]].concat(), &[]);
        let text = said(2, &output);
        assert_said(&text, parts);
        let both = text.contains("do not fit together");
        assert_eq!(both, certificate == "nameless.pem", "{text}");
        assert!(!text.contains(" has: "), "that much is known: {text}");
    }
    // A certificate may be the public key of tokens.
    let public = ["--auth-algorithms", "RS256", "--auth-public-key"];
    for (file, code) in [("short.pem", 2), ("nameless.pem", 0)] {
        let output = edge(
            &folder,
            &[&["config", "check"], &public[..], &[file]].concat(),
            &[],
        );
        let text = said(code, &output);
        let part = "an RSA key needs at least 2048 bits";
        assert_eq!(text.contains(part), code == 2, "{text}");
    }
    // One that clients refuse is used, and named.
    let pair = [
        "--tls-certificate",
        "nameless.pem",
        "--tls-key",
        "nameless.key",
    ];
    let output = edge(&folder, &[&["config", "check"], &pair[..]].concat(), &[]);
    let text = said(0, &output);
    assert!(
        text.contains("tls.certificate") && text.contains("it has no name of a host"),
        "{text}"
    );
}

#[test]
fn a_source_that_does_not_count_is_named_by_config_check() {
    let folder = Folder::new();
    let variable = ("ONLINE_STATUS_STORE_DATA", OsString::from("/srv/records"));
    let check = |flags: &[&str]| {
        let arguments = [&["config", "check"], flags].concat();
        let output = edge(&folder, &arguments, std::slice::from_ref(&variable));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let text = check(&["--data", "/var/lib/records"]);
    let line = "# store.data comes from --store-data; ONLINE_STATUS_STORE_DATA says otherwise and does not count\n";
    assert!(text.contains(line), "{text}");
    assert!(!check(&[]).contains("does not count"));
}

#[test]
fn two_names_of_one_setting_that_disagree_are_said_at_a_start_and_by_config_check() {
    let folder = Folder::new();
    let (one, other) = ("hunter2 hunter2 hunter2 hunter2 hunter2", SECRET);
    let both = [("JWT_SECRET", one), ("ONLINE_STATUS_AUTH_SECRET", other)];
    let both = both.map(|(name, value)| (name, OsString::from(value)));
    let line = "auth.secret comes from ONLINE_STATUS_AUTH_SECRET; JWT_SECRET says otherwise and does not count";
    // No host has that address, so that it ends.
    let start = ["standalone", "--listen", "192.0.2.1:8080"];
    for (code, arguments) in [
        (1, &start[..]),
        (0, &["config", "check"]),
        (0, &["token", "--user", "alice"]),
    ] {
        let text = said(code, &edge(&folder, arguments, &both));
        assert_eq!(text.matches(line).count(), 1, "{text}");
        assert_eq!(text.contains("variables_disagree"), code == 1, "{text}");
    }
    let alike = [both[0].clone(), (both[1].0, both[0].1.clone())];
    let text = said(0, &edge(&folder, &["config", "check"], &alike));
    assert!(text.is_empty(), "{text}");
}

#[test]
fn mistakes_of_usage_name_the_program_and_what_was_meant() {
    let folder = Folder::new();
    for (arguments, parts) in [
        (
            &["standalone", "--presence-grase", "1s"][..],
            &["--presence-grase", "--presence-grace"][..],
        ),
        (&["standalon"], &["standalon", "standalone"]),
        (
            &["standalone", "--listen"],
            &["a value is required", "--server-listen"],
        ),
        (&["token", "--user", ""], &["--user \"\""]),
        (
            &["token", "--user", "a", "--ttl", "1y"],
            &["--ttl \"1y\"", "allowed are 1s to 3650d"],
        ),
        (
            &["standalone", "--auth-secert", "hunter2"],
            &["--auth-secret"],
        ),
        (&["standalone", "--auth-secert=hunter2"], &["--auth-secret"]),
    ] {
        let text = said(2, &edge(&folder, arguments, &[]));
        assert!(
            text.starts_with("error: ")
                && (text.contains("online-status-edge") || text.contains("--help")),
            "{text}"
        );
        for part in parts {
            assert!(text.contains(part), "without {part:?}: {text}");
        }
    }
}

#[test]
fn service_links_of_kubernetes_are_passed_over_with_a_line_that_says_so() {
    let folder = Folder::new();
    let mut links = vec![
        ("REDIS_PORT".to_owned(), "tcp://10.96.0.9:6379".to_owned()),
        ("KAFKA_PORT".to_owned(), "tcp://10.96.0.9:9092".to_owned()),
    ];
    for service in [
        "",
        "_EDGE",
        "_REDIS",
        "_COORDINATOR",
        "_SERVER",
        "_ANYTHING",
    ] {
        let name = format!("ONLINE_STATUS{service}");
        links.extend([
            (format!("{name}_SERVICE_HOST"), "10.96.0.7".to_owned()),
            (format!("{name}_SERVICE_PORT"), "8080".to_owned()),
            (format!("{name}_SERVICE_PORT_HTTP"), "8080".to_owned()),
            (format!("{name}_PORT"), "tcp://10.96.0.7:8080".to_owned()),
            (
                format!("{name}_PORT_8080_TCP"),
                "tcp://10.96.0.7:8080".to_owned(),
            ),
            (format!("{name}_PORT_8080_TCP_PROTO"), "tcp".to_owned()),
            (format!("{name}_PORT_8080_TCP_PORT"), "8080".to_owned()),
            (format!("{name}_PORT_8080_TCP_ADDR"), "10.96.0.7".to_owned()),
        ]);
    }
    let mut variables: Vec<(&str, OsString)> = links
        .iter()
        .map(|(name, value)| (name.as_str(), OsString::from(value)))
        .collect();
    let output = edge(&folder, &["config", "check"], &variables);
    let text = said(0, &output);
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in [
        "online-status-edge: 48 variables are passed over, Kubernetes made them",
        "ONLINE_STATUS_REDIS_…",
        "enableServiceLinks: false",
    ] {
        assert!(text.contains(part), "without {part:?}: {text}");
    }
    // What is no link is a mistake as before, and a setting among them counts.
    variables.push(("ONLINE_STATUS_SERVER_PROT", "8080".into()));
    variables.push(("ONLINE_STATUS_SERVER_CORES", "many".into()));
    let text = said(2, &edge(&folder, &["config", "check"], &variables));
    assert_said(
        &text,
        &["ONLINE_STATUS_SERVER_PROT", "(ONLINE_STATUS_SERVER_CORES)"],
    );
    let page = edge(&folder, &["config", "doc"], &[]).stdout;
    let page = String::from_utf8(page).expect("UTF-8");
    for ending in ["_PORT`", "_SERVICE_HOST`"] {
        assert!(
            !page.contains(ending),
            "a setting has the name of a link: {ending}"
        );
    }
}

#[test]
fn a_service_has_a_key_for_tokens_of_its_own() {
    let folder = Folder::new();
    let manager = ("NOTIFY_SOCKET", folder.0.join("notify").into_os_string());
    let arguments = ["standalone", "--listen", "127.0.0.1:0"];
    let output = edge(&folder, &arguments, &[manager]);
    let parts = [
        "auth.secret (JWT_SECRET) is not set",
        "service",
        "openssl rand",
    ];
    assert_said(&said(1, &output), &parts);
    assert!(output.stdout.is_empty(), "no token is shown");
}
