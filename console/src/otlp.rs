//! Steps of a user as spans, for a collector of OpenTelemetry: the JSON of OTLP 1 over HTTP
//! (opentelemetry.io/docs/specs/otlp, "JSON Protobuf Encoding": names in lowerCamelCase, ids in
//! hexadecimal, 64-bit numbers as texts, enums as numbers). It owns which spans there are and their ids,
//! which are the same whenever the same steps are sent.

use std::{collections::BTreeMap, path::Path};

use protocol::{TraceStep, trace};
use serde_json::{Value, json};
use ureq::Agent;
use url::Url;

use crate::{
    ask::{agent, web_address},
    top::TopError,
};

/// `SPAN_KIND_INTERNAL`.
const INTERNAL: u8 = 1;
/// The most bytes of an answer.
const MAX_ANSWER: u64 = 1 << 20;
/// The most characters that are shown of why a collector refuses.
const MAX_REASON: usize = 200;

/// A server that takes spans by OTLP over HTTP.
pub(crate) struct Collector {
    agent: Agent,
    pub(crate) url: Url,
}

impl Collector {
    /// The collector at `url`.
    pub(crate) fn new(url: &str, ca: Option<&Path>) -> Result<Self, TopError> {
        let address =
            Self::address(url).ok_or_else(|| TopError::Otlp(settings::without_user(url)))?;
        Ok(Self {
            agent: agent(&address, ca)?,
            url: address,
        })
    }

    /// Where a collector is asked: a path that ends in `/traces` is its own, another one has that of the
    /// specification below it.
    fn address(url: &str) -> Option<Url> {
        let mut address = web_address(url)?;
        let path = address.path().trim_end_matches('/').to_owned();
        if !path.ends_with("/traces") {
            address.set_path(&format!("{path}/v1/traces"));
        }
        Some(address)
    }

    /// Sends the steps; how many spans and traces they are.
    pub(crate) fn take(&self, user: &str, steps: &[TraceStep]) -> Result<(usize, usize), TopError> {
        let failed = |error: String| TopError::Collector(self.url.to_string(), error);
        let (request, spans, traces) = request(user, steps);
        let sent = self
            .agent
            .post(self.url.as_str())
            .header("content-type", "application/json")
            .send(request.to_string());
        let mut answer = sent.map_err(|error| failed(error.to_string()))?;
        let body = answer.body_mut().with_config().limit(MAX_ANSWER);
        let body = body.read_to_vec();
        let body = body.map_err(|error| failed(error.to_string()))?;
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let status = answer.status();
        if !status.is_success() {
            let why = reason(&said, &body);
            return Err(failed(format!("the answer has the status {status}: {why}")));
        }
        let partial = &said["partialSuccess"];
        let rejected = match &partial["rejectedSpans"] {
            Value::String(number) => number.parse().unwrap_or(0),
            number => number.as_u64().unwrap_or(0),
        };
        if rejected > 0 {
            let why = partial["errorMessage"].as_str().unwrap_or_default();
            return Err(failed(format!("{rejected} spans were refused: {why}")));
        }
        Ok((spans, traces))
    }
}

/// Why a collector refuses, as one line: the message of a google.rpc.Status, or what proxies and gateways say in
/// its place.
fn reason(said: &Value, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let why = said["message"].as_str().unwrap_or(&text);
    let line = why.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<&str> = line.filter(|word| !word.is_empty()).collect();
    match words.is_empty() {
        true => "no reason is given".into(),
        false => words.join(" ").chars().take(MAX_REASON).collect(),
    }
}

/// The steps by the version that they led to. What a client did comes before the version that follows
/// from it on the same core.
fn by_version(steps: &[TraceStep]) -> BTreeMap<u64, Vec<&TraceStep>> {
    let mut versions: BTreeMap<u64, Vec<&TraceStep>> = BTreeMap::new();
    let mut causes: Vec<&TraceStep> = Vec::new();
    for step in steps {
        let is_cause = [
            trace::SESSION_OPENED,
            trace::SESSION_CLOSED,
            trace::STATUS_TAKEN,
        ];
        if is_cause.contains(&&*step.event) {
            causes.push(step);
            continue;
        }
        let version = versions.entry(step.version).or_default();
        if [trace::CHANGED, trace::TAKEN_OVER].contains(&&*step.event) {
            let here = |cause: &&TraceStep| (&cause.node, cause.core) == (&step.node, step.core);
            version.extend(causes.extract_if(.., |cause| here(cause)));
        }
        version.push(step);
    }
    for cause in causes {
        versions.entry(cause.version).or_default().push(cause);
    }
    for steps in versions.values_mut() {
        steps.sort_by_key(|step| step.time_us);
    }
    versions
}

/// An `ExportTraceServiceRequest`, and how many spans and traces are in it.
fn request(user: &str, steps: &[TraceStep]) -> (Value, usize, usize) {
    let versions = by_version(steps);
    let mut nodes: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (version, steps) in &versions {
        let (first, last) = (steps[0], steps[steps.len() - 1]);
        let trace_id = format!(
            "{:016x}{:016x}",
            id(&format!("{version} {user}")),
            id(&format!("{user} {version}"))
        );
        let span_id = |what: &str| format!("{:016x}", id(&format!("{trace_id} {what}")));
        let root = span_id("version");
        let attributes = json!([
            text("user.id", user),
            number("online_status.version", *version),
            number("online_status.vnode", first.vnode),
        ]);
        nodes.entry(&first.node).or_default().push(json!({
            "traceId": trace_id,
            "spanId": root,
            "name": "version",
            "kind": INTERNAL,
            "startTimeUnixNano": nanos(first.time_us),
            "endTimeUnixNano": nanos(last.time_us),
            "attributes": attributes,
        }));
        let mut before = first.time_us;
        for step in steps {
            let place = format!("{} {} {}", step.node, step.seq, step.time_us);
            nodes.entry(&step.node).or_default().push(json!({
                "traceId": trace_id,
                "spanId": span_id(&place),
                "parentSpanId": root,
                "name": step.event,
                "kind": INTERNAL,
                // It took as long as nothing else was told.
                "startTimeUnixNano": nanos(before),
                "endTimeUnixNano": nanos(step.time_us),
                "attributes": attributes_of(step),
            }));
            before = step.time_us;
        }
    }
    let spans = nodes.values().map(Vec::len).sum();
    let resources: Vec<Value> = nodes
        .into_iter()
        .map(|(node, spans)| {
            json!({
                "resource": { "attributes": [
                    text("service.name", "online-status-edge"),
                    text("service.instance.id", node),
                ] },
                "scopeSpans": [{
                    "scope": { "name": "online-status", "version": env!("CARGO_PKG_VERSION") },
                    "spans": spans,
                }],
            })
        })
        .collect();
    (json!({ "resourceSpans": resources }), spans, versions.len())
}

fn attributes_of(step: &TraceStep) -> Value {
    let mut attributes = vec![
        number("online_status.core", step.core),
        number("online_status.epoch", step.epoch),
        number("online_status.seq", step.seq),
        text("online_status.status", step.status.as_str()),
    ];
    let words = [
        (
            "online_status.cause",
            step.cause.map(protocol::Cause::as_str),
        ),
        ("online_status.from", step.from.as_deref()),
        ("session.id", step.session.as_deref()),
    ];
    let words = words.into_iter();
    attributes.extend(words.filter_map(|(key, word)| Some(text(key, word?))));
    let numbers = [
        ("online_status.close_code", step.code.map(u64::from)),
        ("online_status.watchers", step.watchers.map(u64::from)),
    ];
    let numbers = numbers.into_iter();
    attributes.extend(numbers.filter_map(|(key, value)| Some(number(key, value?))));
    attributes.into()
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

fn number(key: &str, value: impl Into<u64>) -> Value {
    json!({ "key": key, "value": { "intValue": value.into().to_string() } })
}

fn nanos(us: u64) -> String {
    format!("{us}000")
}

/// An id, which must not be 0.
fn id(what: &str) -> u64 {
    ring::hash(what).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(seq: u64, event: &str, version: u64, node: &str) -> TraceStep {
        let step = json!({
            "event": event, "timeUs": 1_796_011_800_000_000 + seq * 10, "user": "alice", "node": node,
            "core": 0, "seq": seq, "vnode": 7, "epoch": 3, "version": version, "status": "away",
        });
        serde_json::from_value(step).expect("a step")
    }

    #[test]
    fn a_collector_is_asked_at_its_path_for_traces() {
        for (url, asked) in [
            ("http://c:4318", "http://c:4318/v1/traces"),
            ("http://c:4318/", "http://c:4318/v1/traces"),
            ("https://c/otlp/", "https://c/otlp/v1/traces"),
            ("https://c/otlp/v1/traces", "https://c/otlp/v1/traces"),
            ("https://c/api/v2/traces?x=1", "https://c/api/v2/traces?x=1"),
        ] {
            let address = Collector::address(url).map(String::from);
            assert_eq!(address.as_deref(), Some(asked));
        }
    }

    #[test]
    fn why_a_collector_refuses_is_one_line_of_its_answer() {
        let why = |body: &str| {
            let said = serde_json::from_str(body).unwrap_or_default();
            reason(&said, body.as_bytes())
        };
        assert_eq!(why(r#"{"code":8,"message":"too many"}"#), "too many");
        assert_eq!(why("slow\r\n  down\n"), "slow down");
        assert_eq!(why(r#"{"error":"quota"}"#), r#"{"error":"quota"}"#);
        assert_eq!(why(""), "no reason is given");
        assert_eq!(why(&"a".repeat(9_000)).len(), MAX_REASON);
    }

    #[test]
    fn what_a_client_did_is_in_the_trace_of_the_version_that_followed() {
        let steps = [
            step(1, trace::STATUS_TAKEN, 10, "a"),
            step(2, trace::CHANGED, 11, "a"),
            step(3, trace::STATUS_TAKEN, 11, "a"),
            step(4, trace::RECEIVED, 11, "b"),
            step(5, trace::CHANGED, 12, "a"),
            step(6, trace::SESSION_CLOSED, 12, "a"),
        ];
        let versions = by_version(&steps);
        let seqs = |version| -> Vec<u64> {
            let steps: &Vec<&TraceStep> = &versions[&version];
            steps.iter().map(|step| step.seq).collect()
        };
        assert_eq!(seqs(11), [1, 2, 4]);
        assert_eq!(seqs(12), [3, 5, 6]);
        assert_eq!(versions.len(), 2);
    }

    #[test]
    fn a_version_is_a_trace_with_a_span_a_step_and_ids_that_do_not_change() {
        let steps = [
            step(1, trace::STATUS_TAKEN, 10, "a"),
            step(2, trace::CHANGED, 11, "a"),
            step(4, trace::RECEIVED, 11, "b"),
        ];
        let (sent, spans, traces) = request("alice", &steps);
        assert_eq!((spans, traces), (4, 1));
        assert_eq!(request("alice", &steps).0, sent);
        let of = |node: usize| &sent["resourceSpans"][node]["scopeSpans"][0]["spans"];
        let (root, child) = (&of(0)[0], &of(1)[0]);
        assert_eq!(child["parentSpanId"], root["spanId"]);
        assert_eq!(child["traceId"], root["traceId"]);
        assert_eq!(root["traceId"].as_str().map(str::len), Some(32));
        assert_eq!(root["spanId"].as_str().map(str::len), Some(16));
        assert_eq!(child["startTimeUnixNano"], "1796011800000020000");
        assert_eq!(child["endTimeUnixNano"], "1796011800000040000");
        assert_eq!(root.get("parentSpanId"), None);
        assert_eq!(root["attributes"][1]["value"]["intValue"], "11");
        let node = &sent["resourceSpans"][1]["resource"]["attributes"][1];
        assert_eq!(node["value"]["stringValue"], "b");
        let other = request("bob", &steps).0;
        let trace_id = &other["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["traceId"];
        assert_ne!(trace_id, &root["traceId"]);
    }
}
