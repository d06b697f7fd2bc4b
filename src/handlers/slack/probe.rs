//! What Slack is asked for `check`: whether it takes the token, and whether the channels are there.
//!
//! `auth.test` needs no scope. A channel can be asked for with `channels:read` (`groups:read`), or with the scope by which a lost message
//! is found again (`channels:history`); with `chat:write` alone nothing tells it but a message, and none is sent.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use futures::future::join_all;
use serde_json::Value;

use super::api::{Failure, Refused};
use super::history::Stopped;
use super::{Slack, is_id};
use crate::handlers::Resolution;
use crate::handlers::probe::{bad_route, named_in, reason};
use crate::ports::targets::{Finding, Found, Scope};

const WRITE: &str = "chat:write";
/// Lets an app post where it is no member.
const WRITE_ANYWHERE: &str = "chat:write.public";

/// Scopes of the token, where Slack says them.
type Scopes = Option<BTreeSet<String>>;

impl Slack {
    pub(super) async fn ask_all(&self, scope: &Scope, now: DateTime<Utc>) -> Vec<Finding> {
        let (token, scopes) = self.token(now).await;
        let known = token.result == Found::Fine;
        let (wanted, mut found) = self.wanted(scope);
        found.insert(0, token);
        if known {
            let anywhere = scopes.is_some_and(|s| s.contains(WRITE_ANYWHERE));
            let channels = wanted.iter().map(|(channel, rules)| self.channel(channel, rules, anywhere, now));
            found.extend(join_all(channels).await);
        }
        found
    }

    async fn token(&self, now: DateTime<Utc>) -> (Finding, Scopes) {
        let mend = format!("see token of [handlers.{}]", self.name);
        match self.api.auth_test(now).await {
            Err(failure) => (Finding::problem("token", reason(failure.verdict("the channel")), mend), None),
            Ok((answer, scopes)) => {
                let scopes: Scopes = scopes.map(|s| s.split(',').map(|s| s.trim().to_owned()).collect());
                if scopes.as_ref().is_some_and(|s| !s.contains(WRITE)) {
                    let said = format!("Slack takes it, but it has not the scope {WRITE}");
                    let mend = format!("give the app the scope {WRITE} and install it again");
                    return (Finding::problem("token", said, mend), scopes);
                }
                let text = |key: &str| answer[key].as_str().unwrap_or("?").to_owned();
                (Finding::fine("token", format!("Slack knows it as {} of {}", text("user"), text("team"))), scopes)
            }
        }
    }

    /// Channels with the rules that name them, and routes that name none.
    fn wanted(&self, scope: &Scope) -> (BTreeMap<String, BTreeSet<String>>, Vec<Finding>) {
        let (mut wanted, mut wrong) = (BTreeMap::<_, BTreeSet<_>>::new(), Vec::new());
        for routed in &scope.routes {
            match self.channel_of(&routed.route) {
                Ok(channel) => drop(wanted.entry(channel).or_default().insert(routed.rule.clone())),
                Err(said) => wrong.push(bad_route(routed, said, "the route")),
            }
        }
        if let (true, Some(channel)) = (scope.routes.is_empty(), &self.channel) {
            wanted.entry(channel.clone()).or_default();
        }
        (wanted, wrong)
    }

    async fn channel(&self, channel: &str, wanted_by: &BTreeSet<String>, anywhere: bool, now: DateTime<Utc>) -> Finding {
        let about = format!("channel {channel}");
        let place = named_in(&self.name, wanted_by);
        let seen = if is_id(channel) { self.seen_by_id(channel, now).await } else { self.seen_by_name(channel, now).await };
        match seen {
            Err(Unseen::Refused(code)) if code == "not_in_channel" && anywhere => {
                Finding::not_asked(about, "the app is not in it; it may post there all the same, if the channel is public")
            }
            Err(Unseen::Refused(code)) => {
                let refused = Refused { code, needed: None, response_metadata: Default::default() };
                Finding::problem(about, reason(refused.verdict(channel)), format!("see channel in {place}"))
            }
            Err(Unseen::Silent(said)) => Finding::problem(about, said, "ask again when Slack answers"),
            Err(Unseen::NotAllowed(why)) => Finding::not_asked(about, why),
            Ok(seen) if seen["is_archived"] == true => {
                let said = "is_archived: nothing can be posted there";
                Finding::problem(about, said, format!("unarchive it, or name another channel in {place}"))
            }
            Ok(seen) if seen["is_member"] == false && !anywhere => {
                Finding::problem(about, "not_in_channel: the app is no member of it", format!("invite the app to {channel}"))
            }
            Ok(_) => Finding::fine(about, "is there"),
        }
    }

    /// The channel as Slack describes it; without a description, at least the app can read it.
    async fn seen_by_id(&self, id: &str, now: DateTime<Utc>) -> Result<Value, Unseen> {
        match self.api.get("conversations.info", &[("channel", id)], now).await {
            Ok(answer) => return Ok(answer["channel"].clone()),
            Err(Failure::Refused(r)) if is_scope(&r) => {}
            Err(failure) => return Err(failure.into()),
        }
        match self.api.get("conversations.history", &[("channel", id), ("limit", "1")], now).await {
            Ok(_) => Ok(Value::Null),
            Err(Failure::Refused(r)) if is_scope(&r) => Err(Unseen::NotAllowed(
                "without one of the scopes channels:read and channels:history only a message would tell whether it is there"
                    .to_owned(),
            )),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn seen_by_name(&self, channel: &str, now: DateTime<Utc>) -> Result<Value, Unseen> {
        let name = channel.trim_start_matches('#');
        let query = [("types", "public_channel"), ("limit", "1000")];
        match self.search("conversations.list", &query, "channels", now, |c| c["name"] == name).await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(Unseen::Refused("channel_not_found".to_owned())),
            Err(Stopped::Later(Resolution::AskLater { reason, .. })) => Err(Unseen::Silent(reason)),
            Err(_) => Err(Unseen::NotAllowed(
                "the app may not list the channels (scope channels:read); give the channel by its id, or only a message tells \
                 whether it is there"
                    .to_owned(),
            )),
        }
    }
}

/// Why a channel was not seen.
enum Unseen {
    /// With this code.
    Refused(String),
    /// The app has not the scopes to ask.
    NotAllowed(String),
    Silent(String),
}

impl From<Failure> for Unseen {
    fn from(failure: Failure) -> Unseen {
        match failure {
            Failure::Refused(refused) => Unseen::Refused(refused.code),
            Failure::Limited { .. } => Unseen::Silent("Slack asks to slow down".to_owned()),
            Failure::Other(verdict) => Unseen::Silent(reason(verdict)),
        }
    }
}

fn is_scope(refused: &Refused) -> bool {
    matches!(refused.code.as_str(), "missing_scope" | "no_permission" | "not_allowed_token_type")
}
