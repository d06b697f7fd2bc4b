//! Issues that were made twice, because Jira's index was later than `index_lag`: found by a search, and closed as duplicates.
//!
//! Of two issues the one stays that the ledger has as the effect's reference, since moves are matched by it and updates go there;
//! while it has none, the oldest. A closed one has the label [`DUPLICATE`].

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::Jira;
use super::issue::{LABEL, adf, paragraph, plain};
use super::search::{Hit, Page};
use crate::handlers::{Sweep, Twins, Verdict};
use crate::ports::ledger::EffectId;

pub const DUPLICATE: &str = "stockwarden-duplicate";
/// How far back the first sweep looks, and one after a fault.
const FIRST: TimeDelta = TimeDelta::hours(24);
/// How far a sweep looks back beyond the last one: what was indexed so late is found.
const OVERLAP: TimeDelta = TimeDelta::hours(1);
const PAGE: usize = 500;
const PAGES: usize = 40;

impl Jira {
    /// Ends an issue in favour of `kept` (its key). May be repeated; the label is put last, as the sign that all is done.
    pub(super) async fn close(&self, issue: &str, kept: &str, now: DateTime<Utc>) -> Result<(), Verdict> {
        let ended = self.transition(issue, |t| t.ends(), now).await?;
        let text = format!(
            "Duplicate of {kept}, which Stockwarden follows: Jira's answer to the request for this issue was lost, and the request \
             was sent again."
        );
        let comment = json!({"body": adf(vec![paragraph(vec![plain(&text)])])}).to_string();
        self.api.write(&format!("/rest/api/3/issue/{issue}/comment"), comment.as_bytes(), now).await?;
        let label = json!({"update": {"labels": [{"add": DUPLICATE}]}});
        self.api.put(&format!("/rest/api/3/issue/{issue}"), &label, now).await?;
        tracing::warn!(handler = self.name, issue, kept, ended, "an issue was made twice; the duplicate is marked");
        Ok(())
    }

    async fn suspects(&self, now: DateTime<Utc>) -> Result<Vec<Twins>, Verdict> {
        let last = *self.swept();
        let back = last.map_or(FIRST, |last| (now - last).clamp(TimeDelta::zero(), FIRST) + OVERLAP);
        let mut by_decision: BTreeMap<String, Vec<Hit>> = BTreeMap::new();
        for hit in self.recent(back, now).await? {
            let own = |l: &&String| l.starts_with(LABEL) && l.as_str() != LABEL;
            if let Some(label) = hit.fields.labels.iter().find(own) {
                by_decision.entry(label.clone()).or_default().push(hit);
            }
        }
        let mut by_effect: BTreeMap<EffectId, Vec<String>> = BTreeMap::new();
        for hit in by_decision.into_values().filter(|hits| hits.len() > 1).flatten() {
            if let Some(effect) = self.owner_of(&hit.id, now).await? {
                by_effect.entry(effect).or_default().push(hit.id);
            }
        }
        by_effect.retain(|_, issues| issues.len() > 1);
        *self.swept() = Some(now);
        Ok(by_effect.into_iter().map(|(effect, references)| Twins { effect, references }).collect())
    }

    /// Our issues that are not marked as duplicates, made in the last so long, the newest first.
    async fn recent(&self, back: TimeDelta, now: DateTime<Utc>) -> Result<Vec<Hit>, Verdict> {
        let jql = format!(
            "labels = \"{LABEL}\" AND labels != \"{DUPLICATE}\" AND created >= \"-{}m\" ORDER BY created DESC",
            back.num_minutes()
        );
        let mut query = json!({"jql": jql, "fields": ["labels"], "maxResults": PAGE});
        let mut hits = Vec::new();
        for _ in 0..PAGES {
            let page: Page = self.api.ask("/rest/api/3/search/jql", &query, now).await?.read()?;
            hits.extend(page.issues);
            match page.next {
                Some(next) => query["nextPageToken"] = Value::String(next),
                None => return Ok(hits),
            }
        }
        tracing::warn!(handler = self.name, looked_at = hits.len(), "too many issues to look for duplicates among all of them");
        Ok(hits)
    }

    async fn keep_one(&self, twins: &Twins, keep: &str, now: DateTime<Utc>) -> Result<(), Verdict> {
        let kept: Hit = self.api.get(&format!("/rest/api/3/issue/{keep}?fields=labels"), None, now).await?.read()?;
        for issue in twins.references.iter().filter(|issue| *issue != keep) {
            self.close(issue, &kept.key, now).await?;
        }
        Ok(())
    }

    fn swept(&self) -> std::sync::MutexGuard<'_, Option<DateTime<Utc>>> {
        self.swept_at.lock().expect("no code panics while holding this lock")
    }
}

impl Sweep for Jira {
    fn every(&self) -> Duration {
        self.settings.sweep_every
    }

    fn twins(&self, now: DateTime<Utc>) -> BoxFuture<'_, Result<Vec<Twins>, String>> {
        Box::pin(async move { self.suspects(now).await.map_err(why) })
    }

    fn keep<'a>(&'a self, twins: &'a Twins, keep: &'a str, now: DateTime<Utc>) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let kept = self.keep_one(twins, keep, now).await;
            if kept.is_err() {
                // The next sweep must not begin behind them.
                *self.swept() = None;
            }
            kept.map_err(why)
        })
    }
}

fn why(verdict: Verdict) -> String {
    match verdict {
        Verdict::Retry { reason, .. } | Verdict::Ambiguous { reason } | Verdict::Permanent { reason } => reason,
        Verdict::Done { .. } | Verdict::AlreadyDone { .. } => "no answer".to_owned(),
    }
}
