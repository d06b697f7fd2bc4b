//! The customer's own API, one that heeds the idempotency key: the first request under a key is the effect, and each repeat gets the
//! first one's answer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::support::stand_in;

#[derive(Clone)]
pub struct Erp {
    pub address: SocketAddr,
    /// Keys in the order of their effects, each with how many requests it had.
    orders: Arc<Mutex<Vec<(String, u32)>>>,
}

impl Erp {
    pub async fn start() -> Erp {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let erp = Erp { address: listener.local_addr().expect("an address"), orders: Arc::default() };
        let serving = erp.clone();
        tokio::spawn(async move {
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { continue };
                let erp = serving.clone();
                tokio::spawn(async move {
                    let Some(request) = stand_in::read(&mut stream).await else { return };
                    let body = format!("order {}", erp.order(request.headers["idempotency-key"].clone()));
                    let answer = format!("HTTP/1.1 201 Created\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        erp
    }

    fn order(&self, key: String) -> usize {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let at = orders.iter().position(|(k, _)| *k == key).unwrap_or_else(|| {
            orders.push((key, 0));
            orders.len() - 1
        });
        orders[at].1 += 1;
        at
    }

    pub fn orders(&self) -> Vec<(String, u32)> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
