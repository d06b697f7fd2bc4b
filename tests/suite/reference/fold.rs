//! Takes records in log order and says what they come to.

use std::collections::HashMap;

use serde_json::Value;

use super::input::{Event, Record, Rule};
use super::shop::Shop;
use super::variant::{At, Subjects};
use super::{Counts, Made, Outcome};

/// One partition: its rules, its shops, its time.
#[derive(Default)]
struct Partition {
    /// By organisation.
    rules: HashMap<String, Vec<Rule>>,
    shops: HashMap<String, Shop>,
    /// The running maximum of event times.
    now: i64,
}

pub struct Reference {
    /// Hold in every partition from the beginning.
    rules: Vec<Rule>,
    next_uid: u64,
    partitions: HashMap<i32, Partition>,
    outcome: Outcome,
}

/// The organisation of shops that nobody registered.
const DEFAULT: &str = "default";

impl Reference {
    /// `rules`, as in the rules file, hold from before the first record; those of `rules/applied` records come later.
    pub fn new(rules: &[Value]) -> Reference {
        let read: Vec<Rule> = rules.iter().zip(1..).map(|(raw, uid)| Rule::read(raw, uid)).collect();
        Reference { next_uid: read.len() as u64 + 1, rules: read, partitions: HashMap::new(), outcome: Outcome::default() }
    }

    /// Records of one partition come in the order of their offsets; partitions may be mixed.
    pub fn take(&mut self, record: &Record) {
        self.outcome.counts.records += 1;
        let partition = self.partitions.entry(record.partition).or_default();
        if partition.rules.is_empty() {
            partition.rules.insert(DEFAULT.into(), self.rules.clone());
        }
        let Some(event) = Event::read(record) else {
            self.outcome.counts.unreadable += 1;
            return;
        };
        partition.now = partition.now.max(event.event_time);
        let at = At { partition: record.partition, offset: event.offset, event_time: event.event_time, now: partition.now };
        let mut made = Made::default();
        match event.kind.as_str() {
            "rules/applied" => partition.apply_rules(&event.body, &mut self.next_uid, at, &mut made),
            "clock/tick" => {
                for shop in partition.shops.values_mut() {
                    let rules = partition.rules.get(&shop.organisation).map(Vec::as_slice).unwrap_or_default();
                    for variant in shop.variant_ids() {
                        shop.tick(rules, variant, at, &mut made);
                    }
                }
            }
            "shop/registered" => {
                partition.shop(&event.key).organisation = event.body["organisation"].as_str().unwrap_or(DEFAULT).to_owned()
            }
            _ => {
                let organisation = partition.shop(&event.key).organisation.clone();
                let rules = partition.rules.get(&organisation).cloned().unwrap_or_default();
                partition.shop(&event.key).take(&rules, &event, at, &mut made, &mut self.outcome.counts);
            }
        }
        for (seq, decision) in made.decisions.into_iter().enumerate() {
            self.outcome.decisions.insert((record.partition, record.offset, seq as u32), decision);
        }
        for change in made.changes {
            let key = (record.partition, record.offset, change.proposal.id.clone());
            let before = self.outcome.changes.insert(key, change);
            assert_eq!(before, None, "a fact changes a proposal once");
        }
    }

    pub fn outcome(mut self) -> Outcome {
        for shop in self.partitions.values().flat_map(|p| p.shops.values()) {
            self.outcome.variants.extend(shop.variants_out().map(|(id, v)| ((shop.domain.clone(), id), v)));
            let waiting = shop.waiting();
            if waiting > 0 {
                self.outcome.waiting.insert(shop.domain.clone(), waiting);
            }
        }
        self.outcome
    }

    /// Proposals so far, open or closed: shop, variant, id.
    pub fn proposals(&self) -> impl Iterator<Item = (&str, u64, &str)> {
        self.outcome.decisions.values().map(|d| (d.shop.as_str(), d.variant, d.decision_id.as_str()))
    }

    pub fn counts(&self) -> Counts {
        self.outcome.counts
    }
}

impl Partition {
    fn shop(&mut self, domain: &str) -> &mut Shop {
        self.shops.entry(domain.to_owned()).or_insert_with(|| Shop::new(domain, DEFAULT))
    }

    /// The organisation's whole set is replaced. A rule whose content stays keeps its armed states, others start as first
    /// seen, on what is known now.
    fn apply_rules(&mut self, body: &Value, next_uid: &mut u64, at: At, made: &mut Made) {
        let organisation = body["organisation"].as_str().unwrap_or(DEFAULT).to_owned();
        let old = self.rules.get(&organisation).cloned().unwrap_or_default();
        let empty = Vec::new();
        let rules: Vec<Rule> = body["rules"]
            .as_array()
            .unwrap_or(&empty)
            .iter()
            .map(|raw| {
                let kept = old.iter().find(|r| r.raw == *raw).map(|r| r.uid);
                *next_uid += 1;
                Rule::read(raw, kept.unwrap_or(*next_uid))
            })
            .collect();
        // Then every variant is looked at; else each with its next fact, and until then nothing has come of the rules.
        let propose_first = rules.iter().any(|r| r.propose_first && old.iter().all(|o| o.uid != r.uid));
        for shop in self.shops.values_mut().filter(|s| s.organisation == organisation) {
            shop.forget_rules_but(&rules);
            for variant in shop.variant_ids() {
                if propose_first {
                    shop.time_passes(variant, at);
                }
                shop.judge(&rules, variant, &Subjects::NewRules, at, made);
                if propose_first {
                    shop.tell(variant, at, &[], made);
                }
            }
        }
        self.rules.insert(organisation, rules);
    }
}
