//! A local HTTP target that misbehaves on demand and remembers every request.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[derive(Debug, Clone)]
pub struct Request {
    pub head: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

/// What becomes of one request, after it was read whole.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// These bytes, then the connection is closed.
    Answer(String),
    /// Done at the target, but nobody is told.
    CommitThenDrop,
    /// Done at the target, and no answer ever comes.
    Hang,
}

impl Behaviour {
    pub fn status(status: &str, headers: &[(&str, &str)], body: &str) -> Behaviour {
        let headers: String = headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        let length = body.len();
        Behaviour::Answer(format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"))
    }
}

#[derive(Clone)]
pub struct StandIn {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    script: Arc<Mutex<VecDeque<Behaviour>>>,
}

impl StandIn {
    /// Follows `script`, then answers 200. It is spoken over plain sockets, because no server library sends what is malformed.
    pub async fn start(script: impl IntoIterator<Item = Behaviour>) -> StandIn {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let stand_in = StandIn {
            address: listener.local_addr().expect("address"),
            requests: Arc::default(),
            script: Arc::new(Mutex::new(script.into_iter().collect())),
        };
        let serving = stand_in.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        stand_in
    }

    pub fn url(&self) -> String {
        format!("http://{}/orders", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("lock").clone()
    }

    async fn serve(self, mut stream: TcpStream) {
        let Some(request) = read(&mut stream).await else { return };
        self.requests.lock().expect("lock").push(request);
        let behaviour = self.script.lock().expect("lock").pop_front();
        match behaviour.unwrap_or_else(|| Behaviour::status("200 OK", &[], "fine")) {
            Behaviour::Answer(bytes) => {
                let _ = stream.write_all(bytes.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
            Behaviour::CommitThenDrop => drop(stream),
            Behaviour::Hang => std::future::pending().await,
        }
    }
}

/// One request, read whole.
pub async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let mut lines = text.split("\r\n");
            let head = lines.next()?.to_owned();
            let headers: HashMap<String, String> = lines
                .filter_map(|l| l.split_once(':'))
                .map(|(n, v)| (n.trim().to_ascii_lowercase(), v.trim().to_owned()))
                .collect();
            let length: usize = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                return Some(Request { head, headers, body: bytes[end + 4..end + 4 + length].to_vec() });
            }
        }
        let mut chunk = [0u8; 4096];
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => bytes.extend_from_slice(&chunk[..n]),
            _ => return None,
        }
    }
}
