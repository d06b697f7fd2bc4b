//! A mail server that takes every mail, counts it and keeps the last (RFC 5321, without extensions that would change how
//! a client sends).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::read_line;

const MAX_LINE: usize = 64 * 1024;
const MAX_MAIL: usize = 1024 * 1024;
const MAX_RECIPIENTS: usize = 100;
/// A client that says nothing for so long is let go.
const IDLE: Duration = Duration::from_secs(300);

/// A mail as it was taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mail {
    pub from: String,
    pub to: Vec<String>,
    /// Headers and body, dots unstuffed, lines ending in CRLF.
    pub data: String,
}

#[derive(Default)]
struct Kept {
    count: AtomicU64,
    last: Mutex<Option<Mail>>,
}

/// Runs until it is dropped.
pub struct MailSink {
    address: SocketAddr,
    kept: Arc<Kept>,
    server: JoinHandle<()>,
}

impl MailSink {
    pub async fn start() -> std::io::Result<MailSink> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let kept = Arc::new(Kept::default());
        let server = tokio::spawn(serve(listener, kept.clone()));
        Ok(MailSink { address, kept, server })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For `smtp_url`.
    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    pub fn count(&self) -> u64 {
        self.kept.count.load(Ordering::Relaxed)
    }

    pub fn last(&self) -> Option<Mail> {
        self.kept.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for MailSink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, kept: Arc<Kept>) {
    // Sessions end with the server: they live in its set.
    let mut sessions = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                // A session's error is the client's affair: it went away.
                Ok((stream, _)) => _ = sessions.spawn(session(stream, kept.clone())),
                Err(_) => return,
            },
            Some(_) = sessions.join_next() => {}
        }
    }
}

async fn session(stream: TcpStream, kept: Arc<Kept>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut mail = Mail::default();
    let mut has_sender = false;
    stream.write_all(b"220 localhost stand-in\r\n").await?;
    loop {
        let Ok(line) = tokio::time::timeout(IDLE, read_line(&mut stream, MAX_LINE)).await else { return Ok(()) };
        let Some(line) = line? else { return Ok(()) };
        let line = String::from_utf8_lossy(&line).into_owned();
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let answer: &str = match verb.as_str() {
            "EHLO" => "250-localhost\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE 1048576\r\n",
            "HELO" | "NOOP" => "250 OK\r\n",
            "MAIL" => {
                mail = Mail { from: path(&line), ..Mail::default() };
                has_sender = true;
                "250 OK\r\n"
            }
            "RCPT" if !has_sender => "503 MAIL first\r\n",
            "RCPT" if mail.to.len() >= MAX_RECIPIENTS => "452 too many recipients\r\n",
            "RCPT" => {
                mail.to.push(path(&line));
                "250 OK\r\n"
            }
            "DATA" if mail.to.is_empty() => "503 RCPT first\r\n",
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await?;
                let Some(data) = read_data(&mut stream).await? else { return Ok(()) };
                has_sender = false;
                let taken = std::mem::take(&mut mail);
                if data.len() > MAX_MAIL {
                    "552 the mail is too large\r\n"
                } else {
                    *kept.last.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some(Mail { data: String::from_utf8_lossy(&data).into_owned(), ..taken });
                    kept.count.fetch_add(1, Ordering::Relaxed);
                    "250 OK\r\n"
                }
            }
            "RSET" => {
                mail = Mail::default();
                has_sender = false;
                "250 OK\r\n"
            }
            "QUIT" => {
                stream.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => "502 not known here\r\n",
        };
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// The mail up to the lonely dot. Past the limit it is read to its end all the same, but not kept.
async fn read_data(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Vec<u8>>> {
    let mut data = Vec::new();
    loop {
        let Some(line) = read_line(stream, MAX_LINE).await? else { return Ok(None) };
        if line == b"." {
            return Ok(Some(data));
        }
        if data.len() <= MAX_MAIL {
            data.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
            data.extend_from_slice(b"\r\n");
        }
    }
}

/// What stands between the angle brackets.
fn path(line: &str) -> String {
    let inner = line.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(inner, _)| inner);
    inner.or_else(|| line.split_once(':').map(|(_, rest)| rest)).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

    #[tokio::test]
    async fn a_mail_sent_with_lettre_arrives_as_it_was_written() {
        let sink = MailSink::start().await.expect("started");
        let mailer: AsyncSmtpTransport<Tokio1Executor> =
            AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous("127.0.0.1").port(sink.address().port()).build();
        for n in 1..=3u64 {
            let mail = Message::builder()
                .from("Stockwarden <orders@example.com>".parse().expect("address"))
                .to("one@vendor.example".parse().expect("address"))
                .to("two@vendor.example".parse().expect("address"))
                .subject(format!("Order {n}"))
                .body("first\n.\n..dots\n".to_owned())
                .expect("a mail");
            mailer.send(mail).await.expect("sent");
            assert_eq!(sink.count(), n);
        }
        let last = sink.last().expect("a mail");
        assert_eq!((last.from.as_str(), last.to.len()), ("orders@example.com", 2));
        assert!(last.data.contains("Subject: Order 3") && last.data.contains("\r\nfirst\r\n.\r\n..dots\r\n"), "{}", last.data);
    }

    #[tokio::test]
    async fn a_client_out_of_order_is_told_so_and_nothing_is_counted() {
        let sink = MailSink::start().await.expect("started");
        let mut stream = BufReader::new(TcpStream::connect(sink.address()).await.expect("connected"));
        let mut answers = Vec::new();
        stream.write_all(b"DATA\r\nRCPT TO:<a@b>\r\nBDAT 3\r\nQUIT\r\n").await.expect("written");
        while let Some(line) = read_line(&mut stream, 1000).await.expect("answered") {
            answers.push(String::from_utf8_lossy(&line)[..3].to_owned());
        }
        assert_eq!((answers, sink.count()), (["220", "503", "503", "502", "221"].map(String::from).to_vec(), 0));
    }
}
