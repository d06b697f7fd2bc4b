//! Stock levels: newest observation wins, per (inventory item, location) (DESIGN §2).

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::demand::{Demand, Rates};
use crate::events::fact::Stamp;
use crate::events::ids::LocationId;
use crate::events::time::Millis;

/// What a location holds, as last observed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Level {
    pub location: LocationId,
    /// Units; none: not tracked.
    pub available: Option<i64>,
    pub stamp: Stamp,
    /// Disconnected: kept, so that an older update does not bring it back.
    pub gone: bool,
    pub demand: Demand,
}

/// A product's own count, used while no level is known (DESIGN §10).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProductQuantity {
    pub available: i64,
    pub stamp: Stamp,
    pub demand: Demand,
}

/// What an observation did to one location.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub location: LocationId,
    pub before: Option<i64>,
    pub after: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Stock {
    pub levels: SmallVec<[Level; 1]>,
    pub product: Option<ProductQuantity>,
}

impl Stock {
    /// Sum over tracked, connected locations; before any level is known, the product's own count. None: untracked or unknown.
    pub fn available(&self) -> Option<i64> {
        if self.has_levels() {
            let mut sum = None;
            for level in self.connected() {
                if let Some(a) = level.available {
                    sum = Some(sum.unwrap_or(0) + a);
                }
            }
            sum
        } else {
            self.product.as_ref().map(|p| p.available)
        }
    }

    pub fn has_levels(&self) -> bool {
        self.connected().next().is_some()
    }

    pub fn connected(&self) -> impl Iterator<Item = &Level> {
        self.levels.iter().filter(|l| !l.gone)
    }

    pub fn at(&self, location: LocationId) -> Option<&Level> {
        self.connected().find(|l| l.location == location)
    }

    /// Rates of one location, or of all together.
    pub fn rates(&self, location: Option<LocationId>, now: Millis) -> Rates {
        match location {
            Some(l) => Rates::of(self.at(l).map(|l| &l.demand).into_iter(), now),
            None if self.has_levels() => Rates::of(self.levels.iter().map(|l| &l.demand), now),
            None => Rates::of(self.product.iter().map(|p| &p.demand), now),
        }
    }

    /// Takes a level observation; none if it changes nothing (late, or the same again).
    pub fn observe_level(&mut self, location: LocationId, available: Option<i64>, stamp: Stamp, at: Millis) -> Option<Change> {
        let Some(level) = self.levels.iter_mut().find(|l| l.location == location) else {
            self.levels.push(Level { location, available, stamp, gone: false, demand: Demand::starting(at) });
            self.levels.sort_unstable_by_key(|l| l.location);
            return Some(Change { location, before: None, after: available });
        };
        if stamp < level.stamp || (stamp.same_event(&level.stamp) && !level.gone && level.available == available) {
            return None;
        }
        let before = if level.gone { None } else { level.available };
        match (before, available) {
            (Some(b), Some(a)) => level.demand.sell(b - a, at),
            // Tracking began anew: what was counted before says nothing (RULES, "tracked toggles").
            (None, Some(_)) => level.demand = Demand::starting(at),
            _ => {}
        }
        level.available = available;
        level.stamp = stamp;
        level.gone = false;
        Some(Change { location, before, after: available })
    }

    /// A location was disconnected; none if a newer observation says otherwise or nothing was known.
    pub fn observe_gone(&mut self, location: LocationId, stamp: Stamp, at: Millis) -> Option<Change> {
        match self.levels.iter_mut().find(|l| l.location == location) {
            Some(level) => {
                if level.gone || stamp.updated_at < level.stamp.updated_at {
                    return None;
                }
                let before = level.available.take();
                level.gone = true;
                level.stamp = stamp;
                Some(Change { location, before, after: None })
            }
            None => {
                // Remembered, so that a late update from before does not connect it.
                self.levels.push(Level { location, available: None, stamp, gone: true, demand: Demand::starting(at) });
                self.levels.sort_unstable_by_key(|l| l.location);
                Some(Change { location, before: None, after: None })
            }
        }
    }

    /// Takes a product's own count; whether anything changed.
    pub fn observe_product(&mut self, available: i64, stamp: Stamp, at: Millis) -> bool {
        match &mut self.product {
            Some(p) if stamp < p.stamp || (stamp.same_event(&p.stamp) && p.available == available) => false,
            Some(p) => {
                p.demand.sell(p.available - available, at);
                p.available = available;
                p.stamp = stamp;
                true
            }
            None => {
                self.product = Some(ProductQuantity { available, stamp, demand: Demand::starting(at) });
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(updated_at: i64, triggered_at: i64, offset: i64) -> Stamp {
        Stamp { updated_at, triggered_at, offset }
    }

    #[test]
    fn a_disconnected_level_stays_away_until_something_newer_connects_it() {
        let mut s = Stock::default();
        s.observe_level(LocationId(1), Some(5), stamp(1000, 0, 1), 1000);
        assert_eq!(s.available(), Some(5));
        assert!(s.observe_gone(LocationId(1), stamp(2000, 0, 2), 2000).is_some());
        assert_eq!(s.available(), None);
        assert!(s.observe_level(LocationId(1), Some(4), stamp(1500, 0, 3), 1500).is_none());
        assert!(s.observe_level(LocationId(1), Some(4), stamp(2500, 0, 4), 2500).is_some());
        assert_eq!(s.available(), Some(4));
    }

    proptest::proptest! {
        /// Invariant 2 of DESIGN §7: whatever is delivered twice, late or out of order, the newest observation stands.
        #[test]
        fn the_newest_observation_wins_in_any_order_of_delivery(
            events in proptest::collection::vec((0i64..20, 0i64..3, -5i64..50), 1..30),
            order in proptest::collection::vec(0usize..1000, 30..60),
        ) {
            let mut s = Stock::default();
            let mut delivered = Vec::new();
            for (i, pick) in order.iter().enumerate() {
                let n = pick % events.len();
                let (updated, triggered, available) = events[n];
                let st = stamp(updated, triggered, i as i64);
                s.observe_level(LocationId(9), Some(available), st, updated);
                delivered.push((st, available));
            }
            let newest = delivered.iter().max_by_key(|(s, _)| *s).expect("some");
            proptest::prop_assert_eq!(s.available(), Some(newest.1));
        }
    }
}
