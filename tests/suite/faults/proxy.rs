//! A TCP proxy that misbehaves on demand, between one node and Kafka or Postgres. It reads as much of Kafka's protocol as it takes
//! to recognise a request by its API key, so that a fault can strike inside a commit.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// What the proxy makes of all its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Fair,
    /// Each piece waits so long.
    Slow(Duration),
    /// Half-open: nothing gets through in either direction, and nobody is told.
    Still,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Kafka,
    Other,
}

/// Kafka's API keys of a transaction's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Produce = 0,
    AddOffsetsToTxn = 25,
    EndTxn = 26,
    TxnOffsetCommit = 28,
}

/// What happens when a call passes that somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It goes on; the one who waits is told before.
    Tell,
    /// It does not get to the broker, and the connection is cut.
    LoseRequest,
    /// It gets to the broker, and the connection is cut instead of an answer.
    LoseAnswer,
    /// It gets to the broker, and nothing comes back on its connection for so long.
    HoldAnswer(Duration),
}

struct Trap {
    call: Call,
    act: Act,
    sprung: oneshot::Sender<()>,
}

pub struct Proxy {
    pub port: u16,
    control: Arc<Control>,
}

struct Control {
    protocol: Protocol,
    upstream: watch::Sender<u16>,
    weather: watch::Sender<Weather>,
    cuts: watch::Sender<u64>,
    trap: Mutex<Option<Trap>>,
}

impl Proxy {
    /// Listens at once; leads nowhere until [`Proxy::lead_to`].
    pub async fn start(protocol: Protocol) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let control = Arc::new(Control {
            protocol,
            upstream: watch::Sender::new(0),
            weather: watch::Sender::new(Weather::Fair),
            cuts: watch::Sender::new(0),
            trap: Mutex::default(),
        });
        let serving = control.clone();
        tokio::spawn(async move {
            loop {
                // Out of descriptors, at the worst: the peer tries again.
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        Proxy { port, control }
    }

    pub fn lead_to(&self, port: u16) {
        self.control.upstream.send_replace(port);
    }

    pub fn set(&self, weather: Weather) {
        self.control.weather.send_replace(weather);
    }

    /// Ends all connections; new ones are welcome.
    pub fn cut(&self) {
        self.control.cuts.send_modify(|n| *n += 1);
    }

    /// Strikes at the next call of the kind; resolves then. Dropping the future takes it back only if another one comes.
    pub fn strike(&self, call: Call, act: Act) -> oneshot::Receiver<()> {
        let (sprung, told) = oneshot::channel();
        *self.control.trap.lock().unwrap_or_else(PoisonError::into_inner) = Some(Trap { call, act, sprung });
        told
    }

    /// As if nothing had been.
    pub fn calm(&self) {
        self.control.trap.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.set(Weather::Fair);
    }
}

/// What a request has done to the answers on its connection.
#[derive(Clone, Copy)]
enum Answers {
    Flow,
    From(Instant),
    Never,
}

impl Control {
    async fn serve(self: Arc<Self>, client: TcpStream) {
        let mut cuts = self.cuts.subscribe();
        cuts.borrow_and_update();
        let upstream = *self.upstream.borrow();
        // Nobody there: the client sees its connection end, as it would without a proxy in between.
        let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        let answers = watch::Sender::new(Answers::Flow);
        let answers_seen = answers.subscribe();
        tokio::select! {
            _ = self.requests(client_read, server_write, &answers) => {}
            _ = self.answers(server_read, client_write, answers_seen) => {}
            _ = cuts.changed() => {}
        }
    }

    async fn requests(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        answers: &watch::Sender<Answers>,
    ) -> std::io::Result<()> {
        loop {
            let piece = match self.protocol {
                Protocol::Other => some(&mut from).await?,
                Protocol::Kafka => frame(&mut from).await?,
            };
            self.weather().await;
            match self.sprung(&piece) {
                None | Some(Act::Tell) => {}
                Some(Act::LoseRequest) => return Ok(()),
                Some(Act::LoseAnswer) => drop(answers.send_replace(Answers::Never)),
                Some(Act::HoldAnswer(time)) => drop(answers.send_replace(Answers::From(Instant::now() + time))),
            }
            to.write_all(&piece).await?;
        }
    }

    async fn answers(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        answers: watch::Receiver<Answers>,
    ) -> std::io::Result<()> {
        loop {
            let piece = some(&mut from).await?;
            self.weather().await;
            let answers = *answers.borrow();
            match answers {
                Answers::Flow => {}
                Answers::From(time) => tokio::time::sleep_until(time).await,
                Answers::Never => return Ok(()),
            }
            to.write_all(&piece).await?;
        }
    }

    /// Returns when something may pass.
    async fn weather(&self) {
        let mut weather = self.weather.subscribe();
        loop {
            let now = *weather.borrow_and_update();
            match now {
                Weather::Fair => return,
                Weather::Slow(time) => return tokio::time::sleep(time).await,
                Weather::Still => drop(weather.changed().await),
            }
        }
    }

    fn sprung(&self, request: &[u8]) -> Option<Act> {
        let mut trap = self.trap.lock().unwrap_or_else(PoisonError::into_inner);
        let key = request.get(4..6).map(|b| i16::from_be_bytes([b[0], b[1]]));
        if self.protocol != Protocol::Kafka || trap.as_ref().is_none_or(|t| key != Some(t.call as i16)) {
            return None;
        }
        let Trap { act, sprung, .. } = trap.take()?;
        let _ = sprung.send(());
        Some(act)
    }
}

async fn some(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut piece = vec![0; 64 * 1024];
    let n = from.read(&mut piece).await?;
    if n == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    piece.truncate(n);
    Ok(piece)
}

/// A request with its length in front.
async fn frame(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut piece = from.read_u32().await?.to_be_bytes().to_vec();
    let length = u64::from(u32::from_be_bytes([piece[0], piece[1], piece[2], piece[3]]));
    from.take(length).read_to_end(&mut piece).await?;
    if piece.len() as u64 != length + 4 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(piece)
}
