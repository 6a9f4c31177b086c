//! The servers that are compared, and how each is spoken to.

use std::{fs, path::Path};

/// Letters that make a change of the other servers as long as a record of ours.
const PAD: &str = "--pad=120";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ours,
    Centrifuge,
    /// Topics and echo and nothing else, as `bench/peers/README.md` says.
    Plain,
}

pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// What it does not do that ours does, and has no cost of.
    pub(super) omits: &'static str,
}

const OMITS: &str = "no token, no presence record, no snapshot, no heartbeat, no limits: it passes \
     messages on by topic";

pub(super) const PEERS: [Peer; 7] = [
    Peer {
        name: "online-status",
        kind: Kind::Ours,
        omits: "",
    },
    Peer {
        name: "centrifuge",
        kind: Kind::Centrifuge,
        omits: "no presence record and no snapshot: it passes messages on by channel",
    },
    Peer {
        name: "ws",
        kind: Kind::Plain,
        omits: OMITS,
    },
    Peer {
        name: "uwebsockets",
        kind: Kind::Plain,
        omits: OMITS,
    },
    Peer {
        name: "tokio-tungstenite",
        kind: Kind::Plain,
        omits: OMITS,
    },
    Peer {
        name: "fastwebsockets",
        kind: Kind::Plain,
        omits: OMITS,
    },
    Peer {
        name: "io-uring",
        kind: Kind::Plain,
        omits: "the floor: no checks of any kind, no backpressure, no answer to pings",
    },
];

/// Why a server cannot be started; `None` = it is there.
pub(super) fn missing(program: &Path) -> Option<String> {
    if program.is_file() {
        return None;
    }
    let reason = fs::read_to_string(program.with_extension("missing"));
    Some(match reason {
        Ok(reason) => format!("it could not be built: {}", reason.trim()),
        Err(_) => format!(
            "{} is not there; bench/peers/build builds it",
            program.display()
        ),
    })
}

impl Peer {
    pub(super) fn path(&self) -> &'static str {
        match self.kind {
            Kind::Ours => "/socket",
            Kind::Centrifuge => "/connection/websocket",
            Kind::Plain => "/",
        }
    }

    /// Options of a run of that shape.
    pub(super) fn dialogue(&self, shape: &str) -> Vec<String> {
        let watches = !matches!(shape, "connect" | "echo");
        let echoes = shape == "echo";
        let mut words = match self.kind {
            Kind::Ours => vec![
                "--header=Authorization: Bearer ${token}",
                "--subprotocol=online-status.v1.json",
                "--open=await \"welcome\"",
                "--fault=\"type\":\"error\"",
            ],
            Kind::Centrifuge => vec![
                r#"--open=send {"id":${id},"connect":{"token":"${token}"}}"#,
                r#"--open=await "connect":{"#,
                "--reply={} => {}",
                "--fault=\"error\":{",
                PAD,
            ],
            Kind::Plain => vec![PAD],
        };
        match self.kind {
            Kind::Ours if watches => words.extend([
                "--latest",
                r#"--open=send {"type":"watch","users":[${watched}],"id":1}"#,
                "--open=await \"snapshot\"",
            ]),
            Kind::Centrifuge if watches => words.extend([
                r#"--open=each {"id":${id},"subscribe":{"channel":"${watched}"}}"#,
                r#"--open=send {"id":100000,"unsubscribe":{"channel":"${user}-none"}}"#,
                "--open=await \"id\":100000",
            ]),
            Kind::Plain if watches => {
                words.extend(["--open=send s ${watched}", "--open=await ok"]);
            }
            _ => {}
        }
        let message = match (self.kind, echoes) {
            (Kind::Ours, true) => r#"--message={"type":"ping","id":"${marker}"}"#,
            (Kind::Ours, false) => r#"--message={"type":"status","text":"${marker}"}"#,
            (Kind::Centrifuge, true) => r#"--message={"id":${id},"rpc":{"data":"${marker}"}}"#,
            (Kind::Centrifuge, false) => {
                r#"--message={"id":${id},"publish":{"channel":"${user}","data":"${marker}${pad}"}}"#
            }
            (Kind::Plain, true) => "--message=${marker}",
            (Kind::Plain, false) => "--message=p ${user} ${marker}${pad}",
        };
        words.push(message);
        words.into_iter().map(String::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::{cli::Arguments, compare::SHAPES};

    #[test]
    fn every_load_of_every_server_is_a_command_line() {
        for peer in &PEERS {
            for shape in &SHAPES {
                let words = shape.words.iter().map(|word| (*word).to_owned());
                let line = ["online-status-bench".to_owned()].into_iter().chain(words);
                let line = line.chain(peer.dialogue(shape.name));
                let read = Arguments::command().try_get_matches_from(line);
                assert!(read.is_ok(), "{} {}: {read:?}", peer.name, shape.name);
            }
        }
    }

    #[test]
    fn a_server_that_is_not_there_is_missing_with_its_reason() {
        let folder = std::env::temp_dir().join(format!("bench-peers-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let said = missing(&folder.join("ws")).expect("missing");
        assert!(said.contains("bench/peers/build"), "{said}");
        fs::write(folder.join("ws.missing"), "npm: no network\n").expect("a file");
        let said = missing(&folder.join("ws")).expect("missing");
        assert_eq!(said, "it could not be built: npm: no network");
        fs::write(folder.join("ws"), "").expect("a file");
        assert_eq!(missing(&folder.join("ws")), None);
        fs::remove_dir_all(&folder).expect("removed");
    }
}
