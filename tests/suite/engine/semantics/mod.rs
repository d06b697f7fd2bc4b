//! DESIGN §10 sentence by sentence, where a module's own tests do not say it: facts in, answers and decisions out.

mod decisions;
mod progress;
mod records;
mod risk;
mod stock;
mod time;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use stockwarden::domain::views::VariantView;
use stockwarden::events::decision::Decision;
use stockwarden::events::record::{NewRecord, Position};
use stockwarden::ports::EventLog;

use super::harness::*;
use super::{SHOP, Site};

/// An engine under a rules file, whose log stamps what is appended with a time that the test sets.
struct Bench {
    site: Site,
    log: Arc<dyn EventLog>,
    engine: Running,
}

impl Bench {
    fn new(toml: &str) -> Bench {
        Bench::at("2026-11-01T02:26:40Z", toml)
    }

    /// From this time on: a log's times never go back.
    fn at(time: &str, toml: &str) -> Bench {
        let site = Site::new();
        set_clock(&site, time);
        let log = site.log();
        let engine = Running::start(log.clone(), site.store(), settings("a"));
        append(&*log, rules(1, toml, log.partitions()));
        Bench { site, log, engine }
    }

    /// Position of the last record, once all are applied.
    fn take(&self, records: Vec<NewRecord>) -> Position {
        let last = *append(&*self.log, records).last().expect("a record");
        self.engine.catch_up(&*self.log);
        last
    }

    fn view(&self, variant: u64) -> VariantView {
        self.engine.variant(SHOP, variant, None).expect("known")
    }

    /// All decisions, once so many are committed.
    fn decided(&self, count: usize) -> Vec<Decision> {
        eventually("the decisions are committed", || decisions(&*self.log).len() >= count);
        decisions(&*self.log)
    }
}

fn set_clock(site: &Site, at: &str) {
    site.clock.0.store(stockwarden::events::time::parse_millis(at).expect("a time"), Ordering::Relaxed);
}

/// A product with these variants; their items are their ids and 1000.
fn product_with(id: u64, updated_at: &str, variants: &[(u64, Option<i64>)]) -> NewRecord {
    let listed: Vec<_> = variants
        .iter()
        .map(|(variant, quantity)| {
            serde_json::json!({
                "id": variant, "inventory_item_id": variant + 1000, "title": "T", "sku": format!("SKU-{variant}"),
                "inventory_quantity": quantity,
            })
        })
        .collect();
    let body = serde_json::json!({"id": id, "title": "P", "updated_at": updated_at, "variants": listed});
    foreign(SHOP, body.to_string())
}

/// A level of a variant's item.
fn level_at(variant: u64, location: u64, available: impl Into<Option<i64>>, updated_at: &str) -> NewRecord {
    let body = serde_json::json!({
        "inventory_item_id": variant + 1000, "location_id": location, "available": available.into(), "updated_at": updated_at,
    });
    foreign(SHOP, body.to_string())
}
