//! Webhook bodies in Shopify's shape (contracts/fixtures/webhooks).

use std::io::Write as _;

use chrono::{DateTime, FixedOffset, SecondsFormat};
use serde_json::{Value, json};

use super::world::{KINDS, VENDORS, World, id};

const COLOURS: [&str; 6] = ["Green", "Black", "Sand", "Blue", "Red", "White"];
const SEASONS: [&str; 4] = ["spring", "summer", "autumn", "winter"];

/// `inventory_levels/update`, some 220 bytes.
pub(super) fn level(world: &World, variant: usize, location: usize, available: i64, at_ns: i64) -> Vec<u8> {
    let shop = world.shop_of(variant);
    let (item, place) = (id::item(variant), id::location(shop, location));
    let mut body = Vec::with_capacity(256);
    write!(
        body,
        r#"{{"inventory_item_id":{item},"location_id":{place},"available":{available},"updated_at":"{}","admin_graphql_api_id":"gid://shopify/InventoryLevel/{}?inventory_item_id={item}"}}"#,
        shop_time(world, shop, at_ns),
        place + 500,
    )
    .expect("a vector takes all bytes");
    body
}

/// `products/create` and `products/update`. Sizes are modest: a hundred variants are the most that a webhook carries.
pub(super) fn product(world: &World, product: usize, quantities: Quantities, at_ns: i64) -> Vec<u8> {
    let p = world.products[product];
    let shop = p.shop as usize;
    let updated_at = shop_time(world, shop, at_ns);
    let (kind, letters) = KINDS[p.kind as usize];
    let product_id = id::product(product);
    let range = p.first_variant as usize..(p.first_variant + p.variants) as usize;
    let variants: Vec<Value> = range
        .clone()
        .enumerate()
        .map(|(position, v)| {
            let quantity = match quantities {
                Quantities::None => 0,
                Quantities::Current => world.total(v),
            };
            let colour = COLOURS[position % COLOURS.len()];
            let sku = world.variants[v].has_sku.then(|| format!("{letters}-{shop:04}-{v:06}"));
            json!({
                "admin_graphql_api_id": format!("gid://shopify/ProductVariant/{}", id::variant(v)),
                "barcode": null,
                "compare_at_price": null,
                "created_at": updated_at,
                "id": id::variant(v),
                "image_id": null,
                "inventory_item_id": id::item(v),
                "inventory_policy": if world.variants[v].continue_selling { "continue" } else { "deny" },
                "inventory_quantity": quantity,
                "old_inventory_quantity": quantity,
                "option1": colour,
                "option2": null,
                "option3": null,
                "position": position + 1,
                "price": format!("{}.90", 9 + v % 90),
                "product_id": product_id,
                "sku": sku,
                "taxable": true,
                "title": colour,
                "updated_at": updated_at,
            })
        })
        .collect();
    let gids: Vec<Value> = range
        .rev()
        .map(|v| json!({"admin_graphql_api_id": format!("gid://shopify/ProductVariant/{}", id::variant(v)), "updated_at": updated_at}))
        .collect();
    let mut tags = vec![SEASONS[product % SEASONS.len()]];
    if product % 3 != 2 {
        tags.push("core");
    }
    let body = json!({
        "admin_graphql_api_id": format!("gid://shopify/Product/{product_id}"),
        "created_at": updated_at,
        "handle": format!("{}-{product}", kind.to_lowercase()),
        "id": product_id,
        "product_type": kind,
        "published_scope": "global",
        "status": "active",
        "tags": tags.join(", "),
        "title": format!("{} {} {product}", VENDORS[p.vendor as usize], kind.trim_end_matches('s')),
        "updated_at": updated_at,
        "variant_gids": gids,
        "variants": variants,
        "vendor": VENDORS[p.vendor as usize],
    });
    serde_json::to_vec(&body).expect("a JSON value is plain data")
}

/// A product cut to its id, as payloads past a limit are.
pub(super) fn stub(product: usize) -> Vec<u8> {
    format!(r#"{{"id":{}}}"#, id::product(product)).into_bytes()
}

/// What a product says of its stock.
#[derive(Clone, Copy)]
pub(super) enum Quantities {
    /// It is new, its stock is not known yet.
    None,
    /// The sums over its levels.
    Current,
}

/// Whole seconds in the shop's zone, as Shopify writes `updated_at`.
fn shop_time(world: &World, shop: usize, at_ns: i64) -> String {
    let offset = FixedOffset::east_opt(world.shops[shop].utc_offset_minutes * 60)
        .unwrap_or(FixedOffset::east_opt(0).expect("zero is an offset"));
    DateTime::from_timestamp_nanos(at_ns).with_timezone(&offset).to_rfc3339_opts(SecondsFormat::Secs, false)
}
