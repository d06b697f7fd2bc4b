//! What became of a create whose answer was lost.

use chrono::{DateTime, Utc};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::Jira;
use super::issue::{PROPERTY, label};
use crate::handlers::{Job, Resolution, Verdict};
use crate::ports::ledger::EffectId;

/// Most hits for one decision that are looked at. More are clones, made by people.
const HITS: usize = 20;

#[derive(Debug, Deserialize)]
pub struct Page {
    #[serde(default)]
    pub issues: Vec<Hit>,
    #[serde(default, rename = "nextPageToken")]
    pub next: Option<String>,
}

/// An issue that a search found.
#[derive(Debug, Clone, Deserialize)]
pub struct Hit {
    pub id: String,
    pub key: String,
    #[serde(default)]
    pub fields: Labels,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Labels {
    #[serde(default)]
    pub labels: Vec<String>,
}

impl Hit {
    /// Ids grow.
    pub fn age(&self) -> u64 {
        self.id.parse().unwrap_or(u64::MAX)
    }
}

#[derive(Debug, Deserialize)]
struct Property {
    value: Ids,
}

/// Of whom an issue is.
#[derive(Debug, Deserialize)]
struct Ids {
    decision_id: Uuid,
    route_id: String,
    #[serde(default)]
    handler: String,
}

impl Jira {
    pub(super) async fn resolve_create(&self, job: &Job, now: DateTime<Utc>) -> Resolution {
        match self.issues_of(&job.id, now).await {
            Err(verdict) => ask_later(verdict),
            Ok(mut ours) => {
                ours.sort_by_key(Hit::age);
                let Some((kept, newer)) = ours.split_first() else {
                    return self.not_found(job, self.settings.index_lag, now);
                };
                // What fails here is found by the sweep.
                for twin in newer {
                    if let Err(verdict) = self.close(&twin.id, &kept.key, now).await {
                        tracing::warn!(
                            handler = self.name,
                            issue = twin.key,
                            of = kept.key,
                            ?verdict,
                            "a duplicate is still open"
                        );
                    }
                }
                self.found(job, kept.key.clone(), Some(kept.id.clone()))
            }
        }
    }

    /// The issues of an effect that the search knows by now.
    async fn issues_of(&self, effect: &EffectId, now: DateTime<Utc>) -> Result<Vec<Hit>, Verdict> {
        let query = json!({
            "jql": format!("labels = \"{}\" ORDER BY created ASC", label(effect.decision_id)),
            "fields": ["labels"],
            "maxResults": HITS,
        });
        let page: Page = self.api.ask("/rest/api/3/search/jql", &query, now).await?.read()?;
        let mut ours = Vec::new();
        for hit in page.issues {
            if self.owner_of(&hit.id, now).await?.as_ref() == Some(effect) {
                ours.push(hit);
            }
        }
        Ok(ours)
    }

    /// Whose issue it is, if it is one of this instance. A clone has the labels of its original, but not its properties.
    pub(super) async fn owner_of(&self, issue: &str, now: DateTime<Utc>) -> Result<Option<EffectId>, Verdict> {
        match self.api.get(&format!("/rest/api/3/issue/{issue}/properties/{PROPERTY}"), None, now).await {
            Ok(answer) => Ok(serde_json::from_slice::<Property>(&answer.body)
                .ok()
                .filter(|p| p.value.handler == self.name)
                .map(|p| EffectId { decision_id: p.value.decision_id, route_id: p.value.route_id })),
            Err(failure) if failure.status == Some(StatusCode::NOT_FOUND) => Ok(None),
            Err(failure) => Err(failure.verdict),
        }
    }
}

/// A question that failed says nothing, whatever the reason.
pub fn ask_later(verdict: Verdict) -> Resolution {
    match verdict {
        Verdict::Retry { reason, after, .. } => Resolution::AskLater { reason, after },
        Verdict::Ambiguous { reason } | Verdict::Permanent { reason } => Resolution::AskLater { reason, after: None },
        Verdict::Done { .. } | Verdict::AlreadyDone { .. } => {
            Resolution::AskLater { reason: "Jira did not answer the question".to_owned(), after: None }
        }
    }
}
