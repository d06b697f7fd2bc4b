//! A customer's own API: takes signed requests (Standard Webhooks), verifies them, counts them.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use serde::Serialize;
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::read_line;

const MAX_LINE: usize = 16 * 1024;
const MAX_HEADERS: usize = 100;
const MAX_BODY: usize = 1024 * 1024;
/// The specification's tolerance.
const MAX_SKEW: Duration = Duration::from_secs(300);
/// Ids of so many requests are remembered, to know a repeat.
const REMEMBERED: usize = 100_000;
const IDLE: Duration = Duration::from_secs(60);

/// What has come so far.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Received {
    /// Verified and new.
    pub accepted: u64,
    /// Verified, with an id that has come before.
    pub repeated: u64,
    /// Not signed, or signed wrongly.
    pub refused: u64,
    /// The last body that was accepted.
    #[serde(skip)]
    pub last: Option<Vec<u8>>,
}

#[derive(Default)]
struct State {
    received: Received,
    ids: HashSet<String>,
    order: VecDeque<String>,
}

/// Runs until it is dropped.
pub struct TargetStandIn {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
}

impl TargetStandIn {
    /// `secret` as the handler has it: `whsec_` and base64.
    pub async fn start(secret: &str) -> std::io::Result<TargetStandIn> {
        let key = STANDARD
            .decode(secret.strip_prefix("whsec_").unwrap_or(secret))
            .map_err(|e| std::io::Error::other(format!("the secret is not base64 after whsec_: {e}")))?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let server = tokio::spawn(serve(listener, key.into(), state.clone()));
        Ok(TargetStandIn { address, state, server })
    }

    pub fn url(&self) -> String {
        format!("http://{}/orders", self.address)
    }

    pub fn received(&self) -> Received {
        lock(&self.state).received.clone()
    }
}

impl Drop for TargetStandIn {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, key: Arc<[u8]>, state: Arc<Mutex<State>>) {
    // Connections end with the server: they live in its set.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                // A connection's error is the client's affair: it went away.
                Ok((stream, _)) => _ = connections.spawn(connection(stream, key.clone(), state.clone())),
                Err(_) => return,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

#[derive(Default)]
struct Request {
    method: String,
    length: Option<usize>,
    chunked: bool,
    expects_continue: bool,
    id: String,
    timestamp: String,
    signature: String,
    body: Vec<u8>,
}

async fn connection(stream: TcpStream, key: Arc<[u8]>, state: Arc<Mutex<State>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let Ok(head) = tokio::time::timeout(IDLE, read_head(&mut stream)).await else { return Ok(()) };
        let Some(mut request) = head? else { return Ok(()) };
        let length = match (request.chunked, request.length) {
            (true, _) => return answer(&mut stream, "411 Length Required", "{\"error\":\"no chunks\"}").await,
            (false, Some(n)) if n > MAX_BODY => return answer(&mut stream, "413 Content Too Large", "{}").await,
            (false, n) => n.unwrap_or(0),
        };
        if request.expects_continue {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        request.body = vec![0; length];
        stream.read_exact(&mut request.body).await?;
        let (status, text) = judge(&request, &key, &state);
        answer(&mut stream, status, text).await?;
    }
}

async fn answer(stream: &mut BufReader<TcpStream>, status: &str, body: &str) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(head.as_bytes()).await
}

async fn read_head(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let Some(first) = read_line(stream, MAX_LINE).await? else { return Ok(None) };
    let mut request = Request {
        method: String::from_utf8_lossy(&first).split(' ').next().unwrap_or_default().to_owned(),
        ..Request::default()
    };
    for _ in 0..MAX_HEADERS {
        let Some(line) = read_line(stream, MAX_LINE).await? else { return Ok(None) };
        if line.is_empty() {
            return Ok(Some(request));
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim().to_owned();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => request.length = value.parse().ok(),
            "transfer-encoding" => request.chunked = true,
            "expect" => request.expects_continue = true,
            "webhook-id" => request.id = value,
            "webhook-timestamp" => request.timestamp = value,
            "webhook-signature" => request.signature = value,
            _ => {}
        }
    }
    Err(std::io::Error::other(format!("more than {MAX_HEADERS} headers")))
}

fn judge(request: &Request, key: &[u8], state: &Mutex<State>) -> (&'static str, &'static str) {
    if request.method != "POST" {
        return ("405 Method Not Allowed", "{\"error\":\"POST a signed order\"}");
    }
    let mut state = lock(state);
    if let Err(why) = verify(request, key) {
        state.received.refused += 1;
        return ("401 Unauthorized", why);
    }
    if state.ids.contains(&request.id) {
        state.received.repeated += 1;
        return ("200 OK", "{\"repeated\":true}");
    }
    state.ids.insert(request.id.clone());
    state.order.push_back(request.id.clone());
    if state.order.len() > REMEMBERED
        && let Some(oldest) = state.order.pop_front()
    {
        state.ids.remove(&oldest);
    }
    state.received.accepted += 1;
    state.received.last = Some(request.body.clone());
    ("200 OK", "{\"accepted\":true}")
}

/// <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>
fn verify(request: &Request, key: &[u8]) -> Result<(), &'static str> {
    let sent: u64 = request.timestamp.parse().map_err(|_| "{\"error\":\"no webhook-timestamp\"}")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if now.as_secs().abs_diff(sent) > MAX_SKEW.as_secs() {
        return Err("{\"error\":\"webhook-timestamp is more than five minutes off\"}");
    }
    if request.id.is_empty() {
        return Err("{\"error\":\"no webhook-id\"}");
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| "{\"error\":\"no key\"}")?;
    mac.update(format!("{}.{}.", request.id, request.timestamp).as_bytes());
    mac.update(&request.body);
    let candidates = request.signature.split(' ').filter_map(|s| STANDARD.decode(s.strip_prefix("v1,")?).ok());
    for candidate in candidates {
        if mac.clone().verify_slice(&candidate).is_ok() {
            return Ok(());
        }
    }
    Err("{\"error\":\"webhook-signature does not fit\"}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use standardwebhooks::Webhook;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    async fn post(target: &TargetStandIn, id: &str, at: i64, signature: &str, body: &str) -> u16 {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().expect("client");
        let request = client.post(target.url()).header("webhook-id", id).header("webhook-timestamp", at.to_string());
        request.header("webhook-signature", signature).body(body.to_owned()).send().await.expect("answered").status().as_u16()
    }

    #[tokio::test]
    async fn what_the_reference_library_signs_is_taken_once_and_nothing_else_is() {
        let target = TargetStandIn::start(SECRET).await.expect("started");
        let signer = Webhook::new(SECRET).expect("a secret");
        let now = chrono::Utc::now().timestamp();
        let good = signer.sign("msg_1", now, b"{\"a\":1}").expect("signed");
        assert_eq!(post(&target, "msg_1", now, &good, "{\"a\":1}").await, 200);
        assert_eq!(post(&target, "msg_1", now, &format!("v1,AAAA {good}"), "{\"a\":1}").await, 200, "a repeat, two signatures");
        assert_eq!(post(&target, "msg_1", now, &good, "{\"a\":2}").await, 401, "another body");
        assert_eq!(post(&target, "msg_2", now, &good, "{\"a\":1}").await, 401, "another id");
        assert_eq!(post(&target, "msg_1", now, "", "{\"a\":1}").await, 401, "no signature");
        let old = signer.sign("msg_3", now - 600, b"{}").expect("signed");
        assert_eq!(post(&target, "msg_3", now - 600, &old, "{}").await, 401, "ten minutes old");
        let received = target.received();
        assert_eq!((received.accepted, received.repeated, received.refused), (1, 1, 4));
        assert_eq!(received.last.as_deref(), Some(&b"{\"a\":1}"[..]));
    }

    #[tokio::test]
    async fn a_body_past_the_limit_is_refused_before_it_is_read() {
        let target = TargetStandIn::start(SECRET).await.expect("started");
        let mut stream = BufReader::new(TcpStream::connect(target.address).await.expect("connected"));
        stream.write_all(b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n").await.expect("written");
        let first = read_line(&mut stream, 1000).await.expect("answered").expect("a line");
        assert!(first.starts_with(b"HTTP/1.1 413"));
        assert_eq!(target.received(), Received::default());
    }
}
