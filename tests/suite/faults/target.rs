//! The customer's API: does what it is asked, mostly; remembers each request by its idempotency key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::support::stand_in;

/// What came under one key.
#[derive(Debug, Clone, Default)]
pub struct Received {
    /// Requests that were done, answered or not; refused ones are not among them.
    pub done: u32,
    pub bodies: BTreeSet<[u8; 32]>,
}

#[derive(Clone)]
pub struct Target {
    pub base: String,
    state: Arc<Mutex<(BTreeMap<String, Received>, SmallRng)>>,
}

/// Shares of requests that go wrong.
const REFUSED: f64 = 0.01;
const UNANSWERED: f64 = 0.01;

impl Target {
    pub async fn start(seed: u64) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let target = Target { base, state: Arc::new(Mutex::new((BTreeMap::new(), SmallRng::seed_from_u64(seed)))) };
        let serving = target.clone();
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        target
    }

    pub fn received(&self) -> BTreeMap<String, Received> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    async fn serve(self, mut stream: TcpStream) {
        let Some(request) = stand_in::read(&mut stream).await else { return };
        let answer = {
            let (received, rng) = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let fate: f64 = rng.random();
            let key = request.headers.get("webhook-id").cloned().unwrap_or_default();
            let entry = received.entry(key).or_default();
            entry.bodies.insert(Sha256::digest(&request.body).into());
            if fate < REFUSED {
                Some("503 Service Unavailable")
            } else {
                entry.done += 1;
                (fate >= REFUSED + UNANSWERED).then_some("200 OK")
            }
        };
        if let Some(status) = answer {
            let text = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
            let _ = stream.write_all(text.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    }
}
