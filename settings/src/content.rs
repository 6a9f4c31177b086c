//! What is in a file that is not the certificate or key it should be, and what makes one of it. It reads
//! the file's beginning for that, and no error repeats a byte of it.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// Certificates and keys are shorter.
const MOST: u64 = 1 << 20;

/// What is in the file, and what to do about it; `None` where this program cannot tell. `password` is the setting
/// that has its key's passphrase, where there is one.
pub(crate) fn advice(path: &Path, password: Option<&str>) -> Option<String> {
    let bytes = read(path).ok()?;
    let whole = std::path::absolute(path).ok()?;
    let shown = whole.display();
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Some(format!("{shown} is empty"));
    }
    // A sequence of ASN.1: 0x30, then its length.
    if bytes[0] == 0x30 && bytes.get(1).is_some_and(|length| *length >= 0x80) {
        // PKCS #12 begins with its version, 3 (RFC 7292 §4).
        let is_pfx = bytes.windows(3).take(6).any(|it| it == [2, 1, 3]);
        return Some(if is_pfx {
            format!(
                "{shown} is PKCS #12, which has to become PEM: openssl pkcs12 -nodes -in {shown} -out NEW.pem"
            )
        } else {
            format!(
                "{shown} is DER, which has to become PEM: openssl x509 -inform der -in {shown} -out NEW.pem \
                 (a key: openssl pkey)"
            )
        });
    }
    let text = String::from_utf8_lossy(&bytes);
    let labels: Vec<&str> = text.lines().filter_map(label).collect();
    let Some(last) = labels.last() else {
        return Some(format!(
            "{shown} is no PEM: that has a line like -----BEGIN CERTIFICATE-----"
        ));
    };
    let is_encrypted = |label: &&str| *label == "ENCRYPTED PRIVATE KEY";
    if labels.iter().any(is_encrypted) || text.contains("Proc-Type: 4,ENCRYPTED") {
        if let Some(password) = password {
            return Some(format!(
                "the key in {shown} has a passphrase: {password} has to be that"
            ));
        }
        return Some(format!(
            "the key in {shown} has a passphrase; without one: openssl pkey -in {shown} -out NEW.pem, in a file \
             that this program's user alone may read"
        ));
    }
    if text.matches("-----BEGIN ").count() > text.matches("-----END ").count() {
        return Some(format!(
            "{shown} was cut off: its {last} has no line -----END {last}-----"
        ));
    }
    Some(format!("{shown} has: {}", labels.join(", ")))
}

/// The name of the block that begins with this line.
fn label(line: &str) -> Option<&str> {
    line.trim()
        .strip_prefix("-----BEGIN ")?
        .strip_suffix("-----")
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    // What is no file, as a pipe, may have no end.
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(bytes)
}
