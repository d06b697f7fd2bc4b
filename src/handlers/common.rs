//! Settings that every instance has, whatever its kind, and what is said of those that no kind has.

use std::time::Duration;

use super::registry::duration;
use crate::config::nearest;

/// Taken out of an instance's table before its kind reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Common {
    /// Sends under way at once.
    pub concurrency: usize,
    /// Sends of one effect before it fails for good.
    pub max_attempts: i32,
    /// Longest time that one send may take.
    pub deadline: Duration,
    /// Organisations that may route here; empty: all.
    pub organisations: Vec<String>,
}

impl Default for Common {
    fn default() -> Self {
        Common { concurrency: 8, max_attempts: 20, deadline: Duration::from_secs(60), organisations: Vec::new() }
    }
}

/// Keys that [`common`] takes out.
const COMMON_KEYS: [&str; 4] = ["concurrency", "max_attempts", "deadline", "organisations"];

/// Takes the settings out that are not the kind's own.
pub(super) fn common(table: &mut toml::Table) -> Result<Common, String> {
    let mut common = Common::default();
    if let Some(n) = number(table, "concurrency", 1, 256)? {
        common.concurrency = usize::try_from(n).expect("checked to be 1 to 256");
    }
    if let Some(n) = number(table, "max_attempts", 1, 1000)? {
        common.max_attempts = i32::try_from(n).expect("checked to be 1 to 1000");
    }
    if let Some(value) = table.remove("deadline") {
        common.deadline = duration(value.as_str().unwrap_or_default())
            .ok_or_else(|| format!("deadline = {value} is not a duration such as \"60s\""))?;
    }
    if let Some(value) = table.remove("organisations") {
        common.organisations =
            value.try_into().map_err(|_| "organisations is not a list of names, such as [\"acme\"]".to_owned())?;
    }
    Ok(common)
}

fn number(table: &mut toml::Table, key: &str, least: i64, most: i64) -> Result<Option<i64>, String> {
    match table.remove(key) {
        None => Ok(None),
        Some(toml::Value::Integer(n)) if (least..=most).contains(&n) => Ok(Some(n)),
        Some(other) => Err(format!("{key} = {other}; allowed is a number from {least} to {most}")),
    }
}

/// Of an unknown key, serde tells all that it knows; what is likely meant says more.
pub(super) fn with_nearest(message: String) -> String {
    if !message.starts_with("unknown field") {
        return message;
    }
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let Some((unknown, known)) = quoted.split_first() else { return message };
    match nearest(unknown, known.iter().copied().chain(COMMON_KEYS)) {
        Some(near) => format!("there is no key \"{unknown}\"; did you mean \"{near}\"?"),
        None => message,
    }
}
