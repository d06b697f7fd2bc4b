//! A client that sends bytes as it likes, for what a well-behaved one never does.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::site::{SHOP, Site};

pub struct Raw(TcpStream);

impl Raw {
    /// Connects and sends a webhook's head; `framing` is its Content-Length or Transfer-Encoding line.
    pub async fn webhook(site: &Site, framing: &str, signature: &str) -> Raw {
        let mut stream = TcpStream::connect(site.base.trim_start_matches("http://")).await.expect("connect");
        let head = format!(
            "POST /webhooks/shopify HTTP/1.1\r\nHost: x\r\nX-Shopify-Topic: inventory_levels/update\r\nX-Shopify-Shop-Domain: {SHOP}\r\n\
             X-Shopify-Webhook-Id: w-1\r\nX-Shopify-Hmac-Sha256: {signature}\r\n{framing}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("head");
        Raw(stream)
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // The server may have answered and closed already; what it answered is what counts.
        let _ = self.0.write_all(bytes).await;
    }

    /// The status line's code.
    pub async fn status(&mut self) -> u16 {
        let mut answer = vec![0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(20), self.0.read(&mut answer)).await;
        let n = read.expect("an answer within 20 s").expect("an answer");
        let head = String::from_utf8_lossy(&answer[..n]);
        head.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {head:?}")).parse().expect("code")
    }
}
