//! Reads request bodies within bounds: each body, all bodies together, and the time one may take (DESIGN §7.9).

use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::web::{Bytes, BytesMut, Payload};
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::{Kind, Problem};

const KIB: usize = 1024;

/// The memory that bodies in flight may take together, in KiB.
#[derive(Clone)]
pub struct Budget(Arc<Semaphore>);

/// A body, which counts against the budget as long as it lives.
pub struct Body {
    pub bytes: Bytes,
    _held: OwnedSemaphorePermit,
}

impl Budget {
    pub fn new(bytes: usize) -> Self {
        Budget(Arc::new(Semaphore::new((bytes / KIB).clamp(1, Semaphore::MAX_PERMITS))))
    }

    /// Reads a body of at most `limit` bytes. [`check_declared`] comes first, before anything that takes time.
    pub async fn read(
        &self,
        request: &HttpRequest,
        mut payload: Payload,
        limit: usize,
        within: Duration,
    ) -> Result<Body, Problem> {
        let expected = declared(request).unwrap_or(limit as u64).min(limit as u64) as usize;
        let permits = u32::try_from(expected.div_ceil(KIB)).unwrap_or(u32::MAX);
        // Shed before the body is read: the sender pays for the retry, not we (PITFALLS 23).
        let held = Arc::clone(&self.0)
            .try_acquire_many_owned(permits)
            .map_err(|_| Problem::unavailable("too many bodies are being read at once", Duration::from_secs(1)))?;
        let read = async {
            let mut bytes = BytesMut::with_capacity(declared(request).map_or(0, |_| expected));
            while let Some(chunk) = payload.next().await {
                let chunk = chunk.map_err(|e| Problem::new(Kind::BadRequest, format!("the body ended before its end: {e}")))?;
                if bytes.len() + chunk.len() > limit {
                    return Err(too_large(limit));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes.freeze())
        };
        let bytes = tokio::time::timeout(within, read)
            .await
            .map_err(|_| Problem::new(Kind::RequestTimeout, format!("the body was not complete within {within:?}")))??;
        Ok(Body { bytes, _held: held })
    }
}

/// Refuses by the declared length, before the body is read.
pub fn check_declared(request: &HttpRequest, limit: usize) -> Result<(), Problem> {
    match declared(request) {
        Some(length) if length > limit as u64 => Err(too_large(limit)),
        _ => Ok(()),
    }
}

fn declared(request: &HttpRequest) -> Option<u64> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(limit: usize) -> Problem {
    Problem::new(Kind::TooLarge, format!("a body may have {limit} bytes at most"))
}
