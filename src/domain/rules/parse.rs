//! Reads rules files and rules facts, with errors for whoever wrote them.

use std::collections::BTreeSet;
use std::fmt;

use super::{Quantity, Rule, Scope, Trigger};
use crate::events::decision::Kind;

/// What is wrong with a rules file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The rule's id, or its number in the file.
    pub rule: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rule.is_empty() { f.write_str(&self.message) } else { write!(f, "rule {}: {}", self.rule, self.message) }
    }
}

/// Reads a rules file: `[[rule]]` tables. All problems are found at once.
pub fn from_toml(text: &str) -> Result<Vec<Rule>, Vec<Problem>> {
    let mut table: toml::Table = text
        .parse()
        .map_err(|e: toml::de::Error| vec![Problem { rule: String::new(), message: e.to_string().trim().to_owned() }])?;
    let entries = match table.remove("rule") {
        Some(toml::Value::Array(entries)) => entries,
        Some(_) => {
            return Err(vec![Problem {
                rule: String::new(),
                message: "\"rule\" is not a list; begin each rule with [[rule]]".into(),
            }]);
        }
        None => Vec::new(),
    };
    if let Some(key) = table.keys().next() {
        return Err(vec![Problem {
            rule: String::new(),
            message: format!("unknown key \"{key}\"; a rules file holds [[rule]] tables only"),
        }]);
    }
    read(entries.into_iter().map(|entry| {
        let name = entry.get("id").and_then(|v| v.as_str()).map(|id| format!("\"{id}\""));
        (name, serde_path_to_error::deserialize(entry).map_err(|e| located(e.path(), e.inner().message())))
    }))
}

/// Reads the rules of a fact.
pub fn from_facts(rules: &[serde_json::Value]) -> Result<Vec<Rule>, Vec<Problem>> {
    read(rules.iter().map(|value| {
        let name = value.get("id").and_then(|v| v.as_str()).map(|id| format!("\"{id}\""));
        (name, serde_path_to_error::deserialize(value).map_err(|e| located(e.path(), &e.inner().to_string())))
    }))
}

/// With the key that it is about; the rule itself has no key.
fn located(path: &serde_path_to_error::Path, message: &str) -> String {
    match path.to_string().as_str() {
        "." | "?" => message.to_owned(),
        key => format!("{key}: {message}"),
    }
}

fn read(entries: impl Iterator<Item = (Option<String>, Result<Rule, String>)>) -> Result<Vec<Rule>, Vec<Problem>> {
    let (mut rules, mut problems, mut ids) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (i, (name, rule)) in entries.enumerate() {
        let name = name.unwrap_or_else(|| format!("number {}", i + 1));
        match rule {
            Ok(rule) => {
                problems.extend(check(&rule).into_iter().map(|message| Problem { rule: name.clone(), message }));
                if !ids.insert(rule.id.clone()) {
                    problems.push(Problem { rule: name, message: "its id is used twice; ids are unique within a set".into() });
                } else if let Some(twin) = rules.iter().find(|other| same_but_for_name(other, &rule)) {
                    let message =
                        format!("it says the same as \"{}\", so it would never propose anything; remove one of the two", twin.id);
                    problems.push(Problem { rule: name, message });
                }
                rules.push(rule);
            }
            Err(message) => problems.push(Problem { rule: name, message: explain(&message) }),
        }
    }
    if problems.is_empty() { Ok(rules) } else { Err(problems) }
}

/// Overlap is refused only where it is provable (DESIGN §4).
fn same_but_for_name(a: &Rule, b: &Rule) -> bool {
    let bare = |r: &Rule| Rule { id: String::new(), routes: Vec::new(), quantity: None, ..r.clone() };
    a.kind() == b.kind() && bare(a) == bare(b)
}

/// Adds the nearest valid name to serde's "unknown field/variant `x`, expected one of `a`, `b`", and tells what is to come.
pub fn explain(message: &str) -> String {
    const TO_COME: [&str; 3] = ["days-of-cover", "reorder-point", "forecast"];
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (Some(word), true) = (quoted.next(), message.contains("unknown field") || message.contains("unknown variant")) else {
        return message.to_owned();
    };
    if message.contains("unknown variant") && TO_COME.contains(&word) {
        return format!("the trigger \"{word}\" comes with a later version; this one knows constant and gradient");
    }
    match quoted.min_by_key(|candidate| strsim::damerau_levenshtein(word, candidate)) {
        Some(nearest) if strsim::damerau_levenshtein(word, nearest) <= 3 => format!("{message}; did you mean `{nearest}`?"),
        _ => message.to_owned(),
    }
}

fn check(rule: &Rule) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut need = |ok: bool, message: String| {
        if !ok {
            wrong.push(message);
        }
    };
    need(
        !rule.id.is_empty() && rule.id.len() <= 100 && !rule.id.contains(char::is_whitespace),
        "id is empty, longer than 100 characters or holds white space".into(),
    );
    need(rule.scope != Scope::Sku, "scope = \"sku\" comes with a later version; use location or shop".into());
    need(rule.select.location.is_none() || rule.scope == Scope::Location, "select.location needs scope = \"location\"".into());
    need(
        rule.lead_time_days.is_finite() && (0.0..=3650.0).contains(&rule.lead_time_days),
        format!("lead_time_days = {} is not between 0 and 3650", rule.lead_time_days),
    );
    match rule.kind() {
        Kind::Reorder => need(rule.quantity.is_some(), "kind = \"reorder\" needs a quantity".into()),
        Kind::Warning => need(rule.quantity.is_none(), "kind = \"warning\" takes no quantity".into()),
        Kind::Transfer => need(false, "kind = \"transfer\" is not for rules; use reorder or warning".into()),
    }
    match &rule.trigger {
        Trigger::Constant { threshold } => {
            need(threshold.abs() <= 1_000_000_000, format!("trigger.threshold = {threshold} is beyond a thousand million"));
            if let Some(level) = rule.rearm {
                need(
                    level.fract() == 0.0 && level > *threshold as f64 && level.abs() < 2e9,
                    format!(
                        "rearm = {level} is the stock level at which the rule arms again: a whole number above the threshold {threshold}"
                    ),
                );
            }
        }
        Trigger::Gradient { probability, horizon } => {
            need(
                *probability > 0.0 && *probability < 1.0,
                format!("trigger.probability = {probability} is not between 0 and 1 (both excluded)"),
            );
            need(horizon.is_none_or(|h| h.0 > 0), "trigger.horizon is zero".into());
            need(
                horizon.is_some() || rule.horizon_hours(None) > 0.0,
                "trigger.horizon is missing and lead_time_days is zero".into(),
            );
            if let Some(p) = rule.rearm {
                need(
                    p > 0.0 && p <= *probability,
                    format!("rearm = {p} is the probability below which the rule arms again: above 0, at most {probability}"),
                );
            }
        }
    }
    if let Some(quantity) = &rule.quantity {
        match quantity {
            Quantity::Fixed { units, .. } => need(*units > 0, format!("quantity.units = {units} is not above zero")),
            Quantity::UpTo { level, .. } => {
                need(*level > 0, format!("quantity.level = {level} is not above zero"));
                if let Trigger::Constant { threshold } = rule.trigger {
                    need(*level > threshold, format!("quantity.level = {level} is not above the threshold {threshold}"));
                }
            }
            Quantity::DaysOfCover { days, .. } => {
                need(
                    days.is_finite() && *days > 0.0 && *days <= 3650.0,
                    format!("quantity.days = {days} is not between 0 and 3650"),
                );
            }
        }
        let lot = quantity.lot();
        for (name, value) in [("pack", lot.pack), ("minimum", lot.minimum), ("maximum", lot.maximum)] {
            need(value.is_none_or(|v| (1..=1_000_000_000).contains(&v)), format!("quantity.{name} is not above zero"));
        }
        if let (Some(min), Some(max)) = (lot.minimum, lot.maximum) {
            need(min <= max, format!("quantity.minimum = {min} is above quantity.maximum = {max}"));
        }
        if let (Some(pack), Some(max)) = (lot.pack, lot.maximum) {
            need(pack <= max, format!("quantity.pack = {pack} is above quantity.maximum = {max}: not one pack could be ordered"));
        }
    }
    let mut names = BTreeSet::new();
    for (i, route) in rule.routes.iter().enumerate() {
        need(!route.to.is_empty(), format!("routes[{i}].to is empty; it names a handler"));
        let name = route.id.clone().unwrap_or_else(|| i.to_string());
        need(names.insert(name.clone()), format!("two routes are called \"{name}\"; their ids are unique within a rule"));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(rule: &str) -> String {
        from_toml(&format!("[[rule]]\n{rule}")).expect_err(rule).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    const BASE: &str = "id = \"a\"\ntrigger = { kind = \"constant\", threshold = 10 }\n";

    #[test]
    fn rules_from_the_example_are_read() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/example/rules.toml")).expect("the example");
        let rules = from_toml(&text).expect("valid");
        assert_eq!(rules.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["low-stock", "selling-out"]);
        let facts: Vec<_> = rules.iter().map(|r| serde_json::to_value(r).expect("plain data")).collect();
        assert_eq!(from_facts(&facts).expect("the same"), rules);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_mend() {
        for (rule, words) in [
            ("id = \"a\"\n", "missing field `trigger`"),
            ("id = \"a\"\ntrigger = { kind = \"constant\", treshold = 10 }\n", "did you mean `threshold`"),
            ("id = \"a\"\ntrigger = { kind = \"forecast\" }\n", "later version"),
            (&format!("{BASE}scop = \"shop\"\n"), "did you mean `scope`"),
            (&format!("{BASE}cool_down = \"24\"\n"), "cool_down: "),
            (&format!("{BASE}scope = \"shopp\"\n"), "scope: unknown variant `shopp`"),
            ("id = \"a\"\ntrigger = { kind = \"constant\", threshold = 1.5 }\n", "trigger: invalid type: floating point `1.5`"),
            (&format!("{BASE}rearm = 10\n"), "above the threshold 10"),
            (&format!("{BASE}quantity = {{ kind = \"fixed\", units = 0 }}\n"), "quantity.units = 0"),
            (&format!("{BASE}quantity = {{ kind = \"up-to\", level = 9 }}\n"), "not above the threshold"),
            (&format!("{BASE}cool_down = \"1 day\"\n"), "write it as"),
            (&format!("{BASE}scope = \"sku\"\n"), "later version"),
            (&format!("{BASE}kind = \"reorder\"\n"), "needs a quantity"),
            (&format!("{BASE}routes = [{{ to = \"\" }}]\n"), "routes[0].to"),
            (&format!("{BASE}[[rule]]\n{BASE}"), "used twice"),
            (&format!("{BASE}[[rule]]\n{}", BASE.replace("\"a\"", "\"b\"")), "says the same"),
        ] {
            let told = problems(rule);
            assert!(told.contains(words), "{rule}\n→ {told}");
        }
    }
}
