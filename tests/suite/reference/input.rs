//! Records as any consumer sees them, and rules as the rules file writes them.

use std::collections::BTreeMap;

use serde_json::Value;

#[derive(Debug, Clone, Default)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    pub append_time_ms: i64,
    pub key: Option<String>,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub value: Vec<u8>,
}

/// A record that could be read, with its time.
pub struct Event {
    pub kind: String,
    pub key: String,
    pub body: Value,
    pub offset: i64,
    /// Unix nanoseconds; 0 if nobody said.
    pub triggered_at: i64,
    /// Unix milliseconds.
    pub updated_at: Option<i64>,
    pub event_time: i64,
}

pub fn rfc3339_ns(text: &str) -> Option<i64> {
    chrono::DateTime::parse_from_rfc3339(text).ok()?.timestamp_nanos_opt()
}

/// Unix milliseconds of a time that may be absent.
pub fn time_ms(value: &Value) -> Option<i64> {
    value.as_str().and_then(rfc3339_ns).map(|ns| ns.div_euclid(1_000_000))
}

impl Event {
    /// `None`: a dead letter.
    pub fn read(r: &Record) -> Option<Event> {
        let body: Value = serde_json::from_slice(&r.value).ok()?;
        let fields = body.as_object()?;
        let header = |name: &str| r.headers.get(name).map(String::as_str);
        let kind = match header("fact").or_else(|| header("x-shopify-topic")) {
            Some(named) => named.to_owned(),
            None if fields.contains_key("variants") => "products/update".into(),
            None if ["inventory_item_id", "location_id", "available"].iter().all(|k| fields.contains_key(*k)) => {
                "inventory_levels/update".into()
            }
            None if fields.contains_key("line_items") => "orders/create".into(),
            None => return None,
        };
        let key = r.key.as_deref().or_else(|| header("x-shopify-shop-domain"))?.to_owned();
        let triggered = header("triggered_at").or_else(|| header("x-shopify-triggered-at")).and_then(rfc3339_ns);
        let updated_at = match fields.get("updated_at") {
            None | Some(Value::Null) => None,
            Some(t) => Some(rfc3339_ns(t.as_str()?)?.div_euclid(1_000_000)),
        };
        let needed: &[&str] = match kind.as_str() {
            "inventory_levels/update" | "inventory_levels/connect" | "inventory_levels/disconnect" => {
                &["inventory_item_id", "location_id"]
            }
            "products/create" | "products/update" | "products/delete" | "inventory_items/update" => &["id"],
            _ => &[],
        };
        if needed.iter().any(|k| body[*k].as_u64().is_none()) {
            return None;
        }
        if kind.starts_with("products/")
            && fields.get("variants").and_then(Value::as_array).is_some_and(|all| all.iter().any(|v| v["id"].as_u64().is_none()))
        {
            return None;
        }
        if kind == "inventory_levels/update" || kind == "inventory_levels/connect" {
            let available = fields.get("available")?;
            if !available.is_null() && available.as_i64().is_none() {
                return None;
            }
        }
        // Triggered-at, else updated_at, else append time; at most five minutes past the append time.
        let event_time = triggered
            .map(|ns| ns / 1_000_000)
            .or(updated_at)
            .unwrap_or(r.append_time_ms)
            .min(r.append_time_ms.saturating_add(300_000));
        Some(Event { kind, key, body, offset: r.offset, triggered_at: triggered.unwrap_or(0), updated_at, event_time })
    }

    /// What decides which of two observations is newer.
    pub fn stamp(&self) -> (i64, i64, i64) {
        (self.updated_at.unwrap_or(self.event_time), self.triggered_at, self.offset)
    }
}

#[derive(Debug, Clone)]
pub enum Trigger {
    Constant { threshold: i64 },
    Gradient { probability: f64, horizon_hours: f64 },
}

#[derive(Debug, Clone)]
pub struct Rule {
    /// The same content, applied without a break, keeps it.
    pub uid: u64,
    pub raw: Value,
    pub id: String,
    pub kind: String,
    pub scope: String,
    pub trigger: Trigger,
    pub cool_down_ms: i64,
    pub expire_ms: i64,
    /// Units for constant rules, a probability for gradient rules.
    pub rearm: f64,
    pub propose_first: bool,
}

impl Rule {
    pub fn read(raw: &Value, uid: u64) -> Rule {
        let text = |v: &Value, otherwise: &str| v.as_str().unwrap_or(otherwise).to_owned();
        let span = |v: &Value, otherwise: &str| span_ms(v.as_str().unwrap_or(otherwise));
        let kind = text(&raw["kind"], if raw["quantity"].is_object() { "reorder" } else { "warning" });
        let (trigger, rearm) = match raw["trigger"]["kind"].as_str().expect("a trigger has a kind") {
            "constant" => {
                let threshold = raw["trigger"]["threshold"].as_i64().expect("threshold");
                let h = ((threshold as f64 / 10.0).ceil() as i64).max(1);
                (Trigger::Constant { threshold }, (threshold + h) as f64)
            }
            "gradient" => {
                let lead_hours = 24.0 * raw["lead_time_days"].as_f64().unwrap_or(7.0);
                let by_kind = if kind == "warning" { 6.0 } else { lead_hours };
                let horizon_hours = raw["trigger"]["horizon"].as_str().map_or(by_kind, |h| span_ms(h) as f64 / 3_600_000.0);
                let probability = raw["trigger"]["probability"].as_f64().unwrap_or(0.8);
                (Trigger::Gradient { probability, horizon_hours }, 0.5)
            }
            other => panic!("the reference does not know the trigger {other}"),
        };
        Rule {
            uid,
            id: text(&raw["id"], ""),
            scope: text(&raw["scope"], "shop"),
            kind,
            trigger,
            cool_down_ms: span(&raw["cool_down"], "24h"),
            expire_ms: span(&raw["expire_after"], "30d"),
            rearm: raw["rearm"].as_f64().unwrap_or(rearm),
            propose_first: raw["initial"] == "propose",
            raw: raw.clone(),
        }
    }

    pub fn takes(&self, key: &str, text: &str) -> bool {
        self.raw["select"][key].as_str().is_none_or(|pattern| glob(pattern, text))
    }

    pub fn takes_one_of(&self, key: &str, texts: &[String]) -> bool {
        self.raw["select"][key].as_str().is_none_or(|pattern| texts.iter().any(|t| glob(pattern, t)))
    }

    /// Units for a reorder of this much position (available + under way): `Err` if nothing is needed, `None` for a warning.
    pub fn order(&self, position: i64) -> Result<Option<i64>, Nothing> {
        let q = &self.raw["quantity"];
        if !q.is_object() {
            return Ok(None);
        }
        let mut units = match q["kind"].as_str() {
            Some("fixed") => q["units"].as_i64().expect("units"),
            Some("up-to") => q["level"].as_i64().expect("level") - position,
            other => panic!("the reference does not know the quantity {other:?}"),
        };
        if units <= 0 {
            return Err(Nothing);
        }
        units = units.max(q["minimum"].as_i64().unwrap_or(units));
        let pack = q["pack"].as_i64().unwrap_or(1);
        units = (units as f64 / pack as f64).ceil() as i64 * pack;
        if let Some(maximum) = q["maximum"].as_i64()
            && units > maximum
        {
            units = maximum - maximum % pack;
        }
        Ok(Some(units))
    }
}

/// Stock and what is under way suffice.
pub struct Nothing;

/// `*` is any text, `?` any character.
fn glob(pattern: &str, text: &str) -> bool {
    let mut p = pattern.chars();
    match p.next() {
        None => text.is_empty(),
        Some('*') => (0..=text.len()).filter(|i| text.is_char_boundary(*i)).any(|i| glob(p.as_str(), &text[i..])),
        Some(c) => {
            let mut t = text.chars();
            t.next().is_some_and(|d| c == '?' || c == d) && glob(p.as_str(), t.as_str())
        }
    }
}

fn span_ms(text: &str) -> i64 {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let n: i64 = text[..digits].parse().expect("a duration begins with a number");
    n * match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        unit => panic!("the reference does not know the unit {unit:?}"),
    }
}

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn globs_and_durations_are_read() {
        assert!(glob("Acme*", "Acme Kids") && glob("*", "") && glob("a?c*", "abcd") && glob("", ""));
        assert!(!glob("Acme", "Acme Kids") && !glob("a?c", "ac") && !glob("*x", "abc"));
        assert_eq!((span_ms("0s"), span_ms("24h"), span_ms("30d")), (0, 86_400_000, 2_592_000_000));
    }
}
