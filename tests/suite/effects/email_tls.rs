//! The kind `email` over TLS, against real SMTP servers whose certificates are made here.

use std::path::PathBuf;

use chrono::Utc;
use stockwarden::handlers::{Blame, Verdict};

use super::email::{build, mail_job};
use super::email_server::{OwnServer, certificate};
use super::harness::decision;

async fn send(smtp_url: &str, more: &str) -> Verdict {
    let login = "username = \"u\"\npassword = { env = \"SMTP_PASSWORD\" }";
    let toml = format!("smtp_url = \"{smtp_url}\"\nfrom = \"a@example.com\"\ntimeout = \"10s\"\n{login}\n{more}");
    let handler = build(&toml).expect("handler");
    let job = mail_job(&decision(1), "orders@supplier.example");
    let request = handler.prepare(&job, Utc::now()).expect("request");
    handler.send(&job, &request, Utc::now()).await
}

/// Every way to write it must take the certificate, the name in it and the password seriously.
async fn only_to_a_server_that_is_trusted(tls: &str, urls: &[&str]) {
    let server = OwnServer::with_tls(tls).await;
    let trusting = |certificate: PathBuf| format!("ca_file = \"{}\"", certificate.display());
    for (n, url) in urls.iter().enumerate() {
        let url = url.replace("PORT", &server.port);
        let sent = send(&url, &trusting(server.certificate())).await;
        assert!(matches!(sent, Verdict::Done { .. }), "{url}: {sent:?}");
        assert_eq!(server.mails().len(), n + 1);
        let unknown = send(&url, "").await;
        let told = matches!(&unknown, Verdict::Retry { reason, blame: Blame::Target, .. } if reason.contains("ca_file"));
        assert!(told, "{url} with a certificate that nobody vouches for: {unknown:?}");
        let elsewhere = tempfile::tempdir().expect("folder");
        let other = send(&url, &trusting(certificate(elsewhere.path()).0)).await;
        assert!(matches!(other, Verdict::Retry { .. }), "{url} with another's certificate: {other:?}");
        let name = send(&url.replace("127.0.0.1", "localhost"), &trusting(server.certificate())).await;
        assert!(matches!(name, Verdict::Retry { .. }), "{url} under a name that is not in the certificate: {name:?}");
        assert_eq!(server.mails().len(), n + 1, "{url}: nothing arrived but the first");
    }
}

#[tokio::test]
async fn starttls_is_required_where_it_is_asked_for_and_goes_to_a_trusted_server_only() {
    only_to_a_server_that_is_trusted("starttls", &["smtp+starttls://127.0.0.1:PORT", "smtp://127.0.0.1:PORT?tls=required"]).await;
}

#[tokio::test]
async fn smtps_is_encrypted_from_the_first_byte_and_goes_to_a_trusted_server_only() {
    only_to_a_server_that_is_trusted("wrapped", &["smtps://127.0.0.1:PORT"]).await;
}
