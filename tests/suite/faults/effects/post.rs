//! In front of the SMTP server, one for each node: relays the dialogue, and gives each mail to its fate when it was told whole.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::front::{LATE, PAST_TIMEOUT, named_after};
use super::script::{Fate, Kind, Landing, Script};

pub struct Post {
    node: usize,
    script: Arc<Script>,
    client: BufReader<OwnedReadHalf>,
    to_client: OwnedWriteHalf,
    server: BufReader<OwnedReadHalf>,
    to_server: OwnedWriteHalf,
}

impl Post {
    /// `host:port`
    pub async fn start(node: usize, behind: SocketAddr, script: Arc<Script>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                let (client, to_client) = client.into_split();
                let (server, to_server) = TcpStream::connect(behind).await.expect("the server is there").into_split();
                let (client, server) = (BufReader::new(client), BufReader::new(server));
                let mut post = Post { node, script: script.clone(), client, to_client, server, to_server };
                // None: the connection has ended, as connections do.
                tokio::spawn(async move { post.relay().await });
            }
        });
        address
    }

    async fn relay(&mut self) -> Option<()> {
        let greeting = self.reply().await?;
        self.tell(&greeting).await?;
        loop {
            let command = line(&mut self.client).await?;
            let told = self.ask(&command).await?;
            self.tell(&told).await?;
            if command.to_ascii_uppercase().starts_with(b"DATA") && told.starts_with(b"354") {
                self.mail().await?;
            }
        }
    }

    async fn mail(&mut self) -> Option<()> {
        let mut mail = Vec::new();
        while !mail.ends_with(b"\r\n.\r\n") {
            mail.extend(line(&mut self.client).await?);
        }
        let decision = named_after(&mail, b"X-Stockwarden-Decision: ", 36).expect("every mail names its decision");
        let (number, fate) = self.script.send(Kind::Mail, self.node, decision, &mail);
        match fate {
            Fate::Fine => {
                let told = self.carry_out(number, &mail).await?;
                self.tell(&told).await
            }
            Fate::DoneThenCut => {
                self.carry_out(number, &mail).await?;
                None
            }
            Fate::CutBefore => None,
            Fate::DoneThenLate => {
                self.carry_out(number, &mail).await?;
                tokio::time::sleep(PAST_TIMEOUT).await;
                None
            }
            Fate::DoneLate => {
                tokio::time::sleep(LATE).await;
                self.carry_out(number, &mail).await?;
                None
            }
            // Nothing was told to the server, so its connection can serve no other mail.
            Fate::SlowDown => {
                self.tell(b"451 4.7.1 slow down\r\n").await?;
                None
            }
            Fate::Unavailable => {
                self.tell(b"421 4.3.2 not now\r\n").await?;
                None
            }
            Fate::Garbled => {
                self.carry_out(number, &mail).await?;
                self.tell(b"25").await?;
                None
            }
            Fate::Nonsense => {
                self.carry_out(number, &mail).await?;
                self.tell(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                None
            }
            Fate::Killed(landing) => {
                if landing == Landing::Before {
                    self.carry_out(number, &mail).await?;
                }
                // A dead sender's connection ends.
                while line(&mut self.client).await.is_some() {}
                if landing == Landing::After {
                    tokio::time::sleep(LATE).await;
                    self.carry_out(number, &mail).await?;
                }
                None
            }
        }
    }

    async fn carry_out(&mut self, number: usize, mail: &[u8]) -> Option<Vec<u8>> {
        self.script.done(number);
        self.ask(mail).await
    }

    async fn ask(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.to_server.write_all(bytes).await.ok()?;
        self.reply().await
    }

    /// With all its lines: the last one has a space after the code.
    async fn reply(&mut self) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let next = line(&mut self.server).await?;
            all.extend_from_slice(&next);
            if next.get(3) != Some(&b'-') {
                return Some(all);
            }
        }
    }

    async fn tell(&mut self, bytes: &[u8]) -> Option<()> {
        self.to_client.write_all(bytes).await.ok()
    }
}

async fn line(from: &mut BufReader<OwnedReadHalf>) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    let read = from.read_until(b'\n', &mut line).await.ok()?;
    (read > 0).then_some(line)
}
