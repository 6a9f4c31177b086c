//! Settings in environment variables. It owns which variables are settings, another program's, or
//! none at all.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use crate::{Setting, Sources, Table, near::did_you_mean, read::Given, sources::Place};

/// The prefix of every variable that names a setting of these programs.
const OWN: &str = "ONLINE_STATUS_";

impl Table {
    pub(crate) fn read_environment(
        &self,
        sources: &Sources,
        given: &mut [Given],
        errors: &mut Vec<String>,
    ) {
        for (setting, given) in self.settings().zip(given) {
            for name in setting.variables() {
                if let Some(text) = sources.environment.get(&name) {
                    let text = text.clone();
                    let place = Place::Variable(name);
                    *given = Given { text, place };
                } else if sources.unreadable.contains(&name) {
                    errors.push(format!("{name}: its value is no UTF-8 text"));
                }
            }
        }
        for (name, value) in &sources.environment {
            if !name.starts_with(OWN)
                || self.is_variable(name)
                || self.is_foreign(name)
                || service_of(name, value).is_some()
            {
                continue;
            }
            // What all begin with says nothing about how near they are.
            let rest = |name: &str| name.trim_start_matches(OWN).to_owned();
            let names = self.settings().map(|setting| rest(&setting.env()));
            let hint = match did_you_mean(&rest(name), names) {
                Some(near) => format!(" (did you mean {OWN}{near}?)"),
                None => format!("; `{} config doc` lists all", self.program),
            };
            errors.push(format!("there is no setting for the variable {name}{hint}"));
        }
    }

    /// A line about variables that are passed over because Kubernetes made them, if there are some.
    #[must_use]
    pub fn service_links(&self, sources: &Sources) -> Option<String> {
        let links = sources.environment.iter().filter_map(|(name, value)| {
            let is_ours = name.starts_with(OWN) && !self.is_variable(name);
            is_ours.then(|| service_of(name, value)).flatten()
        });
        let links: Vec<String> = links.collect();
        let count = links.len();
        let services: BTreeSet<String> = links.into_iter().collect();
        let services = services.into_iter().map(|service| format!("{service}_…"));
        let services = services.collect::<Vec<_>>().join(", ");
        (count > 0).then(|| {
            let (variables, them) = match count {
                1 => ("1 variable is", "it"),
                _ => (&*format!("{count} variables are"), "them"),
            };
            format!(
                "{}: {variables} passed over, Kubernetes made {them} for Services ({services}); \
                 enableServiceLinks: false in the pod's spec leaves {them} out",
                self.program
            )
        })
    }

    fn is_variable(&self, name: &str) -> bool {
        self.settings()
            .any(|setting| setting.variables().any(|known| known == name))
    }

    /// Whether the variable `name` belongs to another program, by `others` and `foreign_sections`.
    fn is_foreign(&self, name: &str) -> bool {
        let in_section = |setting: &Setting| {
            let rest = name.strip_prefix(OWN).unwrap_or_default();
            rest.strip_prefix(&setting.section.to_uppercase())
                .is_some_and(|rest| rest.starts_with('_'))
        };
        self.others.iter().any(|other| name.starts_with(other))
            || (self.foreign_sections && !self.settings().any(in_section))
    }
}

/// The Service, as variables name it, for which Kubernetes gives a container this variable: its host,
/// its ports, and for each port what Docker's links had (Kubernetes documentation, "Service",
/// "Environment variables"). The value must be as it makes them, too; another is somebody's mistake.
fn service_of(name: &str, value: &str) -> Option<String> {
    let is_port = |text: &str| text.parse::<u16>().is_ok_and(|port| port > 0);
    let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
    let is_protocol = |text: &str| ["TCP", "UDP", "SCTP"].contains(&text);
    let is_of = |port: &str, protocol: &str| is_port(port) && is_protocol(protocol);
    let link = value.split_once("://").filter(|(scheme, address)| {
        is_protocol(&scheme.to_uppercase()) && address.parse::<SocketAddr>().is_ok()
    });
    let is = |protocol: &str, text: &str| protocol.to_lowercase() == text;

    let words: Vec<&str> = name.split('_').collect();
    let (behind, is_made) = match words.as_slice() {
        [.., "SERVICE", "HOST"] => (2, is_address(value)),
        [.., "SERVICE", "PORT"] => (2, is_port(value)),
        [.., "PORT", port, protocol] if is_of(port, protocol) => {
            (3, link.is_some_and(|(scheme, _)| is(protocol, scheme)))
        }
        [.., "PORT", port, protocol, "PROTO"] if is_of(port, protocol) => (4, is(protocol, value)),
        [.., "PORT", port, protocol, "PORT"] if is_of(port, protocol) => (4, value == *port),
        [.., "PORT", port, protocol, "ADDR"] if is_of(port, protocol) => (4, is_address(value)),
        [.., "PORT"] => (1, link.is_some()),
        // A port's own name stands behind.
        words => {
            let at = words
                .windows(2)
                .rposition(|pair| pair == ["SERVICE", "PORT"])?;
            (words.len() - at, is_port(value))
        }
    };
    is_made.then(|| words[..words.len() - behind].join("_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Kubernetes gives for a Service with two ports, one of them named, on IPv4 and on IPv6.
    fn links(service: &str, address: &str) -> Vec<(String, String)> {
        let mut links = vec![
            (format!("{service}_SERVICE_HOST"), address.to_owned()),
            (format!("{service}_SERVICE_PORT"), "8080".to_owned()),
            (
                format!("{service}_SERVICE_PORT_WEB_SOCKET"),
                "8080".to_owned(),
            ),
        ];
        let host = match address.contains(':') {
            true => format!("[{address}]"),
            false => address.to_owned(),
        };
        links.push((format!("{service}_PORT"), format!("tcp://{host}:8080")));
        for (port, protocol) in [("8080", "tcp"), ("53", "udp"), ("9999", "sctp")] {
            let name = format!("{service}_PORT_{port}_{}", protocol.to_uppercase());
            links.push((name.clone(), format!("{protocol}://{host}:{port}")));
            links.push((format!("{name}_PROTO"), protocol.to_owned()));
            links.push((format!("{name}_PORT"), port.to_owned()));
            links.push((format!("{name}_ADDR"), address.to_owned()));
        }
        links
    }

    #[test]
    fn every_variable_of_a_service_is_known_as_its() {
        for service in [
            "ONLINE_STATUS",
            "ONLINE_STATUS_EDGE",
            "ONLINE_STATUS_COORDINATOR_V2",
            "ONLINE_STATUS_SERVER",
            "ONLINE_STATUS_SERVICE_PORT",
        ] {
            for (name, value) in [links(service, "10.96.0.7"), links(service, "fd00::7")].concat() {
                assert_eq!(
                    service_of(&name, &value).as_deref(),
                    Some(service),
                    "{name}={value}"
                );
            }
        }
    }

    #[test]
    fn a_value_that_kubernetes_does_not_make_is_no_link() {
        for (name, value) in [
            ("ONLINE_STATUS_PORT", "8080"),
            ("ONLINE_STATUS_PORT", "http://10.0.0.1:80"),
            ("ONLINE_STATUS_PORT", "tcp://example.com:80"),
            ("ONLINE_STATUS_SERVICE_HOST", "example.com"),
            ("ONLINE_STATUS_SERVICE_PORT", "0"),
            ("ONLINE_STATUS_SERVICE_PORT_HTTP", "http"),
            ("ONLINE_STATUS_PORT_8080_TCP", "udp://10.0.0.1:8080"),
            ("ONLINE_STATUS_PORT_8080_TCP_PORT", "8081"),
            ("ONLINE_STATUS_PORT_8080_TCP_PROTO", "udp"),
            ("ONLINE_STATUS_PORT_8080_TCP_ADDR", "here"),
            ("ONLINE_STATUS_PORT_8080_TCP_NAME", "here"),
            ("ONLINE_STATUS_PORT_X_TCP", "tcp://10.0.0.1:80"),
            ("ONLINE_STATUS_PRESENCE_GRASE", "1s"),
            ("ONLINE_STATUS_SERVER_PORTS", "tcp://10.0.0.1:80"),
        ] {
            assert_eq!(service_of(name, value), None, "{name}={value}");
        }
    }
}
