//! Reads records into facts. Total: whatever the bytes, the answer is a fact or a reason (DESIGN §7.8).
//!
//! Understood, in this order (DESIGN §10): our own headers, `x-shopify-*` headers, the shape of the JSON value.

mod transfer;

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::dead_letter::{Reason, Unreadable};
use super::fact::{self, At, Fact, FactType, ItemObserved, LevelObserved, ProductObserved, Stamp, VariantListed, header};
use super::ids::{self, ItemId, LocationId, ProductId, VariantId};
use super::record::RecordRef;
use super::time::{self, Millis};
use transfer::TransferBody;

/// A fact may not be later than its append time by more than this.
const MAX_AHEAD_MS: Millis = 5 * 60 * 1000;
/// Quantities beyond this are taken for garbage; sums of them cannot overflow.
const MAX_QUANTITY: i64 = 1_000_000_000_000;
/// Shopify's limit is 2,048 variants a product.
const MAX_VARIANTS: usize = 20_000;

/// Whom a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    Shop(&'a str),
    /// The whole partition: rules of an organisation, ticks.
    Partition,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Read<'a> {
    pub subject: Subject<'a>,
    pub fact_type: FactType,
    pub fact: Fact,
    /// `at.now` equals `at.event_time`; the reader of the partition raises it to the running maximum.
    pub at: At,
}

/// Reads a record of `stock-facts`.
pub fn read<'a>(record: &RecordRef<'a>) -> Result<Read<'a>, Unreadable> {
    let headers = Named::read(record);
    let named = named_type(&headers)?;
    let subject = subject(record)?;
    let value = record
        .value
        .filter(|v| !v.is_empty())
        .ok_or_else(|| Unreadable::new(Reason::EmptyRecord, "the record has no value; a fact is a JSON object"))?;
    let fact_type = match named {
        Some(t) => t,
        None => shape_of(value)?,
    };
    if matches!(subject, Subject::Partition) != matches!(fact_type, FactType::RulesApplied | FactType::Tick) {
        return Err(Unreadable::new(
            Reason::BadKey,
            format!(
                "a {} fact cannot stand under the key {:?}",
                fact_type.as_str(),
                String::from_utf8_lossy(record.key.unwrap_or_default())
            ),
        ));
    }
    let triggered_at = headers.triggered_at.and_then(time::parse_nanos);
    let (fact, event_time) = read_body(fact_type, value, record.offset, triggered_at, record.append_time_ms)?;
    let at = At { offset: record.offset, event_time, now: event_time };
    Ok(Read { subject, fact_type, fact, at })
}

/// Reads the body of a fact of a known type, as [`read`] does. Sources call it before they write, so that what is
/// acknowledged as a fact is one.
pub fn read_body(
    fact_type: FactType,
    value: &[u8],
    offset: i64,
    triggered_at: Option<i64>,
    append_time: Millis,
) -> Result<(Fact, Millis), Unreadable> {
    let latest = append_time.saturating_add(MAX_AHEAD_MS);
    let event_time =
        |updated_at: Option<Millis>| triggered_at.map(|n| n / 1_000_000).or(updated_at).unwrap_or(append_time).min(latest);
    let stamp = |updated_at: Option<Millis>| Stamp {
        updated_at: updated_at.unwrap_or_else(|| event_time(None)),
        triggered_at: triggered_at.unwrap_or(0),
        offset,
    };
    let fact = match fact_type {
        FactType::LevelsUpdate | FactType::LevelsConnect => {
            let body: LevelBody = parse(value)?;
            let updated_at = parse_time(body.updated_at.as_deref(), "updated_at")?;
            let level = LevelObserved {
                item: ItemId(body.inventory_item_id),
                location: LocationId(body.location_id),
                available: body.available.map(|q| in_range(q, "available")).transpose()?,
                stamp: stamp(updated_at),
            };
            return Ok((Fact::Level(level), event_time(updated_at)));
        }
        FactType::LevelsDisconnect => {
            let body: LevelGoneBody = parse(value)?;
            Fact::LevelGone { item: ItemId(body.inventory_item_id), location: LocationId(body.location_id), stamp: stamp(None) }
        }
        FactType::ProductsCreate | FactType::ProductsUpdate => {
            let body: ProductBody = parse(value)?;
            let updated_at = parse_time(body.updated_at.as_deref(), "updated_at")?;
            let product = body.observed(stamp(updated_at))?;
            return Ok((Fact::Product(Box::new(product)), event_time(updated_at)));
        }
        FactType::ProductsDelete => {
            let body: IdBody = parse(value)?;
            Fact::ProductGone { product: ProductId(body.id), stamp: stamp(None) }
        }
        FactType::ItemsUpdate => {
            let body: ItemBody = parse(value)?;
            let updated_at = parse_time(body.updated_at.as_deref(), "updated_at")?;
            let item = ItemObserved {
                item: ItemId(body.id),
                sku: body.sku.filter(|s| !s.is_empty()).map(|s| s.into_owned().into()),
                tracked: body.tracked,
                stamp: stamp(updated_at),
            };
            return Ok((Fact::Item(Box::new(item)), event_time(updated_at)));
        }
        FactType::TransfersReadyToShip | FactType::TransfersUpdated | FactType::TransfersComplete | FactType::TransfersCancel => {
            let body: TransferBody = parse(value)?;
            let updated_at = parse_time(body.updated_at.as_deref(), "updated_at").unwrap_or(None);
            let observed = transfer::observed(fact_type, &body);
            return Ok((observed.map_or(Fact::Stored, |t| Fact::Transfer(Box::new(t))), event_time(updated_at)));
        }
        FactType::ShopRegistered => Fact::ShopRegistered(parse_owned(value)?),
        FactType::ShopRemoved => Fact::ShopRemoved,
        FactType::RulesApplied => Fact::Rules(parse_owned(value)?),
        FactType::ShopRulesApplied => Fact::ShopRules(parse_owned(value)?),
        FactType::EffectSettled => Fact::EffectSettled(parse_owned(value)?),
        FactType::ProposalMoved => Fact::ProposalMoved(parse_owned(value)?),
        FactType::Tick => Fact::Tick,
        stored => {
            debug_assert!(stored.is_webhook());
            let body: StoredBody = parse(value)?;
            let updated_at = parse_time(body.updated_at.as_deref(), "updated_at").unwrap_or(None);
            return Ok((Fact::Stored, event_time(updated_at)));
        }
    };
    Ok((fact, event_time(None)))
}

/// The headers that the reading needs, found in one pass.
#[derive(Default)]
struct Named<'a> {
    fact: Option<&'a str>,
    version: Option<&'a str>,
    shopify_topic: Option<&'a str>,
    triggered_at: Option<&'a str>,
}

impl<'a> Named<'a> {
    fn read(record: &RecordRef<'a>) -> Named<'a> {
        let mut named = Named::default();
        let mut shopify_triggered_at = None;
        let mut headers = record.headers;
        while let Some((name, value)) = headers.next_bytes() {
            // By length first: five of six headers end there.
            let slot = match name.len() {
                4 if name.eq_ignore_ascii_case(header::FACT.as_bytes()) => &mut named.fact,
                7 if name.eq_ignore_ascii_case(header::VERSION.as_bytes()) => &mut named.version,
                12 if name.eq_ignore_ascii_case(header::TRIGGERED_AT.as_bytes()) => &mut named.triggered_at,
                15 if name.eq_ignore_ascii_case(b"x-shopify-topic") => &mut named.shopify_topic,
                22 if name.eq_ignore_ascii_case(b"x-shopify-triggered-at") => &mut shopify_triggered_at,
                _ => continue,
            };
            *slot = std::str::from_utf8(value).ok();
        }
        named.triggered_at = named.triggered_at.or(shopify_triggered_at);
        named
    }
}

/// The type that headers name, if any do.
fn named_type(headers: &Named<'_>) -> Result<Option<FactType>, Unreadable> {
    if let Some(name) = headers.fact {
        let version = headers.version.unwrap_or("1");
        match version.parse::<u16>() {
            Ok(v) if v <= fact::VERSION => {}
            Ok(v) => {
                return Err(Unreadable::new(
                    Reason::NewerVersion,
                    format!(
                        "the fact has version {v}, this node reads up to {}; upgrade it, then retry the dead letter",
                        fact::VERSION
                    ),
                ));
            }
            Err(_) => {
                return Err(Unreadable::new(Reason::WrongType, format!("the header version is \"{version}\", not a number")));
            }
        }
        return match FactType::parse(name) {
            Some(t) => Ok(Some(t)),
            None => Err(Unreadable::new(Reason::UnknownFact, format!("there is no fact of type \"{name}\""))),
        };
    }
    match headers.shopify_topic {
        Some(topic) => match FactType::parse(topic).filter(|t| t.is_webhook()) {
            Some(t) => Ok(Some(t)),
            None => Err(Unreadable::new(
                Reason::UnknownTopic,
                format!("there is no Shopify topic \"{topic}\" that this version knows"),
            )),
        },
        None => Ok(None),
    }
}

fn subject<'a>(record: &RecordRef<'a>) -> Result<Subject<'a>, Unreadable> {
    let key = match record.key.filter(|k| !k.is_empty()) {
        Some(ids::RULES_KEY | ids::CLOCK_KEY) => return Ok(Subject::Partition),
        Some(key) => std::str::from_utf8(key).ok(),
        None => Some(record.headers.text("x-shopify-shop-domain").ok_or_else(|| {
            Unreadable::new(Reason::MissingKey, "the record has no key; the key of a fact is the shop's domain")
        })?),
    };
    key.filter(|k| ids::is_shop_key(k)).map(Subject::Shop).ok_or_else(|| {
        Unreadable::new(
            Reason::BadKey,
            "the record's key is not a shop's domain (letters, digits and . - _ : / only, 255 at most)",
        )
    })
}

fn shape_of(value: &[u8]) -> Result<FactType, Unreadable> {
    let shape: Shape = parse(value)?;
    if shape.variants {
        Ok(FactType::ProductsUpdate)
    } else if shape.inventory_item_id && shape.location_id && shape.available {
        Ok(FactType::LevelsUpdate)
    } else if shape.line_items {
        Ok(if shape.cancelled_at { FactType::OrdersCancelled } else { FactType::OrdersCreate })
    } else {
        Err(Unreadable::new(
            Reason::UnknownShape,
            "the record has no headers and its value is neither a product (variants), a level (inventory_item_id, location_id, \
             available) nor an order (line_items)",
        ))
    }
}

/// serde takes a JSON array for a struct as well; a fact is an object.
pub(super) fn require_object(value: &[u8]) -> Result<(), Unreadable> {
    if value.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{') {
        return Ok(());
    }
    Err(match serde_json::from_slice::<IgnoredAny>(value) {
        Ok(_) => Unreadable::new(Reason::WrongType, "the value is not a JSON object"),
        Err(e) => unreadable(&e),
    })
}

fn parse<'a, T: Deserialize<'a>>(value: &'a [u8]) -> Result<T, Unreadable> {
    require_object(value)?;
    // Text is known to be UTF-8 as a whole; in bytes every string would be checked by itself. Bytes may be bad where nobody looks.
    let read = match std::str::from_utf8(value) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_slice(value),
    };
    read.map_err(|e| unreadable(&e))
}

fn parse_owned<T: DeserializeOwned>(value: &[u8]) -> Result<Box<T>, Unreadable> {
    parse::<T>(value).map(Box::new)
}

pub(super) fn unreadable(error: &serde_json::Error) -> Unreadable {
    let text = error.to_string();
    let reason = match error.classify() {
        serde_json::error::Category::Data if text.starts_with("missing field") => Reason::MissingField,
        serde_json::error::Category::Data => Reason::WrongType,
        _ => Reason::InvalidJson,
    };
    // serde quotes values that it did not expect; those may be anybody's data.
    let told = match reason {
        Reason::WrongType => format!("a field has the wrong type at line {} column {}", error.line(), error.column()),
        _ => text,
    };
    Unreadable::new(reason, told)
}

fn parse_time(text: Option<&str>, field: &str) -> Result<Option<Millis>, Unreadable> {
    text.map(|t| {
        time::parse_millis(t).ok_or_else(|| Unreadable::new(Reason::WrongType, format!("{field} is not an RFC 3339 time")))
    })
    .transpose()
}

fn in_range(quantity: i64, field: &str) -> Result<i64, Unreadable> {
    if quantity.abs() <= MAX_QUANTITY {
        Ok(quantity)
    } else {
        Err(Unreadable::new(Reason::OutOfRange, format!("{field} is beyond ±{MAX_QUANTITY} units")))
    }
}

/// Wanted here, null or not.
fn nullable<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<i64>, D::Error> {
    Option::<i64>::deserialize(d)
}

/// True if the key is there, whatever its value.
fn present<'de, D: serde::Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(d).map(|_| true)
}

/// True if the key is there and not null.
fn set<'de, D: serde::Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    Option::<IgnoredAny>::deserialize(d).map(|v| v.is_some())
}

#[derive(Deserialize)]
struct Shape {
    #[serde(default, deserialize_with = "present")]
    variants: bool,
    #[serde(default, deserialize_with = "present")]
    inventory_item_id: bool,
    #[serde(default, deserialize_with = "present")]
    location_id: bool,
    #[serde(default, deserialize_with = "present")]
    available: bool,
    #[serde(default, deserialize_with = "present")]
    line_items: bool,
    #[serde(default, deserialize_with = "set")]
    cancelled_at: bool,
}

#[derive(Deserialize)]
struct LevelBody<'a> {
    inventory_item_id: u64,
    location_id: u64,
    #[serde(deserialize_with = "nullable")]
    available: Option<i64>,
    #[serde(borrow, default)]
    updated_at: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct LevelGoneBody {
    inventory_item_id: u64,
    location_id: u64,
}

#[derive(Deserialize)]
struct IdBody {
    id: u64,
}

#[derive(Deserialize)]
struct StoredBody<'a> {
    #[serde(borrow, default)]
    updated_at: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct ItemBody<'a> {
    id: u64,
    #[serde(borrow, default)]
    sku: Option<Cow<'a, str>>,
    #[serde(default)]
    tracked: Option<bool>,
    #[serde(borrow, default)]
    updated_at: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct ProductBody<'a> {
    id: u64,
    #[serde(borrow, default)]
    title: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    vendor: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    product_type: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tags: Option<Tags<'a>>,
    #[serde(borrow, default)]
    updated_at: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    variants: Option<Vec<VariantBody<'a>>>,
    #[serde(borrow, default)]
    variant_gids: Option<Vec<GidBody<'a>>>,
    #[serde(default, deserialize_with = "set")]
    admin_graphql_api_id: bool,
}

/// Tags come as a comma-separated text, from some sources as a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Tags<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    List(Vec<String>),
}

#[derive(Deserialize)]
struct VariantBody<'a> {
    id: u64,
    #[serde(default)]
    inventory_item_id: Option<u64>,
    #[serde(borrow, default)]
    sku: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    title: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    inventory_policy: Option<Cow<'a, str>>,
    #[serde(default)]
    inventory_quantity: Option<i64>,
}

#[derive(Deserialize)]
struct GidBody<'a> {
    #[serde(borrow)]
    admin_graphql_api_id: Cow<'a, str>,
}

fn boxed(text: Option<Cow<'_, str>>) -> Option<Box<str>> {
    text.map(|t| t.into_owned().into_boxed_str())
}

impl ProductBody<'_> {
    fn observed(self, stamp: Stamp) -> Result<ProductObserved, Unreadable> {
        if self.variants.as_ref().is_some_and(|v| v.len() > MAX_VARIANTS) {
            return Err(Unreadable::new(Reason::OutOfRange, format!("the product has more than {MAX_VARIANTS} variants")));
        }
        // Past a size limit a webhook is cut to its id (contracts/apis.md §2): that is never "no variants".
        let stub = !self.admin_graphql_api_id && self.variants.is_none();
        let variants =
            self.variants.map(|list| list.into_iter().map(VariantBody::listed).collect::<Result<Vec<_>, _>>()).transpose()?;
        let all_variants = self.variant_gids.map(|gids| {
            gids.iter().filter_map(|g| g.admin_graphql_api_id.rsplit('/').next()?.parse().ok().map(VariantId)).collect::<Vec<_>>()
        });
        let tags = self.tags.map(|tags| match tags {
            Tags::Text(text) => text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(Into::into).collect(),
            Tags::List(list) => list.into_iter().map(String::into_boxed_str).collect(),
        });
        Ok(ProductObserved {
            id: ProductId(self.id),
            title: boxed(self.title),
            vendor: boxed(self.vendor),
            product_type: boxed(self.product_type),
            tags,
            variants,
            all_variants,
            stub,
            stamp,
        })
    }
}

impl VariantBody<'_> {
    fn listed(self) -> Result<VariantListed, Unreadable> {
        Ok(VariantListed {
            id: VariantId(self.id),
            item: self.inventory_item_id.map(ItemId),
            sku: boxed(self.sku.filter(|s| !s.is_empty())),
            title: boxed(self.title),
            continue_selling: self.inventory_policy.map(|p| p == "continue"),
            quantity: self.inventory_quantity.map(|q| in_range(q, "inventory_quantity")).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::record::RecordBatch;

    fn read_one(key: &str, headers: &[(&str, &str)], value: &str) -> Result<(FactType, Fact, At), Reason> {
        let mut batch = RecordBatch::new(0, 5);
        batch.push(5, 1_000_000, Some(key.as_bytes()), Some(value.as_bytes()), headers.iter().map(|(n, v)| (*n, v.as_bytes())));
        let record = batch.get(0).expect("pushed");
        read(&record).map(|r| (r.fact_type, r.fact, r.at)).map_err(|e| e.reason)
    }

    const LEVEL: &str = r#"{"inventory_item_id":9007199254740993,"location_id":2,"available":-3,"updated_at":"1970-01-01T00:10:00Z","x":{"y":[1]}}"#;

    #[test]
    fn a_level_is_read_by_our_header_by_shopifys_and_by_its_shape() {
        for headers in
            [&[("fact", "inventory_levels/update"), ("version", "1")][..], &[("X-SHOPIFY-TOPIC", "inventory_levels/update")], &[]]
        {
            let (_, fact, at) = read_one("a.myshopify.com", headers, LEVEL).expect("readable");
            let Fact::Level(level) = fact else { panic!("not a level: {fact:?}") };
            assert_eq!((level.item.0, level.available, level.stamp.updated_at), (9007199254740993, Some(-3), 600_000));
            assert_eq!(at.event_time, 600_000);
        }
    }

    #[test]
    fn bad_input_is_told_apart() {
        let cases: &[(&str, &[(&str, &str)], &str, Reason)] = &[
            ("a.b", &[], "", Reason::EmptyRecord),
            ("a.b", &[], "{", Reason::InvalidJson),
            ("a.b", &[], "[1]", Reason::WrongType),
            ("a.b", &[], r#"{"id":1}"#, Reason::UnknownShape),
            ("", &[], LEVEL, Reason::MissingKey),
            ("two words", &[], LEVEL, Reason::BadKey),
            ("~rules", &[], LEVEL, Reason::BadKey),
            ("a.b", &[], r#"{"inventory_item_id":"x","location_id":2,"available":1}"#, Reason::WrongType),
            ("a.b", &[], r#"{"inventory_item_id":1,"location_id":2,"available":1.5}"#, Reason::WrongType),
            ("a.b", &[], r#"{"inventory_item_id":1,"location_id":2,"available":9000000000000000}"#, Reason::OutOfRange),
            ("a.b", &[("fact", "inventory_levels/update")], r#"{"inventory_item_id":1,"location_id":2}"#, Reason::MissingField),
            ("a.b", &[("fact", "nonsense")], LEVEL, Reason::UnknownFact),
            ("a.b", &[("fact", "inventory_levels/update"), ("version", "2")], LEVEL, Reason::NewerVersion),
            ("a.b", &[("x-shopify-topic", "themes/publish")], LEVEL, Reason::UnknownTopic),
        ];
        for (key, headers, value, want) in cases {
            assert_eq!(read_one(key, headers, value).expect_err(value), *want, "{key} {headers:?} {value}");
        }
    }

    #[test]
    fn event_time_is_triggered_at_then_updated_at_and_never_far_ahead() {
        let time = |headers: &[(&str, &str)], value: &str| read_one("a.b", headers, value).expect("readable").2.event_time;
        assert_eq!(time(&[("x-shopify-triggered-at", "1970-01-01T00:05:00.5Z")], LEVEL), 300_500);
        assert_eq!(time(&[], &LEVEL.replace("1970", "2970")), 1_000_000 + MAX_AHEAD_MS);
        assert_eq!(time(&[], r#"{"inventory_item_id":1,"location_id":2,"available":null}"#), 1_000_000);
    }

    #[test]
    fn a_product_cut_to_its_id_is_a_stub_and_not_a_product_without_variants() {
        let (_, fact, _) = read_one("a.b", &[("x-shopify-topic", "products/update")], r#"{"id":7}"#).expect("readable");
        assert!(matches!(fact, Fact::Product(p) if p.stub && p.variants.is_none()));
        let (_, fact, _) = read_one("a.b", &[], r#"{"id":7,"tags":"a, b","variants":[{"id":1,"sku":null}]}"#).expect("readable");
        let Fact::Product(p) = fact else { panic!() };
        assert_eq!((p.stub, p.tags.map(|t| t.len()), p.variants.map(|v| v.len())), (false, Some(2), Some(1)));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(key in proptest::collection::vec(0u8..=255, 0..12), value in proptest::collection::vec(0u8..=255, 0..64), which in 0usize..40) {
            let mut batch = RecordBatch::new(0, 0);
            let name = FactType::ALL.get(which).map(|t| t.as_str());
            batch.push(0, 0, Some(&key), Some(&value), name.iter().map(|n| ("fact", n.as_bytes())));
            let _ = read(&batch.get(0).expect("pushed"));
        }
    }
}
