//! The partition's own state: domain time and the organisations' rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::rules::{ActiveRule, Initial, RuleSet};
use super::shop::read_rules;
use super::snapshot;
use crate::events::dead_letter::Unreadable;
use crate::events::fact::{At, RulesApplied};
use crate::events::time::Millis;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct StoredRules {
    version: i64,
    rules: Vec<ActiveRule>,
}

/// Stored form.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ShardState {
    /// Domain time: the running maximum of event times.
    pub now: Option<Millis>,
    organisations: BTreeMap<Box<str>, StoredRules>,
}

impl snapshot::State for ShardState {
    /// Unchanged since.
    type V1 = ShardState;
    type V2 = ShardState;
}

#[derive(Debug, Clone, Default)]
pub struct ShardFold {
    now: Option<Millis>,
    organisations: BTreeMap<Box<str>, RuleSet>,
}

/// What a rule set brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RulesEffect {
    pub changed: bool,
    /// A rule that proposes what is low already came in: variants have to be touched at once.
    pub proposes_at_once: bool,
}

impl ShardFold {
    pub fn from_state(state: ShardState) -> ShardFold {
        let organisations = state
            .organisations
            .into_iter()
            .map(|(name, s)| (name, RuleSet { version: s.version, rules: s.rules.into_iter().map(Arc::new).collect() }))
            .collect();
        ShardFold { now: state.now, organisations }
    }

    pub fn state(&self) -> ShardState {
        let organisations = self
            .organisations
            .iter()
            .map(|(name, s)| {
                (name.clone(), StoredRules { version: s.version, rules: s.rules.iter().map(|r| (**r).clone()).collect() })
            })
            .collect();
        ShardState { now: self.now, organisations }
    }

    pub fn now(&self) -> Option<Millis> {
        self.now
    }

    /// Raises domain time to a fact's and puts it into `at`.
    pub fn advance(&mut self, at: &mut At) {
        let now = self.now.map_or(at.event_time, |n| n.max(at.event_time));
        self.now = Some(now);
        at.now = now;
    }

    pub fn rules(&self, organisation: &str) -> Option<&RuleSet> {
        self.organisations.get(organisation)
    }

    /// Versions only grow: a set that was overtaken on its way changes nothing.
    pub fn apply_rules(&mut self, set: &RulesApplied, at: At) -> Result<RulesEffect, Unreadable> {
        let current = self.organisations.get(set.organisation.as_str());
        if current.is_some_and(|c| set.rule_version <= c.version) {
            return Ok(RulesEffect { changed: false, proposes_at_once: false });
        }
        let next = current.cloned().unwrap_or_default().replaced_by(set.rule_version, read_rules(set)?, at.offset);
        let proposes_at_once = next.rules.iter().any(|r| r.since == at.offset && r.rule.initial == Initial::Propose);
        self.organisations.insert(set.organisation.as_str().into(), next);
        Ok(RulesEffect { changed: true, proposes_at_once })
    }
}
