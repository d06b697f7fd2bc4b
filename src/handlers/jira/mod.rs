//! The kind `jira`: an issue in Jira Cloud for each decision and route, its comments and transitions, and what people do with it.
//!
//! ```toml
//! [handlers.jira]
//! kind = "jira"
//! base_url = "https://example.atlassian.net"
//! email = "bot@example.com"                     # the account that the token belongs to
//! token = { env = "JIRA_TOKEN" }
//! webhook_secret = { env = "JIRA_SECRET" }      # without it POST /webhooks/jira is refused
//! # What issues are made of; a route's keys of the same names go first (labels and fields are added).
//! project = "REP"                               # key or id
//! issue_type = "Task"                           # name or id
//! labels = ["replenishment"]
//! priority_map = { out = "Highest", critical = "High", warning = "Medium", low = "Low" }   # the default; {} sends none
//! fields = { customfield_10042 = "{{vendor}}" } # by the id of the field; texts may name the decision's fields
//! # Jira to Stockwarden: by status id, else its name, else its category (new, indeterminate, done).
//! status_map = { "10007" = "cancel", indeterminate = "acknowledge", done = "ordered" }
//! # Stockwarden to Jira: transition (id or name) when a proposal comes to a state; comments are made in any case.
//! transitions = { ordered = "31", cancelled = "Won't do" }
//! index_lag = "3m"                              # how late Jira's search may find an issue
//! sweep_every = "5m"                            # search for issues that were made twice
//! timeout = "20s"
//! allow_private_addresses = false               # for a Jira of one's own; also allows http://
//! ```
//!
//! A route may also set `priority`. The default of `status_map` takes *in progress* for acknowledged and *done* for ordered: done says that
//! the work of ordering is done, not that goods have come. Map the ids of statuses such as "Won't do" to `cancel`, and what is to
//! change nothing to `ignore`.
//!
//! # Once, as far as Jira lets us
//!
//! Jira refuses no repeat. So an issue carries the label `stockwarden-<decision_id>` and, as an entity property, the ids of decision and
//! route ([`issue::PROPERTY`]). After an answer that was lost, nothing is sent before the label's search has found nothing for
//! `index_lag` ([`search`]); the property tells an issue of ours from a clone, which has the same labels. What is made twice all the
//! same (an index that lags for longer) is found by a sweep and closed in favour of the issue that the ledger knows ([`twins`]).
//!
//! The reference of an effect is the issue's id: keys change when an issue moves to another project.

mod api;
mod config;
mod inbound;
mod issue;
mod probe;
mod search;
mod twins;
mod update;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use self::api::{Answer, Api};
use self::config::Settings;
use super::{Guarantee, Handler, Job, Resolution, Sweep, Verdict};
use crate::events::decision::ProposalChange;
use crate::ports::inbound::Inbound;
use crate::ports::targets::{Finding, Scope};

pub(super) const GUARANTEE: Guarantee = Guarantee::DetectAndRepair;

pub(super) use self::config::build;

pub struct Jira {
    /// Name of the instance.
    name: String,
    api: Api,
    settings: Settings,
    /// Secret of the webhook.
    webhook_secret: Option<Vec<u8>>,
    /// Effects of unknown outcome: from when on it counts that the search finds nothing. In memory only: who does not know when the last send was,
    /// after a restart for example, takes it that it was just now.
    silent_until: Mutex<HashMap<String, DateTime<Utc>>>,
    /// When the last sweep was, that looked at everything.
    swept_at: Mutex<Option<DateTime<Utc>>>,
    secrets: Vec<String>,
}

/// What is frozen.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Frozen {
    /// The body of `POST /issue`.
    Create(Box<RawValue>),
    Update(update::Frozen),
}

impl Jira {
    async fn create(&self, job: &Job, body: &str, now: DateTime<Utc>) -> Verdict {
        let verdict = match self.api.write("/rest/api/3/issue", body.as_bytes(), now).await {
            Ok(answer) => created(&answer),
            Err(failure) => match failure.verdict {
                Verdict::Permanent { reason } => Verdict::Permanent { reason: issue::mend(&reason) },
                other => other,
            },
        };
        self.remember(job, &verdict, self.settings.index_lag, now);
        verdict
    }

    /// Notes until when silence says nothing about a send that was just made.
    fn remember(&self, job: &Job, verdict: &Verdict, lag: Duration, now: DateTime<Utc>) {
        if matches!(verdict, Verdict::Ambiguous { .. }) {
            self.silent().insert(job.key(), now + self.settings.timeout + lag);
        }
    }

    /// Nothing was found of an effect. Whether that means that there is nothing.
    fn not_found(&self, job: &Job, lag: Duration, now: DateTime<Utc>) -> Resolution {
        let mut silent = self.silent();
        let until = *silent.entry(job.key()).or_insert(now + self.settings.timeout + lag);
        match (until - now).to_std() {
            Ok(rest) if !rest.is_zero() => {
                Resolution::AskLater { reason: "Jira shows nothing of it yet, and may be late".to_owned(), after: Some(rest) }
            }
            _ => {
                silent.remove(&job.key());
                Resolution::NotDone
            }
        }
    }

    fn found(&self, job: &Job, response: String, reference: Option<String>) -> Resolution {
        self.silent().remove(&job.key());
        Resolution::Done { response: Some(response), reference }
    }

    fn silent(&self) -> std::sync::MutexGuard<'_, HashMap<String, DateTime<Utc>>> {
        self.silent_until.lock().expect("no code panics while holding this lock")
    }
}

#[derive(Deserialize)]
struct Created {
    id: String,
    key: String,
}

/// Without the id nothing could be matched with it later; the search will find it.
fn created(answer: &Answer) -> Verdict {
    match serde_json::from_slice::<Created>(&answer.body) {
        Ok(Created { id, key }) => Verdict::Done { response: Some(key), reference: Some(id) },
        Err(_) => Verdict::Ambiguous { reason: format!("Jira said {} without the id of an issue", answer.status) },
    }
}

fn thaw(request: &[u8]) -> Result<Frozen, String> {
    serde_json::from_slice(request).map_err(|e| format!("the frozen request cannot be read: {e}"))
}

impl Handler for Jira {
    fn guarantee(&self) -> Guarantee {
        GUARANTEE
    }

    fn follows(&self, _: &ProposalChange) -> bool {
        true
    }

    fn inbound(self: Arc<Self>) -> Option<Arc<dyn Inbound>> {
        Some(self)
    }

    fn sweep(self: Arc<Self>) -> Option<Arc<dyn Sweep>> {
        Some(self)
    }

    fn probe<'a>(&'a self, scope: &'a Scope, now: DateTime<Utc>) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(self.ask_all(scope, now))
    }

    fn prepare(&self, job: &Job, _now: DateTime<Utc>) -> Result<Vec<u8>, String> {
        let of_route = self.settings.of(&job.route)?;
        let frozen = match &job.update {
            Some(update) => Frozen::Update(update::compose(update, &of_route)),
            None => {
                let issue = issue::compose(job, &of_route, &self.name, self.settings.public_url.as_deref())?;
                let issue = to_raw_value(&issue).map_err(|e| format!("the issue cannot be written: {e}"))?;
                Frozen::Create(issue)
            }
        };
        serde_json::to_vec(&frozen).map_err(|e| format!("the request cannot be written: {e}"))
    }

    fn send<'a>(&'a self, job: &'a Job, request: &'a [u8], now: DateTime<Utc>) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            match thaw(request) {
                Ok(Frozen::Create(issue)) => self.create(job, issue.get(), now).await,
                Ok(Frozen::Update(frozen)) => self.tell(job, &frozen, now).await,
                Err(reason) => Verdict::Permanent { reason },
            }
        })
    }

    fn resolve<'a>(&'a self, job: &'a Job, request: &'a [u8], now: DateTime<Utc>) -> BoxFuture<'a, Resolution> {
        Box::pin(async move {
            match thaw(request) {
                Ok(Frozen::Create(_)) => self.resolve_create(job, now).await,
                Ok(Frozen::Update(frozen)) => self.resolve_update(job, &frozen, now).await,
                Err(reason) => Resolution::AskLater { reason, after: None },
            }
        })
    }

    fn secrets(&self) -> Vec<String> {
        self.secrets.clone()
    }
}
