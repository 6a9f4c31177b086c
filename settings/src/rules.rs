//! Rules that one setting's syntax does not say: ranges, and what settings must be to each other.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
};

use crate::{Kind, SettingsError};

/// Collects the rules that are broken, so that all are shown at once.
#[derive(Debug, Default)]
pub struct Rules(Vec<String>);

impl Rules {
    /// Notes `error` unless the rule is `kept`. The error names the setting, the rule and the
    /// value.
    pub fn rule(&mut self, kept: bool, error: impl Into<String>) {
        if !kept {
            self.0.push(error.into());
        }
    }

    /// Notes the error of `result`, if it is one.
    pub fn good<T>(&mut self, result: Result<T, impl Display>) {
        if let Err(error) = result {
            self.rule(false, error.to_string());
        }
    }

    /// Notes a value that is not from `least` to `most`, which are texts of its kind.
    ///
    /// # Panics
    /// When one of them is none.
    pub fn within<T: Kind + PartialOrd>(&mut self, name: &str, value: &T, least: &str, most: &str) {
        let bound = |text| T::parse(text).expect("a bound is of its setting's kind");
        self.rule(
            (bound(least)..=bound(most)).contains(value),
            format!("{name} = {}: allowed are {least} to {most}", value.show()),
        );
    }

    /// Checks that a text is one of a few words.
    pub fn word(&mut self, name: &str, value: &str, allowed: &[&str]) {
        let listed = allowed.join(" and ");
        self.rule(
            allowed.contains(&value),
            format!("{name} = {value:?}: allowed are {listed}"),
        );
    }

    /// Addresses that one process listens at, each with its setting: no two may be of the same socket. A port 0 is
    /// whichever is free.
    pub fn apart(&mut self, addresses: &[(&str, SocketAddr)]) {
        for (n, (name, address)) in addresses.iter().enumerate() {
            for (other, taken) in &addresses[..n] {
                self.rule(
                    !meet(*address, *taken),
                    format!(
                        "{other} = {taken} and {name} = {address} are the same port of the same host; give one of \
                         them another port"
                    ),
                );
            }
        }
    }

    /// Origins as browsers send them (RFC 6454 §6.1): a scheme and a host, and a port that is not
    /// the scheme's. Any other would never match. The first label of a host may be `*`.
    pub fn origins<'a>(&mut self, name: &str, values: impl IntoIterator<Item = &'a String>) {
        for origin in values {
            self.rule(
                is_origin(origin),
                format!(
                    "{name} has {origin:?}: it is no origin like https://example.com, \
                     https://*.example.com or http://localhost:3000, nor null"
                ),
            );
        }
    }

    /// The length of a secret, when there is one.
    pub fn secret(&mut self, name: &str, value: &crate::Secret, least: usize) {
        let length = value.expose().len();
        self.rule(
            length == 0 || length >= least,
            format!("{name} has {length} bytes: at least {least} are needed"),
        );
    }

    /// Ends the checks.
    ///
    /// # Errors
    /// Every rule that was broken, when one was.
    pub fn finish(self) -> Result<(), SettingsError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(SettingsError(self.0))
        }
    }
}

/// Whether nothing can listen at both. `0.0.0.0` has all addresses of IPv4 and `[::]` those too, unless a system is
/// told otherwise (ipv6(7), `bindv6only`).
fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |all: IpAddr, ip: IpAddr| match all {
        IpAddr::V4(all) => all.is_unspecified() && ip.is_ipv4(),
        IpAddr::V6(all) => all.is_unspecified(),
    };
    let (ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() != 0
        && one.port() == other.port()
        && (ip == other_ip || covers(ip, other_ip) || covers(other_ip, ip))
}

fn is_origin(text: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_graphic() && !b"/?#@*\\,".contains(&byte);
    text == "null"
        || text.split_once("://").is_some_and(|(scheme, host)| {
            let host = match host.strip_prefix("*.") {
                // Not a whole top-level domain, nor an address.
                Some(domain) if !domain.trim_end_matches('.').contains('.') => "",
                Some(domain) => domain,
                None => host,
            };
            let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
            !scheme.is_empty()
                && scheme.bytes().all(is_word)
                && !host.is_empty()
                && host.bytes().all(is_good)
        })
}

/// Whether `origin` is one of those `allowed`: the same text, but for upper and lower case, or,
/// where an allowed host begins with `*.`, one below that host at any depth. The host itself is not
/// below it.
#[must_use]
pub fn is_origin_of(origin: &str, allowed: &[String]) -> bool {
    allowed
        .iter()
        .any(|allowed| match allowed.split_once("://*.") {
            None => allowed.eq_ignore_ascii_case(origin),
            Some((scheme, domain)) => origin.split_once("://").is_some_and(|(have, host)| {
                let below = host.len().checked_sub(domain.len() + 1);
                let below = below.and_then(|at| host.split_at_checked(at));
                have.eq_ignore_ascii_case(scheme)
                    && below.is_some_and(|(labels, end)| {
                        let is_label = |label: &str| {
                            let is_good =
                                |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
                            !label.is_empty() && label.bytes().all(is_good)
                        };
                        labels.split('.').all(is_label)
                            && end
                                .strip_prefix('.')
                                .is_some_and(|end| end.eq_ignore_ascii_case(domain))
                    })
            }),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_socket_are_named_with_both_settings() {
        let broken = |addresses: &[&str]| {
            let parse = |text: &&str| text.parse::<SocketAddr>().expect("an address");
            let names = [
                "server.listen",
                "server.admin_listen",
                "cluster.link_listen",
            ];
            let named: Vec<_> = names.into_iter().zip(addresses.iter().map(parse)).collect();
            let mut rules = Rules::default();
            rules.apart(&named);
            rules.0
        };
        for (one, other) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("127.0.0.1:8080", "0.0.0.0:8080"),
            ("[::]:8080", "127.0.0.1:8080"),
            ("[::]:8080", "0.0.0.0:8080"),
            ("[::1]:8080", "[::]:8080"),
            ("[::ffff:127.0.0.1]:8080", "127.0.0.1:8080"),
        ] {
            let errors = broken(&[one, other]);
            let begin = format!("server.listen = {one} and server.admin_listen = {other} are");
            assert!(
                errors.len() == 1 && errors[0].starts_with(&begin),
                "{errors:?}"
            );
        }
        for (one, other) in [
            ("127.0.0.1:8080", "127.0.0.1:8081"),
            ("127.0.0.1:8080", "127.0.0.2:8080"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::1]:8080", "127.0.0.1:8080"),
            ("0.0.0.0:8080", "[::1]:8080"),
        ] {
            assert_eq!(broken(&[one, other]), [""; 0]);
        }
        assert_eq!(broken(&["127.0.0.1:1"; 3]).len(), 3);
    }

    #[test]
    fn a_star_stands_for_labels_and_for_nothing_else() {
        let allowed = [
            "https://*.example.com".to_owned(),
            "http://*.test.example:3000".to_owned(),
            "https://exact.example".to_owned(),
        ];
        for good in [
            "https://a.example.com",
            "https://a.b.example.com",
            "HTTPS://A.Example.COM",
            "http://x.test.example:3000",
            "https://exact.example",
        ] {
            assert!(is_origin_of(good, &allowed), "{good}");
        }
        for bad in [
            "https://example.com",
            "https://.example.com",
            "https://aexample.com",
            "https://a.example.com.evil.example",
            "https://evil.example/.example.com",
            "https://evil.example?.example.com",
            "https://evil.example#.example.com",
            "https://evil.example:443.example.com",
            "https://evil@a.example.com",
            "https://*.example.com",
            "https://a..example.com",
            "https://ä.example.com",
            "http://a.example.com",
            "https://a.example.com:8443",
            "https://a.example.com.",
            "http://x.test.example",
            "https://b.exact.example",
            "null",
            "",
        ] {
            assert!(!is_origin_of(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn a_star_is_one_whole_leading_label_above_a_domain() {
        for good in ["https://*.example.com", "http://*.a.example:3000"] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "https://*",
            "https://*.com",
            "https://*.com.",
            "https://*.",
            "https://a*.example.com",
            "https://*a.example.com",
            "https://a.*.example.com",
            "https://*.*.example.com",
            "https://example.com:*",
            "*://example.com",
            "*.example.com",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
