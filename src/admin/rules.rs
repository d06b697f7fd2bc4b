//! Rules: checked, then applied as one fact on every partition, so that each shard orders them against its facts.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::scan::{self, Found};
use super::{Admin, AdminError, Refusal, blocking};
use crate::events::fact::{FactType, RulesApplied};
use crate::events::ids::RULES_KEY;
use crate::events::record::{NewRecord, Position, RecordRef, Topic};
use crate::events::time;

/// Reads the text of a rules file; `domain::rules` does it.
pub trait RuleChecker: Send + Sync {
    /// The rules as JSON, in the form of the file; all problems if there are any.
    fn check(&self, text: &str) -> Result<Vec<Value>, Vec<RuleProblem>>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleProblem {
    /// Where: a line, a rule's id, a key.
    pub place: String,
    pub message: String,
}

impl fmt::Display for RuleProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.as_str() {
            "" => f.write_str(&self.message),
            place => write!(f, "{place}: {}", self.message),
        }
    }
}

/// How far back an unchanged set is looked for. Applying it once more is harmless (a rule whose content is unchanged keeps
/// its state), looking for ever is not.
const LOOK_BACK: i64 = 500_000;

impl Admin {
    /// Checks the text, warns of routes that lead nowhere.
    pub(super) fn checked(&self, text: &str) -> Result<(Vec<Value>, Vec<String>), AdminError> {
        let rules = self.rules.check(text).map_err(|problems| {
            AdminError::refused(
                Refusal::Invalid,
                problems.iter().map(RuleProblem::to_string).collect::<Vec<_>>().join("\n"),
                "nothing was applied; stockwarden rules check FILE says when all is well",
            )
        })?;
        let warnings = route_warnings(&rules, &self.targets.names());
        Ok((rules, warnings))
    }

    pub(super) async fn rules_apply(&self, organisation: &str, text: &str) -> Result<Value, AdminError> {
        self.known_organisation(organisation).await?;
        let (rules, warnings) = self.checked(text)?;
        let digest = digest(&rules);
        let (rule_version, new) = self.registry.next_rule_version(organisation, &digest).await?;
        let answer = |applied, positions: Vec<Position>| {
            json!({
                "organisation": organisation,
                "rule_version": rule_version,
                "applied": applied,
                "rules": rules.len(),
                "positions": positions.iter().map(Position::to_string).collect::<Vec<_>>(),
                "warnings": warnings,
            })
        };
        // The version is given before the fact is written, so a failure in between leaves a version that no shard has seen.
        if !new && self.applied(organisation, Some(rule_version), Some(LOOK_BACK)).await?.is_some() {
            return Ok(answer(false, Vec::new()));
        }
        let fact = RulesApplied { organisation: organisation.to_owned(), rule_version, rules: rules.clone() };
        let value =
            serde_json::to_vec(&fact).map_err(|e| AdminError::Internal(format!("rules cannot be written as JSON: {e}")))?;
        let record = |partition| NewRecord {
            topic: Topic::Facts,
            partition: Some(partition),
            key: Some(RULES_KEY.to_vec()),
            headers: self.headers(FactType::RulesApplied),
            value: Some(value.clone()),
        };
        let positions = self.log.append_atomically((0..self.log.partitions()).map(record).collect()).await?;
        Ok(answer(true, positions))
    }

    /// Read from the log: what was applied is what stands there.
    pub(super) async fn rules_show(&self, organisation: &str) -> Result<Value, AdminError> {
        self.known_organisation(organisation).await?;
        let Some(found) = self.applied(organisation, None, None).await? else {
            return Ok(json!({ "organisation": organisation, "rule_version": null, "rules": [] }));
        };
        Ok(json!({
            "organisation": organisation,
            "rule_version": found.value.rule_version,
            "applied_at": time::format(found.append_time_ms),
            "rules": found.value.rules,
        }))
    }

    /// The newest set of the organisation in the log. Every partition has it; the first one is asked.
    async fn applied(
        &self,
        organisation: &str,
        version: Option<i64>,
        look_back: Option<i64>,
    ) -> Result<Option<Found<RulesApplied>>, AdminError> {
        let (log, organisation) = (self.log.clone(), organisation.to_owned());
        blocking(move || {
            let wanted = |record: &RecordRef<'_>| {
                let value = record.value.filter(|_| record.key == Some(RULES_KEY))?;
                let set: RulesApplied = serde_json::from_slice(value).ok()?;
                (set.organisation == organisation && version.is_none_or(|v| v == set.rule_version)).then_some(set)
            };
            scan::newest(log.as_ref(), Topic::Facts, 0, look_back, wanted)
        })
        .await
    }
}

/// SHA-256 of the canonical JSON: keys sorted (serde_json's maps are), no spaces.
fn digest(rules: &[Value]) -> [u8; 32] {
    let canonical = Value::Array(rules.to_vec()).to_string();
    Sha256::digest(canonical.as_bytes()).into()
}

/// Routes to handlers that this process's configuration does not name. Only a warning: another node may have them.
pub fn route_warnings(rules: &[Value], handlers: &[String]) -> Vec<String> {
    let mut warnings = Vec::new();
    for rule in rules {
        let id = rule["id"].as_str().unwrap_or("?");
        for to in rule["routes"].as_array().into_iter().flatten().filter_map(|r| r["to"].as_str()) {
            if handlers.iter().any(|h| h == to) {
                continue;
            }
            let hint = match crate::config::nearest(to, handlers.iter().map(String::as_str)) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("configure [handlers.{to}] before its decisions fall"),
            };
            warnings.push(format!("rule \"{id}\" sends to \"{to}\", and no handler has that name here; {hint}"));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_does_not_depend_on_the_order_of_keys() {
        let a: Value = serde_json::from_str(r#"{"id":"x","trigger":{"kind":"constant","threshold":1}}"#).expect("json");
        let b: Value = serde_json::from_str(r#"{"trigger":{"threshold":1,"kind":"constant"},"id":"x"}"#).expect("json");
        let c: Value = serde_json::from_str(r#"{"trigger":{"threshold":2,"kind":"constant"},"id":"x"}"#).expect("json");
        assert_eq!(digest(&[a]), digest(std::slice::from_ref(&b)));
        assert_ne!(digest(&[b]), digest(&[c]));
    }

    #[test]
    fn a_route_to_nowhere_is_warned_of_with_the_nearest_handler() {
        let rules = [json!({ "id": "low", "routes": [{ "to": "jria" }, { "to": "mail" }, { "to": "fax" }] })];
        let warnings = route_warnings(&rules, &["jira".to_owned(), "mail".to_owned()]);
        assert_eq!(
            warnings,
            [
                "rule \"low\" sends to \"jria\", and no handler has that name here; did you mean \"jira\"?",
                "rule \"low\" sends to \"fax\", and no handler has that name here; configure [handlers.fax] before its decisions fall",
            ]
        );
    }
}
