//! What the simulation promises: the same bytes again, the shares that were asked for, and a truth that agrees with what
//! a careful reader of the deliveries sees.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::events::codec;
use crate::events::fact::{Fact, FactType};
use crate::events::ids::{LocationId, VariantId};
use crate::events::record::RecordBatch;

fn settings() -> Settings {
    Settings { shops: 10, variants: 400, facts: Some(60_000), ..Settings::default() }
}

fn run(settings: Settings) -> Vec<Delivery> {
    Simulation::new(settings).expect("good settings").collect()
}

fn body(d: &Delivery) -> Value {
    serde_json::from_slice(&d.body).expect("JSON")
}

/// (item, location) of a level delivery.
fn level_of(d: &Delivery) -> Option<(u64, u64)> {
    (d.topic == FactType::LevelsUpdate).then(|| {
        let b = body(d);
        (b["inventory_item_id"].as_u64().expect("item"), b["location_id"].as_u64().expect("location"))
    })
}

#[test]
fn the_same_seed_makes_the_same_bytes_and_another_seed_others() {
    let small = |seed| run(Settings { seed, facts: Some(5_000), ..settings() });
    assert!(small(7) == small(7));
    assert!(small(7) != small(8));
}

#[test]
fn the_catalogue_comes_first_and_names_every_item() {
    let simulation = Simulation::new(settings()).expect("good settings");
    let size = simulation.catalogue_size() as usize;
    let all: Vec<Delivery> = simulation.collect();
    assert!(all[..size].iter().all(|d| d.phase == Phase::Catalogue) && all[size..].iter().all(|d| d.phase == Phase::Live));
    assert_eq!(all.len() - size, 60_000);
    let mut known: HashMap<u64, &str> = HashMap::new();
    let mut seen_levels = HashSet::new();
    for d in &all {
        if d.topic == FactType::ProductsCreate {
            let product = body(d);
            for key in ["vendor", "product_type", "tags", "title", "admin_graphql_api_id"] {
                assert!(product[key].is_string(), "{key}");
            }
            for v in product["variants"].as_array().expect("variants") {
                known.insert(v["inventory_item_id"].as_u64().expect("item"), &d.shop);
            }
        } else if let Some(level) = level_of(d) {
            assert_eq!(known.get(&level.0), Some(&&*d.shop));
            assert!(d.phase == Phase::Catalogue || seen_levels.contains(&level), "a level changes before it was told");
            seen_levels.insert(level);
        }
    }
    assert_eq!((known.len(), seen_levels.len()), (400, 800));
}

#[test]
fn faults_have_the_shares_that_were_asked_for() {
    let faults = Faults { duplicates: 0.02, late: 0.04, merged: 0.03, thin: 0.5, product_updates: 0.02, ..Faults::default() };
    let live: Vec<Delivery> = run(Settings { faults, ..settings() }).into_iter().filter(|d| d.phase == Phase::Live).collect();
    let share = |f: &dyn Fn(&&Delivery) -> bool| live.iter().filter(f).count() as f64 / live.len() as f64;
    let near = |what: &str, got: f64, want: f64| assert!((got / want - 1.0).abs() < 0.2, "{what}: {got}, asked for {want}");
    near("duplicates", share(&|d| d.fate == Fate::Duplicate), 0.02);
    near("late", share(&|d| d.fate == Fate::Late), 0.04);
    near("merged", share(&|d| d.fate == Fate::Merged), 0.03);
    let updates = share(&|d| d.topic == FactType::ProductsUpdate && d.fate != Fate::Duplicate);
    near("thin", share(&|d| d.fate == Fate::Thin) / updates, 0.5);
    near("returns", share(&|d| d.cause == Cause::Return), 0.05);

    let mut webhooks: HashMap<_, Vec<&Delivery>> = HashMap::new();
    let mut newest: HashMap<(u64, u64), i64> = HashMap::new();
    let mut overtaken = 0;
    for d in &live {
        webhooks.entry(d.webhook_id).or_default().push(d);
        if let Some(level) = level_of(d) {
            let newest = newest.entry(level).or_insert(d.triggered_at);
            overtaken += usize::from(d.fate == Fate::Late && d.triggered_at < *newest);
            *newest = d.triggered_at.max(*newest);
        }
    }
    assert!(overtaken > 500, "only {overtaken} late deliveries come after newer ones");
    for copies in webhooks.values().filter(|c| c.len() > 1) {
        assert!(copies.len() == 2 && copies[0].body == copies[1].body && copies[0].triggered_at == copies[1].triggered_at);
    }
}

#[test]
fn what_was_lost_is_in_the_truth_and_not_among_the_deliveries() {
    let faults = Faults { lost: 0.05, ..Faults::none() };
    let mut simulation = Simulation::new(Settings { faults, ..settings() }).expect("good settings");
    simulation.keep_truth();
    let delivered = simulation.by_ref().filter(|d| d.phase == Phase::Live && d.topic == FactType::LevelsUpdate).count();
    let truth = simulation.take_truth();
    let count = |fate| truth.iter().filter(|r| r.fate == fate && r.cause != Cause::Catalogue).count();
    assert_eq!(delivered, count(Fate::Delivered));
    let share = count(Fate::Lost) as f64 / (delivered + count(Fate::Lost)) as f64;
    assert!((share - 0.05).abs() < 0.01, "{share}");
}

#[test]
fn without_faults_the_newest_delivery_of_each_level_is_the_true_stock() {
    let faults = Faults { duplicates: 0.05, late: 0.0, ..Faults::none() };
    let mut simulation =
        Simulation::new(Settings { faults, facts: None, duration: Some(Duration::from_secs(300)), ..settings() })
            .expect("good settings");
    let mut levels: BTreeMap<(u64, u64), (i64, i64)> = BTreeMap::new();
    let mut variants: HashMap<u64, u64> = HashMap::new();
    for d in simulation.by_ref() {
        if let Some(level) = level_of(&d) {
            let told = (d.triggered_at, body(&d)["available"].as_i64().expect("available"));
            levels.entry(level).and_modify(|known| *known = told.max(*known)).or_insert(told);
            variants.insert(level.0, d.variant.0);
        }
    }
    assert_eq!(levels.len(), 800);
    for ((item, location), (_, available)) in levels {
        assert_eq!(
            simulation.stock(VariantId(variants[&item]), LocationId(location)),
            Some(available),
            "item {item} at {location}"
        );
    }
}

#[test]
fn latent_demand_goes_on_where_the_shelf_is_empty() {
    let mut simulation = Simulation::new(settings()).expect("good settings");
    simulation.keep_truth();
    simulation.by_ref().for_each(drop);
    let sales: Vec<TruthRow> = simulation.take_truth().into_iter().filter(|r| r.cause == Cause::Sale).collect();
    assert!(sales.iter().all(|r| r.asked >= r.met && r.met >= 0 && (r.fate == Fate::Unseen) == (r.met == 0)));
    let unseen = sales.iter().filter(|r| r.fate == Fate::Unseen).count() as f64 / sales.len() as f64;
    assert!((0.002..0.4).contains(&unseen), "{unseen} of all sales are lost to empty shelves");
}

#[test]
fn stock_crosses_ten_downwards_and_comes_back() {
    let mut last: HashMap<(u64, u64), i64> = HashMap::new();
    let (mut down, mut up) = (0, 0);
    for d in run(settings()) {
        let Some(level) = level_of(&d) else { continue };
        let now = body(&d)["available"].as_i64().expect("available");
        if let Some(before) = last.insert(level, now) {
            down += usize::from(before > 10 && now <= 10);
            up += usize::from(before <= 10 && now >= 11);
        }
    }
    assert!(down > 300 && up > 200, "{down} times down, {up} times up in 60,000 facts over 800 levels");
}

#[test]
fn days_vary_more_than_poisson_says() {
    // One variant's sales by day: their variance is beyond their mean, as the Gamma factor of the day makes it.
    let settings = Settings {
        shops: 1,
        variants: 1,
        locations_per_shop: 1,
        rate: 200.0 / 86_400.0,
        duration: Some(Duration::from_secs(120 * 86_400)),
        lead_time: Some(Duration::from_secs(86_400)),
        ..Settings::default()
    };
    let mut simulation = Simulation::new(Settings { variants: 20, ..settings }).expect("good settings");
    simulation.keep_truth();
    simulation.by_ref().for_each(drop);
    let mut days: BTreeMap<VariantId, BTreeMap<i64, f64>> = BTreeMap::new();
    for row in simulation.take_truth().iter().filter(|r| r.cause == Cause::Sale) {
        *days.entry(row.variant_id).or_default().entry(row.at / 86_400_000).or_default() += 1.0;
    }
    let ratios: Vec<f64> = days
        .values()
        .map(|d| {
            let mean = d.values().sum::<f64>() / 120.0;
            let variance = (d.values().map(|n| (n - mean).powi(2)).sum::<f64>() + (120 - d.len()) as f64 * mean.powi(2)) / 119.0;
            variance / mean
        })
        .collect();
    let typical = ratios.iter().sum::<f64>() / ratios.len() as f64;
    assert!(typical > 1.5, "variance over mean is {typical}; Poisson would have 1");
}

#[test]
fn the_rate_is_what_was_asked_for_and_times_never_fall() {
    let settings = Settings { facts: None, duration: Some(Duration::from_secs(600)), rate: 100.0, ..settings() };
    let mut last = i64::MIN;
    let mut live = 0;
    for d in Simulation::new(settings).expect("good settings") {
        assert!(d.due >= last && (d.phase == Phase::Catalogue || d.triggered_at <= d.due));
        last = d.due;
        live += u32::from(d.phase == Phase::Live);
    }
    assert!((f64::from(live) / 60_000.0 - 1.0).abs() < 0.15, "{live} facts in 600 s at 100 a second");
}

#[test]
fn every_record_is_understood_with_our_headers_and_by_its_shape() {
    let faults = Faults { thin: 0.5, product_updates: 0.05, ..Faults::default() };
    let (mut stubs, mut bytes, mut levels) = (0, 0, 0);
    for d in run(Settings { faults, facts: Some(3_000), ..settings() }) {
        let read = |headers| {
            let record = d.to_record(headers);
            let mut batch = RecordBatch::new(0, 0);
            let headers = record.headers.iter().map(|(n, v)| (*n, v.as_slice()));
            batch.push(0, i64::MAX / 2, record.key.as_deref(), record.value.as_deref(), headers);
            codec::read(&batch.get(0).expect("pushed")).map(|r| (r.fact_type, r.fact, r.at.event_time))
        };
        let (fact_type, fact, event_time) = read(RecordHeaders::Ours).expect("readable");
        assert_eq!((fact_type, event_time), (d.topic, d.triggered_at / 1_000_000));
        let stub = matches!(&fact, Fact::Product(p) if p.stub);
        assert_eq!(stub, d.body.len() < 30);
        stubs += usize::from(stub);
        // A bare id says nothing to a reader without headers.
        assert_eq!(read(RecordHeaders::None).is_ok(), !stub);
        if d.topic == FactType::LevelsUpdate {
            levels += 1;
            bytes += d.body.len();
        }
    }
    assert!(stubs > 20, "{stubs}");
    assert!((200..230).contains(&(bytes / levels)), "a level update has {} bytes", bytes / levels);
}
