//! What became of a message whose answer was lost: asked in the channel's history, by the metadata that it carries.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::api::Failure;
use super::{EVENT_TYPE, Frozen, Place, Slack, is_id};
use crate::handlers::{Job, Resolution, Verdict};

/// Messages in a page, and pages that are looked through.
const PAGE: &str = "100";
const PAGES: usize = 10;
/// How far our clock may be ahead of Slack's.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::minutes(10);

/// A request that Slack has taken is carried out so long after nobody waits for the answer any more.
const LANDING: Duration = Duration::from_secs(10);
/// Sends that may still land; if there are more, all are waited for anew.
const LANDINGS: usize = 10_000;

/// Why the look was not carried through.
pub(super) enum Stopped {
    /// Slack will not say, whenever it is asked.
    CannotAsk,
    Later(Resolution),
}

impl Slack {
    pub(super) async fn find(&self, job: &Job, frozen: &Frozen, now: DateTime<Utc>) -> Resolution {
        let Ok(place) = serde_json::from_str::<Place>(frozen.body.get()) else { return Resolution::CannotAsk };
        let found = async {
            let channel = self.channel_id(&place.channel, now).await?;
            let oldest = (frozen.at - CLOCKS_DIFFER).timestamp().to_string();
            let query = [("channel", channel.as_str()), ("oldest", &oldest), ("include_all_metadata", "true"), ("limit", PAGE)];
            let is_it = |message: &Value| is_of(message, job);
            if let Some(thread) = &place.thread_ts {
                let query = [&query[..], &[("ts", thread.as_str())]].concat();
                match self.search("conversations.replies", &query, "messages", now, is_it).await {
                    Err(Stopped::CannotAsk) | Ok(None) => {}
                    Ok(Some(message)) => return Ok(reference(&channel, &message)),
                    Err(later) => return Err(later),
                }
            }
            // Where the thread was gone, it stands at the top of the channel.
            let message = self.search("conversations.history", &query, "messages", now, is_it).await?;
            Ok(message.and_then(|m| reference(&channel, &m)))
        };
        match found.await {
            Ok(Some(reference)) => {
                self.ended(job);
                Resolution::Done { response: Some("found in the channel's history".to_owned()), reference: Some(reference) }
            }
            Ok(None) => self.not_there(job, now),
            Err(Stopped::CannotAsk) => Resolution::CannotAsk,
            Err(Stopped::Later(later)) => later,
        }
    }

    /// A send begins: until it must have landed, it says nothing that the history does not show the message.
    pub(super) fn begins(&self, job: &Job, now: DateTime<Utc>) {
        self.landings().insert(job.key(), now + self.timeout + LANDING);
    }

    /// Its outcome is known.
    pub(super) fn ended(&self, job: &Job) {
        self.landings().remove(&job.key());
    }

    /// The history does not show the message. Who does not know when it was sent last, after a restart, takes it that it was just now.
    fn not_there(&self, job: &Job, now: DateTime<Utc>) -> Resolution {
        let landed = *self.landings().entry(job.key()).or_insert(now + self.timeout + LANDING);
        match (landed - now).to_std() {
            Ok(left) if !left.is_zero() => Resolution::AskLater {
                reason: "the message is not there; it may still be on its way".to_owned(),
                after: Some(left),
            },
            _ => Resolution::NotDone,
        }
    }

    fn landings(&self) -> std::sync::MutexGuard<'_, HashMap<String, DateTime<Utc>>> {
        let mut landings = self.landing.lock().expect("no code panics while holding this lock");
        if landings.len() > LANDINGS {
            landings.clear();
        }
        landings
    }

    async fn channel_id(&self, channel: &str, now: DateTime<Utc>) -> Result<String, Stopped> {
        if is_id(channel) {
            return Ok(channel.to_owned());
        }
        let known = self.channel_ids.lock().expect("no code panics while holding this lock").get(channel).cloned();
        if let Some(id) = known {
            return Ok(id);
        }
        let name = channel.trim_start_matches('#');
        let query = [("types", "public_channel"), ("exclude_archived", "true"), ("limit", "1000")];
        let found = self.search("conversations.list", &query, "channels", now, |c| c["name"] == name).await?;
        let id = found.as_ref().and_then(|c| c["id"].as_str()).ok_or(Stopped::CannotAsk)?;
        self.learn(channel, id);
        Ok(id.to_owned())
    }

    /// The first item that fits. None: there is certainly none.
    pub(super) async fn search(
        &self,
        method: &str,
        query: &[(&str, &str)],
        items: &str,
        now: DateTime<Utc>,
        fits: impl Fn(&Value) -> bool,
    ) -> Result<Option<Value>, Stopped> {
        let mut cursor = String::new();
        for _ in 0..PAGES {
            let mut query = query.to_vec();
            if !cursor.is_empty() {
                query.push(("cursor", &cursor));
            }
            let page = self.api.get(method, &query, now).await.map_err(stopped)?;
            let Some(listed) = page[items].as_array() else { return Err(Stopped::CannotAsk) };
            if let Some(found) = listed.iter().find(|item| fits(item)) {
                return Ok(Some(found.clone()));
            }
            match page["response_metadata"]["next_cursor"].as_str() {
                Some(next) if !next.is_empty() => cursor = next.to_owned(),
                _ if page["has_more"] == true => return Err(Stopped::CannotAsk),
                _ => return Ok(None),
            }
        }
        Err(Stopped::CannotAsk)
    }
}

fn is_of(message: &Value, job: &Job) -> bool {
    let metadata = &message["metadata"];
    let payload = &metadata["event_payload"];
    metadata["event_type"] == EVENT_TYPE
        && payload["decision_id"] == job.id.decision_id.to_string()
        && payload["route_id"] == job.id.route_id.as_str()
}

fn reference(channel: &str, message: &Value) -> Option<String> {
    Some(format!("{channel}:{}", message["ts"].as_str()?))
}

fn stopped(failure: Failure) -> Stopped {
    let later = |reason: String, after| Stopped::Later(Resolution::AskLater { reason, after });
    match failure {
        Failure::Limited { after } => later("Slack asks to slow down".to_owned(), after),
        Failure::Refused(refused) => match refused.verdict("the channel") {
            Verdict::Ambiguous { reason } | Verdict::Retry { reason, .. } => later(reason, None),
            // The scope is missing, the app is not in the channel, the token is revoked: the send will say it.
            _ => Stopped::CannotAsk,
        },
        Failure::Other(Verdict::Permanent { .. }) => Stopped::CannotAsk,
        Failure::Other(Verdict::Ambiguous { reason } | Verdict::Retry { reason, .. }) => later(reason, None),
        Failure::Other(_) => Stopped::CannotAsk,
    }
}
