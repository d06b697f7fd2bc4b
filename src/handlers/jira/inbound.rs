//! What people do with an issue in Jira: a webhook for `jira:issue_updated`, made by an administrator of the site, with a secret.
//!
//! Transitions that we make come back as well. They ask for what the proposal is already, or for less, and so change nothing, as long
//! as `transitions` and `status_map` mean the same.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use hmac::{Hmac, Mac};
use reqwest::StatusCode;
use serde::Deserialize;
use sha2::Sha256;

use super::Jira;
use super::issue::line;
use super::twins::DUPLICATE;
use crate::events::fact::{Move, MoveDetails};
use crate::handlers::Verdict;
use crate::ports::inbound::{Asked, Heard, Inbound, Refusal, Request, Subject};

/// Jira waits for the answer meanwhile, and the API for a little more than this.
const LOOK_UP: Duration = Duration::from_secs(2);
/// Longest name of a person that is kept.
const NAME_LIMIT: usize = 100;

#[derive(Deserialize)]
struct Event {
    #[serde(default, rename = "webhookEvent")]
    kind: String,
    user: Option<User>,
    issue: Option<Issue>,
    changelog: Option<Changelog>,
}

#[derive(Deserialize)]
struct User {
    #[serde(rename = "accountId")]
    account: Option<String>,
    #[serde(rename = "displayName")]
    name: Option<String>,
}

#[derive(Deserialize)]
struct Issue {
    id: String,
    #[serde(default)]
    key: String,
    fields: Option<Fields>,
}

#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    labels: Vec<String>,
    status: Option<Status>,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    id: String,
    #[serde(rename = "statusCategory")]
    category: Option<Category>,
}

#[derive(Deserialize)]
struct Category {
    key: String,
}

#[derive(Deserialize)]
struct Changelog {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    field: String,
    #[serde(default)]
    to: Option<String>,
    #[serde(default, rename = "fromString")]
    from_name: Option<String>,
    #[serde(default, rename = "toString")]
    to_name: Option<String>,
}

impl Inbound for Jira {
    fn hear<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<Heard, Refusal>> {
        Box::pin(async move {
            self.verify(&request)?;
            let event: Event =
                serde_json::from_slice(request.body).map_err(|e| Refusal::Unreadable(format!("not an event of Jira: {e}")))?;
            let delivery = (request.header)("x-atlassian-webhook-identifier");
            let asked = self.asked(event, delivery, request.now).await?;
            Ok(Heard { asked: asked.into_iter().collect(), answer: None })
        })
    }
}

impl Jira {
    fn verify(&self, request: &Request<'_>) -> Result<(), Refusal> {
        let bad = |why: &str| Refusal::BadSignature(why.to_owned());
        let secret = self.webhook_secret.as_ref().ok_or_else(|| {
            Refusal::BadSignature(format!("[handlers.{}] has no webhook_secret, so nothing is believed", self.name))
        })?;
        let given =
            (request.header)("x-hub-signature").ok_or_else(|| bad("no X-Hub-Signature: give the webhook in Jira its secret"))?;
        let signature = given.strip_prefix("sha256=").and_then(|h| hex::decode(h).ok());
        let signature = signature.ok_or_else(|| bad("X-Hub-Signature is not sha256= and hexadecimal digits"))?;
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
        mac.update(request.body);
        mac.verify_slice(&signature).map_err(|_| bad("the signature does not fit body and secret"))
    }

    /// The move that an event means. Most events mean none.
    async fn asked(&self, event: Event, delivery: Option<String>, now: DateTime<Utc>) -> Result<Option<Asked>, Refusal> {
        let (Some(issue), Some(changelog)) = (event.issue, event.changelog) else { return Ok(None) };
        if event.kind != "jira:issue_updated" {
            return Ok(None);
        }
        let change = changelog.items.iter().rfind(|i| i.field == "status");
        let Some(Item { to: Some(to), from_name, to_name, .. }) = change else { return Ok(None) };
        let to_name = to_name.as_deref().unwrap_or_default();
        let Some(moved) = self.meant(&issue, to, to_name, now).await? else { return Ok(None) };
        let from_name = from_name.as_deref().unwrap_or("?");
        let note = format!("{}: {} → {}", line(&issue.key), line(from_name), line(to_name));
        let dedupe_id = delivery.or_else(|| changelog.id.map(|id| format!("{}/{id}", issue.id)));
        Ok(Some(Asked {
            subject: Subject::Reference(issue.id),
            moved,
            by: who(event.user.as_ref()),
            details: MoveDetails { note: Some(note), ..MoveDetails::default() },
            dedupe_id,
        }))
    }

    async fn meant(&self, issue: &Issue, to: &str, to_name: &str, now: DateTime<Utc>) -> Result<Option<Move>, Refusal> {
        if !issue.id.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Refusal::Unreadable("the id of an issue is a number".to_owned()));
        }
        let known = self.settings.statuses.by_name(to, to_name);
        let looked_up;
        let fields = match (&issue.fields, known) {
            (Some(fields), _) if fields.status.is_some() => fields,
            // Its labels are not known, but a duplicate is known to nobody else either.
            (_, Some(moved)) => return Ok(moved),
            _ => match self.look_up(&issue.id, now).await? {
                Some(found) => {
                    looked_up = found;
                    &looked_up
                }
                None => return Ok(None),
            },
        };
        if fields.labels.iter().any(|l| l == DUPLICATE) {
            return Ok(None);
        }
        // The issue may have moved on since; then the event of that tells it.
        let status = fields.status.as_ref().filter(|s| s.id == to);
        let category = status.and_then(|s| s.category.as_ref());
        Ok(known.unwrap_or_else(|| category.and_then(|c| self.settings.statuses.by_category(&c.key))))
    }

    /// None: there is no such issue (any more).
    async fn look_up(&self, issue: &str, now: DateTime<Utc>) -> Result<Option<Fields>, Refusal> {
        let path = format!("/rest/api/3/issue/{issue}?fields=status,labels");
        let answer = match self.api.get(&path, Some(LOOK_UP), now).await {
            Ok(answer) => answer,
            Err(failure) if failure.status == Some(StatusCode::NOT_FOUND) => return Ok(None),
            Err(failure) => return Err(unavailable(failure.verdict)),
        };
        let found: Issue = answer.read().map_err(unavailable)?;
        Ok(found.fields)
    }
}

/// Jira is to send the event again.
fn unavailable(verdict: Verdict) -> Refusal {
    let reason = match verdict {
        Verdict::Retry { reason, .. } | Verdict::Ambiguous { reason } | Verdict::Permanent { reason } => reason,
        Verdict::Done { .. } | Verdict::AlreadyDone { .. } => "no answer".to_owned(),
    };
    Refusal::Unavailable(format!("the event lacks the issue's status, and Jira cannot be asked for it: {reason}"))
}

/// Name and account, without e-mail addresses, which some have for a name.
fn who(user: Option<&User>) -> String {
    let Some(user) = user else { return "somebody in Jira".to_owned() };
    let name = user.name.as_deref().map(line).filter(|n| !n.is_empty() && !n.contains('@'));
    let name = name.map(|n| n.chars().take(NAME_LIMIT).collect::<String>());
    let account = user.account.as_deref().map(line).filter(|a| !a.is_empty() && !a.contains('@'));
    match (name, account) {
        (Some(name), Some(account)) => format!("{name} ({account})"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "somebody in Jira".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_known_by_an_e_mail_address() {
        let user = |name: &str, account: &str| User { name: Some(name.into()), account: Some(account.into()) };
        assert_eq!(who(Some(&user("Petra Buyer", "5570:18cf"))), "Petra Buyer (5570:18cf)");
        assert_eq!(who(Some(&user("petra@example.com", "5570:18cf"))), "5570:18cf");
        assert_eq!(who(Some(&user("petra@example.com", "petra@example.com"))), "somebody in Jira");
    }
}
