use super::*;

const LEVEL_STAMP: Stamp = Stamp { updated_at: 1_000, triggered_at: 0, offset: 1 };

fn at(offset: i64) -> At {
    At { offset, event_time: 2_000, now: 2_000 }
}

fn level(item: u64, available: i64, updated_at: i64, offset: i64) -> Fact {
    Fact::Level(crate::events::fact::LevelObserved {
        item: ItemId(item),
        location: crate::events::ids::LocationId(1),
        available: Some(available),
        stamp: Stamp { updated_at, triggered_at: 0, offset },
    })
}

fn product(variants: &[(u64, u64)], updated_at: i64, offset: i64) -> Fact {
    let listed = |&(id, item): &(u64, u64)| VariantListed {
        id: VariantId(id),
        item: Some(ItemId(item)),
        sku: Some(format!("SKU-{id}").into()),
        title: Some("M".into()),
        continue_selling: None,
        quantity: Some(5),
    };
    Fact::Product(Box::new(ProductObserved {
        id: ProductId(1),
        title: Some("Shirt".into()),
        vendor: Some("Acme".into()),
        product_type: None,
        tags: None,
        variants: Some(variants.iter().map(listed).collect()),
        all_variants: None,
        stub: false,
        stamp: Stamp { updated_at, triggered_at: 0, offset },
    }))
}

fn observe(shop: &mut Shop, fact: Fact, offset: i64) -> (Effect, Steps) {
    let mut steps = Vec::new();
    let effect = shop.observe(fact, at(offset), &mut steps).expect("understood");
    (effect, steps)
}

#[test]
fn a_level_waits_until_the_catalogue_names_its_item() {
    let mut shop = Shop::default();
    let (effect, steps) = observe(&mut shop, level(10, 4, 1_000, 1), 1);
    assert!(effect.changed && steps.is_empty());
    observe(&mut shop, level(10, 3, 900, 2), 2);
    let (_, steps) = observe(&mut shop, product(&[(100, 10)], 1_500, 3), 3);
    let listed = steps.iter().find_map(|(v, w)| match w {
        Work::Fact(_, VariantFact::Listed(l)) if v.0 == 100 => Some(l),
        _ => None,
    });
    let waited = &listed.expect("listed").waiting;
    assert_eq!((waited.len(), waited[0].available, waited[0].stamp), (1, Some(4), LEVEL_STAMP));
    assert_eq!(shop.waiting_items(), 0);
    let (effect, steps) = observe(&mut shop, level(10, 2, 1_600, 4), 4);
    assert_eq!((effect.changed, steps.len()), (false, 1));
}

#[test]
fn an_older_product_changes_nothing_and_the_same_again_leaves_no_trace() {
    let mut shop = Shop::default();
    observe(&mut shop, product(&[(100, 10), (101, 11)], 1_500, 3), 3);
    let before = shop.state().clone();
    let (effect, steps) = observe(&mut shop, product(&[(100, 10)], 1_400, 4), 4);
    assert!(!effect.changed && steps.is_empty());
    observe(&mut shop, product(&[(100, 10), (101, 11)], 1_500, 5), 5);
    assert_eq!(*shop.state(), before);
}

#[test]
fn a_variant_that_the_product_no_longer_lists_is_deleted() {
    let mut shop = Shop::default();
    observe(&mut shop, product(&[(100, 10), (101, 11)], 1_500, 3), 3);
    let (_, steps) = observe(&mut shop, product(&[(100, 10)], 1_600, 4), 4);
    assert!(steps.contains(&(VariantId(101), Work::Fact(at(4), VariantFact::Deleted))));
    assert_eq!(shop.variant_count(), 1);
    // Its levels wait again.
    let (effect, _) = observe(&mut shop, level(11, 1, 1_700, 5), 5);
    assert!(effect.changed);
}

#[test]
fn a_deleted_product_stays_deleted_for_older_updates() {
    let mut shop = Shop::default();
    observe(&mut shop, product(&[(100, 10)], 1_500, 3), 3);
    let gone = Fact::ProductGone { product: ProductId(1), stamp: Stamp { updated_at: 1_600, triggered_at: 0, offset: 4 } };
    observe(&mut shop, gone, 4);
    assert_eq!(shop.variant_count(), 0);
    observe(&mut shop, product(&[(100, 10)], 1_550, 5), 5);
    assert_eq!(shop.variant_count(), 0);
    observe(&mut shop, product(&[(100, 10)], 1_700, 6), 6);
    assert_eq!(shop.variant_count(), 1);
}

#[test]
fn a_stub_marks_the_product_stale_and_takes_nothing_away() {
    let mut shop = Shop::default();
    observe(&mut shop, product(&[(100, 10)], 1_500, 3), 3);
    let stub = Fact::Product(Box::new(ProductObserved {
        id: ProductId(1),
        title: None,
        vendor: None,
        product_type: None,
        tags: None,
        variants: None,
        all_variants: None,
        stub: true,
        stamp: Stamp { updated_at: 2_000, triggered_at: 0, offset: 4 },
    }));
    observe(&mut shop, stub, 4);
    assert_eq!((shop.variant_count(), shop.product(ProductId(1)).and_then(|p| p.stale_since)), (1, Some(2_000)));
    observe(&mut shop, product(&[(100, 10)], 2_500, 5), 5);
    assert_eq!(shop.product(ProductId(1)).and_then(|p| p.stale_since), None);
}

#[test]
fn what_waits_is_bounded() {
    let mut shop = Shop::default();
    let mut steps = Vec::new();
    for i in 0..MAX_WAITING_ITEMS as u64 {
        shop.observe(level(i, 1, 1, 1), at(1), &mut steps).expect("room");
    }
    let refused = shop.observe(level(u64::MAX, 1, 1, 1), at(1), &mut steps).expect_err("full");
    assert_eq!(refused.reason, Reason::WaitingFull);
    shop.observe(level(0, 2, 5, 2), at(2), &mut steps).expect("a known item has its room");
}

#[test]
fn a_shop_from_its_stored_state_routes_as_before() {
    let mut shop = Shop::default();
    observe(&mut shop, product(&[(100, 10), (101, 11)], 1_500, 3), 3);
    observe(&mut shop, level(77, 1, 1_700, 5), 5);
    let bytes = crate::domain::snapshot::encode(shop.state());
    let mut again = Shop::from_state(postcard::from_bytes(&bytes).expect("decodes"));
    assert_eq!(again.state(), shop.state());
    let (_, steps) = observe(&mut again, level(11, 1, 1_700, 6), 6);
    assert_eq!(steps.len(), 1);
}
