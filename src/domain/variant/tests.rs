use std::sync::Arc;

use super::*;
use crate::domain::proposal;
use crate::domain::rules::{self, RuleSet};
use crate::events::fact::{Move, MoveDetails};
use crate::events::time::Millis;

const T0: Millis = 1_700_000_000_000;
const HOUR: Millis = 3_600_000;

/// A variant under a rules file, fed level by level; one fact a minute unless told otherwise.
struct Bench {
    state: VariantState,
    rules: EffectiveRules,
    set: RuleSet,
    product: ProductInfo,
    offset: Offset,
    now: Millis,
    decisions: Vec<Decision>,
}

impl Bench {
    fn new(toml: &str) -> Bench {
        let mut bench = Bench {
            state: VariantState::new(ProductId(1)),
            rules: EffectiveRules::default(),
            set: RuleSet::default(),
            product: ProductInfo { title: "Bottle".into(), vendor: "Acme".into(), ..ProductInfo::default() },
            offset: 100,
            now: T0,
            decisions: Vec::new(),
        };
        bench.apply_rules(toml);
        bench
    }

    fn apply_rules(&mut self, toml: &str) {
        let parsed = rules::from_toml(toml).expect("valid rules");
        self.offset += 1;
        self.set = self.set.replaced_by(self.set.version + 1, parsed, self.offset);
        self.rules = EffectiveRules::of("s", Some(&self.set), &RuleSet::default());
    }

    fn fact(&mut self, fact: VariantFact) -> Vec<Decision> {
        self.offset += 1;
        self.now += 60_000;
        let at = At { offset: self.offset, event_time: self.now, now: self.now };
        let matched = Matched::of(&self.rules, VariantId(7), self.state.sku_after(&fact), &self.product);
        let ctx = Context {
            organisation: "default",
            shop: "s",
            partition: 0,
            variant: VariantId(7),
            product: &self.product,
            rules: &self.rules,
            matched: &matched,
        };
        let observed = self.state.observe(&ctx, &fact, at);
        let made: Vec<_> = observed.fired.iter().filter_map(|f| decide(&self.state, &ctx, f, at)).collect();
        for d in &made {
            self.state.record(&ctx, d, at);
        }
        self.decisions.extend(made.clone());
        made
    }

    fn level(&mut self, location: u64, available: impl Into<Option<i64>>) -> Vec<Decision> {
        let stamp = Stamp { updated_at: self.now + 60_000, triggered_at: 0, offset: self.offset + 1 };
        self.fact(VariantFact::Level { location: LocationId(location), available: available.into(), stamp })
    }

    fn levels(&mut self, numbers: &[i64]) -> Vec<usize> {
        let fired: Vec<_> = numbers.iter().map(|a| self.level(1, *a).len()).collect();
        fired.iter().enumerate().filter(|(_, n)| **n > 0).map(|(i, _)| i).collect()
    }

    fn open(&self) -> Vec<&'static str> {
        self.state.open_proposals().map(|p| p.state.as_str()).collect()
    }
}

fn constant(extra: &str) -> String {
    format!(
        "[[rule]]\nid = \"low\"\nscope = \"location\"\ntrigger = {{ kind = \"constant\", threshold = 10 }}\n\
         quantity = {{ kind = \"up-to\", level = 60, pack = 6, minimum = 12 }}\ncool_down = \"0s\"\n{extra}\n"
    )
}

#[test]
fn a_constant_rule_fires_on_the_crossing_once_and_arms_again_past_its_level() {
    let mut b = Bench::new(&constant(""));
    // 11 is the re-arm level of 10: 10 → 11 → 10 crosses again, 9 → 10 → 9 does not.
    assert_eq!(b.levels(&[20, 11, 10, 9, 8, 10, 11, 10]), [2, 7]);
    let d = &b.decisions[0];
    assert_eq!((d.quantity, d.available, d.inputs.previous, d.inputs.threshold), (Some(54), 10, Some(11), Some(10)));
    assert_eq!(d.location_id, Some(LocationId(1)));
    assert_eq!(d.caused_by.offset, 104);
}

#[test]
fn the_first_observation_never_fires_and_what_is_low_first_waits_for_the_next_crossing() {
    let mut b = Bench::new(&constant(""));
    assert_eq!(b.levels(&[3, 2, 10, 11, 9]), [4]);
    let mut b = Bench::new(&constant("initial = \"propose\""));
    assert_eq!(b.levels(&[3, 2]), [0]);
}

#[test]
fn stock_that_is_low_when_a_rule_comes_is_held_unless_the_rule_says_propose() {
    let mut b = Bench::new("");
    b.level(1, 5);
    b.apply_rules(&constant(""));
    assert!(b.fact(VariantFact::Touch).is_empty());
    assert!(b.level(1, 4).is_empty());
    let mut b = Bench::new("");
    b.level(1, 5);
    b.apply_rules(&constant("initial = \"propose\""));
    assert_eq!(b.fact(VariantFact::Touch).len(), 1);
    assert!(b.level(1, 4).is_empty());
}

#[test]
fn an_unchanged_rule_stays_fired_when_the_set_is_applied_again() {
    let mut b = Bench::new(&constant(""));
    b.levels(&[20, 9]);
    b.apply_rules(&format!("{}[[rule]]\nid = \"other\"\ntrigger = {{ kind = \"gradient\" }}\n", constant("")));
    assert!(b.levels(&[8, 10, 9]).is_empty());
    assert_eq!(b.state.open_proposals().count(), 1);
}

#[test]
fn untracked_stock_fires_nothing_and_the_next_number_is_a_first_one() {
    let mut b = Bench::new(&constant(""));
    b.level(1, 20);
    assert!(b.level(1, None).is_empty());
    assert!(b.level(1, 5).is_empty());
    assert_eq!(b.levels(&[30, 5]), [1]);
    b.fact(VariantFact::Item { sku: None, tracked: Some(false), stamp: Stamp { updated_at: b.now, triggered_at: 0, offset: 1 } });
    assert!(b.levels(&[30, 5]).is_empty());
}

/// Also when the newer one said nothing new.
#[test]
fn an_older_item_update_that_comes_late_changes_nothing() {
    let mut b = Bench::new(&constant(""));
    let item = |updated_at, tracked, sku: &str| VariantFact::Item {
        sku: Some(sku.into()),
        tracked: Some(tracked),
        stamp: Stamp { updated_at, triggered_at: 0, offset: 1 },
    };
    b.fact(item(T0 + 10, true, "A"));
    b.fact(item(T0 + 30, true, "A"));
    b.fact(item(T0 + 20, false, "B"));
    assert_eq!((b.state.tracked, b.state.sku.as_deref()), (Some(true), Some("A")));
    assert_eq!(b.state.sku_after(&item(T0 + 25, true, "C")), Some("A"), "nor are rules matched by it");
    assert_eq!(b.state.sku_after(&item(T0 + 40, true, "C")), Some("C"));
}

#[test]
fn a_crossing_in_the_cool_down_waits_for_its_end() {
    let mut b = Bench::new(&constant("").replace("\"0s\"", "\"2h\""));
    assert_eq!(b.levels(&[20, 9, 30, 9, 8]), [1]);
    assert_eq!(b.state.next_deadline(), Some(T0 + 2 * 60_000 + 2 * HOUR));
    b.now += 2 * HOUR;
    assert_eq!(b.fact(VariantFact::Touch).len(), 1);
    assert!(b.fact(VariantFact::Touch).is_empty());
}

#[test]
fn one_open_proposal_covers_the_location_and_closes_when_stock_is_back() {
    let two = format!("{}{}", constant(""), constant("").replace("\"low\"", "\"low2\"").replace("= 10 }", "= 8 }"));
    let mut b = Bench::new(&two);
    assert_eq!(b.levels(&[20, 10, 8]), [1], "the second rule finds the first one's proposal open");
    assert_eq!(b.open(), ["proposed"]);
    b.level(1, 11);
    assert_eq!(b.open(), [""; 0]);
    assert_eq!(b.state.proposals[0].state, proposal::State::Resolved);
}

#[test]
fn what_somebody_acted_on_stays_open_and_counts_as_supply() {
    let mut b = Bench::new(&constant(""));
    b.levels(&[20, 10]);
    let proposal_id = b.decisions[0].proposal_id;
    let moved = |moved, quantity| {
        let details = MoveDetails { quantity, ..MoveDetails::default() };
        let m = ProposalMoved { proposal_id, variant_id: VariantId(7), moved, by: "t".into(), via: "api".into(), details };
        VariantFact::ProposalMoved(Box::new(m))
    };
    b.fact(moved(Move::Ordered, Some(50)));
    b.levels(&[12, 9]);
    assert_eq!(b.open(), ["ordered"]);
    assert_eq!(b.state.under_way(Some(LocationId(1))), 50);
    b.fact(moved(Move::Received, Some(20)));
    assert_eq!((b.open(), b.state.under_way(None)), (vec!["ordered"], 30));
    b.fact(moved(Move::Received, None));
    assert_eq!(b.open(), [""; 0]);
}

#[test]
fn locations_are_watched_one_by_one_and_the_shop_by_its_sum() {
    let mut b = Bench::new(&constant(""));
    b.level(1, 20);
    b.level(2, 20);
    assert_eq!(b.level(1, 10).len(), 1);
    assert_eq!(b.level(2, 10).len(), 1);
    let mut b = Bench::new(&constant("").replace("\"location\"", "\"shop\""));
    b.level(1, 20);
    b.level(2, 20);
    assert!(b.level(1, 0).is_empty());
    let d = b.level(2, 10);
    assert_eq!((d[0].available, d[0].location_id), (10, None));
}

#[test]
fn duplicates_and_late_facts_leave_not_a_byte_changed() {
    let mut b = Bench::new(&constant(""));
    b.levels(&[20, 15]);
    let before = b.state.clone();
    let same = VariantFact::Level {
        location: LocationId(1),
        available: Some(15),
        stamp: Stamp { updated_at: b.now, triggered_at: 0, offset: b.offset },
    };
    b.fact(same);
    let late = VariantFact::Level {
        location: LocationId(1),
        available: Some(2),
        stamp: Stamp { updated_at: b.now - HOUR, triggered_at: 0, offset: b.offset + 1 },
    };
    assert!(b.fact(late).is_empty());
    assert_eq!(b.state, before);
}

#[test]
fn a_gradient_rule_fires_when_it_sells_fast_and_arms_again_when_it_calms_down() {
    let mut b = Bench::new(
        "[[rule]]\nid = \"g\"\ntrigger = { kind = \"gradient\", probability = 0.8, horizon = \"6h\" }\ncool_down = \"0s\"\n",
    );
    b.level(1, 100);
    let mut left = 100;
    let mut fired_at = None;
    for _ in 0..60 {
        left -= 1;
        b.now += 4 * 60_000;
        if !b.level(1, left).is_empty() {
            fired_at = Some(left);
            break;
        }
    }
    // 12 an hour: 72 in six hours.
    let fired_at = fired_at.expect("it fires");
    assert!((40..90).contains(&fired_at), "fired at {fired_at}");
    let d = &b.decisions[0];
    assert!(d.inputs.probability.expect("told") >= 0.8 && d.quantity.is_none());
    b.now += 14 * 24 * HOUR;
    b.fact(VariantFact::Touch);
    assert_eq!(b.state.proposals[0].state, proposal::State::Resolved);
}

#[test]
fn replay_of_recorded_decisions_gives_the_same_bytes() {
    let mut live = Bench::new(&constant("").replace("\"0s\"", "\"1h\""));
    let mut replayed = Bench::new(&constant("").replace("\"0s\"", "\"1h\""));
    let numbers = [20, 11, 10, 9, 30, 8, 7, 50, 3, 0, -2, 40];
    for a in numbers {
        let made = live.level(1, a);
        // The same steps without `decide`.
        replayed.offset += 1;
        replayed.now += 60_000;
        let at = At { offset: replayed.offset, event_time: replayed.now, now: replayed.now };
        let matched = Matched::of(&replayed.rules, VariantId(7), None, &replayed.product);
        let ctx = Context {
            organisation: "default",
            shop: "s",
            partition: 0,
            variant: VariantId(7),
            product: &replayed.product,
            rules: &replayed.rules,
            matched: &matched,
        };
        let stamp = Stamp { updated_at: replayed.now, triggered_at: 0, offset: replayed.offset };
        replayed.state.observe(&ctx, &VariantFact::Level { location: LocationId(1), available: Some(a), stamp }, at);
        for d in made {
            replayed.state.record(&ctx, &d, at);
        }
        assert_eq!(crate::domain::snapshot::encode(&replayed.state), crate::domain::snapshot::encode(&live.state));
    }
    assert!(!live.decisions.is_empty());
}

#[test]
fn a_proposal_on_which_nobody_acts_expires() {
    let mut b = Bench::new(&constant("expire_after = \"1d\""));
    b.levels(&[20, 9]);
    assert_eq!(b.open(), ["proposed"]);
    b.now += 25 * HOUR;
    b.fact(VariantFact::Touch);
    assert_eq!(b.open(), [""; 0]);
    assert_eq!(b.state.proposals[0].state, proposal::State::Expired);
}

#[test]
fn a_proposal_that_has_expired_covers_no_crossing_although_no_tick_came_in_between() {
    let mut b = Bench::new(&constant("expire_after = \"2h\""));
    b.levels(&[20, 9]);
    b.now += 3 * HOUR;
    b.apply_rules(&constant("initial = \"propose\""));
    let made = b.fact(VariantFact::Touch);
    assert_eq!(made.iter().map(|d| d.quantity).collect::<Vec<_>>(), [Some(54)]);
    assert_eq!(b.open(), ["proposed"]);
}

#[test]
fn a_deleted_variant_cancels_its_proposals_and_fires_no_more() {
    let mut b = Bench::new(&constant(""));
    b.levels(&[20, 9]);
    b.fact(VariantFact::Deleted);
    assert_eq!(b.state.proposals[0].state, proposal::State::Cancelled);
    assert!(b.levels(&[50, 3]).is_empty());
}

#[test]
fn an_arc_of_rules_is_shared_and_a_context_is_small() {
    assert!(std::mem::size_of::<VariantState>() <= 480, "{}", std::mem::size_of::<VariantState>());
    let _: Arc<ActiveRule> = Bench::new(&constant("")).rules.rules[0].clone();
}
