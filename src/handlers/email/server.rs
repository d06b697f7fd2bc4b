//! Which mail server, and how it is spoken to: what `smtp_url`, `ca_file` and the credentials come to.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, TlsParameters};
use reqwest::Url;

use super::smtp::{Encryption, Server};

const FORMS: &str = "a mail server is smtp://host[:port], smtp+starttls://host[:port] or smtps://host[:port]";

pub fn server(
    smtp_url: &str,
    ca_file: Option<&Path>,
    credentials: Option<Credentials>,
    timeout: Duration,
) -> Result<Server, String> {
    let bad = |why: &str| format!("smtp_url: {why}; {FORMS}");
    let url: Url = smtp_url.parse().map_err(|e| bad(&format!("{e}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "smtp_url holds credentials; use username and password = { env = \"NAME\" } or { file = \"path\" }".to_owned()
        );
    }
    let host = url.host_str().filter(|h| !h.is_empty()).ok_or_else(|| bad("it names no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
        return Err(bad("there is something after the host"));
    }
    let wish = match url.query_pairs().collect::<Vec<_>>().as_slice() {
        [] => None,
        [(key, value)] if key == "tls" => Some(value.to_string()),
        _ => return Err(bad("after the host only ?tls=required, when-offered or never can stand")),
    };
    let open = credentials.is_some() && !is_loopback(&host);
    let (encryption, port) = match (url.scheme(), wish.as_deref()) {
        ("smtps", None | Some("required")) => (Encryption::Wrapped, 465),
        ("smtps", Some(_)) => return Err(bad("smtps:// is encrypted from the first byte, whatever ?tls= says")),
        ("smtp+starttls", None | Some("required")) | ("smtp", Some("required")) => (Encryption::StartTlsRequired, 587),
        // A password never travels in the clear, unless the machine is the same.
        ("smtp", None) if open => (Encryption::StartTlsRequired, 587),
        ("smtp", Some("when-offered" | "never")) if open => {
            return Err("smtp_url: the password would travel in the clear; use smtp+starttls:// or smtps://".to_owned());
        }
        ("smtp", None | Some("when-offered")) => (Encryption::StartTlsWhenOffered, 25),
        ("smtp", Some("never")) => (Encryption::Never, 25),
        ("smtp" | "smtp+starttls", Some(other)) => {
            return Err(bad(&format!("?tls={other} is none of required, when-offered and never")));
        }
        (other, _) => return Err(bad(&format!("{other}:// is not supported"))),
    };
    if encryption == Encryption::Never && ca_file.is_some() {
        return Err("ca_file says whom to trust when encrypting, and smtp_url says ?tls=never".to_owned());
    }
    let tls = tls(&host, ca_file)?;
    let port = url.port().unwrap_or(port);
    Ok(Server { host, port, encryption, tls, credentials, timeout, idle: Mutex::new(Vec::new()) })
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// With a `ca_file`, only what it certifies is trusted: nobody else is to vouch for a server of one's own.
fn tls(host: &str, ca_file: Option<&Path>) -> Result<TlsParameters, String> {
    let mut builder = TlsParameters::builder(host.to_owned());
    if let Some(path) = ca_file {
        let bad = |why: &dyn std::fmt::Display| format!("ca_file = \"{}\": {why}", path.display());
        let pem = std::fs::read(path).map_err(|e| bad(&e))?;
        if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
            return Err(bad(&"there is no certificate in it; it must be PEM (-----BEGIN CERTIFICATE-----)"));
        }
        let certificate = Certificate::from_pem(&pem).map_err(|e| bad(&e))?;
        builder = builder.certificate_store(CertificateStore::None).add_root_certificate(certificate);
    }
    builder.build().map_err(|e| format!("TLS cannot be prepared: {e}"))
}
