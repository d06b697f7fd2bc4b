//! Rules files, for the commands that check and apply them.

use serde_json::Value;

use crate::admin::{RuleChecker, RuleProblem};
use crate::domain::rules;

pub struct Rules;

impl RuleChecker for Rules {
    fn check(&self, text: &str) -> Result<Vec<Value>, Vec<RuleProblem>> {
        let problem = |place: String, message: String| RuleProblem { place, message };
        let read = rules::from_toml(text).map_err(|problems| {
            let named = |p: rules::Problem| {
                problem(if p.rule.is_empty() { String::new() } else { format!("rule {}", p.rule) }, p.message)
            };
            problems.into_iter().map(named).collect::<Vec<_>>()
        })?;
        let json = |rule| serde_json::to_value(rule).map_err(|e| vec![problem(String::new(), e.to_string())]);
        read.iter().map(json).collect()
    }
}
