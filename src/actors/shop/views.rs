//! What the shop answers to queries. Variants that are away are read in chunks; only the one that a query names comes back.

use std::pin::Pin;
use std::sync::Arc;

use actix::dev::{MessageResponse, OneshotSender};
use actix::prelude::*;
use futures::future::join_all;
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use super::Shop;
use super::residents::{Asked, Found};
use crate::actors::reader::Reader;
use crate::actors::variant::{ShopContext, Variant, View};
use crate::domain::shop::{ProductInfo, Shop as ShopFold};
use crate::domain::views::{Provenance, ShopView, VariantView};
use crate::events::decision::RiskLevel;
use crate::events::ids::VariantId;
use crate::events::record::Offset;
use crate::events::time::Millis;
use crate::ports::queries::{VariantFilter, VariantPage};

#[derive(Message)]
#[rtype(result = "Option<VariantView>")]
pub struct GetVariant {
    pub variant: VariantId,
    pub now: Millis,
    pub provenance: Provenance,
}

#[derive(Message)]
#[rtype(result = "VariantPage")]
pub struct ListVariants {
    pub filter: VariantFilter,
    pub now: Millis,
    pub provenance: Provenance,
}

#[derive(Message)]
#[rtype(result = "Option<ShopView>")]
pub struct GetShop {
    pub now: Millis,
    pub provenance: Provenance,
}

/// An answer that may not come, when the store does not give back what it needs: the asker then sees a closed mailbox, as of
/// a shop that is being rebuilt, and tries again.
pub struct Answer<T>(Pin<Box<dyn Future<Output = Option<T>>>>);

impl<T> Answer<T> {
    fn later(answer: impl Future<Output = Option<T>> + 'static) -> Answer<T> {
        Answer(Box::pin(answer))
    }
}

impl<M, T: 'static> MessageResponse<Shop, M> for Answer<T>
where
    M: Message<Result = T>,
{
    fn handle(self, _: &mut Context<Shop>, to: Option<OneshotSender<T>>) {
        actix::spawn(async move {
            if let (Some(answer), Some(to)) = (self.0.await, to) {
                // Whoever asked may have given up.
                let _ = to.send(answer);
            }
        });
    }
}

/// Whom to ask for a view.
struct Target {
    id: VariantId,
    stale_since: Option<Millis>,
    place: Place,
}

enum Place {
    Here(Addr<Variant>, Option<Arc<ShopContext>>),
    Away(Offset, Arc<ProductInfo>),
}

/// Views of a shop as of one moment.
struct Lookout {
    shop: Arc<str>,
    context: Arc<ShopContext>,
    reader: Reader,
    now: Millis,
    provenance: Provenance,
}

/// Variants looked at together: queries under way to actors, or rows of one read.
const CHUNK: usize = 1_000;

impl Lookout {
    fn view(&self, target: &Target, context: Option<Arc<ShopContext>>) -> View {
        View { context, now: self.now, stale_since: target.stale_since, provenance: self.provenance.clone() }
    }

    /// Looks in chunks, in order, until `take` says that it has enough; none if the store gives no answer. Deleted variants have
    /// no view. The `first` ones may be enough, so they are looked at alone.
    async fn look(&self, targets: Vec<Target>, first: usize, mut take: impl FnMut(VariantView) -> bool) -> Option<()> {
        let (few, many) = targets.split_at(first.min(targets.len()));
        for chunk in few.chunks(CHUNK).chain(many.chunks(CHUNK)) {
            let mut views: FxHashMap<VariantId, VariantView> = FxHashMap::default();
            let here = chunk.iter().filter_map(|t| match &t.place {
                Place::Here(addr, context) => Some(addr.send(self.view(t, context.clone()))),
                Place::Away(..) => None,
            });
            views.extend(join_all(here).await.into_iter().flatten().flatten().map(|v| (v.variant_id, v)));
            let mut away: FxHashMap<VariantId, (&Target, &Arc<ProductInfo>)> = FxHashMap::default();
            let mut wanted = Vec::new();
            for t in chunk {
                if let Place::Away(offset, info) = &t.place {
                    wanted.push((t.id, *offset));
                    away.insert(t.id, (t, info));
                }
            }
            if !wanted.is_empty() {
                let read = self.reader.read(vec![(self.shop.clone(), wanted)]).await;
                let states = read.inspect_err(|e| tracing::warn!(shop = &*self.shop, error = %e, "a query finds no snapshot"));
                for (id, state) in states.ok()?.into_iter().flat_map(|(_, states)| states) {
                    let (target, info) = away[&id];
                    let variant = Variant::new(id, self.context.clone(), info.clone(), state);
                    views.extend(variant.view(self.view(target, None)).map(|v| (id, v)));
                }
            }
            for target in chunk {
                if let Some(view) = views.remove(&target.id)
                    && !take(view)
                {
                    return Some(());
                }
            }
        }
        Some(())
    }
}

impl Shop {
    fn lookout(&self, now: Millis, provenance: Provenance) -> Lookout {
        Lookout { shop: self.name.clone(), context: self.context.clone(), reader: self.shared.reader.clone(), now, provenance }
    }

    fn target(&mut self, id: VariantId) -> Option<Target> {
        let stale_since = self.fold.product_of(id)?.stale_since;
        let place = match self.children.get_mut(&id) {
            Some(child) => {
                child.unpack(id, &self.context, &self.fold);
                // Rules reach a variant with its next work; a view shows them at once.
                let is_behind = child.context != self.context.version && child.work == 0;
                child.context = if is_behind { self.context.version } else { child.context };
                Place::Here(child.addr().clone(), is_behind.then(|| self.context.clone()))
            }
            None => {
                let stored = self.away.get(&id)?;
                Place::Away(stored.offset, self.fold.info(stored.product))
            }
        };
        Some(Target { id, stale_since, place })
    }

    /// Whether it is known without a look that the variant is at no risk.
    fn is_safe(&self, id: VariantId) -> bool {
        self.away.get(&id).is_some_and(|s| s.safe_under == Some(self.context.version))
    }
}

impl Handler<GetVariant> for Shop {
    type Result = Answer<Option<VariantView>>;

    fn handle(&mut self, get: GetVariant, ctx: &mut Self::Context) -> Self::Result {
        let Some(target) = self.target(get.variant) else { return Answer::later(async { Some(None) }) };
        let lookout = self.lookout(get.now, get.provenance);
        let found = match &target.place {
            Place::Here(addr, _) => Ok(Found::Here(addr.clone())),
            Place::Away(..) => {
                let (answer, found) = oneshot::channel();
                self.asked.push(Asked { variant: get.variant, answer });
                self.read_asked(ctx);
                Err(found)
            }
        };
        Answer::later(async move {
            let found = match found {
                Ok(here) => here,
                Err(waits) => waits.await.ok()?,
            };
            let context = match &target.place {
                Place::Here(_, context) => context.clone(),
                Place::Away(..) => None,
            };
            match found {
                Found::Here(addr) => addr.send(lookout.view(&target, context)).await.ok(),
                Found::Alone(variant) => Some(variant.view(lookout.view(&target, None))),
            }
        })
    }
}

impl Handler<ListVariants> for Shop {
    type Result = Answer<VariantPage>;

    fn handle(&mut self, list: ListVariants, _: &mut Self::Context) -> Self::Result {
        let filter = list.filter;
        let vendor = |id: &VariantId| {
            filter.vendor.as_ref().is_none_or(|v| self.fold.product_of(*id).is_some_and(|p| *p.info.vendor == **v))
        };
        let risk = |id: &VariantId| filter.at_risk != Some(true) || !self.is_safe(*id);
        let after = |id: &VariantId| filter.cursor.is_none_or(|c| *id > c);
        let mut ids: Vec<_> = self.fold.variants().filter(|id| after(id) && vendor(id) && risk(id)).collect();
        ids.sort_unstable();
        let targets = ids.into_iter().filter_map(|v| self.target(v)).collect();
        let lookout = self.lookout(list.now, list.provenance);
        Answer::later(async move {
            let mut page = VariantPage::default();
            lookout.look(targets, filter.limit + 1, |view| page.add(&filter, view)).await?;
            Some(page)
        })
    }
}

/// What a shop's view says of the shop itself; nothing of its variants is counted yet.
pub fn shop_view(context: &ShopContext, fold: &ShopFold, provenance: Provenance) -> ShopView {
    let state = fold.state();
    ShopView {
        shop: context.shop.to_string(),
        organisation: state.organisation.to_string(),
        kind: state.kind.to_string(),
        variants: fold.variant_count() as u64,
        at_risk: 0,
        open_proposals: 0,
        waiting_items: fold.waiting_items() as u64,
        rule_version: context.rules.rules.iter().map(|r| r.version).max(),
        provenance,
    }
}

impl Handler<GetShop> for Shop {
    type Result = Answer<Option<ShopView>>;

    fn handle(&mut self, get: GetShop, ctx: &mut Self::Context) -> Self::Result {
        if self.fold.state().removed {
            return Answer::later(async { Some(None) });
        }
        let mut view = shop_view(&self.context, &self.fold, get.provenance.clone());
        let (safe, unsure): (Vec<_>, Vec<_>) = self.fold.variants().partition(|id| self.is_safe(*id));
        view.open_proposals += safe.iter().map(|id| u64::from(self.away[id].open_proposals)).sum::<u64>();
        let targets: Vec<_> = unsure.into_iter().filter_map(|id| self.target(id)).collect();
        let away = |t: &Target| match t.place {
            Place::Away(offset, _) => Some((t.id, offset)),
            Place::Here(..) => None,
        };
        let read: FxHashMap<VariantId, Offset> = targets.iter().filter_map(away).collect();
        let (lookout, me) = (self.lookout(get.now, get.provenance), ctx.address());
        Answer::later(async move {
            let mut safe = Vec::new();
            let take = |v: VariantView| {
                let is_safe = v.risk.level == RiskLevel::None;
                if is_safe && let Some(offset) = read.get(&v.variant_id) {
                    safe.push((v.variant_id, *offset));
                }
                view.at_risk += u64::from(!is_safe);
                view.open_proposals += v.open_proposals.len() as u64;
                true
            };
            lookout.look(targets, 0, take).await?;
            if !safe.is_empty() {
                me.do_send(FoundSafe { under: lookout.context.version, safe });
            }
            Some(Some(view))
        })
    }
}

/// Variants that are away and were found at no risk: they need not be looked at again under the same rules.
#[derive(Message)]
#[rtype(result = "()")]
struct FoundSafe {
    under: u32,
    safe: Vec<(VariantId, Offset)>,
}

impl Handler<FoundSafe> for Shop {
    type Result = ();

    fn handle(&mut self, found: FoundSafe, _: &mut Self::Context) {
        for (id, offset) in found.safe {
            if let Some(stored) = self.away.get_mut(&id).filter(|s| s.offset == offset) {
                stored.safe_under = Some(found.under);
            }
        }
    }
}
