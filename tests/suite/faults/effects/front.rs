//! In front of each HTTP stand-in, one for each node: gives what comes to its fate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::script::{Fate, Kind, Landing, Script};
use crate::support::stand_in::{self, Request};

/// Longer than any handler here waits for an answer.
pub const PAST_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How long a request may be on its way when nobody waits for it any more.
pub const LATE: Duration = Duration::from_secs(4);

#[derive(Clone)]
pub struct Front {
    kind: Kind,
    /// Whose front it is.
    node: usize,
    behind: SocketAddr,
    script: Arc<Script>,
}

impl Front {
    /// `host:port`
    pub async fn start(kind: Kind, node: usize, behind: SocketAddr, script: Arc<Script>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let front = Front { kind, node, behind, script };
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(front.clone().serve(stream));
            }
        });
        address
    }

    async fn serve(self, mut stream: TcpStream) {
        let Some(request) = stand_in::read(&mut stream).await else { return };
        let (number, fate) = match self.decision(&request) {
            Some(decision) => {
                let (number, fate) = self.script.send(self.kind, self.node, decision, &request.body);
                (Some(number), fate)
            }
            None => (None, self.script.question(self.kind)),
        };
        let answer = match fate {
            Fate::Fine => self.carry_out(number, &request).await,
            Fate::DoneThenCut => return drop(self.carry_out(number, &request).await),
            Fate::CutBefore => return,
            Fate::DoneThenLate => {
                let answer = self.carry_out(number, &request).await;
                tokio::time::sleep(PAST_TIMEOUT).await;
                answer
            }
            Fate::DoneLate => {
                tokio::time::sleep(LATE).await;
                self.carry_out(number, &request).await
            }
            Fate::SlowDown => Some("HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n".into()),
            Fate::Unavailable => Some("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy".into()),
            Fate::Garbled => {
                self.carry_out(number, &request).await;
                let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 12\r\n\r\n{\"ok\": true,";
                Some(answer.into())
            }
            Fate::Nonsense => {
                self.carry_out(number, &request).await;
                Some("SSH-2.0-OpenSSH_9.2\r\n\r\n".into())
            }
            Fate::Killed(landing) => return self.hold(landing, number, &request, stream).await,
        };
        if let Some(answer) = answer {
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        }
    }

    /// Until the sender is dead, which it will be soon.
    async fn hold(&self, landing: Landing, number: Option<usize>, request: &Request, mut stream: TcpStream) {
        if landing == Landing::Before {
            self.carry_out(number, request).await;
        }
        // A dead sender's connection ends.
        while stand_in::read(&mut stream).await.is_some() {}
        if landing == Landing::After {
            tokio::time::sleep(LATE).await;
            self.carry_out(number, request).await;
        }
    }

    /// The decision that a request is to perform, if it is a send.
    fn decision(&self, request: &Request) -> Option<String> {
        let mut head = request.head.split(' ');
        let (method, path) = (head.next()?, head.next()?);
        let sends = match self.kind {
            Kind::Erp => true,
            Kind::Jira => method == "POST" && path.ends_with("/issue"),
            Kind::Slack => path.ends_with("/chat.postMessage"),
            Kind::Transfer => find(&request.body, b"mutation").is_some(),
            Kind::Mail => unreachable!("mails do not come by HTTP"),
        };
        let (mark, length): (&[u8], usize) = match self.kind {
            Kind::Transfer => (b"\"reorder-", 32),
            _ => (b"\"decision_id\":\"", 36),
        };
        sends.then(|| named_after(&request.body, mark, length).expect("every send names its decision"))
    }

    /// What the stand-in answers, whole.
    async fn carry_out(&self, number: Option<usize>, request: &Request) -> Option<Vec<u8>> {
        if let Some(number) = number {
            self.script.done(number);
        }
        let mut behind = TcpStream::connect(self.behind).await.expect("the stand-in is there");
        let headers: String = request.headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        let mut bytes = format!("{}\r\n{headers}\r\n", request.head).into_bytes();
        bytes.extend_from_slice(&request.body);
        behind.write_all(&bytes).await.ok()?;
        let answer = stand_in::read(&mut behind).await?;
        let kept = answer.headers.iter().filter(|(name, _)| *name != "connection");
        let headers: String = kept.map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        let mut bytes = format!("{}\r\n{headers}connection: close\r\n\r\n", answer.head).into_bytes();
        bytes.extend_from_slice(&answer.body);
        Some(bytes)
    }
}

/// The UUID of so many characters after `mark`, with hyphens.
pub fn named_after(bytes: &[u8], mark: &[u8], length: usize) -> Option<String> {
    let at = find(bytes, mark)? + mark.len();
    let text = std::str::from_utf8(bytes.get(at..at + length)?).ok()?;
    text.parse::<uuid::Uuid>().ok().map(|id| id.to_string())
}

pub fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|w| w == mark)
}
