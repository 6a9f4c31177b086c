//! TLS for `wss://`: whom to trust, and the settings of a user, which are its own because a user's
//! tickets are. The provider is that of the servers.

use std::{fs, io, path::Path, sync::Arc};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde::{Deserialize, Serialize};

/// Tickets and servers that a user keeps for coming back.
const SESSIONS: usize = 16;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("--ca {path}: {error}")]
    Unreadable { path: String, error: io::Error },
    #[error("--ca {path}: {what}; {}", settings::file_content(path.as_ref()))]
    NoCertificates { path: String, what: &'static str },
    #[error("this system has no certificate authorities: install them, or name one with --ca FILE")]
    NoAuthorities,
    #[error("a certificate of --ca is none: {0}")]
    Authority(rustls::Error),
    #[error("no TLS: {0}")]
    Settings(rustls::Error),
    #[error("{0:?} is no name that a certificate can have")]
    Name(String),
}

/// Whose certificates are trusted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Trust {
    /// What the system trusts.
    #[default]
    System,
    /// These authorities, each in DER.
    Authorities(Vec<Vec<u8>>),
}

impl Trust {
    /// The authorities in a file, or the system's.
    pub(crate) fn read(file: Option<&Path>) -> Result<Self, TlsError> {
        let Some(file) = file else {
            return Ok(Self::System);
        };
        let path = file.display().to_string();
        let pem = match fs::read(file) {
            Ok(pem) => pem,
            Err(error) => return Err(TlsError::Unreadable { path, error }),
        };
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem)
            .map(|der| der.map(|der| der.to_vec()))
            .collect();
        match all {
            Ok(all) if !all.is_empty() => Ok(Self::Authorities(all)),
            Ok(_) => Err(TlsError::NoCertificates {
                path,
                what: "there is no certificate in it",
            }),
            Err(_) => Err(TlsError::NoCertificates {
                path,
                what: "a certificate in it is damaged",
            }),
        }
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        match self {
            Self::System => {
                // Some that cannot be read do not make the others worse.
                let found = rustls_native_certs::load_native_certs();
                if roots.add_parsable_certificates(found.certs).0 == 0 {
                    return Err(TlsError::NoAuthorities);
                }
            }
            Self::Authorities(all) => {
                for der in all {
                    roots
                        .add(CertificateDer::from_slice(der))
                        .map_err(TlsError::Authority)?;
                }
            }
        }
        Ok(roots)
    }
}

/// Makes the TLS connections of a process.
#[derive(Clone)]
pub(crate) struct Tls {
    settings: Arc<ClientConfig>,
}

impl Tls {
    pub(crate) fn new(trust: &Trust) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut settings = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Settings)?
            .with_root_certificates(trust.roots()?)
            .with_no_client_auth();
        settings.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            settings: Arc::new(settings),
        })
    }

    /// The settings of one user, with room for tickets that are only its own.
    pub(crate) fn of_user(&self) -> Arc<ClientConfig> {
        let mut settings = ClientConfig::clone(&self.settings);
        settings.resumption = Resumption::in_memory_sessions(SESSIONS);
        Arc::new(settings)
    }
}

/// Begins a connection to a server, which must be who it is called in a `Host` header.
pub(crate) fn begin(settings: Arc<ClientConfig>, host: &str) -> Result<ClientConnection, TlsError> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let name =
        ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))?;
    ClientConnection::new(settings, name).map_err(TlsError::Settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_and_addresses_without_their_ports() {
        let certificates = Trust::Authorities(Vec::new());
        let tls = Tls::new(&certificates).expect("settings");
        for host in [
            "a.example:443",
            "a.example",
            "127.0.0.1:1",
            "[::1]:1",
            "[::1]",
        ] {
            assert!(begin(tls.of_user(), host).is_ok(), "{host}");
        }
        let wrong = begin(tls.of_user(), "a b:1").expect_err("no name");
        assert!(wrong.to_string().contains("\"a b\""), "{wrong}");
    }
}
