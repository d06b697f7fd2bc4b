//! What a simulation is made from. The same settings make the same bytes.

use std::time::Duration;

use crate::events::time::Millis;

use super::profile::Profile;

/// Settings of a simulation. All times but none of the rates are virtual: how fast virtual time passes is the sink's
/// affair.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub seed: u64,
    pub shops: usize,
    /// Over all shops; larger shops have more.
    pub variants: usize,
    pub locations_per_shop: usize,
    /// Facts a virtual second, where the profile's factor is 1.
    pub rate: f64,
    pub profile: Profile,
    /// Virtual time begins here, Unix milliseconds.
    pub start_time: Millis,
    /// Mean time between an order to the supplier and its arrival. `None`: a sixth of the time that the run covers, so that
    /// stock comes and goes within it, and two days in a run without an end.
    pub lead_time: Option<Duration>,
    pub faults: Faults,
    /// Whether each shop first sends its products and first levels.
    pub catalogue: bool,
    /// Ends after so many deliveries, those of the catalogue not counted.
    pub facts: Option<u64>,
    /// Ends after so much virtual time.
    pub duration: Option<Duration>,
}

/// Shares of deliveries, 0 to 1, that go wrong on their way, and of sales with a sequel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// Sent a second time, the same bytes under the same ids.
    pub duplicates: f64,
    /// Arrive after newer ones.
    pub late: f64,
    /// Never arrive.
    pub lost: f64,
    /// Are put together late: they say what the next change of the level says (0→10→0 arrives as 0 and 0).
    pub merged: f64,
    /// Product updates that are cut to their id.
    pub thin: f64,
    /// Sales that come back.
    pub returns: f64,
    /// Sales after which the product is sent as well.
    pub product_updates: f64,
}

impl Default for Faults {
    fn default() -> Self {
        Faults { duplicates: 0.01, late: 0.02, lost: 0.002, merged: 0.005, thin: 0.02, returns: 0.05, product_updates: 0.005 }
    }
}

impl Faults {
    /// A transport that does what it should; returns are no fault and stay.
    pub fn none() -> Self {
        Faults { duplicates: 0.0, late: 0.0, lost: 0.0, merged: 0.0, thin: 0.0, ..Faults::default() }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            seed: 1,
            shops: 20,
            variants: 2_000,
            locations_per_shop: 2,
            rate: 100.0,
            profile: Profile::Flat,
            // Fixed, so that two runs on two days make the same bytes.
            start_time: 1_764_288_000_000,
            lead_time: None,
            faults: Faults::default(),
            catalogue: true,
            facts: None,
            duration: None,
        }
    }
}

/// Settings that make no simulation.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{setting} is {value}; it must be {must_be}")]
pub struct BadSettings {
    pub setting: &'static str,
    pub value: String,
    pub must_be: &'static str,
}

impl Settings {
    /// More would not fit the ids that are given out.
    const MAX_SHOPS: usize = 1_000_000;
    const MAX_VARIANTS: usize = 20_000_000;

    pub fn check(&self) -> Result<(), BadSettings> {
        let fail = |setting, value: String, must_be| Err(BadSettings { setting, value, must_be });
        if !(1..=Self::MAX_SHOPS).contains(&self.shops) {
            return fail("shops", self.shops.to_string(), "from 1 to 1,000,000");
        }
        if !(self.shops..=Self::MAX_VARIANTS).contains(&self.variants) {
            return fail("variants", self.variants.to_string(), "at least the number of shops and at most 20,000,000");
        }
        if !(1..=50).contains(&self.locations_per_shop) {
            return fail("locations per shop", self.locations_per_shop.to_string(), "from 1 to 50");
        }
        if !(self.rate.is_finite() && self.rate > 0.0) {
            return fail("rate", self.rate.to_string(), "a number above 0, in facts a second");
        }
        let f = &self.faults;
        for (setting, share) in [
            ("duplicates", f.duplicates),
            ("late", f.late),
            ("lost", f.lost),
            ("merged", f.merged),
            ("thin", f.thin),
            ("returns", f.returns),
            ("product updates", f.product_updates),
        ] {
            // Past this a run might never get to its number of facts.
            if !(0.0..=0.9).contains(&share) {
                return fail(setting, share.to_string(), "a share from 0 to 0.9");
            }
        }
        Ok(())
    }

    /// The virtual time that the run covers, if it ends.
    fn span(&self) -> Option<Duration> {
        let by_count = self.facts.map(|n| Duration::from_secs_f64((n as f64 / self.rate).min(1e9)));
        [by_count, self.duration].into_iter().flatten().min()
    }

    /// Mean lead time in virtual seconds.
    pub(super) fn lead_time_s(&self) -> f64 {
        let two_days = Duration::from_secs(2 * 86_400);
        let lead = self.lead_time.unwrap_or_else(|| self.span().map_or(two_days, |s| (s / 6).min(two_days)));
        lead.as_secs_f64().max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_make_no_simulation_are_named() {
        let bad = |change: fn(&mut Settings)| {
            let mut s = Settings::default();
            change(&mut s);
            s.check().expect_err("bad settings").setting
        };
        assert_eq!(bad(|s| s.shops = 0), "shops");
        assert_eq!(bad(|s| s.variants = 3), "variants");
        assert_eq!(bad(|s| s.locations_per_shop = 0), "locations per shop");
        assert_eq!(bad(|s| s.rate = f64::NAN), "rate");
        assert_eq!(bad(|s| s.faults.lost = 1.0), "lost");
        assert_eq!(Settings::default().check(), Ok(()));
    }

    #[test]
    fn a_short_run_has_short_lead_times_so_that_stock_comes_back_within_it() {
        let run = |facts, duration| Settings { facts, duration, ..Settings::default() }.lead_time_s();
        assert_eq!(run(Some(60_000), None), 100.0);
        assert_eq!(run(Some(60_000), Some(Duration::from_secs(60))), 10.0);
        assert_eq!(run(None, None), 172_800.0);
    }
}
