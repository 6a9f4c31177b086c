//! What to change when the brokers refuse a client. It owns how librdkafka's own words, which name
//! its properties and error codes, lead to a setting of ours.

use crate::{Mechanism, Options};

/// Parts of errors and the settings they are about; the first that fits counts.
const SETTINGS: [(&str, &str); 9] = [
    ("certificate verify failed", "kafka.ca_file"),
    ("certificate required", "kafka.certificate and kafka.key"),
    ("bad certificate", "kafka.certificate and kafka.key"),
    ("handshake failure", "kafka.certificate and kafka.key"),
    ("security.protocol", "kafka.security_protocol"),
    (
        "OIDC",
        "kafka.oidc_token_url, kafka.oidc_client_id and kafka.oidc_client_secret",
    ),
    ("Unsupported SASL mechanism", "kafka.sasl_mechanism"),
    ("SASL mechanism handshake", "kafka.sasl_mechanism"),
    ("ompression", "kafka.compression"),
];

/// The text with the settings it is about, if it is about any.
pub(crate) fn with_setting(text: &str, login: &str) -> String {
    let by_part = SETTINGS.iter().find(|(part, _)| text.contains(part));
    let settings = match by_part {
        Some((_, settings)) => settings,
        None if text.contains("uthentication") => login,
        None => return text.to_owned(),
    };
    format!("{text} (see {settings})")
}

/// The settings that a login is made of.
pub(crate) const fn login(options: &Options) -> &'static str {
    match options.security.mechanism {
        Mechanism::OauthBearer => {
            "kafka.oidc_client_id, kafka.oidc_scope and kafka.oidc_extensions"
        }
        _ => "kafka.username and kafka.password",
    }
}
