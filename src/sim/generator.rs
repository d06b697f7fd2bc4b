//! The simulation itself: an iterator of deliveries in virtual time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Exp1, Gamma};

use crate::events::fact::FactType;
use crate::events::ids::{LocationId, VariantId};

use super::bodies::{self, Quantities};
use super::delivery::{Delivery, Phase};
use super::settings::{BadSettings, Settings};
use super::truth::{Cause, Fate, TruthRow};
use super::world::{World, id};

const SECOND_NS: i64 = 1_000_000_000;
const MINUTE_NS: i64 = 60 * SECOND_NS;
const DAY_NS: i64 = 86_400 * SECOND_NS;

/// What is to happen at a time; earliest first, then in the order in which it was planned.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Planned {
    at: i64,
    seq: u64,
    event: Event,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival {
        level: u32,
        units: i32,
    },
    Return {
        level: u32,
        units: i32,
    },
    /// Index into `waiting`.
    LateDelivery(u64),
}

pub struct Simulation {
    settings: Settings,
    world: World,
    rng: SmallRng,
    sales_rate: f64,
    lead_s: f64,
    lead: Gamma<f64>,
    /// Daily Gamma factors of variants, mean 1, looked up by a hash of variant and day.
    daily: Vec<f64>,
    daily_max: f64,
    /// Virtual now, Unix nanoseconds.
    now: i64,
    next_sale: i64,
    planned: BinaryHeap<Reverse<Planned>>,
    seq: u64,
    late: HashMap<u64, Delivery>,
    /// Deliveries that wait for the next change of their level.
    merging: HashMap<u32, Vec<Delivery>>,
    ready: VecDeque<Delivery>,
    last_trigger: i64,
    catalogue: Catalogue,
    live: u64,
    truth: Option<Vec<TruthRow>>,
}

/// How far the catalogue has come: products first, shop by shop, then all levels.
#[derive(Clone, Copy)]
enum Catalogue {
    Products { shop: usize, product: usize },
    Levels { shop: usize, level: usize },
    Done,
}

impl Simulation {
    pub fn new(settings: Settings) -> Result<Simulation, BadSettings> {
        settings.check()?;
        let mut rng = SmallRng::seed_from_u64(settings.seed);
        let f = settings.faults;
        // Each sale makes more than one delivery; the rate counts deliveries.
        let per_sale = (1.0 + f.returns) * (1.0 + f.duplicates - f.lost) + f.product_updates;
        let sales_rate = settings.rate / per_sale;
        let lead_s = settings.lead_time_s();
        let world = World::new(&settings, sales_rate, lead_s, &mut rng);
        let day = Gamma::new(4.0, 0.25).expect("positive parameters");
        let daily: Vec<f64> = (0..1024).map(|_| day.sample(&mut rng)).collect();
        let daily_max = daily.iter().copied().fold(0.0, f64::max);
        let start = settings.start_time * 1_000_000;
        let catalogue = if settings.catalogue { Catalogue::Products { shop: 0, product: 0 } } else { Catalogue::Done };
        let mut simulation = Simulation {
            lead: Gamma::new(4.0, lead_s / 4.0).expect("positive parameters"),
            settings,
            world,
            rng,
            sales_rate,
            lead_s,
            daily,
            daily_max,
            now: start,
            next_sale: start,
            planned: BinaryHeap::new(),
            seq: 0,
            late: HashMap::new(),
            merging: HashMap::new(),
            ready: VecDeque::new(),
            last_trigger: start,
            catalogue,
            live: 0,
            truth: None,
        };
        simulation.next_sale = simulation.after_next_gap(start);
        Ok(simulation)
    }

    /// Keeps the rows of truth from now on; take them out with [`Simulation::take_truth`] now and then.
    pub fn keep_truth(&mut self) {
        self.truth = Some(Vec::new());
    }

    pub fn take_truth(&mut self) -> Vec<TruthRow> {
        self.truth.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The domains of all shops.
    pub fn shops(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.world.shops.iter().map(|s| &s.domain)
    }

    /// Deliveries of the catalogue.
    pub fn catalogue_size(&self) -> u64 {
        if self.settings.catalogue { (self.world.products.len() + self.world.levels.len()) as u64 } else { 0 }
    }

    /// True stock now, by variant and location.
    pub fn stock(&self, variant: VariantId, location: LocationId) -> Option<i64> {
        let v = id::variant_index(variant.0).filter(|&v| v < self.world.variants.len())?;
        let shop = self.world.shop_of(v);
        let l = (0..self.world.locations).find(|&l| id::location(shop, l) == location.0)?;
        Some(i64::from(self.world.levels[v * self.world.locations + l].available))
    }

    /// A shop is known before its levels are, and levels before they change.
    fn next_of_catalogue(&mut self) -> Option<Delivery> {
        loop {
            match self.catalogue {
                Catalogue::Products { shop, product } => {
                    let Some(s) = self.world.shops.get(shop) else {
                        self.catalogue = Catalogue::Done;
                        continue;
                    };
                    let (first, count) = (s.first_product as usize, s.products as usize);
                    if product == count {
                        self.catalogue = Catalogue::Levels { shop, level: 0 };
                        continue;
                    }
                    self.catalogue = Catalogue::Products { shop, product: product + 1 };
                    let at = self.trigger();
                    let body = bodies::product(&self.world, first + product, Quantities::None, at);
                    let variant = self.world.products[first + product].first_variant as usize;
                    return Some(self.delivery(FactType::ProductsCreate, variant, body, at, Cause::Catalogue));
                }
                Catalogue::Levels { shop, level } => {
                    let s = &self.world.shops[shop];
                    let (first, last) = (
                        &self.world.products[s.first_product as usize],
                        &self.world.products[(s.first_product + s.products - 1) as usize],
                    );
                    let begin = first.first_variant as usize * self.world.locations;
                    let end = (last.first_variant + last.variants) as usize * self.world.locations;
                    if begin + level == end {
                        self.catalogue = Catalogue::Products { shop: shop + 1, product: 0 };
                        continue;
                    }
                    self.catalogue = Catalogue::Levels { shop, level: level + 1 };
                    let at = self.trigger();
                    let index = (begin + level) as u32;
                    self.note(index, Cause::Catalogue, 0, 0, Fate::Delivered);
                    return Some(self.level_delivery(index, at, Cause::Catalogue));
                }
                Catalogue::Done => return None,
            }
        }
    }

    /// The next sale after `from`: exact for a rate that is constant within a minute, because gaps have no memory.
    fn after_next_gap(&mut self, from: i64) -> i64 {
        let start = self.settings.start_time;
        let mut at = from;
        loop {
            let rate = self.sales_rate * self.settings.profile.factor(start, at / 1_000_000);
            let gap: f64 = self.rng.sample(Exp1);
            let next = at.saturating_add((gap / rate * SECOND_NS as f64) as i64);
            let minute_ends = (at.div_euclid(MINUTE_NS) + 1) * MINUTE_NS;
            if next < minute_ends {
                return next;
            }
            at = minute_ends;
        }
    }

    /// A variant in proportion to its demand today: popularity times the Gamma factor of its day, which makes the counts
    /// of a day negative binomial.
    fn pick_variant(&mut self) -> usize {
        let day = self.now.div_euclid(DAY_NS) as u64;
        loop {
            let v = self.world.popularity.sample(&mut self.rng);
            let hash = (v as u64 ^ day.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let factor = self.daily[(hash >> 54) as usize];
            if self.rng.random::<f64>() * self.daily_max < factor {
                return v;
            }
        }
    }

    fn sell(&mut self) {
        let v = self.pick_variant();
        let asked = World::basket(self.rng.random());
        let locations = self.world.locations;
        let chosen = self.world.location(self.rng.random());
        let base = v * locations;
        // A web order goes where there is stock.
        let with_stock = (0..locations).map(|k| base + (chosen + k) % locations).find(|&l| self.world.levels[l].available > 0);
        let continue_selling = self.world.variants[v].continue_selling;
        let index = with_stock.unwrap_or(base + chosen);
        let level = &mut self.world.levels[index];
        let met = if continue_selling { asked } else { asked.min(level.available.max(0)) };
        level.available -= met;
        let index = index as u32;
        if met == 0 {
            self.note(index, Cause::Sale, asked, 0, Fate::Unseen);
            self.reorder(index);
            return;
        }
        self.changed(index, Cause::Sale, asked, met);
        self.reorder(index);
        let f = self.settings.faults;
        if self.rng.random_bool(f.returns) {
            let after: f64 = self.lead.sample(&mut self.rng) * 0.5;
            self.plan(after, Event::Return { level: index, units: 1 });
        }
        if self.rng.random_bool(f.product_updates) {
            self.send_product(v);
        }
    }

    /// The supplier is asked once the shelf is low; the goods come a Gamma-distributed lead time later.
    fn reorder(&mut self, index: u32) {
        let level = &mut self.world.levels[index as usize];
        if level.on_order || level.available > level.trigger {
            return;
        }
        level.on_order = true;
        let missing = level.target - level.available;
        let units = (missing + 5) / 6 * 6;
        let after = self.lead.sample(&mut self.rng);
        self.plan(after, Event::Arrival { level: index, units });
    }

    fn plan(&mut self, after_s: f64, event: Event) {
        self.seq += 1;
        let at = self.now.saturating_add((after_s * SECOND_NS as f64) as i64);
        self.planned.push(Reverse(Planned { at, seq: self.seq, event }));
    }

    /// A level has changed: its delivery is made, and meets its fate.
    fn changed(&mut self, index: u32, cause: Cause, asked: i32, met: i32) {
        let f = self.settings.faults;
        let at = self.trigger();
        let mut delivery = self.level_delivery(index, at, cause);
        if let Some(held) = self.merging.remove(&index) {
            for mut earlier in held {
                earlier.body.clone_from(&delivery.body);
                earlier.due = delivery.due;
                self.ready.push_back(earlier);
            }
        }
        let u: f64 = self.rng.random();
        let fate = match u {
            u if u < f.lost => Fate::Lost,
            u if u < f.lost + f.late => Fate::Late,
            u if u < f.lost + f.late + f.merged => Fate::Merged,
            _ => Fate::Delivered,
        };
        self.note(index, cause, asked, met, fate);
        delivery.fate = fate;
        match fate {
            Fate::Lost => return,
            Fate::Late => {
                let after = self.rng.sample::<f64, _>(Exp1) * (self.lead_s / 4.0).clamp(1.0, 4.0 * 3600.0);
                self.late.insert(self.seq + 1, delivery.clone());
                self.plan(after, Event::LateDelivery(self.seq + 1));
            }
            Fate::Merged => self.merging.entry(index).or_default().push(delivery.clone()),
            _ => self.ready.push_back(delivery.clone()),
        }
        self.maybe_twice(delivery);
    }

    fn maybe_twice(&mut self, mut delivery: Delivery) {
        // A delivery that is to be merged has no bytes yet that could be sent twice.
        if delivery.fate != Fate::Merged && self.rng.random_bool(self.settings.faults.duplicates) {
            delivery.fate = Fate::Duplicate;
            let after = self.rng.sample::<f64, _>(Exp1) * (self.lead_s / 8.0).clamp(1.0, 3600.0);
            self.late.insert(self.seq + 1, delivery);
            self.plan(after, Event::LateDelivery(self.seq + 1));
        }
    }

    fn send_product(&mut self, variant: usize) {
        let product = self.world.variants[variant].product as usize;
        let at = self.trigger();
        let thin = self.rng.random_bool(self.settings.faults.thin);
        let body = if thin { bodies::stub(product) } else { bodies::product(&self.world, product, Quantities::Current, at) };
        let mut delivery = self.delivery(FactType::ProductsUpdate, variant, body, at, Cause::Product);
        if thin {
            delivery.fate = Fate::Thin;
        }
        self.ready.push_back(delivery.clone());
        self.maybe_twice(delivery);
    }

    /// A new triggered-at: now, but later than all before it.
    fn trigger(&mut self) -> i64 {
        self.last_trigger = self.now.max(self.last_trigger + 1);
        self.last_trigger
    }

    fn level_delivery(&mut self, index: u32, at: i64, cause: Cause) -> Delivery {
        let (v, l) = (index as usize / self.world.locations, index as usize % self.world.locations);
        let available = i64::from(self.world.levels[index as usize].available);
        let body = bodies::level(&self.world, v, l, available, at);
        self.delivery(FactType::LevelsUpdate, v, body, at, cause)
    }

    fn delivery(&mut self, topic: FactType, variant: usize, body: Vec<u8>, at: i64, cause: Cause) -> Delivery {
        let phase = if cause == Cause::Catalogue { Phase::Catalogue } else { Phase::Live };
        Delivery {
            shop: self.world.shops[self.world.shop_of(variant)].domain.clone(),
            topic,
            webhook_id: uuid::Builder::from_random_bytes(self.rng.random()).into_uuid(),
            event_id: uuid::Builder::from_random_bytes(self.rng.random()).into_uuid(),
            triggered_at: at,
            due: at.max(self.now),
            phase,
            body,
            cause,
            fate: Fate::Delivered,
            variant: VariantId(id::variant(variant)),
        }
    }

    fn note(&mut self, index: u32, cause: Cause, asked: i32, met: i32, fate: Fate) {
        let Some(rows) = &mut self.truth else { return };
        let (v, l) = (index as usize / self.world.locations, index as usize % self.world.locations);
        let shop = self.world.shop_of(v);
        rows.push(TruthRow {
            at: self.now / 1_000_000,
            shop: self.world.shops[shop].domain.clone(),
            variant_id: VariantId(id::variant(v)),
            location_id: LocationId(id::location(shop, l)),
            cause,
            asked: asked.into(),
            met: met.into(),
            available: self.world.levels[index as usize].available.into(),
            fate,
        });
    }

    /// Moves virtual time to the next event and lets it happen. False at the end of the run.
    fn step(&mut self) -> bool {
        let planned_at = self.planned.peek().map_or(i64::MAX, |p| p.0.at);
        let next = planned_at.min(self.next_sale);
        let ends = self
            .settings
            .duration
            .map(|d| self.settings.start_time * 1_000_000 + i64::try_from(d.as_nanos()).unwrap_or(i64::MAX / 2));
        if ends.is_some_and(|ends| next >= ends) {
            return false;
        }
        self.now = next;
        if planned_at > self.next_sale {
            self.sell();
            self.next_sale = self.after_next_gap(self.now);
            return true;
        }
        let Some(Reverse(Planned { event, .. })) = self.planned.pop() else { return true };
        match event {
            Event::Arrival { level, units } => {
                self.world.levels[level as usize].available += units;
                self.world.levels[level as usize].on_order = false;
                self.changed(level, Cause::Restock, units, units);
                self.reorder(level);
            }
            Event::Return { level, units } => {
                self.world.levels[level as usize].available += units;
                self.changed(level, Cause::Return, units, units);
            }
            Event::LateDelivery(key) => {
                if let Some(mut delivery) = self.late.remove(&key) {
                    delivery.due = self.now.max(self.last_trigger);
                    self.ready.push_back(delivery);
                }
            }
        }
        true
    }
}

impl Iterator for Simulation {
    type Item = Delivery;

    fn next(&mut self) -> Option<Delivery> {
        if let Some(delivery) = self.next_of_catalogue() {
            return Some(delivery);
        }
        if self.settings.facts.is_some_and(|n| self.live >= n) {
            return None;
        }
        while self.ready.is_empty() {
            if !self.step() {
                return None;
            }
        }
        self.live += 1;
        self.ready.pop_front()
    }
}
