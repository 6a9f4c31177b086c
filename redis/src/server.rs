//! What a server says of itself, and what its errors mean: whether it can be used at all, whether
//! its keys are safe, and whether another server is the one to ask. It owns the words; what follows
//! from them is the link's business.

use redis::{Cmd, ServerError, Value};

/// The oldest server whose scripts and commands are enough.
const OLDEST: (u32, u32) = (7, 0);
/// The one eviction policy that never takes a key away.
const KEEPS_ALL: &str = "noeviction";

/// `INFO`, with all that a server says by default.
pub(crate) fn info() -> Cmd {
    redis::cmd("INFO")
}

/// `HELLO`, for servers that refuse `INFO`: the version and the mode.
pub(crate) fn hello() -> Cmd {
    redis::cmd("HELLO")
}

/// What a server has said of itself. What it did not say is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Server {
    /// Of Redis, or of the Redis that it stands for.
    pub(crate) version: Option<String>,
    pub(crate) is_cluster: bool,
    pub(crate) run_id: Option<String>,
    /// The address of the server that a replica copies; `None` of a master.
    pub(crate) master: Option<String>,
    pub(crate) is_loading: bool,
    pub(crate) policy: Option<String>,
    pub(crate) used: Option<u64>,
    /// The memory limit, bytes; 0 = none.
    pub(crate) limit: Option<u64>,
}

impl Server {
    /// The server as its answer to [`info`] or [`hello`] describes it.
    pub(crate) fn of(answer: &Value) -> Self {
        let field = |name: &str| match answer {
            Value::BulkString(bytes) => info_field(std::str::from_utf8(bytes).ok()?, name),
            Value::VerbatimString { text, .. } | Value::SimpleString(text) => {
                info_field(text, name)
            }
            Value::Array(pairs) => pairs.chunks_exact(2).find_map(|pair| {
                let [Value::BulkString(key), Value::BulkString(value)] = pair else {
                    return None;
                };
                (hello_name(key) == name).then(|| String::from_utf8_lossy(value).into_owned())
            }),
            _ => None,
        };
        // Redis and Valkey 7.2 name it one way, Valkey 8.0 and newer the other.
        let mode = field("redis_mode").or_else(|| field("server_mode"));
        let master = || {
            let port = field("master_port").unwrap_or_default();
            format!("{}:{port}", field("master_host").unwrap_or_default())
        };
        let number = |name| field(name).and_then(|text| text.parse().ok());
        Self {
            version: field("redis_version"),
            is_cluster: mode.is_some_and(|mode| mode == "cluster"),
            run_id: field("run_id").filter(|id| !id.is_empty()),
            master: field("role")
                .is_some_and(|role| role == "slave" || role == "replica")
                .then(master),
            is_loading: field("loading").is_some_and(|loading| loading != "0"),
            policy: field("maxmemory_policy"),
            used: number("used_memory"),
            limit: number("maxmemory"),
        }
    }

    /// The reason for which the server can never be used, if there is one.
    pub(crate) fn too_old(&self) -> Option<String> {
        let version = self.version.as_deref()?;
        let mut parts = version.split('.').map(str::parse::<u32>);
        // One that counts in another way is believed.
        let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
            return None;
        };
        ((major, minor) < OLDEST).then(|| {
            format!(
                "its version is {version}, and the oldest that can be used is Redis {}.{}",
                OLDEST.0, OLDEST.1
            )
        })
    }

    /// The reason for which the server takes no writes now, if there is one.
    pub(crate) fn unfit(&self) -> Option<String> {
        if let Some(master) = &self.master {
            return Some(format!(
                "it is a replica of {master}: REDIS_URL has to lead to the master, or name the Sentinels"
            ));
        }
        self.is_loading
            .then(|| "it still loads its data from disk".to_owned())
    }

    /// The policy by which it takes keys away when its memory is full.
    pub(crate) fn evicts(&self) -> Option<&str> {
        self.policy.as_deref().filter(|policy| *policy != KEEPS_ALL)
    }
}

/// The member of an answer to `HELLO` as `INFO` calls it.
fn hello_name(key: &[u8]) -> &str {
    match key {
        b"version" => "redis_version",
        b"mode" => "redis_mode",
        b"role" => "role",
        _ => "",
    }
}

fn info_field(text: &str, field: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| *name == field)
        .map(|(_, value)| value.trim().to_owned())
}

/// Errors of a server that is not, or not now, the one that takes writes: another may be by now,
/// behind the same name, the same Sentinels or the same Cluster.
const ELSEWHERE: [&str; 7] = [
    "READONLY",
    "MASTERDOWN",
    "NOREPLICAS",
    "LOADING",
    "MOVED",
    "ASK",
    "CLUSTERDOWN",
];

/// Whether the error says so itself, or quotes one that does: servers before 7.0, and some
/// proxies, wrap what a script ran into.
pub(crate) fn leads_elsewhere(error: &ServerError) -> bool {
    let quoted = |code: &&str| {
        let details = error.details().unwrap_or_default();
        details.contains(&format!("-{code} ")) || details.starts_with(&format!("{code} "))
    };
    ELSEWHERE.contains(&error.code()) || ELSEWHERE.iter().any(quoted)
}

/// Whether the server does not allow what was asked, whatever else it can do: rented servers forbid
/// some commands, each in words of its own.
pub(crate) fn forbids(error: &ServerError) -> bool {
    error.code() != "NOAUTH" && !leads_elsewhere(error)
}

/// Whether the server's memory is full.
pub(crate) fn is_full(error: &ServerError) -> bool {
    error.code() == "OOM" || error.details().is_some_and(|text| text.contains("-OOM "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Server {
        Server::of(&Value::BulkString(text.into()))
    }

    #[test]
    fn a_cluster_is_known_in_redis_and_in_valkey() {
        let redis = said("# Server\r\nredis_version:7.0.15\r\nredis_mode:cluster\r\nrun_id:ab\r\n");
        let valkey = said(
            "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.8\r\n\
             server_mode:cluster\r\nrun_id:cd\r\n",
        );
        assert!(redis.is_cluster && valkey.is_cluster);
        assert_eq!(redis.run_id.as_deref(), Some("ab"));
        assert_eq!(valkey.run_id.as_deref(), Some("cd"));
        assert_eq!(redis.too_old().or(valkey.too_old()), None);
        assert_eq!(Server::of(&Value::Nil), Server::default());
    }

    #[test]
    fn a_server_older_than_7_0_is_too_old_and_one_that_does_not_say_is_believed() {
        for (version, old) in [
            ("2.8.19", true),
            ("6.2.14", true),
            ("6.9", true),
            ("7.0.0", false),
            ("7.2.4", false),
            ("10.0.1", false),
            ("255.255.255", false),
            ("unstable", false),
            ("", false),
        ] {
            let server = said(&format!("redis_version:{version}\r\n"));
            assert_eq!(server.too_old().is_some(), old, "{version}");
        }
        assert_eq!(Server::default().too_old(), None);
        let text = |text: &str| Value::BulkString(text.into());
        let hello = Value::Array(
            ["server", "redis", "version", "6.2.14", "mode", "cluster"]
                .map(text)
                .into(),
        );
        let server = Server::of(&hello);
        assert!(server.too_old().is_some() && server.is_cluster);
    }

    #[test]
    fn replicas_and_servers_that_load_are_unfit_and_policies_that_evict_are_named() {
        let replica = said("role:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\n");
        assert!(
            replica
                .unfit()
                .is_some_and(|why| why.contains("10.0.0.1:6379"))
        );
        assert!(said("role:master\r\nloading:1\r\n").unfit().is_some());
        assert_eq!(said("role:master\r\nloading:0\r\n").unfit(), None);
        assert_eq!(
            said("maxmemory_policy:allkeys-lru\r\n").evicts(),
            Some("allkeys-lru")
        );
        assert_eq!(said("maxmemory_policy:noeviction\r\n").evicts(), None);
        assert_eq!(said("redis_version:7.0.1\r\n").evicts(), None);
    }

    #[test]
    fn every_form_in_which_a_demoted_master_answers_is_known() {
        let error = |line: &str| {
            let (code, detail) = line.split_once(' ').expect("a code and details");
            let error = redis::parse_redis_value(format!("-{code} {detail}\r\n").as_bytes());
            match error.expect("an answer") {
                Value::ServerError(error) => error,
                other => panic!("{other:?}"),
            }
        };
        for line in [
            "READONLY You can't write against a read only replica.",
            "READONLY You can't write against a read only replica. script: 2b, on @user_script:20.",
            "READONLY Can not run script with write flag on readonly replica.",
            "ERR Error running script (call to f_2b): @user_script:20: @user_script: 20: -READONLY \
             You can't write against a read only replica.",
            "ERR READONLY You can't write against a read only replica",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "NOREPLICAS Not enough good replicas to write.",
            "LOADING Redis is loading the dataset in memory",
            "MOVED 3999 127.0.0.1:6381",
            "CLUSTERDOWN The cluster is down",
        ] {
            assert!(leads_elsewhere(&error(line)), "{line}");
            assert!(!is_full(&error(line)), "{line}");
        }
        for line in [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "OOM command not allowed when used memory > 'maxmemory'. script: 2b, on @user_script:9.",
            "ERR Error running script (call to f_2b): @user_script:9: -OOM command not allowed when \
             used memory > 'maxmemory'.",
        ] {
            assert!(is_full(&error(line)), "{line}");
            assert!(!leads_elsewhere(&error(line)), "{line}");
        }
        for line in [
            "ERR unknown command 'READONLY'",
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "NOSCRIPT No matching script. Please use EVAL.",
            "NOPERM User u has no permissions to run the 'eval' command",
        ] {
            assert!(
                !leads_elsewhere(&error(line)) && !is_full(&error(line)),
                "{line}"
            );
        }
    }
}
