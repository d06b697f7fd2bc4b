//! The facts: a few shops with a few variants, levels that come twice, late and out of order, rules that change on the way.

use serde_json::{Value, json};
use stockwarden::events::record::{NewRecord, Partition, Topic};

use super::log::PARTITIONS;
use super::rng::Rng;

const START: i64 = 1_793_500_000_000;

pub struct Workload {
    pub left: usize,
    pub now: i64,
    stock: Vec<i64>,
    rule_version: i64,
    /// What may come again.
    sent: Vec<(Partition, NewRecord)>,
}

pub enum Facts {
    One(Partition, NewRecord),
    /// In every partition, in one transaction.
    Everywhere(NewRecord),
}

const SHOPS: [&str; 3] = ["a.example", "b.example", "c.example"];
/// Variants of a shop: product, variant; the item is the variant + 1000.
const VARIANTS: [(u64, u64); 3] = [(1, 11), (1, 12), (2, 21)];

fn time(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms).expect("a time").to_rfc3339()
}

fn fact(key: &str, kind: Option<&str>, body: &Value) -> NewRecord {
    let headers = kind.map(|k| vec![("fact", k.as_bytes().to_vec()), ("version", b"1".to_vec())]).unwrap_or_default();
    let value = Some(serde_json::to_vec(body).expect("JSON"));
    NewRecord { topic: Topic::Facts, partition: None, key: Some(key.as_bytes().to_vec()), headers, value }
}

impl Workload {
    pub fn new(facts: usize) -> Workload {
        Workload { left: facts, now: START, stock: vec![30; SHOPS.len() * VARIANTS.len() * 2], rule_version: 0, sent: Vec::new() }
    }

    pub fn next(&mut self, rng: &mut Rng) -> Facts {
        self.left = self.left.saturating_sub(1);
        self.now += 1_000 * (1 + rng.below(900) as i64);
        if self.rule_version == 0 || (self.left > PARTITIONS as usize && rng.one_in(30)) {
            return self.rules(rng);
        }
        if self.left < PARTITIONS as usize {
            // Expiries become due for those who look only when something happens.
            return Facts::One(self.left as Partition, fact("~clock", Some("clock/tick"), &json!({})));
        }
        let shop = rng.below(SHOPS.len());
        let partition = shop as Partition % PARTITIONS;
        let record = match rng.below(100) {
            0..10 => {
                let partition = rng.below(PARTITIONS as usize) as Partition;
                return Facts::One(partition, fact("~clock", Some("clock/tick"), &json!({})));
            }
            10..20 => self.product(shop, rng),
            20..24 => self.item(shop, rng),
            24..27 => fact(SHOPS[shop], None, &json!({"id": rng.below(9)})),
            27..34 => match rng.pick(&self.sent) {
                Some((partition, again)) => return Facts::One(*partition, again.clone()),
                None => self.product(shop, rng),
            },
            _ => self.level(shop, rng),
        };
        self.sent.push((partition, record.clone()));
        Facts::One(partition, record)
    }

    fn level(&mut self, shop: usize, rng: &mut Rng) -> NewRecord {
        let (variant, location) = (rng.below(VARIANTS.len()), rng.below(2));
        let stock = &mut self.stock[(shop * VARIANTS.len() + variant) * 2 + location];
        *stock = if rng.one_in(6) { 25 + rng.below(20) as i64 } else { *stock - rng.below(12) as i64 };
        let late = if rng.one_in(5) { 1_000 * rng.below(3_000) as i64 } else { 0 };
        let body = json!({
            "inventory_item_id": VARIANTS[variant].1 + 1000,
            "location_id": location + 1,
            "available": *stock,
            "updated_at": time(self.now - late),
        });
        fact(SHOPS[shop], rng.one_in(2).then_some("inventory_levels/update"), &body)
    }

    fn product(&mut self, shop: usize, rng: &mut Rng) -> NewRecord {
        let product = 1 + rng.below(2) as u64;
        let variants: Vec<Value> = VARIANTS
            .iter()
            .filter(|v| v.0 == product)
            .map(|v| json!({"id": v.1, "inventory_item_id": v.1 + 1000, "sku": format!("S-{}", v.1), "title": "Default Title"}))
            .collect();
        let vendor = if rng.one_in(2) { "Acme" } else { "Other" };
        let body = json!({"id": product, "vendor": vendor, "title": "P", "updated_at": time(self.now), "variants": variants});
        fact(SHOPS[shop], None, &body)
    }

    fn item(&mut self, shop: usize, rng: &mut Rng) -> NewRecord {
        let (_, variant) = VARIANTS[rng.below(VARIANTS.len())];
        let body = json!({"id": variant + 1000, "sku": format!("S-{variant}"), "updated_at": time(self.now)});
        fact(SHOPS[shop], Some("inventory_items/update"), &body)
    }

    fn rules(&mut self, rng: &mut Rng) -> Facts {
        self.rule_version += 1;
        let initial = if rng.one_in(2) { "propose" } else { "hold" };
        let toml = format!(
            r#"
            [[rule]]
            id = "low"
            scope = "location"
            trigger = {{ kind = "constant", threshold = {} }}
            quantity = {{ kind = "up-to", level = 60, pack = 6, minimum = 12 }}
            cool_down = "{}"
            initial = "{initial}"
            expire_after = "{}h"
            routes = [{{ to = "erp" }}]

            [[rule]]
            id = "shop-low"
            scope = "shop"
            select = {{ vendor = "A*" }}
            trigger = {{ kind = "constant", threshold = {} }}
            cool_down = "1h"
            routes = [{{ to = "erp" }}]
            "#,
            5 + rng.below(3) * 5,
            ["0s", "30m", "2h"][rng.below(3)],
            [2, 8, 700][rng.below(3)],
            10 + rng.below(2) * 10,
        );
        let rules = stockwarden::domain::rules::from_toml(&toml).expect("valid rules");
        let rules: Vec<Value> = rules.iter().map(|r| serde_json::to_value(r).expect("plain")).collect();
        let body = json!({"organisation": "default", "rule_version": self.rule_version, "rules": rules});
        Facts::Everywhere(fact("~rules", Some("rules/applied"), &body))
    }
}
