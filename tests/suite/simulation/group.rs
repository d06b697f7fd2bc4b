//! The consumer group as its coordinator sees it: members, a generation, who owns what.

use std::collections::{BTreeMap, BTreeSet};

use stockwarden::events::record::Partition;

use super::log::PARTITIONS;
use super::rng::Rng;

#[derive(Default)]
pub struct Group {
    pub generation: u32,
    pub members: BTreeSet<usize>,
    pub owner: BTreeMap<Partition, usize>,
}

impl Group {
    /// Whether a commit of this member is taken.
    pub fn knows(&self, node: usize, generation: u32) -> bool {
        self.members.contains(&node) && generation == self.generation
    }

    pub fn join(&mut self, node: usize, rng: &mut Rng) {
        self.members.insert(node);
        self.settle(rng);
    }

    pub fn expel(&mut self, node: usize, rng: &mut Rng) {
        self.members.remove(&node);
        self.owner.retain(|_, o| *o != node);
        self.settle(rng);
    }

    /// A partition given up as planned goes to somebody, perhaps to the same member.
    pub fn give_up(&mut self, node: usize, partition: Partition, rng: &mut Rng) {
        if self.owner.get(&partition) == Some(&node) {
            self.owner.remove(&partition);
            self.settle(rng);
        }
    }

    /// Every change is a new generation.
    fn settle(&mut self, rng: &mut Rng) {
        self.generation += 1;
        let members: Vec<usize> = self.members.iter().copied().collect();
        for partition in 0..PARTITIONS {
            if let (false, Some(node)) = (self.owner.contains_key(&partition), rng.pick(&members)) {
                self.owner.insert(partition, *node);
            }
        }
    }
}
