//! Risk levels.

use stockwarden::domain::views::RiskView;
use stockwarden::events::decision::RiskLevel;
use stockwarden::ports::queries::{Queries as _, VariantFilter};

use super::*;

const RULE: &str = r#"
[[rule]]
id = "low"
trigger = { kind = "constant", threshold = 10 }
quantity = { kind = "fixed", units = 5 }
cool_down = "0s"
"#;

#[test]
fn a_risk_level_says_how_near_the_end_is_and_at_risk_is_every_level_but_none() {
    let bench = Bench::at("2026-11-02T01:00:00Z", RULE);
    let all: Vec<_> = (1..=7).map(|v| (v, None)).collect();
    bench.take(vec![product_with(1, "2026-11-01T00:00:00Z", &all)]);
    let day = |day: u32, variant, available: Option<i64>, second: u32| {
        level_at(variant, 1, available, &format!("2026-11-0{day}T00:00:{second:02}Z"))
    };
    bench.take(vec![
        // Low from the start: shown, not proposed.
        day(1, 1, Some(5), 0),
        // Crossed a day ago; what is left lasts for days.
        day(1, 2, Some(20), 0),
        day(1, 2, Some(9), 1),
        // Sells by the second.
        day(2, 3, Some(20), 0),
        day(2, 3, Some(9), 1),
        day(1, 4, Some(0), 0),
        day(1, 5, Some(-3), 0),
        day(1, 6, Some(50), 0),
        day(1, 7, None, 0),
    ]);
    let risk = |variant| -> RiskView { bench.view(variant).risk };
    use RiskLevel::{Critical, Low, None as Safe, Out, Warning};
    let levels: Vec<_> = (1..=7).map(|v| risk(v).level).collect();
    assert_eq!(levels, [Low, Warning, Critical, Out, Out, Safe, Safe]);
    assert!(risk(3).hours_left.is_some_and(|h| h < 6.0), "{:?}", risk(3));
    assert!(risk(2).hours_left.is_some_and(|h| h >= 6.0), "{:?}", risk(2));
    assert!(risk(2).probability.is_some_and(|p| (0.0..=1.0).contains(&p)), "{:?}", risk(2));

    let listed = |at_risk| -> Vec<u64> {
        let filter = VariantFilter { at_risk: Some(at_risk), limit: 100, ..VariantFilter::default() };
        let page = bench.engine.block(bench.engine.queries.variants(SHOP, filter, None, PATIENCE)).expect("answered");
        page.variants.iter().map(|v| v.variant_id.0).collect()
    };
    assert_eq!((listed(true), listed(false)), (vec![1, 2, 3, 4, 5], vec![6, 7]));
    let shop = bench.engine.block(bench.engine.queries.shop(SHOP, None, PATIENCE)).expect("answered");
    assert_eq!((shop.variants, shop.at_risk, shop.open_proposals), (7, 5, 2));
    // A decision's severity is the level at that moment.
    let severities: Vec<_> = bench.decided(2).iter().map(|d| d.severity).collect();
    assert_eq!(severities, [Warning, Critical]);
    bench.engine.stop();
}
