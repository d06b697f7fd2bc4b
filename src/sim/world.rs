//! The shops, their products and what lies on their shelves, drawn from the seed.

use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;
use rand_distr::weighted::WeightedAliasIndex;
use rand_distr::{Distribution, Gamma};

use super::settings::Settings;

/// Exponents of Zipf's law: for the sizes and sales of shops, for the sales of a shop's variants.
const ZIPF_SHOP_SIZE: f64 = 0.6;
const ZIPF_SHOP_SALES: f64 = 1.0;
const ZIPF_VARIANTS: f64 = 0.9;
/// Units in a basket line; the mean of what [`World::basket`] draws.
pub(super) const MEAN_UNITS: f64 = 1.365;

pub(super) const VENDORS: [&str; 12] = [
    "Acme",
    "Nordhang",
    "Lumen & Co",
    "Kestrel",
    "Brightwater",
    "Old Mill",
    "Fernweh",
    "Tidewater",
    "Acme Kids",
    "Halden",
    "Solveig",
    "Orchard",
];
/// Product types with the letters that begin their SKUs.
pub(super) const KINDS: [(&str, &str); 10] = [
    ("Shirts", "SH"),
    ("Bottles", "BT"),
    ("Shoes", "SO"),
    ("Jackets", "JK"),
    ("Lamps", "LP"),
    ("Mugs", "MG"),
    ("Backpacks", "BP"),
    ("Candles", "CN"),
    ("Tents", "TN"),
    ("Socks", "SK"),
];
const NAMES: [&str; 12] =
    ["alpine", "harbor", "linden", "copper", "meadow", "polar", "saffron", "willow", "granite", "juniper", "cobalt", "amber"];
const TRADES: [&str; 8] = ["outfitters", "goods", "supply", "market", "studio", "outdoor", "home", "works"];

pub(super) struct Shop {
    pub domain: Arc<str>,
    /// Shopify writes times in the shop's zone.
    pub utc_offset_minutes: i32,
    pub first_product: u32,
    pub products: u32,
}

#[derive(Clone, Copy)]
pub(super) struct Product {
    pub shop: u32,
    pub first_variant: u32,
    pub variants: u32,
    pub kind: u8,
    pub vendor: u8,
}

#[derive(Clone, Copy)]
pub(super) struct Variant {
    pub product: u32,
    /// May sell below zero.
    pub continue_selling: bool,
    pub has_sku: bool,
}

/// Stock of a variant at a location: what is there, when the buyer orders, up to which level.
#[derive(Clone, Copy)]
pub(super) struct Level {
    pub available: i32,
    pub target: i32,
    pub trigger: i32,
    pub on_order: bool,
}

pub(super) struct World {
    pub shops: Vec<Shop>,
    pub products: Vec<Product>,
    pub variants: Vec<Variant>,
    /// By variant, then location.
    pub levels: Vec<Level>,
    pub locations: usize,
    /// Draws a variant in proportion to its mean demand.
    pub popularity: WeightedAliasIndex<f64>,
    /// Cumulated shares of a shop's locations in its sales.
    location_shares: Vec<f64>,
}

impl World {
    /// `sales_rate` in sales a second at the profile's factor 1, `lead_time_s` the mean lead time.
    pub fn new(settings: &Settings, sales_rate: f64, lead_time_s: f64, rng: &mut SmallRng) -> World {
        let locations = settings.locations_per_shop;
        let mut world = World {
            shops: Vec::with_capacity(settings.shops),
            products: Vec::new(),
            variants: Vec::with_capacity(settings.variants),
            levels: Vec::with_capacity(settings.variants * locations),
            locations,
            popularity: WeightedAliasIndex::new(vec![1.0]).expect("one positive weight"),
            location_shares: location_shares(locations),
        };
        let mut weights = Vec::with_capacity(settings.variants);
        let spread = Gamma::new(1.5, 1.0 / 1.5).expect("positive parameters");
        for (index, variants) in shop_sizes(settings.shops, settings.variants).into_iter().enumerate() {
            world.add_shop(index, variants, rng);
            // Zipf's law within the shop, in an order that has nothing to do with ids, roughened by a Gamma draw.
            let mut within: Vec<f64> =
                (0..variants).map(|rank| ((rank + 1) as f64).powf(-ZIPF_VARIANTS) * spread.sample(rng)).collect();
            shuffle(&mut within, rng);
            let shop_weight = ((index + 1) as f64).powf(-ZIPF_SHOP_SALES) / within.iter().sum::<f64>().max(f64::MIN_POSITIVE);
            weights.extend(within.into_iter().map(|w| (w * shop_weight).max(1e-12)));
        }
        let total: f64 = weights.iter().sum();
        for weight in &weights {
            world.stock_up(weight / total * sales_rate * MEAN_UNITS * lead_time_s, rng);
        }
        world.popularity = WeightedAliasIndex::new(weights).expect("weights are positive and finite");
        world
    }

    fn add_shop(&mut self, index: usize, variants: usize, rng: &mut SmallRng) {
        let first_product = self.products.len() as u32;
        let mut left = variants;
        while left > 0 {
            let n = rng.random_range(1..=6).min(left);
            let product = Product {
                shop: index as u32,
                first_variant: self.variants.len() as u32,
                variants: n as u32,
                kind: rng.random_range(0..KINDS.len()) as u8,
                vendor: rng.random_range(0..VENDORS.len()) as u8,
            };
            for _ in 0..n {
                let (continue_selling, has_sku) = (rng.random_bool(0.1), rng.random_bool(0.99));
                self.variants.push(Variant { product: self.products.len() as u32, continue_selling, has_sku });
            }
            self.products.push(product);
            left -= n;
        }
        let (name, trade) = (NAMES[index % NAMES.len()], TRADES[index / NAMES.len() % TRADES.len()]);
        self.shops.push(Shop {
            domain: format!("{name}-{trade}-{index:04}.myshopify.com").into(),
            utc_offset_minutes: [-300, 60, 0, -480, 540][index % 5],
            first_product,
            products: self.products.len() as u32 - first_product,
        });
    }

    /// Stocks a variant's locations; `per_lead_time` is what it sells on the mean while an order is under way. Buyers plan
    /// badly: a third of them orders too late.
    fn stock_up(&mut self, per_lead_time: f64, rng: &mut SmallRng) {
        let mut before = 0.0;
        for l in 0..self.locations {
            let share = self.location_shares[l] - before;
            before = self.location_shares[l];
            let demand = (per_lead_time * share).min(1e8);
            let target = (demand * rng.random_range(1.4..2.8)) as i32 + rng.random_range(14..70);
            let trigger = (demand * rng.random_range(0.7..1.3)) as i32 + rng.random_range(1..12);
            let available = (f64::from(target) * rng.random_range(0.25..1.0)) as i32;
            self.levels.push(Level { available, target, trigger: trigger.min(target), on_order: false });
        }
    }

    pub fn location(&self, u: f64) -> usize {
        self.location_shares.iter().position(|&s| u < s).unwrap_or(self.locations - 1)
    }

    pub fn shop_of(&self, variant: usize) -> usize {
        self.products[self.variants[variant].product as usize].shop as usize
    }

    /// The stock of a variant over all locations.
    pub fn total(&self, variant: usize) -> i64 {
        self.levels[variant * self.locations..][..self.locations].iter().map(|l| i64::from(l.available)).sum()
    }

    /// Units in a basket line: mostly one, sometimes a wholesaler's dozen.
    pub fn basket(u: f64) -> i32 {
        match u {
            u if u < 0.78 => 1,
            u if u < 0.93 => 2,
            u if u < 0.98 => 3,
            u if u < 0.995 => 5,
            _ => 12,
        }
    }
}

/// Ids as large and as different as Shopify's, and the same in every run.
pub(super) mod id {
    pub fn product(index: usize) -> u64 {
        10_200_000_000_000 + index as u64 * 29
    }
    pub fn variant(index: usize) -> u64 {
        52_000_000_000_000 + index as u64 * 31
    }
    pub fn variant_index(id: u64) -> Option<usize> {
        let beyond = id.checked_sub(variant(0))?;
        (beyond % 31 == 0).then_some((beyond / 31) as usize)
    }
    pub fn item(variant: usize) -> u64 {
        54_000_000_000_000 + variant as u64 * 31
    }
    pub fn location(shop: usize, location: usize) -> u64 {
        82_000_000_000 + shop as u64 * 100 + location as u64
    }
}

/// Splits `variants` by Zipf's law, at least one to each shop.
fn shop_sizes(shops: usize, variants: usize) -> Vec<usize> {
    let weights: Vec<f64> = (0..shops).map(|rank| ((rank + 1) as f64).powf(-ZIPF_SHOP_SIZE)).collect();
    let total: f64 = weights.iter().sum();
    let spare = variants - shops;
    let mut sizes: Vec<usize> = weights.iter().map(|w| 1 + (w / total * spare as f64) as usize).collect();
    let given: usize = sizes.iter().sum();
    for i in 0..variants - given {
        sizes[i % shops] += 1;
    }
    sizes
}

/// The first location (the web shop's warehouse) has the larger half.
fn location_shares(locations: usize) -> Vec<f64> {
    let weights: Vec<f64> = (0..locations).map(|l| 0.55f64.powi(l as i32)).collect();
    let total: f64 = weights.iter().sum();
    let mut sum = 0.0;
    weights
        .iter()
        .map(|w| {
            sum += w / total;
            sum
        })
        .collect()
}

fn shuffle(list: &mut [f64], rng: &mut SmallRng) {
    for i in (1..list.len()).rev() {
        list.swap(i, rng.random_range(0..=i));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn all_variants_are_given_out_and_large_shops_have_more() {
        let sizes = shop_sizes(100, 10_007);
        assert_eq!(sizes.iter().sum::<usize>(), 10_007);
        assert!(sizes[0] > 5 * sizes[99] && sizes[99] >= 1, "{sizes:?}");
        assert_eq!(shop_sizes(5, 5), [1; 5]);
    }

    #[test]
    fn the_largest_shop_sells_as_zipf_says() {
        let settings = Settings { shops: 50, variants: 5_000, ..Settings::default() };
        let mut rng = SmallRng::seed_from_u64(3);
        let world = World::new(&settings, 100.0, 1000.0, &mut rng);
        let mut sold = [0u32; 50];
        for _ in 0..100_000 {
            sold[world.shop_of(world.popularity.sample(&mut rng))] += 1;
        }
        let harmonic: f64 = (1..=50).map(|r| 1.0 / f64::from(r)).sum();
        let share = f64::from(sold[0]) / 100_000.0;
        assert!((share - 1.0 / harmonic).abs() < 0.01, "the first shop has {share}, Zipf says {}", 1.0 / harmonic);
    }

    #[test]
    fn the_mean_basket_is_what_stock_is_planned_with() {
        let mean = (0..100_000).map(|i| World::basket((f64::from(i) + 0.5) / 100_000.0)).sum::<i32>() as f64 / 100_000.0;
        assert!((mean - MEAN_UNITS).abs() < 0.05, "{mean}");
    }
}
