//! Makes up what happens to a shop: stock that falls and comes back, deliveries that come late or twice, ticks, and people who do
//! everything that can be done to a proposal, sense or not.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::{Record, Reference};

pub const SHOP: &str = "a.myshopify.com";
pub const VARIANTS: u64 = 6;
const LOCATIONS: u64 = 2;
const START: i64 = 1_793_500_000_000;
const MINUTE: i64 = 60_000;
/// People deal with proposals of late.
const OF_LATE: usize = 16;
const MOVES: [&str; 7] = ["acknowledge", "assign", "snooze", "ordered", "in_transit", "received", "cancel"];

pub struct Story {
    random: SmallRng,
    now: i64,
    reference: Reference,
    pub records: Vec<Record>,
    /// What each (variant, location) holds.
    stock: BTreeMap<(u64, u64), i64>,
    /// Moves by name.
    pub moves: BTreeMap<&'static str, usize>,
}

fn time(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms).expect("a time").to_rfc3339()
}

fn rules() -> Value {
    let rule = |id: &str, scope: &str, threshold: i64| json!({"id": id, "scope": scope, "trigger": {"kind": "constant", "threshold": threshold}});
    let with = |mut rule: Value, more: Value| {
        rule.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        rule
    };
    json!([
        with(
            rule("low", "location", 10),
            json!({"cool_down": "10m", "expire_after": "3h", "quantity": {"kind": "up-to", "level": 60, "pack": 6, "minimum": 12}})
        ),
        with(
            rule("all", "shop", 18),
            json!({"cool_down": "0s", "expire_after": "90m", "quantity": {"kind": "fixed", "units": 20}})
        ),
        with(rule("told", "shop", 25), json!({"cool_down": "5m"})),
    ])
}

impl Story {
    pub fn new(seed: u64) -> Story {
        let mut story = Story {
            random: SmallRng::seed_from_u64(seed),
            now: START,
            reference: Reference::new(&[]),
            records: Vec::new(),
            stock: BTreeMap::new(),
            moves: BTreeMap::new(),
        };
        story.add("~rules", "rules/applied", json!({"organisation": "default", "rule_version": 1, "rules": rules()}));
        for id in 1..=VARIANTS {
            story.list(id);
            for location in 1..=LOCATIONS {
                story.level(id, location, 40, 0);
            }
        }
        story
    }

    /// So many more records.
    pub fn goes_on(mut self, records: usize) -> Story {
        for _ in 0..records {
            self.now += match self.random.random_range(0..40) {
                0 => self.random.random_range(0..150) * MINUTE,
                _ => self.random.random_range(0..3 * MINUTE),
            };
            let (id, location) = (self.random.random_range(1..=VARIANTS), self.random.random_range(1..=LOCATIONS));
            match self.random.random_range(0..100) {
                0..50 => self.sell(id, location),
                50..85 => self.act(),
                85..90 => self.settle(),
                90..96 => self.add("~clock", "clock/tick", json!({})),
                96..98 => self.list(id),
                98 => self.add(
                    SHOP,
                    "inventory_levels/disconnect",
                    json!({"inventory_item_id": id + 1000, "location_id": location}),
                ),
                _ if self.random.random_bool(0.2) => self.add(SHOP, "products/delete", json!({"id": id})),
                _ => {}
            }
        }
        self
    }

    pub fn told(self) -> (Vec<Record>, super::Outcome) {
        (self.records, self.reference.outcome())
    }

    fn add(&mut self, key: &str, fact: &str, body: Value) {
        let headers = BTreeMap::from([("fact".to_owned(), fact.to_owned()), ("version".to_owned(), "1".to_owned())]);
        let record = Record {
            partition: 0,
            offset: self.records.len() as i64,
            append_time_ms: self.now,
            key: Some(key.to_owned()),
            headers,
            value: serde_json::to_vec(&body).expect("JSON"),
        };
        self.reference.take(&record);
        self.records.push(record);
    }

    fn list(&mut self, id: u64) {
        // Once deleted it is gone for good.
        if self.records.iter().any(|r| r.headers["fact"] == "products/delete" && r.value == format!("{{\"id\":{id}}}").as_bytes())
        {
            return;
        }
        let variant = json!({"id": id, "inventory_item_id": id + 1000, "sku": format!("SKU-{id}"), "title": "T"});
        self.add(SHOP, "products/update", json!({"id": id, "title": "P", "updated_at": time(self.now), "variants": [variant]}));
    }

    fn level(&mut self, id: u64, location: u64, available: i64, late: i64) {
        self.stock.insert((id, location), available);
        self.add(
            SHOP,
            "inventory_levels/update",
            json!({"inventory_item_id": id + 1000, "location_id": location, "available": available, "updated_at": time(self.now - late)}),
        );
    }

    fn sell(&mut self, id: u64, location: u64) {
        let held = self.stock[&(id, location)];
        match self.random.random_range(0..20) {
            // Late, and so old that it changes nothing.
            0 => self.level(id, location, held, 5 * 24 * 60 * MINUTE),
            // The last one again.
            1 => {
                let again =
                    self.records.iter().rev().find(|r| r.headers["fact"] == "inventory_levels/update").expect("one").clone();
                self.add(SHOP, "inventory_levels/update", serde_json::from_slice(&again.value).expect("JSON"));
            }
            2..5 => {
                let available = self.random.random_range(20..60);
                self.level(id, location, available, 0);
            }
            _ => {
                let available = (held - self.random.random_range(1..12)).max(-3);
                self.level(id, location, available, 0);
            }
        }
    }

    /// One of the proposals of late, open or not.
    fn proposal(&mut self) -> Option<(u64, String)> {
        let all: Vec<_> = self.reference.proposals().map(|(_, variant, id)| (variant, id.to_owned())).collect();
        all[all.len().saturating_sub(OF_LATE)..].choose(&mut self.random).cloned()
    }

    fn act(&mut self) {
        let Some((variant, id)) = self.proposal() else { return };
        // What closes a proposal is rarer, or there were none to do anything to.
        let name = match *MOVES.choose(&mut self.random).expect("moves") {
            "cancel" if self.random.random_bool(0.7) => "snooze",
            name => name,
        };
        *self.moves.entry(name).or_default() += 1;
        let mut body = json!({"proposal_id": id, "variant_id": variant.to_string(), "move": name, "by": "ann", "via": "api"});
        let r = &mut self.random;
        let mut say = |name: &str, value: Value| body[name] = value;
        match name {
            "assign" => say("to", json!(["ann", "bob"].choose(r))),
            "snooze" => {
                if r.random_bool(0.7) {
                    say("until", json!(time(self.now + r.random_range(-10..90) * MINUTE)));
                }
                if r.random_bool(0.5) {
                    say("level", json!(r.random_range(-2..20)));
                }
            }
            "ordered" => {
                if r.random_bool(0.5) {
                    say("quantity", json!(r.random_range(0..50)));
                }
                if r.random_bool(0.3) {
                    say("eta", json!(time(START + r.random_range(1..4) * 24 * 60 * MINUTE)));
                }
                if r.random_bool(0.3) {
                    say("reference", json!(["PO-1", "PO-2"].choose(r)));
                }
            }
            "received" if r.random_bool(0.8) => say("quantity", json!(r.random_range(0..30))),
            _ => {}
        }
        if r.random_bool(0.3) {
            say("note", json!(["call them", "so be it"].choose(r)));
        }
        self.add(SHOP, "proposal/moved", body);
    }

    fn settle(&mut self) {
        let Some((variant, id)) = self.proposal() else { return };
        let state = if self.random.random_bool(0.7) { "done" } else { "failed" };
        let body = json!({"decision_id": id, "proposal_id": id, "variant_id": variant.to_string(), "route_id": "0", "handler": "erp", "state": state});
        self.add(SHOP, "effect/settled", body);
    }
}
