//! How far a partition is: for who waits for a position, and for who reads the group's lag.

use std::time::Duration;

use stockwarden::events::record::Topic;
use stockwarden::ports::event_log::Group;
use stockwarden::ports::queries::{Queries as _, QueryError};

use super::*;

#[test]
fn a_position_whose_fact_changed_nothing_is_waited_for_like_any_other() {
    let bench = Bench::new(LOW);
    bench.take(vec![foreign(SHOP, product(1)), foreign(SHOP, level(1, 20, 1))]);
    let asked = |after: Position| bench.engine.variant(SHOP, 1, Some(after)).map(|v| v.available);
    // The same again, an older one, what nobody can read, a fact that nothing folds, one about another shop of the partition.
    let order = r#"{"id":1,"line_items":[]}"#;
    for value in [level(1, 20, 1), level(1, 3, 0), "{".to_owned(), order.to_owned()] {
        let at = append(&*bench.log, vec![foreign(SHOP, value.clone())])[0];
        assert_eq!(asked(at).expect(&value), Some(20), "{value}");
    }
    let here = append(&*bench.log, vec![foreign(SHOP, level(1, 15, 9))])[0];
    let other = NewRecord { partition: Some(here.partition), ..foreign("b.myshopify.com", level(9, 1, 1)) };
    let at = append(&*bench.log, vec![other])[0];
    assert_eq!(asked(at).expect("answered"), Some(15));
    // What is not there yet is waited for, and then told to come again.
    let next = Position { offset: at.offset + 1, ..at };
    let wait = bench.engine.queries.variant(SHOP, stockwarden::events::ids::VariantId(1), Some(next), Duration::from_millis(50));
    assert!(matches!(bench.engine.block(wait), Err(QueryError::Behind { after, .. }) if after == next));
    bench.engine.stop();
}

#[test]
fn the_groups_offsets_advance_where_nothing_is_decided() {
    let bench = Bench::new(LOW);
    for (second, value) in [level(1, 20, 1), level(1, 19, 2), "{".to_owned()].into_iter().enumerate() {
        let at = bench.take(vec![foreign(SHOP, if second == 0 { product(1) } else { value })]);
        eventually("the offset is committed", || {
            let committed = bench.log.committed(Group::Shards, Topic::Facts).expect("committed");
            committed[at.partition as usize] == Some(at.offset + 1)
        });
    }
    assert_eq!(decisions(&*bench.log).len(), 0);
    bench.engine.stop();
}
