//! The binary as a black box: exit codes, `--json`, messages, and that no secret is ever printed or stored in clear.

mod admin;
mod control;
mod demo;
mod usage;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::Value;
use stockwarden::adapters::embedded::log::{EmbeddedLog, Options};
use tempfile::TempDir;

/// An installation of its own in a temporary folder.
struct Home {
    dir: TempDir,
    env: Vec<(String, String)>,
}

#[derive(Debug)]
struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Home {
    fn new() -> Home {
        Home { dir: tempfile::tempdir().expect("a folder"), env: Vec::new() }
    }

    fn with(mut self, name: &str, value: &str) -> Home {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    }

    fn run(&self, args: &[&str]) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stockwarden"));
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars() {
            if name.starts_with("STOCKWARDEN") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        let done = command.envs(self.env.iter().map(|(k, v)| (k, v))).output().expect("the binary runs");
        Run {
            code: done.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&done.stdout).into_owned(),
            err: String::from_utf8_lossy(&done.stderr).into_owned(),
        }
    }

    /// Runs a verb that has to work; its JSON.
    fn json(&self, args: &[&str]) -> Value {
        let run = self.run(&[args, &["--json"]].concat());
        assert_eq!(run.code, 0, "{args:?}: {run:?}");
        serde_json::from_str(&run.out).unwrap_or_else(|e| panic!("{args:?} printed no JSON ({e}): {run:?}"))
    }

    /// All records of a topic, as `topics tail` prints them.
    fn records(&self, topic: &str, more: &[&str]) -> Vec<Value> {
        let run = self.run(&[&["topics", "tail", topic, "--from-beginning", "--json"], more].concat());
        assert_eq!(run.code, 0, "{run:?}");
        run.out.lines().map(|l| serde_json::from_str(l).expect("a JSON line")).collect()
    }

    fn log(&self) -> Arc<EmbeddedLog> {
        let options = Options {
            partitions: 12,
            segment_bytes: 64 << 20,
            max_record_bytes: 4 << 20,
            clock: Arc::new(|| chrono::Utc::now().timestamp_millis()),
        };
        EmbeddedLog::open(&self.data().join("log"), options).expect("the log opens")
    }

    /// Whether any file of the installation holds `text`.
    fn holds(&self, text: &str) -> bool {
        let mut folders = vec![self.data()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry")) {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if std::fs::read(&path).unwrap_or_default().windows(text.len()).any(|w| w == text.as_bytes()) {
                    return true;
                }
            }
        }
        false
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}
