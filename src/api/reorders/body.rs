//! What a move says (DESIGN §10), read strictly: an unknown key is told, so that a misspelt quantity never means "all of it".

use serde_json::{Map, Value};

use crate::api::problem::{Kind, Problem};
use crate::events::fact::{Move, MoveDetails};
use crate::events::time::{Millis, parse_millis};

/// Keys that a move's body may have.
const fn keys(moved: Move) -> &'static [&'static str] {
    match moved {
        Move::Acknowledge | Move::InTransit | Move::Cancel => &["note"],
        Move::Assign => &["to", "note"],
        Move::Snooze => &["until", "level", "note"],
        Move::Ordered => &["quantity", "eta", "reference", "note"],
        Move::Received => &["quantity", "note"],
    }
}

/// An empty body says nothing besides the move.
pub fn details(moved: Move, body: &[u8]) -> Result<MoveDetails, Problem> {
    let valid = keys(moved).join(", ");
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(MoveDetails::default());
    }
    let map = match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => map,
        Ok(_) => return Err(bad(format!("the body is not a JSON object; it may have {valid}"))),
        Err(e) => return Err(bad(format!("the body is not JSON: line {} column {}", e.line(), e.column()))),
    };
    if let Some(stray) = map.keys().find(|k| !keys(moved).contains(&k.as_str())) {
        let told: String = stray.chars().take(64).collect();
        return Err(bad(format!("{} takes no \"{}\"; it may have {valid}", moved.as_str(), told.escape_debug())));
    }
    Ok(MoveDetails {
        quantity: number(&map, "quantity")?,
        eta: time(&map, "eta")?,
        reference: text(&map, "reference")?,
        until: time(&map, "until")?,
        level: number(&map, "level")?,
        to: text(&map, "to")?,
        note: text(&map, "note")?,
        receipt: None,
    })
}

fn given<'m>(map: &'m Map<String, Value>, key: &str) -> Option<&'m Value> {
    map.get(key).filter(|v| !v.is_null())
}

fn number(map: &Map<String, Value>, key: &str) -> Result<Option<i64>, Problem> {
    let Some(value) = given(map, key) else { return Ok(None) };
    value.as_i64().map(Some).ok_or_else(|| bad(format!("{key} is not a whole number of units")))
}

fn text(map: &Map<String, Value>, key: &str) -> Result<Option<String>, Problem> {
    let Some(value) = given(map, key) else { return Ok(None) };
    value.as_str().map(|t| Some(t.to_owned())).ok_or_else(|| bad(format!("{key} is not a text")))
}

fn time(map: &Map<String, Value>, key: &str) -> Result<Option<Millis>, Problem> {
    let Some(value) = given(map, key) else { return Ok(None) };
    let read = value.as_str().and_then(parse_millis);
    read.map(Some).ok_or_else(|| bad(format!("{key} is not an RFC 3339 time, such as 2026-11-27T08:00:00Z")))
}

fn bad(why: String) -> Problem {
    Problem::new(Kind::BadRequest, why)
}
