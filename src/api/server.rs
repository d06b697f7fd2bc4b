//! Runs an HTTP server on a thread of its own, so that it serves under any runtime and stops by a handle.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::thread::JoinHandle;
use std::time::Duration;

use actix_web::dev::{self, ServerHandle};
use actix_web::rt::System;

use super::ServeError;

/// A running server. Dropped, it stops at once; [`Server::stop`] lets requests end first.
pub struct Server {
    address: Option<SocketAddr>,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
    on_stop: Option<Box<dyn FnOnce() + Send>>,
}

impl Server {
    /// `build` binds and makes the server; it runs on the server's thread.
    pub(super) fn start(
        name: &str,
        build: impl FnOnce() -> Result<(dev::Server, Option<SocketAddr>), ServeError> + Send + 'static,
        on_stop: Box<dyn FnOnce() + Send>,
    ) -> Result<Server, ServeError> {
        let (tell, told) = std::sync::mpsc::channel();
        let serve = move || {
            System::new().block_on(async move {
                let server = match build() {
                    Ok((server, address)) => {
                        let _ = tell.send(Ok((server.handle(), address)));
                        server
                    }
                    Err(error) => {
                        let _ = tell.send(Err(error));
                        return;
                    }
                };
                if let Err(error) = server.await {
                    tracing::error!(%error, "the HTTP server ended");
                }
            });
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(serve).map_err(ServeError::Thread)?;
        let (handle, address) =
            told.recv().unwrap_or_else(|_| Err(ServeError::Thread(io::Error::other("the server's thread ended"))))?;
        Ok(Server { address, handle, thread: Some(thread), on_stop: Some(on_stop) })
    }

    /// Where it listens; the port is the real one where 0 was asked for.
    ///
    /// # Panics
    /// For the control socket, which has no such address.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("only asked of a server on TCP")
    }

    /// Accepts nothing more, lets running requests end within the configured time, closes what is left, and returns.
    pub async fn stop(mut self) {
        self.handle.stop(true).await;
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.thread.is_some() {
            // The command is sent by the call; the future only waits for its end.
            drop(self.handle.stop(false));
        }
        if let Some(on_stop) = self.on_stop.take() {
            on_stop();
        }
    }
}

/// Resolves `listen`, so that a name that does not resolve is told apart from a port that is taken.
pub(super) fn addresses(listen: &str) -> Result<Vec<SocketAddr>, ServeError> {
    let bad = |reason: String| ServeError::BadAddress { listen: listen.to_owned(), reason };
    let found: Vec<SocketAddr> = listen.to_socket_addrs().map_err(|e| bad(e.to_string()))?.collect();
    if found.is_empty() { Err(bad("the name has no address".to_owned())) } else { Ok(found) }
}

/// How long an idle connection is kept: longer than usual proxies do, so that they close first.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(75);
