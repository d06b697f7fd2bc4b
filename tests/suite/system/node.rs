//! The binary as a black box: a node on the test run's Kafka and Postgres, with topics, group, database and port of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use stockwarden::adapters::kafka::{KafkaLog, KafkaSettings};
use stockwarden::events::record::{NewRecord, Position, RecordBatch, Topic};
use stockwarden::ports::EventLog;

use crate::support::kafka;
use crate::support::postgres::Database;

pub const BINARY: &str = env!("CARGO_BIN_EXE_stockwarden");
pub const PATIENCE: Duration = Duration::from_secs(120);
/// base64 of 32 bytes.
pub const MASTER_KEY: &str = "c3RvY2t3YXJkZW4gdGVzdHMsIGEga2V5IG9mIDMyIGI=";

/// Where a node lives; nodes come and go in it.
pub struct Site {
    pub dir: tempfile::TempDir,
    pub database: Option<Database>,
    pub settings: KafkaSettings,
    pub log: Arc<KafkaLog>,
    env: Vec<(String, String)>,
}

/// The binary in a folder, with these variables.
pub fn command(dir: &Path, env: &[(String, String)], args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).current_dir(dir).env_remove("RUST_LOG").envs(env.iter().cloned());
    command
}

impl Site {
    pub async fn new(partitions: i32, more_config: &str) -> Site {
        let database = Database::create().await;
        let settings = kafka::fresh_settings(partitions);
        let dir = tempfile::tempdir().expect("a folder");
        let config = format!(
            "[log]\nkind = \"kafka\"\nbootstrap_servers = \"{}\"\ngroup_id = \"{}\"\npartitions = {partitions}\n\
             topics = {{ facts = \"{}\", decisions = \"{}\", dead_letters = \"{}\" }}\n\
             [store]\nurl = \"{}\"\n[http]\nlisten = \"127.0.0.1:0\"\n[log.properties]\n\"session.timeout.ms\" = \"6000\"\n[node]\nname = \"node-t\"\n{more_config}\n",
            settings.bootstrap_servers,
            settings.group_id,
            settings.topics.facts,
            settings.topics.decisions,
            settings.topics.dead_letters,
            database.url,
        );
        std::fs::write(dir.path().join("stockwarden.toml"), config).expect("the configuration");
        let log = tokio::task::spawn_blocking({
            let mut settings = settings.clone();
            settings.node_name = "test".into();
            move || kafka::open(&settings)
        })
        .await
        .expect("opened");
        let env = vec![("STOCKWARDEN_MASTER_KEY".to_owned(), MASTER_KEY.to_owned())];
        Site { dir, database: Some(database), settings, log, env }
    }

    pub fn with(mut self, name: &str, value: &str) -> Site {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn command(&self, args: &[&str]) -> Command {
        command(self.dir.path(), &self.env, args)
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary runs")
    }

    /// The same with one variable more.
    pub fn run_with(&self, name: &str, value: &str, args: &[&str]) -> Output {
        self.command(args).env(name, value).output().expect("the binary runs")
    }

    /// Runs a command that has to succeed.
    pub fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}"))
    }

    pub fn apply_rules(&self, toml: &str) {
        let file = self.dir.path().join("rules.toml");
        std::fs::write(&file, toml).expect("the rules");
        self.json(&["rules", "apply", file.to_str().expect("UTF-8")]);
    }

    pub fn token(&self) -> String {
        self.json(&["token", "create", "--role", "reader"])["token"].as_str().expect("a token").to_owned()
    }

    pub fn token_for(&self, shop: &str) -> String {
        self.json(&["token", "create", "--role", "reader", "--shop", shop])["token"].as_str().expect("a token").to_owned()
    }

    pub fn start(&self) -> Node {
        Node::start(self.command(&["serve"]), self.dir.path().join("node.log"))
    }

    /// One of several nodes; the second start under a name is another process of the same node.
    pub fn start_as(&self, name: &str) -> Node {
        self.start_as_with(name, &[])
    }

    /// The same, with environment of its own.
    pub fn start_as_with(&self, name: &str, env: &[(String, String)]) -> Node {
        let mut command = self.command(&["serve"]);
        command.env("STOCKWARDEN__NODE__NAME", name).envs(env.iter().cloned());
        Node::start(command, self.dir.path().join(format!("{name}.log")))
    }

    pub fn start_with_roles(&self, roles: &str) -> Node {
        Node::start(self.command(&["serve", "--roles", roles]), self.dir.path().join("node.log"))
    }

    pub async fn append(&self, records: Vec<NewRecord>) -> Vec<Position> {
        self.log.append(records).await.expect("appended")
    }

    /// All committed records of a topic, partition by partition.
    pub fn read_all(&self, topic: Topic) -> Vec<RecordBatch> {
        crate::engine::harness::read_all(&*self.log, topic)
    }

    /// Waits for what nobody tells of; `holds` looks at the topics.
    pub async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !tokio::task::block_in_place(&holds) {
            assert!(Instant::now() < deadline, "in vain: {what}");
        }
    }

    pub async fn remove(mut self) {
        if let Some(database) = self.database.take() {
            database.remove().await;
        }
    }
}

pub struct Node {
    child: Child,
    pub base: String,
    log: PathBuf,
}

impl Node {
    fn start(command: Command, log: PathBuf) -> Node {
        Node::try_start(command, log).unwrap_or_else(|told| {
            panic!(
                "the node ended early:
{told}"
            )
        })
    }

    /// What it said, if it ended before it served.
    pub fn try_start(mut command: Command, log: PathBuf) -> Result<Node, String> {
        let out = std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log file");
        let mut child =
            command.stdout(Stdio::from(out)).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().expect("the node starts");
        // It says on stderr where it serves; what follows goes into the file, so that the pipe never fills.
        let mut lines = BufReader::new(child.stderr.take().expect("piped"));
        let mut told = String::new();
        let base = loop {
            let mut line = String::new();
            let n = lines.read_line(&mut line).expect("readable");
            told.push_str(&line);
            if n == 0 {
                let _ = child.wait();
                return Err(told);
            }
            if let Some(address) = line.split("serves at http://").nth(1).and_then(|rest| rest.split(' ').next()) {
                break format!("http://{address}");
            }
        };
        let sink = log.clone();
        std::thread::spawn(move || {
            let mut file = std::fs::OpenOptions::new().append(true).open(sink).expect("the log file");
            let _ = std::io::copy(&mut lines, &mut file);
        });
        Ok(Node { child, base, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.pid().to_string()]).status().expect("kill");
        assert!(done.success());
    }

    /// SIGTERM; the node drains, commits, snapshots, and ends well. What it has logged so far.
    pub fn stop(mut self) -> String {
        self.signal("-TERM");
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{status}: {}", self.told());
        self.told()
    }

    pub fn kill(mut self) {
        self.signal("-KILL");
        self.child.wait().expect("it ends");
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("its state is known")
    }

    pub fn told(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // After a failed assertion; a node that was stopped is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A reader of the API.
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Client {
    pub fn new(node: &Node, token: &str) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client { http: reqwest::Client::new(), base: node.base.clone(), token: token.to_owned() }
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.get_with(path, "accept", "application/json".into()).await
    }

    pub async fn get_with(&self, path: &str, header: &str, value: String) -> (u16, Value) {
        let request = self.http.get(format!("{}{path}", self.base)).bearer_auth(&self.token).header(header, value);
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json().await.expect("JSON"))
    }

    pub async fn post(&self, path: &str, headers: Vec<(String, String)>, body: Vec<u8>) -> (u16, Value) {
        let mut request = self.http.post(format!("{}{path}", self.base)).body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    /// Waits until the node is ready: whatever it owns is live.
    pub async fn ready(&self) {
        self.ready_at("/readyz").await;
    }

    pub async fn ready_at(&self, path: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, told) = self.get(path).await;
            if status == 200 {
                return;
            }
            assert!(Instant::now() < deadline, "not ready in time: {told}");
        }
    }

    /// Waits until everything that is in the log now is applied by the one node that there is.
    pub async fn catch_up(&self, site: &Site) {
        // Before that, what is stored answers as well, and nothing is applied.
        self.ready().await;
        let log = site.log.clone();
        let ends: Vec<_> = tokio::task::spawn_blocking(move || {
            (0..log.partitions()).map(|p| (p, log.watermarks(Topic::Facts, p).expect("watermarks").1)).collect()
        })
        .await
        .expect("read");
        let deadline = Instant::now() + PATIENCE;
        for (partition, end) in ends {
            if end == 0 {
                continue;
            }
            loop {
                // No such shop, said by a node that has applied the position.
                let (status, body) = self.get(&format!("/v1/shops/nobody.example?after={partition}:{}", end - 1)).await;
                if status == 404 {
                    break;
                }
                assert_eq!(status, 503, "{body}");
                assert!(Instant::now() < deadline, "partition {partition} is not applied up to {end} in time: {body}");
            }
        }
    }

    /// Every variant of a shop, page by page.
    pub async fn variants(&self, shop: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut path = format!("/v1/shops/{shop}/variants?limit=1000");
        loop {
            let (status, page) = self.get(&path).await;
            assert_eq!(status, 200, "{page}");
            all.extend(page["variants"].as_array().expect("a list").iter().cloned());
            match page["next_cursor"].as_str() {
                Some(cursor) => path = format!("/v1/shops/{shop}/variants?limit=1000&cursor={cursor}"),
                None => return all,
            }
        }
    }
}
