//! What a shard with its shops and variants holds. The domain is the real one; the way of a fact through it mirrors
//! src/actors/{shard,shop,variant}: a batch's facts go to shops and variants, deadlines are noted when the batch is done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stockwarden::actors::protocol::{Loaded, Mode, number, sealed};
use stockwarden::domain::rules::{EffectiveRules, RuleSet};
use stockwarden::domain::shard::ShardFold;
use stockwarden::domain::shop::{ProductInfo, Shop, Work};
use stockwarden::domain::snapshot;
use stockwarden::domain::variant::{Context, Matched, VariantFact, VariantState, decide};
use stockwarden::events::codec::{self, Subject};
use stockwarden::events::dead_letter::Unreadable;
use stockwarden::events::decision::{Decision, Recorded};
use stockwarden::events::fact::{At, Fact};
use stockwarden::events::ids::VariantId;
use stockwarden::events::record::{Offset, Partition, RecordBatch};
use stockwarden::events::time::Millis;
use stockwarden::ports::snapshot_store::{Columns, Entity, Epoch, Snapshot};

struct Rules {
    organisation: Box<str>,
    effective: EffectiveRules,
}

struct Variant {
    rules: Arc<Rules>,
    product: Arc<ProductInfo>,
    matched: Matched,
    state: VariantState,
    collected: Offset,
    deadline: Option<Millis>,
    /// Another product names it; the fact that did so follows.
    has_moved: bool,
    dirty: bool,
}

struct ShopEntry {
    fold: Shop,
    theirs: Option<Arc<RuleSet>>,
    rules: Arc<Rules>,
    variants: BTreeMap<VariantId, Variant>,
    last: Offset,
    collected: Offset,
    dirty: bool,
}

#[derive(Default)]
pub struct Made {
    pub decisions: Vec<Decision>,
    pub unreadable: Vec<(Offset, Unreadable)>,
    deadlines: Vec<(Arc<str>, VariantId, Option<Millis>)>,
}

type Deadline = (Millis, Arc<str>, VariantId);
/// (shop, entity) → (offset of the last fact in it, its bytes).
pub type Bytes = BTreeMap<(String, Entity), (Offset, Vec<u8>)>;

#[derive(Default)]
pub struct Fold {
    partition: Partition,
    pub shard: ShardFold,
    shops: BTreeMap<Arc<str>, ShopEntry>,
    deadlines: BTreeSet<Deadline>,
    deadline_of: BTreeMap<(Arc<str>, VariantId), Millis>,
    last: Offset,
    dirty: bool,
}

impl Variant {
    fn new(id: VariantId, rules: Arc<Rules>, product: Arc<ProductInfo>, state: VariantState) -> Variant {
        let (collected, deadline, matched) = (state.last, state.next_deadline(), Matched::default());
        let mut v = Variant { rules, product, matched, state, collected, deadline, has_moved: false, dirty: false };
        v.rematch(id);
        v
    }

    fn rematch(&mut self, id: VariantId) {
        self.matched = Matched::of(&self.rules.effective, id, self.state.sku.as_deref(), &self.product);
    }

    fn take(&mut self, shop: &str, partition: Partition, id: VariantId, work: Work, mode: Mode, made: &mut Made) {
        if let Work::Product(product, info) = work {
            self.has_moved |= self.state.product != product && self.state.last >= 0;
            self.state.product = product;
            self.product = info;
            self.rematch(id);
            return;
        }
        if let Work::Fact(_, fact) = &work {
            let sku = self.state.sku_after(fact);
            if sku != self.state.sku.as_deref() {
                self.matched = Matched::of(&self.rules.effective, id, sku, &self.product);
            }
        }
        let ctx = Context {
            organisation: &self.rules.organisation,
            shop,
            partition,
            variant: id,
            product: &self.product,
            rules: &self.rules.effective,
            matched: &self.matched,
        };
        match work {
            Work::Product(..) => {}
            Work::Fact(at, fact) => {
                let observed = self.state.observe(&ctx, &fact, at);
                if std::mem::take(&mut self.has_moved) {
                    self.state.last = self.state.last.max(at.offset);
                }
                for fired in observed.fired.iter().filter(|_| mode == Mode::Live) {
                    if let Some(decision) = decide(&self.state, &ctx, fired, at) {
                        self.state.record(&ctx, &decision, at);
                        made.decisions.push(decision);
                    }
                }
            }
            Work::Recorded(at, recorded) => {
                if let Recorded::Decision(decision) = &*recorded {
                    self.state.record(&ctx, decision, at);
                }
            }
        }
    }
}

impl ShopEntry {
    fn new(name: &str, fold: Shop, last: Offset, theirs: Option<Arc<RuleSet>>) -> ShopEntry {
        let rules = rules_of(name, &fold, theirs.as_deref());
        ShopEntry { fold, theirs, rules, variants: BTreeMap::new(), last, collected: last, dirty: false }
    }

    fn queue(&mut self, shop: &Arc<str>, partition: Partition, id: VariantId, work: Work, mode: Mode, made: &mut Made) {
        if !self.variants.contains_key(&id) {
            let Work::Product(product, info) = &work else { return };
            let new = Variant::new(id, self.rules.clone(), info.clone(), VariantState::new(*product));
            self.variants.insert(id, new);
        }
        let Some(v) = self.variants.get_mut(&id) else { return };
        if !Arc::ptr_eq(&v.rules, &self.rules) {
            v.rules = self.rules.clone();
            v.rematch(id);
        }
        v.dirty = true;
        v.take(shop, partition, id, work, mode, made);
    }
}

fn rules_of(shop: &str, fold: &Shop, theirs: Option<&RuleSet>) -> Arc<Rules> {
    let effective = EffectiveRules::of(shop, theirs, fold.own_rules());
    Arc::new(Rules { organisation: fold.state().organisation.clone(), effective })
}

impl Fold {
    pub fn new(partition: Partition) -> Fold {
        Fold { partition, last: -1, ..Fold::default() }
    }

    pub fn from_loaded(partition: Partition, loaded: Loaded) -> Fold {
        let mut fold = Fold { shard: loaded.fold, ..Fold::new(partition) };
        for (name, id, at) in loaded.deadlines {
            fold.set_deadline(&name, id, Some(at));
        }
        for (name, shop) in loaded.shops {
            let theirs = fold.shard.rules(&shop.fold.state().organisation).cloned().map(Arc::new);
            let mut entry = ShopEntry::new(&name, shop.fold, shop.offset, theirs);
            for (id, _, packed) in shop.variants {
                let state = packed.unpack();
                let info = entry.fold.product(state.product).map(|p| p.info.clone()).unwrap_or_default();
                entry.variants.insert(id, Variant::new(id, entry.rules.clone(), info, state));
            }
            fold.shops.insert(name, entry);
        }
        fold
    }

    pub fn apply(&mut self, batch: &RecordBatch, mut recorded: BTreeMap<Offset, Vec<Recorded>>, mode: Mode) -> Made {
        let mut made = Made::default();
        let mut touched: BTreeSet<(Arc<str>, VariantId)> = BTreeSet::new();
        for record in batch.iter() {
            let after = recorded.remove(&record.offset).unwrap_or_default();
            let read = match codec::read(&record) {
                Ok(read) => read,
                Err(unreadable) => {
                    made.unreadable.push((record.offset, unreadable));
                    continue;
                }
            };
            let mut at = read.at;
            self.shard.advance(&mut at);
            self.last = at.offset;
            self.dirty = true;
            let before = made.decisions.len();
            match read.subject {
                Subject::Shop(shop) => self.take(shop, at, read.fact, mode, &mut made, &mut touched),
                Subject::Partition => self.take_for_all(at, read.fact, mode, &mut made, &mut touched),
            }
            debug_assert!(mode == Mode::Live || made.decisions.len() == before);
            for r in after {
                if let Recorded::Decision(d) = &r
                    && let (Some(shop), Some(variant)) = (d.shop.clone(), d.variant_id)
                {
                    self.give(&shop, variant, Work::Recorded(at, Arc::new(r)), mode, &mut made, &mut touched);
                }
            }
        }
        for (shop, id) in touched {
            let Some(v) = self.shops.get_mut(&shop).and_then(|s| s.variants.get_mut(&id)) else { continue };
            let deadline = v.state.next_deadline();
            if deadline != v.deadline {
                v.deadline = deadline;
                made.deadlines.push((shop, id, deadline));
            }
        }
        number(&mut made.decisions);
        made
    }

    /// The batch is done.
    pub fn settle(&mut self, made: &mut Made) {
        for (shop, id, at) in std::mem::take(&mut made.deadlines) {
            self.set_deadline(&shop, id, at);
        }
    }

    fn entry(&mut self, name: &str) -> (Arc<str>, &mut ShopEntry) {
        let name: Arc<str> = name.into();
        if !self.shops.contains_key(&name) {
            let fold = Shop::default();
            let theirs = self.shard.rules(&fold.state().organisation).cloned().map(Arc::new);
            self.shops.insert(name.clone(), ShopEntry::new(&name, fold, -1, theirs));
        }
        let entry = self.shops.get_mut(&name).expect("put there just now");
        entry.dirty = true;
        (name, entry)
    }

    fn give(
        &mut self,
        shop: &str,
        id: VariantId,
        work: Work,
        mode: Mode,
        made: &mut Made,
        touched: &mut BTreeSet<(Arc<str>, VariantId)>,
    ) {
        let partition = self.partition;
        let (name, entry) = self.entry(shop);
        entry.queue(&name, partition, id, work, mode, made);
        touched.insert((name, id));
    }

    fn take(
        &mut self,
        shop: &str,
        at: At,
        fact: Fact,
        mode: Mode,
        made: &mut Made,
        touched: &mut BTreeSet<(Arc<str>, VariantId)>,
    ) {
        let moved_to = match &fact {
            Fact::ShopRegistered(r) => Some(r.organisation.clone()),
            _ => None,
        };
        let (name, entry) = self.entry(shop);
        let mut steps = Vec::new();
        match entry.fold.observe(fact, at, &mut steps) {
            Ok(effect) => {
                if effect.changed {
                    entry.last = at.offset;
                }
                if effect.rules_changed {
                    entry.rules = rules_of(&name, &entry.fold, entry.theirs.as_deref());
                }
            }
            Err(unreadable) => made.unreadable.push((at.offset, unreadable)),
        }
        for (id, work) in steps {
            self.give(shop, id, work, mode, made, touched);
        }
        if let Some(organisation) = moved_to {
            let theirs = self.shard.rules(&organisation).cloned().map(Arc::new);
            let (name, entry) = self.entry(shop);
            entry.rules = rules_of(&name, &entry.fold, theirs.as_deref());
            entry.theirs = theirs;
        }
    }

    fn take_for_all(&mut self, at: At, fact: Fact, mode: Mode, made: &mut Made, touched: &mut BTreeSet<(Arc<str>, VariantId)>) {
        let mut woken: Vec<(Arc<str>, VariantId)> = Vec::new();
        match fact {
            Fact::Rules(set) => match self.shard.apply_rules(&set, at) {
                Ok(effect) if effect.changed => {
                    let theirs = self.shard.rules(&set.organisation).cloned().map(Arc::new);
                    for (name, entry) in &mut self.shops {
                        if *entry.fold.state().organisation == *set.organisation {
                            entry.dirty = true;
                            entry.rules = rules_of(name, &entry.fold, theirs.as_deref());
                            entry.theirs = theirs.clone();
                            let all = entry.variants.keys().filter(|_| effect.proposes_at_once);
                            woken.extend(all.map(|id| (name.clone(), *id)));
                        }
                    }
                }
                Ok(_) => {}
                Err(unreadable) => made.unreadable.push((at.offset, unreadable)),
            },
            _ => {
                while let Some((due, shop, id)) = self.deadlines.first().cloned().filter(|d| d.0 <= at.now) {
                    self.deadlines.remove(&(due, shop.clone(), id));
                    self.deadline_of.remove(&(shop.clone(), id));
                    woken.push((shop, id));
                }
            }
        }
        for (shop, id) in woken {
            self.give(&shop, id, Work::Fact(at, VariantFact::Touch), mode, made, touched);
        }
    }

    fn set_deadline(&mut self, shop: &Arc<str>, id: VariantId, at: Option<Millis>) {
        let key = (shop.clone(), id);
        let before = match at {
            Some(at) => {
                self.deadlines.insert((at, shop.clone(), id));
                self.deadline_of.insert(key, at)
            }
            None => self.deadline_of.remove(&key),
        };
        if let Some(before) = before.filter(|b| Some(*b) != at) {
            self.deadlines.remove(&(before, shop.clone(), id));
        }
    }

    pub fn is_dirty(&self) -> bool {
        self.dirty || self.shops.values().any(|s| s.dirty)
    }

    /// What changed since the last collection, sealed.
    pub fn collect(&mut self, epoch: Epoch) -> Vec<Snapshot> {
        let partition = self.partition;
        let mut found = Vec::new();
        if std::mem::take(&mut self.dirty) {
            found.push(sealed(
                partition,
                epoch,
                "",
                Entity::Shard,
                self.last,
                snapshot::encode(&self.shard.state()),
                Columns::default(),
            ));
        }
        for (name, entry) in self.shops.iter_mut().filter(|(_, e)| e.dirty) {
            entry.dirty = false;
            if entry.last > entry.collected {
                entry.collected = entry.last;
                let state = snapshot::encode(entry.fold.state());
                found.push(sealed(partition, epoch, name, Entity::Shop, entry.last, state, Columns::default()));
            }
            for (id, v) in entry.variants.iter_mut().filter(|(_, v)| v.dirty) {
                v.dirty = false;
                if v.state.last != v.collected {
                    v.collected = v.state.last;
                    let (entity, state) = (Entity::Variant(id.0), snapshot::encode(&v.state));
                    found.push(sealed(partition, epoch, name, entity, v.state.last, state, Columns::default()));
                }
            }
        }
        found
    }

    pub fn bytes(&self) -> Bytes {
        let mut all = Bytes::new();
        if self.shard.now().is_some() {
            all.insert((String::new(), Entity::Shard), (0, snapshot::encode(&self.shard.state())));
        }
        for (name, entry) in &self.shops {
            let shop = (entry.last, snapshot::encode(entry.fold.state()));
            if entry.last >= 0 {
                all.insert((name.to_string(), Entity::Shop), shop);
            }
            for (id, v) in &entry.variants {
                all.insert((name.to_string(), Entity::Variant(id.0)), (v.state.last, snapshot::encode(&v.state)));
            }
        }
        all
    }

    pub fn variants(&self) -> impl Iterator<Item = (&str, VariantId, &VariantState)> {
        self.shops.iter().flat_map(|(name, e)| e.variants.iter().map(move |(id, v)| (&**name, *id, &v.state)))
    }
}
