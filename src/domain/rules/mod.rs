//! Rules: what to watch for, how much to order, where decisions go (DESIGN §4, §10; RULES).
//!
//! To add a trigger: a variant of [`Trigger`], its check in [`parse`], its evaluation in `variant::triggers`.

mod parse;
mod select;
mod span;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use parse::{Problem, from_facts, from_toml};
pub use select::Select;
pub use span::Span;

use crate::events::decision::{Kind, Route};
use crate::events::record::Offset;

/// What a rule looks at: every location by itself, the shop's sum, or the SKU over all shops and stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    Location,
    Shop,
    Sku,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Trigger {
    /// Stock falls to the threshold (units) or below (RULES R1).
    Constant { threshold: i64 },
    /// The probability of selling out within the horizon reaches `probability` (RULES R2).
    Gradient {
        #[serde(default = "default_probability")]
        probability: f64,
        /// Default: 6 h for a warning, the lead time for a reorder.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        horizon: Option<Span>,
    },
}

/// How much to order. Units. Each kind takes the supplier's limits (see [`Lot`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Quantity {
    Fixed {
        units: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pack: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        minimum: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        maximum: Option<i64>,
    },
    UpTo {
        level: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pack: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        minimum: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        maximum: Option<i64>,
    },
    /// As much as the lead time and these days sell, less what is there and under way.
    DaysOfCover {
        days: f64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pack: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        minimum: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        maximum: Option<i64>,
    },
}

/// Limits of the supplier: whole packs, least and most units of an order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lot {
    pub pack: Option<i64>,
    pub minimum: Option<i64>,
    pub maximum: Option<i64>,
}

impl Quantity {
    pub fn lot(&self) -> Lot {
        match *self {
            Quantity::Fixed { pack, minimum, maximum, .. }
            | Quantity::UpTo { pack, minimum, maximum, .. }
            | Quantity::DaysOfCover { pack, minimum, maximum, .. } => Lot { pack, minimum, maximum },
        }
    }
}

/// What happens to stock that is low when it is first seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Initial {
    /// Shown as low, not proposed.
    #[default]
    Hold,
    Propose,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub id: String,
    /// Default: reorder with a quantity, else warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    #[serde(default)]
    pub select: Select,
    #[serde(default = "default_scope")]
    pub scope: Scope,
    pub trigger: Trigger,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantity: Option<Quantity>,
    #[serde(default = "default_lead_time")]
    pub lead_time_days: f64,
    #[serde(default = "default_cool_down")]
    pub cool_down: Span,
    /// Constant: the level (units) at or above which it arms again, default threshold + max(1, ⌈threshold/10⌉).
    /// Gradient: the probability below which it does, default 0.5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rearm: Option<f64>,
    #[serde(default = "default_expiry")]
    pub expire_after: Span,
    #[serde(default)]
    pub initial: Initial,
    #[serde(default)]
    pub routes: Vec<Route>,
}

fn default_scope() -> Scope {
    Scope::Shop
}
fn default_probability() -> f64 {
    0.8
}
fn default_lead_time() -> f64 {
    7.0
}
fn default_cool_down() -> Span {
    Span::hours(24)
}
fn default_expiry() -> Span {
    Span::hours(30 * 24)
}

impl Rule {
    pub fn kind(&self) -> Kind {
        self.kind.unwrap_or(if self.quantity.is_some() { Kind::Reorder } else { Kind::Warning })
    }

    /// Stock at or above which a constant rule arms again (RULES R1).
    pub fn rearm_level(&self, threshold: i64) -> i64 {
        match self.rearm {
            Some(level) => level as i64,
            None => threshold + i64::max(1, threshold.div_euclid(10) + i64::from(threshold.rem_euclid(10) != 0)),
        }
    }

    /// Probability below which a gradient rule arms again (RULES R2).
    pub fn rearm_probability(&self) -> f64 {
        self.rearm.unwrap_or(0.5)
    }

    pub fn horizon_hours(&self, horizon: Option<Span>) -> f64 {
        match horizon {
            Some(span) => span.as_hours(),
            None if self.kind() == Kind::Warning => 6.0,
            None => self.lead_time_days * 24.0,
        }
    }
}

/// A rule as it holds in a partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActiveRule {
    /// In stored states as JSON text: the form of rules grows, and states are in a format without names.
    #[serde(with = "as_json")]
    pub rule: Rule,
    pub version: i64,
    /// Offset of the fact that brought this content; a later set with the same content keeps it, so that armed states live on.
    pub since: Offset,
    /// Stands for (id, content, since) in the states of variants.
    pub uid: u64,
}

mod as_json {
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Rule;

    pub fn serialize<S: Serializer>(rule: &Rule, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&serde_json::to_string(rule).map_err(S::Error::custom)?)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Rule, D::Error> {
        serde_json::from_str(&String::deserialize(d)?).map_err(D::Error::custom)
    }
}

/// A rule set as it holds: an organisation's, or a shop's own.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RuleSet {
    pub version: i64,
    pub rules: Vec<Arc<ActiveRule>>,
}

impl RuleSet {
    /// The next set: rules whose content is unchanged stay what they are, others begin at `since`.
    pub fn replaced_by(&self, version: i64, rules: Vec<Rule>, since: Offset) -> RuleSet {
        let rules = rules
            .into_iter()
            .map(|rule| match self.rules.iter().find(|a| a.rule == rule) {
                // The version is that of the newest set all the same: a decision names the set that held.
                Some(old) => Arc::new(ActiveRule { version, ..(**old).clone() }),
                None => Arc::new(ActiveRule { uid: uid(&rule, since), rule, version, since }),
            })
            .collect();
        RuleSet { version, rules }
    }
}

fn uid(rule: &Rule, since: Offset) -> u64 {
    let mut hash = Sha256::new();
    hash.update(serde_json::to_vec(rule).expect("a rule is plain data"));
    hash.update(since.to_le_bytes());
    let digest = hash.finalize();
    u64::from_le_bytes(digest[..8].try_into().expect("eight of 32 bytes"))
}

/// The rules that hold for a shop, in the order in which they are tried: the organisation's, overridden by the shop's own by id,
/// then the shop's further ones.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EffectiveRules {
    pub rules: Vec<Arc<ActiveRule>>,
}

impl EffectiveRules {
    pub fn of(shop: &str, organisation: Option<&RuleSet>, own: &RuleSet) -> EffectiveRules {
        let theirs = organisation.map(|s| s.rules.as_slice()).unwrap_or_default();
        let by_id = |set: &[Arc<ActiveRule>], id: &str| set.iter().find(|r| r.rule.id == id).cloned();
        let mut rules: Vec<_> = theirs.iter().map(|r| by_id(&own.rules, &r.rule.id).unwrap_or_else(|| r.clone())).collect();
        rules.extend(own.rules.iter().filter(|r| by_id(theirs, &r.rule.id).is_none()).cloned());
        rules.retain(|r| r.rule.select.takes_shop(shop) && r.rule.scope != Scope::Sku);
        EffectiveRules { rules }
    }

    pub fn find(&self, id: &str) -> Option<&ActiveRule> {
        self.rules.iter().find(|r| r.rule.id == id).map(|r| &**r)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(toml: &str) -> Vec<Rule> {
        from_toml(toml).expect("valid rules")
    }

    const ONE: &str = "[[rule]]\nid = \"a\"\ntrigger = { kind = \"constant\", threshold = 10 }\n";

    #[test]
    fn the_rearm_level_is_a_tenth_above_rounded_up_and_at_least_one() {
        let rule = &rules(ONE)[0];
        for (threshold, level) in [(10, 11), (11, 13), (5, 6), (0, 1), (100, 110), (-5, -4), (101, 112)] {
            assert_eq!(rule.rearm_level(threshold), level, "threshold {threshold}");
        }
    }

    #[test]
    fn an_unchanged_rule_keeps_its_identity_and_a_changed_one_starts_anew() {
        let first = RuleSet::default().replaced_by(1, rules(ONE), 5);
        let two = format!("{ONE}[[rule]]\nid = \"b\"\ntrigger = {{ kind = \"gradient\" }}\n");
        let second = first.replaced_by(2, rules(&two), 9);
        assert_eq!((second.rules[0].uid, second.rules[0].since, second.rules[0].version), (first.rules[0].uid, 5, 2));
        assert_eq!(second.rules[1].since, 9);
        let third = second.replaced_by(3, rules(&ONE.replace("10", "12")), 20);
        assert_ne!(third.rules[0].uid, first.rules[0].uid);
        let back = third.replaced_by(4, rules(ONE), 30);
        assert_ne!(back.rules[0].uid, first.rules[0].uid, "what was away starts as first seen");
    }

    #[test]
    fn a_shops_own_rule_overrides_by_id_in_place() {
        let org = RuleSet::default().replaced_by(
            1,
            rules(&format!("{ONE}[[rule]]\nid = \"b\"\ntrigger = {{ kind = \"gradient\" }}\n")),
            1,
        );
        let own = RuleSet::default().replaced_by(1, rules(&ONE.replace("10", "3")), 2);
        let effective = EffectiveRules::of("s", Some(&org), &own);
        assert_eq!(effective.rules.iter().map(|r| r.rule.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(effective.rules[0].rule.trigger, Trigger::Constant { threshold: 3 });
    }
}
