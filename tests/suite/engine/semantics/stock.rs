//! `available`, and which stock feeds which rule.

use serde_json::json;
use stockwarden::events::record::NewRecord;

use super::*;

const NO_RULES: &str = "";

fn disconnect(variant: u64, location: u64, triggered_at: Option<&str>) -> NewRecord {
    let mut headers = vec![("fact", b"inventory_levels/disconnect".to_vec()), ("version", b"1".to_vec())];
    headers.extend(triggered_at.map(|t| ("triggered_at", t.as_bytes().to_vec())));
    let body = json!({"inventory_item_id": variant + 1000, "location_id": location});
    NewRecord { headers, ..foreign(SHOP, body.to_string()) }
}

#[test]
fn available_is_the_products_newest_count_until_a_level_is_known_and_then_the_sum_of_the_tracked_ones() {
    let bench = Bench::new(NO_RULES);
    let product = |minute: u32, quantity| product_with(1, &format!("2026-11-01T01:{minute:02}:00Z"), &[(1, Some(quantity))]);
    let level = |location, available: Option<i64>, minute: u32| {
        level_at(1, location, available, &format!("2026-11-01T01:{minute:02}:00Z"))
    };
    let after = |record| {
        bench.take(vec![record]);
        let view = bench.view(1);
        assert!(!view.levels_complete, "no import has said so");
        (view.available, view.levels.len())
    };
    assert_eq!(after(product(10, 30)), (Some(30), 0));
    assert_eq!(after(product(9, 99)), (Some(30), 0), "an older one changes nothing");
    assert_eq!(after(product(11, 25)), (Some(25), 0));
    assert_eq!(after(level(1, None, 5)), (None, 1), "all that is known is untracked");
    assert_eq!(after(level(2, Some(7), 5)), (Some(7), 2));
    assert_eq!(after(level(3, Some(-2), 5)), (Some(5), 3));
    assert_eq!(after(product(12, 99)), (Some(5), 3), "levels are known");
    assert_eq!(after(level(2, None, 6)), (Some(-2), 3));
    assert_eq!(after(level(3, None, 6)), (None, 3));
    bench.engine.stop();
}

#[test]
fn a_disconnect_takes_a_level_away_in_the_order_of_its_triggered_at_and_else_of_its_arrival() {
    let bench = Bench::at("2026-11-01T02:00:00Z", NO_RULES);
    bench.take(vec![product_with(1, "2026-11-01T00:00:00Z", &[(1, None)]), level_at(1, 1, 1, "2026-11-01T01:00:00Z")]);
    let after = |record| {
        bench.take(vec![record]);
        let view = bench.view(1);
        (view.available, view.levels.len())
    };
    assert_eq!(after(level_at(1, 2, 5, "2026-11-01T01:00:10Z")), (Some(6), 2));
    assert_eq!(after(disconnect(1, 2, Some("2026-11-01T01:00:05Z"))), (Some(6), 2), "it was connected again since");
    assert_eq!(after(disconnect(1, 2, Some("2026-11-01T01:00:20.5Z"))), (Some(1), 1));
    assert_eq!(after(level_at(1, 2, 4, "2026-11-01T01:00:15Z")), (Some(1), 1), "a level from before");
    assert_eq!(after(level_at(1, 2, 4, "2026-11-01T01:00:30Z")), (Some(5), 2));
    assert_eq!(after(disconnect(1, 2, None)), (Some(1), 1));
    assert_eq!(after(level_at(1, 2, 3, "2026-11-01T01:59:59Z")), (Some(1), 1), "before the disconnect came");
    assert_eq!(after(level_at(1, 2, 3, "2026-11-01T02:00:01Z")), (Some(4), 2));
    bench.engine.stop();
}

#[test]
fn a_products_count_feeds_a_rule_of_the_shop_and_none_of_a_location() {
    let bench = Bench::new(
        r#"
[[rule]]
id = "here"
scope = "location"
trigger = { kind = "constant", threshold = 10 }
quantity = { kind = "fixed", units = 5 }
cool_down = "0s"
initial = "propose"

[[rule]]
id = "all"
scope = "shop"
trigger = { kind = "constant", threshold = 10 }
quantity = { kind = "fixed", units = 5 }
cool_down = "0s"
"#,
    );
    let count = |minute: u32, quantity| product_with(1, &format!("2026-11-01T01:{minute:02}:00Z"), &[(1, Some(quantity))]);
    bench.take(vec![count(0, 30)]);
    let crossed = bench.take(vec![count(1, 5)]);
    let decided = bench.decided(1);
    let told: Vec<_> = decided.iter().map(|d| (d.rule_id.as_str(), d.location_id, d.caused_by.offset)).collect();
    assert_eq!(told, [("all", None, crossed.offset)]);
    // A level feeds the rule of its location.
    bench.take(vec![level_at(1, 4, 3, "2026-11-01T01:02:00Z")]);
    let decided = bench.decided(2);
    assert_eq!((decided[1].rule_id.as_str(), decided[1].location_id.map(|l| l.0)), ("here", Some(4)));
    bench.engine.stop();
}

#[test]
fn after_levels_from_before_the_catalogue_and_after_null_the_next_crossing_fires() {
    let bench = Bench::new(LOW);
    let at = |second: u32| format!("2026-11-01T01:00:{second:02}Z");
    bench.take(vec![level_at(1, 1, 20, &at(1)), level_at(1, 1, 9, &at(2)), product_with(1, &at(0), &[(1, None)])]);
    assert_eq!(bench.view(1).available, Some(9), "what waited counts");
    let crossed = bench.take(vec![level_at(1, 1, 30, &at(3)), level_at(1, 1, 8, &at(4))]);
    let last = |count| bench.decided(count).last().map(|d| (d.caused_by.partition, d.caused_by.offset));
    assert_eq!(last(1), Some((crossed.partition, crossed.offset)));
    let before = bench.decided(1).len();

    bench.take(vec![level_at(1, 1, None, &at(5)), level_at(1, 1, 5, &at(6))]);
    let crossed = bench.take(vec![level_at(1, 1, 30, &at(7)), level_at(1, 1, 7, &at(8))]);
    assert_eq!(last(before + 1), Some((crossed.partition, crossed.offset)));
    bench.engine.stop();
}
