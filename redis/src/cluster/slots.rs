//! Who has which slots of a Redis Cluster, as its nodes say it: in the answer to `CLUSTER SLOTS`, and in the
//! errors by which they send a request elsewhere.

use redis::{
    ConnectionAddr, ConnectionInfo, RedisError, RedisResult, ServerError, ServerErrorKind, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};

use crate::{reply, server::leads_elsewhere};

/// Host and port.
pub(super) type Address = (String, u16);

/// What `CLUSTER SLOTS` says of a range of slots.
#[derive(Debug, PartialEq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    /// The master, then its replicas.
    pub(super) nodes: Vec<Address>,
}

pub(super) type Slots = Vec<Range>;

pub(super) async fn ask(
    mut connection: MultiplexedConnection,
    address: &Address,
) -> RedisResult<Slots> {
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    let answer = connection.req_packed_command(&command).await?;
    let answer = answer.extract_error()?;
    let slots = parse(answer, &address.0).filter(|slots| !slots.is_empty());
    slots.ok_or_else(|| failed(address, "tells of no slots"))
}

/// The slots as the node at `host` tells them; `None` when it is another kind of answer.
fn parse(answer: Value, host: &str) -> Option<Slots> {
    let range = |range| {
        let mut range = reply::list(range).ok()?.into_iter();
        let first = reply::number(range.next()?).ok()?;
        let last = reply::number(range.next()?).ok()?;
        let nodes = range.map(|node| {
            let mut node = reply::list(node).ok()?.into_iter();
            let name = reply::bytes(node.next()?).ok()?.unwrap_or_default();
            let port = reply::number(node.next()?).ok()?;
            let name = String::from_utf8(name).ok()?;
            // A node that does not know its own address is where it was asked.
            let name = if name.is_empty() {
                host.to_owned()
            } else {
                name
            };
            Some((name, port))
        });
        // "?" is a node whose name is not known: its slots wait until it is.
        let nodes = nodes.collect::<Option<Vec<_>>>()?;
        let is_known = |(name, _): &Address| name != "?";
        let nodes = match nodes.first() {
            Some(master) if is_known(master) => nodes.into_iter().filter(is_known).collect(),
            _ => Vec::new(),
        };
        Some(Range { first, last, nodes })
    };
    reply::list(answer).ok()?.into_iter().map(range).collect()
}

/// Whether the master of the slot may be another one, or the slot is on its way.
pub(super) fn is_elsewhere(error: &ServerError) -> bool {
    error.kind() == Some(ServerErrorKind::TryAgain) || leads_elsewhere(error)
}

/// Where the node at that address sends a request.
pub(super) fn redirect(error: &ServerError, from: &Address) -> Option<Address> {
    if !matches!(error.code(), "MOVED" | "ASK") {
        return None;
    }
    let address = error.details()?.split_ascii_whitespace().nth(1)?;
    let (host, port) = address.rsplit_once(':')?;
    let host = if host.is_empty() { &from.0 } else { host };
    Some((host.to_owned(), port.parse().ok()?))
}

pub(super) fn address_of(info: &ConnectionInfo) -> Option<Address> {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Some((host.clone(), *port))
        }
        _ => None,
    }
}

pub(super) fn failed(address: &Address, what: &str) -> RedisError {
    let text = format!("{}:{} {what}", address.0, address.1);
    std::io::Error::new(std::io::ErrorKind::TimedOut, text).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn node(host: Value, port: i64) -> Value {
        Value::Array(vec![
            host,
            Value::Int(port),
            text("id"),
            Value::Array(vec![]),
        ])
    }

    #[test]
    fn slots_are_read_as_any_node_tells_them() {
        let range = |first, last, nodes: Vec<Value>| {
            let ends = [Value::Int(first), Value::Int(last)];
            Value::Array(ends.into_iter().chain(nodes).collect())
        };
        let answer = Value::Array(vec![
            range(0, 9, vec![node(text("10.0.0.1"), 1), node(text("?"), 2)]),
            range(10, 10, vec![node(Value::Nil, 3), node(text(""), 4)]),
            range(11, 16_383, vec![node(text("?"), 5), node(text("h"), 6)]),
        ]);
        let of = |first, last, nodes: &[(&str, u16)]| Range {
            first,
            last,
            nodes: nodes.iter().map(|(h, p)| ((*h).to_owned(), *p)).collect(),
        };
        let expected = vec![
            of(0, 9, &[("10.0.0.1", 1)]),
            of(10, 10, &[("asked", 3), ("asked", 4)]),
            of(11, 16_383, &[]),
        ];
        assert_eq!(parse(answer, "asked"), Some(expected));
        assert_eq!(parse(Value::Array(vec![Value::Int(1)]), "asked"), None);
        let no_port = Value::Array(vec![range(0, 1, vec![Value::Array(vec![text("h")])])]);
        assert_eq!(parse(no_port, "asked"), None);
    }

    #[test]
    fn a_request_goes_where_it_is_sent_by_name_by_address_or_at_the_same_host() {
        let sent = |code: &str, detail: &str| {
            let error = redis::make_extension_error(code.to_owned(), Some(detail.to_owned()));
            let error = ServerError::try_from(error).expect("a server's error");
            redirect(&error, &("10.0.0.9".into(), 1))
        };
        assert_eq!(
            sent("MOVED", "7 10.0.0.1:6379"),
            Some(("10.0.0.1".into(), 6379))
        );
        assert_eq!(sent("ASK", "7 :6380"), Some(("10.0.0.9".into(), 6380)));
        assert_eq!(
            sent("MOVED", "7 fe80::1:6379"),
            Some(("fe80::1".into(), 6379))
        );
        for (code, detail) in [("MOVED", "7"), ("MOVED", "7 h:x"), ("READONLY", "7 h:1")] {
            assert_eq!(sent(code, detail), None, "{code} {detail}");
        }
    }
}
