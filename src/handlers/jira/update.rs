//! What became of a proposal, told on its issue: a comment, and a transition where one is configured.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Jira;
use super::config::OfRoute;
use super::issue::{adf, line, paragraph, plain};
use super::search::ask_later;
use crate::events::decision::ProposalChange;
use crate::events::fact::Move;
use crate::events::time;
use crate::handlers::{Job, Resolution, Update, Verdict};

/// Comments of an issue that are looked through for one of ours, the newest first.
const COMMENTS: usize = 100;

#[derive(Debug, Serialize, Deserialize)]
pub struct Frozen {
    /// None: there is none, so there is nobody to tell.
    issue: Option<String>,
    comment: Value,
    /// In the text of the comment, and of no other on the issue.
    mark: String,
    transition: Option<String>,
}

pub fn compose(update: &Update, route: &OfRoute) -> Frozen {
    let change = &update.change;
    let mark = format!("fact {}:{}", change.caused_by.partition, change.caused_by.offset);
    let mut content = vec![paragraph(vec![plain(&told(change))])];
    if let Some(note) = change.note.as_deref().map(line).filter(|n| !n.is_empty()) {
        content.push(paragraph(vec![plain(&format!("Note: {note}"))]));
    }
    content.push(paragraph(vec![plain(&format!("Stockwarden, {mark}"))]));
    // A snooze of something acknowledged is no second acknowledgement.
    let moves_on = !matches!(change.moved, Some(Move::Assign | Move::Snooze));
    let transition = moves_on.then(|| route.transitions.get(&change.state).cloned()).flatten();
    Frozen { issue: update.reference.clone(), comment: adf(content), mark, transition }
}

/// One sentence: what, who, where, how much, until when.
fn told(change: &ProposalChange) -> String {
    let mut text = match change.moved {
        Some(Move::Acknowledge) => "Acknowledged".to_owned(),
        Some(Move::Assign) => match change.assigned_to.as_deref() {
            Some(to) => format!("Assigned to {}", line(to)),
            None => "Assigned to nobody".to_owned(),
        },
        Some(Move::Snooze) => match (change.snoozed_until, change.snoozed_level) {
            (Some(until), _) => format!("Snoozed until {}", time::format(until)),
            (None, Some(level)) => format!("Snoozed until {level} or fewer are available"),
            (None, None) => "Snoozed".to_owned(),
        },
        Some(Move::Ordered) => "Ordered".to_owned(),
        Some(Move::InTransit) => "In transit".to_owned(),
        Some(Move::Received) => match change.quantity {
            Some(of) => format!("Received so far: {} of {of} units", change.received),
            None => format!("Received so far: {} units", change.received),
        },
        Some(Move::Cancel) => "Cancelled".to_owned(),
        None => match change.state.as_str() {
            "resolved" => "Resolved: there is stock again, and nobody had acted".to_owned(),
            "expired" => "Expired: nobody acted in time".to_owned(),
            other => format!("Now {}", other.replace('_', " ")),
        },
    };
    if let (Some(Move::Ordered), Some(quantity)) = (change.moved, change.quantity) {
        text.push_str(&format!(": {quantity} units"));
    }
    if let Some(by) = change.by.as_deref().map(line).filter(|b| !b.is_empty()) {
        text.push_str(&format!(" by {by}"));
    }
    if let Some(via) = change.via.as_deref().map(line).filter(|v| !v.is_empty()) {
        text.push_str(&format!(" via {via}"));
    }
    if matches!(change.moved, Some(Move::Ordered | Move::InTransit)) {
        if let Some(reference) = change.reference.as_deref().map(line) {
            text.push_str(&format!(", reference {reference}"));
        }
        if let Some(eta) = change.eta {
            text.push_str(&format!(", expected {}", time::format(eta)));
        }
    }
    text.push('.');
    text
}

#[derive(Deserialize)]
struct Transitions {
    #[serde(default)]
    transitions: Vec<Transition>,
}

#[derive(Deserialize)]
pub struct Transition {
    id: String,
    #[serde(default)]
    name: String,
    to: Status,
}

#[derive(Deserialize)]
pub struct Status {
    #[serde(rename = "statusCategory")]
    category: Option<Category>,
}

#[derive(Deserialize)]
struct Category {
    key: String,
}

impl Transition {
    pub fn goes_by(&self, id_or_name: &str) -> bool {
        self.id == id_or_name || self.name.eq_ignore_ascii_case(id_or_name)
    }

    pub fn ends(&self) -> bool {
        self.to.category.as_ref().is_some_and(|c| c.key == "done")
    }
}

impl Jira {
    /// The transition first, the comment last: where the comment is, all is done.
    pub(super) async fn tell(&self, job: &Job, frozen: &Frozen, now: DateTime<Utc>) -> Verdict {
        let Some(issue) = &frozen.issue else {
            return Verdict::Done {
                response: Some("no issue was made, so there is nothing to tell".to_owned()),
                reference: None,
            };
        };
        let mut response = "commented".to_owned();
        if let Some(wanted) = &frozen.transition {
            match self.transition(issue, |t| t.goes_by(wanted), now).await {
                Ok(true) => response.push_str(&format!("; transition \"{wanted}\" done")),
                Ok(false) => response.push_str(&format!("; there is no transition \"{wanted}\" from where the issue is")),
                Err(verdict) => return verdict,
            }
        }
        let comment = json!({"body": frozen.comment}).to_string();
        let verdict = match self.api.write(&format!("/rest/api/3/issue/{issue}/comment"), comment.as_bytes(), now).await {
            Ok(_) => Verdict::Done { response: Some(response), reference: None },
            Err(failure) => failure.verdict,
        };
        self.remember(job, &verdict, Duration::ZERO, now);
        verdict
    }

    /// Comments are read from the database, not from the index; only a request that is still on its way can be missing.
    pub(super) async fn resolve_update(&self, job: &Job, frozen: &Frozen, now: DateTime<Utc>) -> Resolution {
        let Some(issue) = &frozen.issue else { return Resolution::NotDone };
        let path = format!("/rest/api/3/issue/{issue}/comment?orderBy=-created&maxResults={COMMENTS}");
        match self.api.get(&path, None, now).await {
            Err(failure) => ask_later(failure.verdict),
            Ok(answer) => {
                let mark = format!("{}\"", frozen.mark);
                match String::from_utf8_lossy(&answer.body).contains(&mark) {
                    true => self.found(job, "commented".to_owned(), None),
                    false => self.not_found(job, Duration::ZERO, now),
                }
            }
        }
    }

    /// Makes the first transition that is possible and `wanted`; false if there is none, or if Jira wants more for it than we know.
    pub(super) async fn transition(
        &self,
        issue: &str,
        wanted: impl Fn(&Transition) -> bool + Send,
        now: DateTime<Utc>,
    ) -> Result<bool, Verdict> {
        let path = format!("/rest/api/3/issue/{issue}/transitions");
        let possible: Transitions = self.api.get(&path, None, now).await?.read()?;
        let Some(transition) = possible.transitions.iter().find(|t| wanted(t)) else { return Ok(false) };
        let body = json!({"transition": {"id": transition.id}});
        // Made twice it changes nothing more: the issue is where it leads, or it is not possible any more.
        match self.api.ask(&path, &body, now).await {
            Ok(_) => Ok(true),
            Err(failure) if matches!(failure.status, Some(StatusCode::BAD_REQUEST | StatusCode::CONFLICT)) => Ok(false),
            Err(failure) => Err(failure.verdict),
        }
    }
}
