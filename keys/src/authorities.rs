//! The certificate authorities by which a server is believed.

use std::path::Path;

use rustls::pki_types::{CertificateDer, pem::PemObject};
use ureq::tls::Certificate;

/// Those of a file in PEM; none when it has no certificate.
///
/// # Errors
/// In words, when the file cannot be read or one of its certificates is none.
pub fn of_file(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let pem = std::fs::read(path).map_err(|error| error.to_string())?;
    CertificateDer::pem_slice_iter(&pem)
        .map(|der| Ok(Certificate::from_der(&der?).to_owned()))
        .collect::<Result<_, rustls::pki_types::pem::Error>>()
        .map_err(|_| "a certificate in it is damaged".to_owned())
}

/// Those of the system, as far as they can be read: some that cannot do not make the others worse.
#[must_use]
pub fn of_system() -> Vec<Certificate<'static>> {
    (rustls_native_certs::load_native_certs().certs.iter())
        .map(|der| Certificate::from_der(der).to_owned())
        .collect()
}
