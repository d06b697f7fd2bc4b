//! Asks the targets of all instances at once, for `check`. What each is asked is its kind's ([`Handler::probe`](super::Handler::probe)).

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::join_all;

use super::{Handlers, Instance, Verdict};
use crate::ports::targets::{Finding, Routed, Scope};

/// A target that does not answer within `within` is a finding like any other.
pub async fn ask(handlers: &Handlers, scope: &Scope, within: Duration, now: DateTime<Utc>) -> Vec<Finding> {
    let all = handlers.iter().map(|instance| ask_one(instance, scope, within, now));
    join_all(all).await.into_iter().flatten().collect()
}

async fn ask_one(instance: &Instance, scope: &Scope, within: Duration, now: DateTime<Utc>) -> Vec<Finding> {
    let scope = of_instance(instance, scope);
    let mut found = match tokio::time::timeout(within, instance.handler.probe(&scope, now)).await {
        Ok(found) => found,
        Err(_) => {
            let said = format!("no answer within {} s", within.as_secs_f64());
            vec![Finding::problem("answer", said, "does the target run, and do firewalls let this machine reach it?")]
        }
    };
    if found.is_empty() {
        found.push(Finding::not_asked("answer", "there is nothing that could be asked without an effect"));
    }
    let clean = |text: &str| instance.redactor.clean(text);
    for finding in &mut found {
        finding.handler = instance.name.clone();
        finding.about = clean(&finding.about);
        finding.said = clean(&finding.said);
        finding.mend = finding.mend.as_deref().map(clean);
    }
    found
}

/// What of it leads to the instance, and that its organisations allow.
fn of_instance(instance: &Instance, scope: &Scope) -> Scope {
    let serves = |organisation: &str| instance.refuses(organisation).is_none();
    Scope {
        routes: scope.routes.iter().filter(|r| r.route.to == instance.name && serves(&r.organisation)).cloned().collect(),
        shops: scope.shops.iter().filter(|(_, organisation)| serves(organisation)).cloned().collect(),
    }
}

/// Why a call that only asks did not succeed.
pub fn reason(verdict: Verdict) -> String {
    match verdict {
        Verdict::Done { response, .. } | Verdict::AlreadyDone { response } => response.unwrap_or_default(),
        Verdict::Retry { reason, .. } | Verdict::Ambiguous { reason } | Verdict::Permanent { reason } => reason,
    }
}

pub fn about_route(routed: &Routed) -> String {
    format!("route of the rule \"{}\"", routed.rule)
}

/// A route that nothing can be sent by; `part` of it is to be mended.
pub fn bad_route(routed: &Routed, said: String, part: &str) -> Finding {
    Finding::problem(about_route(routed), said, format!("mend {part}, then apply the rules again"))
}

/// Where something is named: in the routes of these rules or in the instance's table, and without rules there alone.
pub fn named_in<'r>(instance: &str, rules: impl IntoIterator<Item = &'r String>) -> String {
    let rules: BTreeSet<&str> = rules.into_iter().map(String::as_str).collect();
    let all = rules.iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ");
    match rules.len() {
        0 => format!("[handlers.{instance}]"),
        1 => format!("the routes of the rule {all}, or in [handlers.{instance}]"),
        _ => format!("the routes of the rules {all}, or in [handlers.{instance}]"),
    }
}
