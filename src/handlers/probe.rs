//! Asks the targets of all instances at once, for `check`. What each is asked is its kind's ([`Handler::probe`](super::Handler::probe)).

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::join_all;

use super::{Handlers, Instance, Verdict};
use crate::ports::targets::{Finding, Scope};

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

/// "rule \"low\"", "rules \"low\", \"high\"".
pub fn rules<'r>(names: impl IntoIterator<Item = &'r str>) -> String {
    let names: std::collections::BTreeSet<&str> = names.into_iter().collect();
    let all = names.iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ");
    format!("{} {all}", if names.len() == 1 { "rule" } else { "rules" })
}
