//! Real SMTP servers of a test's own (scripts/smtp_sink.py): with TLS, or with words that need nobody else's patience.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::harness::until;

/// Gone when dropped.
pub struct OwnServer {
    process: Child,
    folder: tempfile::TempDir,
    pub port: String,
}

impl OwnServer {
    pub async fn start() -> OwnServer {
        OwnServer::launch(tempfile::tempdir().expect("folder"), &[]).await
    }

    /// `tls` is starttls or wrapped; takes mails only from "u" with the tests' password.
    pub async fn with_tls(tls: &str) -> OwnServer {
        let folder = tempfile::tempdir().expect("folder");
        let (cert, key) = certificate(folder.path());
        let (cert, key) = (cert.display().to_string(), key.display().to_string());
        OwnServer::launch(folder, &["--tls", tls, "--auth", "u:pa55word", "--cert", &cert, "--key", &key]).await
    }

    async fn launch(folder: tempfile::TempDir, more: &[&str]) -> OwnServer {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/smtp_sink.py");
        let mut command = Command::new(python());
        command.arg(script).arg("0").arg(folder.path()).args(more).stdin(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("the server starts");
        let port = until("the server listens", async || std::fs::read_to_string(folder.path().join("ready")).ok()).await;
        OwnServer { process, folder, port }
    }

    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    /// As text, in the order in which they came.
    pub fn mails_in_order(&self) -> Vec<String> {
        let folder = self.folder.path().join("mail");
        let mail = |n: usize| std::fs::read(folder.join(format!("{n}.eml"))).ok();
        (1..).map_while(mail).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
    }

    pub fn mails(&self) -> Vec<Vec<u8>> {
        let entries = std::fs::read_dir(self.folder.path().join("mail")).expect("folder");
        let paths = entries.map(|e| e.expect("entry").path()).filter(|p| p.extension().is_some_and(|x| x == "eml"));
        paths.map(|p| std::fs::read(p).expect("mail")).collect()
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One that has aiosmtpd, as `./test` looks for it.
fn python() -> &'static str {
    let has = |python: &&str| {
        let asked = Command::new(python).args(["-c", "import aiosmtpd"]).stderr(Stdio::null()).status();
        asked.is_ok_and(|status| status.success())
    };
    ["/usr/bin/python3", "python3"].into_iter().find(has).expect("a Python with aiosmtpd; ./test installs it")
}

/// Self-signed, for 127.0.0.1: certificate and key.
pub fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let config = folder.join("openssl.cnf");
    std::fs::write(&config, "[req]\ndistinguished_name = name\n[name]\n").expect("written");
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=sink.test", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-config"])
        .arg(config)
        .arg("-out")
        .arg(&cert)
        .arg("-keyout")
        .arg(&key)
        .stderr(Stdio::null())
        .status();
    assert!(made.expect("openssl runs").success(), "openssl made no certificate");
    (cert, key)
}
