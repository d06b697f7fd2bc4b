use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::events::record::{NewRecord, Offset, Partition, Position, Topic};
use crate::ports::event_log::{Group, GroupHandle, GroupSink, PartitionReader, TransactionalWriter};
use crate::ports::{EventLog, LogError};
use crate::sim::standins::read_line;
use crate::sim::{Faults, RecordHeaders, Settings, Simulation, shopify_signature, webhook_secret};

fn settings(facts: u64) -> Settings {
    Settings { shops: 3, variants: 12, faults: Faults::none(), facts: Some(facts), ..Settings::default() }
}

fn never() -> Stop {
    watch::channel(false).1
}

const UNPACED: Pace = Pace { speedup: None, at_most: None };

struct Webhook {
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

type Answer = Arc<dyn Fn(&Webhook) -> Option<u16> + Send + Sync>;

/// Answers each webhook with a status, or never.
async fn server(answer: impl Fn(&Webhook) -> Option<u16> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let answer: Answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer.clone()));
        }
    });
    address
}

async fn serve(stream: TcpStream, answer: Answer) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut headers = HashMap::new();
        while let Some(line) = read_line(&mut stream, 10_000).await? {
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = String::from_utf8_lossy(&line).split_once(": ") {
                headers.insert(name.to_lowercase(), value.to_owned());
            }
        }
        let Some(length) = headers.get("content-length").and_then(|l| l.parse().ok()) else { return Ok(()) };
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        match answer(&Webhook { headers, body }) {
            Some(status) => stream.write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes()).await?,
            None => std::future::pending().await,
        }
    }
}

async fn send(address: SocketAddr, settings: Settings, pace: Pace, in_flight: usize, timeout: Duration) -> Report {
    let seed = settings.seed;
    let start = settings.start_time * 1_000_000;
    let sink = HttpSink::new(&format!("http://{address}"), move |shop| webhook_secret(seed, shop), in_flight).expect("a sink");
    let simulation = Simulation::new(settings).expect("good settings");
    Arc::new(sink.with_timeout(timeout)).run(simulation, start, pace, Arc::default(), never()).await
}

#[tokio::test]
async fn every_webhook_arrives_once_signed_with_its_shops_secret() {
    let got = Arc::new(Mutex::new(HashMap::new()));
    let seen = got.clone();
    let address = server(move |w| {
        let shop = &w.headers["x-shopify-shop-domain"];
        assert_eq!(w.headers["x-shopify-hmac-sha256"], shopify_signature(&webhook_secret(1, shop), &w.body));
        for name in ["x-shopify-topic", "x-shopify-api-version", "x-shopify-event-id", "x-shopify-triggered-at"] {
            assert!(w.headers.contains_key(name), "{name}");
        }
        *seen.lock().expect("sound").entry(w.headers["x-shopify-webhook-id"].clone()).or_insert(0) += 1;
        Some(200)
    })
    .await;
    let report = send(address, settings(300), UNPACED, 16, Duration::from_secs(5)).await;
    let got = got.lock().expect("sound");
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.live, got.len() as u64), (300, 300 + report.catalogue));
    assert!(got.values().all(|n| *n == 1));
}

#[tokio::test]
async fn a_target_that_never_answers_slows_nothing_down() {
    let address = server(|w| w.headers["x-shopify-topic"].starts_with("products/create").then_some(200)).await;
    let settings = Settings { rate: 400.0, duration: Some(Duration::from_secs(1)), catalogue: false, ..settings(1_000_000) };
    let pace = Pace { speedup: Some(1.0), at_most: None };
    let report = send(address, settings, pace, 4, Duration::from_millis(1_500)).await;
    // Four wait for ever, the rest is skipped on schedule.
    assert_eq!((report.live, report.accepted, report.answered("timeout")), (4, 0, 4));
    assert!((200..600).contains(&report.skipped), "{report:?}");
    assert!((0.8..3.0).contains(&report.seconds), "{report:?}");
}

#[tokio::test]
async fn a_catalogue_that_is_refused_for_a_moment_is_sent_again_and_live_facts_are_not() {
    let tries = Mutex::new(HashMap::new());
    let address = server(move |w| {
        let mut tries = tries.lock().expect("sound");
        let n = tries.entry(w.headers["x-shopify-webhook-id"].clone()).or_insert(0);
        *n += 1;
        Some(if *n == 1 { 503 } else { 200 })
    })
    .await;
    let report = send(address, settings(20), UNPACED, 64, Duration::from_secs(5)).await;
    assert_eq!((report.accepted, report.answered("503")), (report.catalogue, 20));
}

#[tokio::test]
async fn where_nobody_answers_it_stops_and_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let settings = Settings { catalogue: false, ..settings(100_000) };
    let report = send(address, settings, UNPACED, 8, Duration::from_secs(1)).await;
    assert!(report.stopped.as_deref().is_some_and(|why| why.contains("nothing answers")), "{report:?}");
    assert!(report.advice()[0].contains("is the target running"));
}

#[test]
fn a_target_that_is_no_url_is_refused_with_an_example() {
    for bad in ["127.0.0.1:8080", "ftp://x", ""] {
        let told = HttpSink::new(bad, |_| String::new(), 1).err().expect("refused").to_string();
        assert!(told.contains("http://127.0.0.1:8080"), "{told}");
    }
}

/// Keeps what is appended; refuses the first appends.
#[derive(Default)]
struct Memory {
    kept: Mutex<Vec<NewRecord>>,
    refusals: Mutex<u32>,
}

fn not_here<T>() -> Result<T, LogError> {
    Err(LogError::Misconfigured("only appends".into()))
}

impl EventLog for Memory {
    fn prepare(&self, _: Duration) -> Result<(), LogError> {
        Ok(())
    }
    fn partitions(&self) -> i32 {
        1
    }
    fn append(&self, records: Vec<NewRecord>) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        Box::pin(async move {
            let mut refusals = self.refusals.lock().expect("sound");
            if *refusals > 0 {
                *refusals -= 1;
                return Err(LogError::Unavailable { during: "appending".into(), reason: "it is away".into() });
            }
            let positions = vec![Position { partition: 0, offset: 0 }; records.len()];
            self.kept.lock().expect("sound").extend(records);
            Ok(positions)
        })
    }
    fn append_atomically(&self, records: Vec<NewRecord>) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        self.append(records)
    }
    fn join(&self, _: Group, _: Topic, _: Box<dyn GroupSink>) -> Result<Arc<dyn GroupHandle>, LogError> {
        not_here()
    }
    fn writer(&self, _: Arc<dyn GroupHandle>) -> Result<Box<dyn TransactionalWriter>, LogError> {
        not_here()
    }
    fn reader(&self, _: Topic, _: Partition, _: Offset) -> Result<Box<dyn PartitionReader>, LogError> {
        not_here()
    }
    fn watermarks(&self, _: Topic, _: Partition) -> Result<(Offset, Offset), LogError> {
        not_here()
    }
    fn committed(&self, _: Group, _: Topic) -> Result<Vec<Option<Offset>>, LogError> {
        not_here()
    }
    fn probe(&self, _: Duration) -> Result<(), LogError> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_holds_all_deliveries_in_order_though_it_was_away_for_a_moment() {
    let log = Memory { refusals: Mutex::new(2), ..Memory::default() };
    let want: Vec<NewRecord> =
        Simulation::new(settings(12_000)).expect("good settings").map(|d| d.to_record(RecordHeaders::Ours)).collect();
    let simulation = Simulation::new(settings(12_000)).expect("good settings");
    let report =
        to_log(&log, RecordHeaders::Ours, simulation, 0, UNPACED, &Counters::default(), never()).await.expect("appended");
    assert_eq!((report.live, report.accepted), (12_000, want.len() as u64));
    assert!(*log.kept.lock().expect("sound") == want);
}

#[tokio::test]
async fn a_run_into_the_log_keeps_its_schedule() {
    let log = Memory::default();
    let settings = Settings { rate: 1_000.0, duration: Some(Duration::from_secs(10)), ..settings(1_000_000) };
    let start = settings.start_time * 1_000_000;
    let simulation = Simulation::new(settings).expect("good settings");
    let pace = Pace { speedup: Some(20.0), at_most: None };
    let report =
        to_log(&log, RecordHeaders::None, simulation, start, pace, &Counters::default(), never()).await.expect("appended");
    assert!((0.4..2.0).contains(&report.seconds), "ten seconds at twenty times the speed: {report:?}");
    assert!(log.kept.lock().expect("sound").iter().all(|r| r.headers.is_empty()));
}
