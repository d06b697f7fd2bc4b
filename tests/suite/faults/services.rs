//! A Kafka and a Postgres of this program's own, because it restarts them, through the project's script.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Services {
    folder: tempfile::TempDir,
    /// `host:port` without a proxy.
    pub broker: String,
    /// Ports behind the proxies, in their order.
    pub behind: Vec<u16>,
    pub postgres_url: String,
}

impl Services {
    /// `proxies`: ports at which Kafka is advertised, one listener each.
    pub async fn start(proxies: &[u16]) -> Services {
        let folder = tempfile::Builder::new().prefix("stockwarden-faults.").tempdir().expect("a folder");
        let ports: Vec<String> = proxies.iter().map(u16::to_string).collect();
        let owner = std::process::id().to_string();
        script(folder.path(), "start", &["--owner", &owner, "--proxied", &ports.join(",")]).await;
        let env = environment(&folder.path().join("env"));
        let of = |name: &str| env.get(name).unwrap_or_else(|| panic!("the services' env names no {name}")).clone();
        Services {
            broker: of("STOCKWARDEN_TEST_KAFKA"),
            behind: of("STOCKWARDEN_TEST_KAFKA_PROXIED").split(',').map(|p| p.parse().expect("a port")).collect(),
            postgres_url: of("STOCKWARDEN_TEST_POSTGRES_URL"),
            folder,
        }
    }

    pub fn postgres_port(&self) -> u16 {
        let port = self.postgres_url.rsplit(':').next().and_then(|rest| rest.split('/').next());
        port.and_then(|p| p.parse().ok()).expect("the URL has a port")
    }

    /// As `scripts/services` names it: `kill-kafka`, `restart-postgres`.
    pub async fn act(&self, command: &str) {
        script(self.folder.path(), command, &[]).await;
    }

    pub async fn stop(self) {
        script(self.folder.path(), "stop", &[]).await;
    }

    /// What they have logged so far, copied.
    pub fn keep_logs(&self, into: &Path) {
        for entry in std::fs::read_dir(self.folder.path()).expect("the services' folder").flatten() {
            if entry.file_name().to_string_lossy().contains(".log") {
                std::fs::copy(entry.path(), into.join(entry.file_name())).expect("a log is copied");
            }
        }
    }
}

async fn script(folder: &Path, command: &str, more: &[&str]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/services");
    let mut script = Command::new(path);
    script.arg(command).arg(folder).args(more);
    let run = tokio::task::spawn_blocking(move || script.output());
    let output = run.await.expect("not cancelled").expect("the script runs");
    assert!(output.status.success(), "services {command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `export NAME='value'`, line by line.
fn environment(file: &Path) -> HashMap<String, String> {
    let text = std::fs::read_to_string(file).expect("the services' env");
    let pairs = text.lines().filter_map(|l| l.strip_prefix("export ")?.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned())).collect()
}
