//! The kind `shopify-transfer`: a decision as an inventory transfer in the shop's own admin.
//!
//! ```toml
//! [handlers.transfer]
//! kind = "shopify-transfer"
//! admin_url = "https://{shop}/admin/api/{version}/graphql.json"
//! api_version = "2026-07"
//! client_id = "…"                               # tokens by client credentials, renewed before they end
//! client_secret = { env = "SHOPIFY_APP_SECRET" }
//! access_token = { env = "SHOPIFY_TOKEN" }      # or one stored token; with neither, each shop's own (shop add --access-token-env)
//! origin = "gid://shopify/Location/1"           # of routes that name none; an order from outside has none
//! destination = "gid://shopify/Location/2"      # default: the location that the decision is for
//! ready = false                                 # true: ready to ship at once, instead of a draft
//! timeout = "15s"
//! idempotency_window = "23h"                    # how long Shopify surely remembers a key
//! index_lag = "2m"                              # until a new transfer is found by its tag
//! ```
//!
//! Routes may set `origin`, `destination`, `ready` and `tags` of their own. The app needs the scopes `write_inventory_transfers` and
//! `read_inventory_transfers`.
//!
//! # Once, and how
//!
//! Frozen is the whole GraphQL request: document, input with its creation date, and the key of `@idempotent`, a UUID of the effect.
//! The same key with the same input makes nothing new as long as Shopify remembers it, so within `idempotency_window` a request whose
//! fate is unknown is simply sent again once a search for the effect's tag has found nothing. Past the window, nothing is sent before
//! a search that the index had time for.
//!
//! A key whose first attempt failed inside Shopify is dead for good (`IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED`). Then comes the next key, derived
//! from the frozen one and a count. Which keys are dead is known to Shopify alone: every send begins with the frozen key and goes on until one
//! is not dead. So a send that is repeated, by whomever, walks the same keys and ends at the one that made the transfer, and nothing
//! of it has to be stored here.
//!
//! The reference of a transfer is its gid; webhooks about it (`inventory_transfers/*`) bear the same.

mod input;
mod probe;
mod verdict;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use self::input::{Defaults, Frozen};
pub use self::input::{location_variables, search_variables};
use self::verdict::{Made, judge};
use super::registry::{duration_text, read_config};
use super::{Blame, Context, Guarantee, Handler, Job, Resolution, Verdict};
use crate::config::{Secret, SecretRef};
use crate::ports::ledger::EffectId;
use crate::ports::targets::{Finding, Scope};
use crate::shopify::{AdminClient, CallError, Credentials, Settings, documents};

pub(super) const GUARANTEE: Guarantee = Guarantee::EffectivelyOnce;

/// Dead keys of one effect before it is given back to wait; each was a failure inside Shopify.
const KEYS: usize = 5;
/// Effects past the window that wait for the index at once; if there are more, all wait anew.
const WAITING: usize = 10_000;
/// How long it is believed that a search which had waited long enough still holds.
const BELIEVED: TimeDelta = TimeDelta::hours(1);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default = "default_url")]
    admin_url: String,
    #[serde(default = "default_version")]
    api_version: String,
    client_id: Option<ClientId>,
    client_secret: Option<SecretRef>,
    access_token: Option<SecretRef>,
    origin: Option<Value>,
    destination: Option<Value>,
    #[serde(default)]
    ready: bool,
    #[serde(default = "default_timeout", deserialize_with = "duration_text")]
    timeout: Duration,
    #[serde(default = "default_window", deserialize_with = "duration_text")]
    idempotency_window: Duration,
    #[serde(default = "default_lag", deserialize_with = "duration_text")]
    index_lag: Duration,
}

/// It is no secret, and may be kept with one.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ClientId {
    Plain(String),
    Kept(SecretRef),
}

fn default_url() -> String {
    "https://{shop}/admin/api/{version}/graphql.json".to_owned()
}

fn default_version() -> String {
    "2026-07".to_owned()
}

fn default_timeout() -> Duration {
    Duration::from_secs(15)
}

/// Keys are assumed to be kept for a day; an hour less, so that what was sent at its end is found by its tag before the key is forgotten.
fn default_window() -> Duration {
    Duration::from_secs(23 * 3600)
}

fn default_lag() -> Duration {
    Duration::from_secs(120)
}

pub struct ShopifyTransfer {
    /// Name of the instance.
    name: String,
    client: AdminClient,
    defaults: Defaults,
    window: TimeDelta,
    lag: TimeDelta,
    /// Effects older than the window whose tag was not found, and since when: a search that finds nothing proves something only after
    /// the index had time. Forgotten with the process, which makes them wait anew.
    searched: Mutex<HashMap<EffectId, DateTime<Utc>>>,
    secrets: Vec<String>,
}

pub(super) fn build(table: toml::Table, context: &Context) -> Result<Arc<dyn Handler>, String> {
    let config: Config = read_config(table)?;
    let defaults = Defaults::new(config.origin.as_ref(), config.destination.as_ref(), config.ready)?;
    let (credentials, secrets) = credentials(&config, context)?;
    let (window, lag) = (span("idempotency_window", config.idempotency_window)?, span("index_lag", config.index_lag)?);
    let client = AdminClient::new(Settings {
        admin_url: config.admin_url,
        version: config.api_version,
        timeout: config.timeout,
        credentials,
    })?;
    let name = context.name.clone();
    Ok(Arc::new(ShopifyTransfer { name, client, defaults, window, lag, searched: Mutex::default(), secrets }))
}

fn span(key: &str, duration: Duration) -> Result<TimeDelta, String> {
    let year = Duration::from_secs(365 * 86_400);
    TimeDelta::from_std(duration).ok().filter(|_| duration <= year).ok_or_else(|| format!("{key} is longer than a year"))
}

fn credentials(config: &Config, context: &Context) -> Result<(Credentials, Vec<String>), String> {
    match (&config.client_id, &config.client_secret, &config.access_token) {
        (None, None, None) => Ok((Credentials::Stored(context.tokens.clone()), Vec::new())),
        (None, None, Some(token)) => {
            let token = context.secret("access_token", token)?;
            Ok((Credentials::Token(Secret::new(token.clone())), vec![token]))
        }
        (Some(id), Some(secret), None) => {
            let client_id = match id {
                ClientId::Plain(text) => text.clone(),
                ClientId::Kept(kept) => context.secret("client_id", kept)?,
            };
            let secret = context.secret("client_secret", secret)?;
            Ok((Credentials::App { client_id, client_secret: Secret::new(secret.clone()) }, vec![secret]))
        }
        (_, _, Some(_)) => Err("access_token goes without client_id and client_secret: choose one of the two ways".to_owned()),
        _ => Err("client_id and client_secret go together".to_owned()),
    }
}

impl ShopifyTransfer {
    /// Past the window the key may be forgotten, and would make a second transfer: nothing is sent that might be there already. `None`:
    /// send.
    async fn look_first(&self, job: &Job, frozen: &Frozen, now: DateTime<Utc>) -> Option<Verdict> {
        if !self.is_old(frozen, now) {
            return None;
        }
        match self.find(&job.shop, frozen, now).await {
            Err(e) => return Some(verdict::not_searched(e)),
            Ok(Some(made)) => {
                self.waiting().remove(&job.id);
                return Some(made.verdict());
            }
            Ok(None) => {}
        }
        if let Some(rest) = self.index_may_lag(&job.id, now) {
            return Some(Verdict::Retry { reason: too_old(frozen), after: Some(rest), blame: Blame::Effect });
        }
        // What is sent now may be lost as well, and then waits for the index again.
        self.waiting().remove(&job.id);
        None
    }

    fn is_old(&self, frozen: &Frozen, now: DateTime<Utc>) -> bool {
        now - frozen.made_at >= self.window
    }

    /// The search has found nothing: how long that proves nothing yet.
    fn index_may_lag(&self, id: &EffectId, now: DateTime<Utc>) -> Option<Duration> {
        let mut waiting = self.waiting();
        let since = waiting.entry(id.clone()).or_insert(now);
        // Another node may have had the effect in the meantime, and sent it.
        if now - *since > self.lag + BELIEVED {
            *since = now;
        }
        (*since + self.lag - now).to_std().ok().filter(|rest| !rest.is_zero())
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<EffectId, DateTime<Utc>>> {
        let mut waiting = self.searched.lock().expect("no code panics while holding this lock");
        if waiting.len() > WAITING {
            waiting.clear();
        }
        waiting
    }

    async fn create(&self, job: &Job, frozen: &Frozen, now: DateTime<Utc>) -> Verdict {
        for n in 0..KEYS {
            let answer = match self.client.call(&job.shop, &frozen.body(n), now).await {
                Ok(answer) => answer,
                Err(e) => return verdict::not_called(e),
            };
            match judge(&answer) {
                verdict::Judged::Said(verdict) => return verdict,
                verdict::Judged::Concurrent { said } if self.is_old(frozen, now) => {
                    return Verdict::Ambiguous { reason: format!("an earlier send is being carried out: {said}") };
                }
                verdict::Judged::Concurrent { said } => {
                    return Verdict::Retry { reason: said, after: Some(Duration::from_secs(2)), blame: Blame::Effect };
                }
                verdict::Judged::KeyIsDead => {}
            }
            // Shopify says that nothing was made under this key. Believed only when the search agrees.
            match self.find(&job.shop, frozen, now).await {
                Ok(Some(made)) => return made.verdict(),
                Ok(None) => {}
                Err(e) => return verdict::not_searched(e),
            }
        }
        let reason = format!("Shopify failed under {KEYS} idempotency keys one after the other");
        Verdict::Retry { reason, after: Some(Duration::from_secs(60)), blame: Blame::Effect }
    }

    /// The effect's transfer, by its tag.
    async fn find(&self, shop: &str, frozen: &Frozen, now: DateTime<Utc>) -> Result<Option<Made>, CallError> {
        let request = serde_json::json!({
            "query": documents::TRANSFERS_BY_TAG.text,
            "variables": search_variables(&frozen.tag),
        });
        let answer = self.client.call(shop, request.to_string().as_bytes(), now).await?;
        verdict::found(&answer, &frozen.tag)
    }
}

impl Handler for ShopifyTransfer {
    fn guarantee(&self) -> Guarantee {
        GUARANTEE
    }

    fn probe<'a>(&'a self, scope: &'a Scope, now: DateTime<Utc>) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(self.ask_all(scope, now))
    }

    fn prepare(&self, job: &Job, now: DateTime<Utc>) -> Result<Vec<u8>, String> {
        input::request(job, &self.defaults, now)
    }

    fn send<'a>(&'a self, job: &'a Job, request: &'a [u8], now: DateTime<Utc>) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            let frozen = match Frozen::read(request) {
                Ok(frozen) => frozen,
                Err(reason) => return Verdict::Permanent { reason },
            };
            match self.look_first(job, &frozen, now).await {
                Some(verdict) => verdict,
                None => self.create(job, &frozen, now).await,
            }
        })
    }

    /// Not found is no proof while the index may lag. Within the window none is needed, because what is sent next bears the same key.
    fn resolve<'a>(&'a self, job: &'a Job, request: &'a [u8], now: DateTime<Utc>) -> BoxFuture<'a, Resolution> {
        Box::pin(async move {
            let frozen = match Frozen::read(request) {
                Ok(frozen) => frozen,
                Err(reason) => return Resolution::AskLater { reason, after: None },
            };
            match self.find(&job.shop, &frozen, now).await {
                Ok(Some(made)) => {
                    self.waiting().remove(&job.id);
                    made.resolution()
                }
                Ok(None) if !self.is_old(&frozen, now) => Resolution::NotDone,
                Ok(None) => match self.index_may_lag(&job.id, now) {
                    Some(rest) => Resolution::AskLater { reason: too_old(&frozen), after: Some(rest) },
                    None => Resolution::NotDone,
                },
                Err(e) => verdict::not_asked(e),
            }
        })
    }

    fn secrets(&self) -> Vec<String> {
        self.secrets.clone()
    }
}

fn too_old(frozen: &Frozen) -> String {
    format!(
        "the request is older than Shopify surely remembers its key; no transfer is tagged {} so far, and the search is repeated once \
         its index must have caught up",
        frozen.tag
    )
}

/// The `n`-th key of an effect, from the one that is frozen.
fn nth_key(frozen: Uuid, n: usize) -> Uuid {
    if n == 0 { frozen } else { Uuid::new_v5(&frozen, n.to_string().as_bytes()) }
}
