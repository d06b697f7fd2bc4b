//! Who asks, and what they may see (DESIGN §7.10). Tokens come as `Authorization: Bearer`; the store has only their hashes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use actix_web::http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::problem::{Kind, Problem};
use crate::ports::registry::{Registry, Role, TokenEntry};

/// How long a token is taken for good without asking: the time a revocation may take to work.
const FRESH: Duration = Duration::from_millis(500);
/// While the store is away nobody can revoke there either; known tokens go on that long, so that queries do (DESIGN §3).
const STALE: Duration = Duration::from_secs(60);
const REMEMBERED: usize = 4096;
const LOOK_UPS_AT_ONCE: usize = 8;
const LOOK_UP_WITHIN: Duration = Duration::from_secs(2);

struct Known {
    token: Arc<TokenEntry>,
    at: Instant,
}

pub struct Tokens {
    registry: Arc<dyn Registry>,
    runtime: Handle,
    known: Mutex<HashMap<[u8; 32], Known>>,
    look_ups: Semaphore,
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller(Arc<TokenEntry>);

impl Caller {
    pub fn organisation(&self) -> &str {
        &self.0.organisation
    }

    /// The shops that exist for the caller; empty: all of the organisation.
    pub fn shops(&self) -> &[String] {
        &self.0.shops
    }

    /// As facts name the caller: who did it.
    pub fn name(&self) -> String {
        format!("{} ({})", self.0.id, self.0.role.as_str())
    }

    /// Whether this shop exists for the caller.
    pub fn sees(&self, shop: &str, organisation: &str) -> bool {
        self.0.organisation == organisation && (self.0.shops.is_empty() || self.0.shops.iter().any(|s| s == shop))
    }
}

impl Tokens {
    pub fn new(registry: Arc<dyn Registry>, runtime: Handle) -> Self {
        Tokens { registry, runtime, known: Mutex::default(), look_ups: Semaphore::new(LOOK_UPS_AT_ONCE) }
    }

    /// The caller, if it holds a live token whose role may read.
    pub async fn reader(&self, request: &HttpRequest) -> Result<Caller, Problem> {
        let caller = self.caller(request).await?;
        match caller.0.role {
            Role::Reader | Role::Staff | Role::Auditor | Role::Admin => Ok(caller),
            Role::Ingest => {
                Err(Problem::new(Kind::Forbidden, "a token of the role ingest may write facts, not read; use a reader's"))
            }
        }
    }

    /// The caller, if it holds a live token whose role may work the proposals.
    pub async fn staff(&self, request: &HttpRequest) -> Result<Caller, Problem> {
        let caller = self.caller(request).await?;
        match caller.0.role {
            Role::Staff | Role::Admin => Ok(caller),
            role => Err(Problem::new(
                Kind::Forbidden,
                format!("a token of the role {} may not change reorders; use one of the role staff or admin", role.as_str()),
            )),
        }
    }

    async fn caller(&self, request: &HttpRequest) -> Result<Caller, Problem> {
        let hash = Sha256::digest(bearer(request)?).into();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&hash).map(|k| (Arc::clone(&k.token), k.at));
        if let Some((token, at)) = &known
            && at.elapsed() < FRESH
        {
            return Ok(Caller(Arc::clone(token)));
        }
        match (self.look_up(hash).await, known) {
            (Ok(Some(token)), _) => Ok(Caller(token)),
            (Ok(None), _) => Err(Problem::new(Kind::Unauthorized, "the token is unknown or revoked")),
            (Err(_), Some((token, at))) if at.elapsed() < STALE => Ok(Caller(token)),
            (Err(reason), _) => {
                Err(Problem::unavailable(format!("tokens cannot be checked now: {reason}"), Duration::from_secs(1)))
            }
        }
    }

    async fn look_up(&self, hash: [u8; 32]) -> Result<Option<Arc<TokenEntry>>, String> {
        let _permit = tokio::time::timeout(LOOK_UP_WITHIN, self.look_ups.acquire())
            .await
            .map_err(|_| "too many tokens are being looked up at once")?
            .map_err(|_| "the node is stopping")?;
        let at = Instant::now();
        let registry = Arc::clone(&self.registry);
        let query = self.runtime.spawn(async move { registry.token_by_hash(&hash).await });
        let found = tokio::time::timeout(LOOK_UP_WITHIN, query)
            .await
            .map_err(|_| "the store does not answer")?
            .map_err(|_| "the query was given up")?
            .map_err(|e| e.to_string())?;
        let token = found.filter(|t| t.revoked_at.is_none()).map(Arc::new);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match &token {
            Some(token) => {
                if known.len() >= REMEMBERED {
                    known.retain(|_, k| k.at.elapsed() < FRESH);
                }
                if known.len() < REMEMBERED {
                    known.insert(hash, Known { token: Arc::clone(token), at });
                }
            }
            // Only good tokens are remembered, so that guesses take no memory.
            None => drop(known.remove(&hash)),
        }
        Ok(token)
    }
}

/// The token's text, as the caller sent it.
pub(super) fn bearer(request: &HttpRequest) -> Result<&str, Problem> {
    let header = request.headers().get(AUTHORIZATION).ok_or_else(|| {
        Problem::new(Kind::Unauthorized, "send a token as Authorization: Bearer; make one with: stockwarden token create")
    })?;
    header
        .to_str()
        .ok()
        .and_then(|h| h.split_once(' '))
        .filter(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty())
        .map(|(_, token)| token.trim())
        .ok_or_else(|| Problem::new(Kind::Unauthorized, "the header Authorization is not of the form: Bearer TOKEN"))
}
