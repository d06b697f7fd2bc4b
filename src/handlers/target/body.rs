//! What a target is sent: the decision as a JSON object, or what a template makes of it.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::handlers::placeholders::{FIELDS, find, is_field, print};

/// A body of the customer's own making: a table whose texts may hold `{{field}}`. A text that is nothing but `{{field}}` becomes
/// the field's value as it is (a number stays a number); within other text the value is printed. Values stay values: nothing in a
/// title can change the shape of the body.
#[derive(Debug, Clone, PartialEq)]
pub struct Template(Value);

impl Template {
    /// Refuses what no decision could ever fill, so that it is found before anything is sent.
    pub fn new(body: Value) -> Result<Template, String> {
        let mut unknown = BTreeSet::new();
        let mut broken = None;
        visit(&body, &mut |text, place| {
            for part in parts(text) {
                match part {
                    Part::Field(_) if place == Place::Name => broken = Some(format!("{text}: names of fields are not filled in")),
                    Part::Field(path) if !is_field(path) => drop(unknown.insert(path.to_owned())),
                    Part::Text(rest) if rest.contains("{{") => broken = Some(format!("{text}: a {{{{ has no }}}}")),
                    Part::Field(_) | Part::Text(_) => {}
                }
            }
        });
        if let Some(broken) = broken {
            return Err(format!("body holds {broken}"));
        }
        match unknown.is_empty() {
            true => Ok(Template(body)),
            false => Err(format!(
                "body names fields that a decision does not have: {}; it has {}",
                unknown.into_iter().collect::<Vec<_>>().join(", "),
                FIELDS.join(", ")
            )),
        }
    }

    pub fn fill(&self, document: &Map<String, Value>) -> Value {
        fill(&self.0, document)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Name,
    Value,
}

enum Part<'a> {
    Text(&'a str),
    Field(&'a str),
}

fn parts(mut text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    while let Some((before, rest)) = text.split_once("{{") {
        let Some((field, after)) = rest.split_once("}}") else { break };
        if !before.is_empty() {
            parts.push(Part::Text(before));
        }
        parts.push(Part::Field(field.trim()));
        text = after;
    }
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    parts
}

fn visit(value: &Value, on_text: &mut impl FnMut(&str, Place)) {
    match value {
        Value::String(text) => on_text(text, Place::Value),
        Value::Array(items) => items.iter().for_each(|v| visit(v, on_text)),
        Value::Object(fields) => fields.iter().for_each(|(name, v)| {
            on_text(name, Place::Name);
            visit(v, on_text);
        }),
        _ => {}
    }
}

fn fill(value: &Value, document: &Map<String, Value>) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(|v| fill(v, document)).collect()),
        Value::Object(fields) => Value::Object(fields.iter().map(|(k, v)| (k.clone(), fill(v, document))).collect()),
        Value::String(text) => match parts(text).as_slice() {
            [Part::Field(path)] => find(document, path).clone(),
            parts => Value::String(parts.iter().map(|p| printed(p, document)).collect()),
        },
        other => other.clone(),
    }
}

fn printed(part: &Part<'_>, document: &Map<String, Value>) -> String {
    match part {
        Part::Text(text) => (*text).to_owned(),
        Part::Field(path) => print(find(document, path)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::handlers::placeholders::{CAUSED_BY, INPUTS};

    fn document() -> Map<String, Value> {
        let document =
            json!({"sku": "A\"},{\"x\":1", "quantity": 12, "title": null, "route": {"plant": "N"}, "inputs": {"position": 3}});
        document.as_object().expect("object").clone()
    }

    #[test]
    fn a_template_keeps_numbers_numbers_and_values_cannot_change_its_shape() {
        let body = json!({"lines": [{"article": "{{sku}}", "amount": "{{ quantity }}"}], "note": "{{sku}}: {{quantity}} for {{route.plant}}{{title}}", "n": 1});
        let filled = Template::new(body).expect("template").fill(&document());
        assert_eq!(
            filled,
            json!({"lines": [{"article": "A\"},{\"x\":1", "amount": 12}], "note": "A\"},{\"x\":1: 12 for N", "n": 1})
        );
    }

    #[test]
    fn a_template_with_an_unknown_field_is_refused_before_anything_is_sent() {
        for unknown in ["{{skuu}}", "a {{sku.x}} b", "{{}}", "{{inputs.positon}}", "{{caused_by.inputs}}", "{{route.}}"] {
            let error = Template::new(json!({"a": [unknown]})).expect_err(unknown);
            assert!(error.contains("decision_id"), "{error}");
        }
        assert!(Template::new(json!({"a": "{{inputs.position}} {{route.anything}} {{caused_by.offset}} { {"})).is_ok());
    }

    #[test]
    fn a_template_that_would_be_sent_half_filled_is_refused() {
        for (body, want) in [(json!({"a": ["{{sku} x"]}), "has no }}"), (json!({"{{sku}}": 1}), "names of fields")] {
            let error = Template::new(body).expect_err(want);
            assert!(error.contains(want) && error.contains("{{sku"), "{error}");
        }
    }

    #[test]
    fn a_template_may_name_all_that_a_decision_has() {
        use crate::events::decision::{CausedBy, Decision, Inputs, Kind, RiskLevel};
        let number = Some(1.0);
        let decision = Decision {
            decision_id: uuid::Uuid::nil(),
            proposal_id: uuid::Uuid::nil(),
            organisation: String::new(),
            shop: None,
            variant_id: None,
            inventory_item_id: None,
            location_id: None,
            sku: None,
            title: None,
            vendor: None,
            rule_id: String::new(),
            rule_version: 1,
            kind: Kind::Reorder,
            severity: RiskLevel::Low,
            quantity: None,
            available: 1,
            inputs: Inputs {
                previous: Some(1),
                threshold: Some(1),
                position: Some(1),
                lead_time_days: number,
                probability: number,
                horizon_hours: number,
                rate_fast: number,
                rate_slow: number,
                hours_left: number,
                accelerating: Some(true),
                adjustments: vec![String::new()],
            },
            reason: String::new(),
            caused_by: CausedBy { topic: String::new(), partition: 0, offset: 0 },
            seq: 0,
            decided_at: 0,
            routes: vec![],
        };
        let json = serde_json::to_value(decision).expect("JSON");
        let names = |v: &Value| v.as_object().expect("object").keys().cloned().collect::<BTreeSet<_>>();
        let ours = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>();
        let mut fields = names(&json);
        fields.remove("routes");
        fields.insert("route".to_owned());
        assert_eq!(ours(FIELDS), fields);
        assert_eq!(ours(INPUTS), names(&json["inputs"]));
        assert_eq!(ours(CAUSED_BY), names(&json["caused_by"]));
    }
}
