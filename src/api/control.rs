//! The control socket: how the command line reaches the process that owns `data_dir` (DESIGN §10).
//!
//! HTTP over a Unix socket that only its owner may open: `POST /control` with a JSON value, answered by a JSON value or by
//! problem details.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{self, Bytes, Data};
use actix_web::{App, HttpResponse, HttpServer};
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::Handle;

use super::problem::{Kind, Problem};
use super::server::Server;
use super::{ServeError, not_found, only};

/// A whole rule set or a CSV import fits.
const MAX_COMMAND: usize = 64 * 1024 * 1024;

/// Runs a command; an error is told to the person at the command line as it is.
pub type ControlHandler = Arc<dyn Fn(Value) -> BoxFuture<'static, Result<Value, String>> + Send + Sync>;

#[derive(Clone)]
struct Control {
    handler: ControlHandler,
    runtime: Handle,
}

/// Serves the control socket at `path`. The caller holds the lock of the folder, so a socket left there is nobody's and is
/// replaced. To be called within the node's runtime, on which commands run to their end even if the caller goes away.
pub fn serve_control(path: &Path, handler: ControlHandler) -> Result<Server, ServeError> {
    let control = Control { handler, runtime: Handle::current() };
    let listener = bind(path).map_err(|source| ServeError::Socket { path: path.to_owned(), source })?;
    let build = move || {
        let server = HttpServer::new(move || {
            App::new()
                .app_data(Data::new(control.clone()))
                .app_data(web::PayloadConfig::new(MAX_COMMAND))
                .service(only("/control", "POST", web::post().to(command)))
                .default_service(web::to(not_found))
        })
        .workers(1)
        .disable_signals()
        .shutdown_timeout(10)
        .listen_uds(listener)
        .map_err(|source| ServeError::Bind { listen: "the control socket".to_owned(), source })?;
        Ok((server.run(), None))
    };
    let socket = path.to_owned();
    Server::start("control", build, Box::new(move || drop(std::fs::remove_file(socket))))
}

/// Bound under another name and moved into place once nobody else may open it. Who listens there already is not pushed aside: the
/// embedded log has its own lock on the folder, but a log on Kafka beside an embedded store has none.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process of this data_dir answers there; stop that one first",
        ));
    }
    let mut early = path.as_os_str().to_owned();
    early.push("~");
    let early = PathBuf::from(early);
    for old in [path, &early] {
        match std::fs::remove_file(old) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    let listener = UnixListener::bind(&early)?;
    std::fs::set_permissions(&early, Permissions::from_mode(0o600))?;
    std::fs::rename(&early, path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn command(body: Bytes, control: Data<Control>) -> Result<HttpResponse, Problem> {
    let command: Value = serde_json::from_slice(&body).map_err(|e| {
        Problem::new(Kind::BadRequest, format!("the command is not JSON: line {} column {}", e.line(), e.column()))
    })?;
    let running = control.runtime.spawn((control.handler)(command));
    let answer = running.await.map_err(|_| Problem::new(Kind::Internal, "the command broke down; see the node's log"))?;
    answer.map(|value| HttpResponse::Ok().json(value)).map_err(|why| Problem::new(Kind::Unprocessable, why))
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens: no process owns the folder now.
    #[error("no process answers at {path}: {source}")]
    Nobody { path: PathBuf, source: io::Error },
    #[error("the process at {path} gave no answer: {reason}")]
    NoAnswer { path: PathBuf, reason: String },
    /// What the command's handler said.
    #[error("{0}")]
    Failed(String),
}

/// Sends a command to the process that serves `path`.
pub async fn call(path: &Path, command: &Value, within: Duration) -> Result<Value, ControlError> {
    let broken = |reason: String| ControlError::NoAnswer { path: path.to_owned(), reason };
    let mut stream = UnixStream::connect(path).await.map_err(|source| ControlError::Nobody { path: path.to_owned(), source })?;
    let exchange = async {
        let body = command.to_string();
        let head = format!(
            "POST /control HTTP/1.1\r\nHost: control\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(within, exchange)
        .await
        .map_err(|_| broken(format!("none within {within:?}")))?
        .map_err(|e| broken(e.to_string()))?;
    let (status, body) = parts(&answer).ok_or_else(|| broken("what it said is not HTTP".to_owned()))?;
    let value: Value = serde_json::from_slice(body).map_err(|e| broken(format!("what it said is not JSON: {e}")))?;
    match status {
        200 => Ok(value),
        _ => Err(ControlError::Failed(value["detail"].as_str().unwrap_or("it failed and did not say why").to_owned())),
    }
}

/// Status and body of an answer that is not chunked, as the answers of [`serve_control`] are not.
fn parts(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, &answer[end + 4..]))
}
