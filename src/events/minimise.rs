//! Reduces webhook bodies to the documented fields that the domain uses, before anything is written (DESIGN §1, §7.10): no
//! buyers' data, no HTML, no images.
//!
//! Deny by default: a topic has a tree of allowed fields, everything else is skipped without being built. Allowed scalars are
//! copied as they were written, so ids beyond 2^53 and decimals keep every digit. To keep one more field, name it in its
//! topic's tree (and in the list of the test, which is kept apart on purpose).
//!
//! What stands in an allowed place with another kind than the tree says (an object where a text belongs) could smuggle
//! anything in: only an empty value of the kind found is kept, so that the reader still finds it wrong.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::codec;
use super::dead_letter::{Reason, Unreadable};
use super::fact::FactType;

/// What is allowed at a place.
enum Allowed {
    /// A text, number, truth value or null.
    Scalar,
    /// A scalar, or a list of scalars.
    Scalars,
    Object(Fields),
    /// A list of objects.
    List(Fields),
}

type Fields = &'static [(&'static str, Allowed)];

use Allowed::{List, Object, Scalar, Scalars};

const PRODUCT: Fields = &[
    ("id", Scalar),
    ("admin_graphql_api_id", Scalar),
    ("title", Scalar),
    ("vendor", Scalar),
    ("product_type", Scalar),
    ("tags", Scalars),
    ("status", Scalar),
    ("handle", Scalar),
    ("created_at", Scalar),
    ("updated_at", Scalar),
    ("variants", List(VARIANT)),
    ("variant_gids", List(&[("admin_graphql_api_id", Scalar), ("updated_at", Scalar)])),
];

const VARIANT: Fields = &[
    ("id", Scalar),
    ("product_id", Scalar),
    ("title", Scalar),
    ("sku", Scalar),
    ("barcode", Scalar),
    ("price", Scalar),
    ("position", Scalar),
    ("inventory_item_id", Scalar),
    ("inventory_policy", Scalar),
    ("inventory_quantity", Scalar),
    ("created_at", Scalar),
    ("updated_at", Scalar),
    ("admin_graphql_api_id", Scalar),
];

const LEVEL: Fields = &[
    ("inventory_item_id", Scalar),
    ("location_id", Scalar),
    ("available", Scalar),
    ("updated_at", Scalar),
    ("admin_graphql_api_id", Scalar),
];

const ITEM: Fields = &[
    ("id", Scalar),
    ("sku", Scalar),
    ("cost", Scalar),
    ("tracked", Scalar),
    ("created_at", Scalar),
    ("updated_at", Scalar),
    ("admin_graphql_api_id", Scalar),
];

const ORDER: Fields = &[
    ("id", Scalar),
    ("created_at", Scalar),
    ("updated_at", Scalar),
    ("cancelled_at", Scalar),
    ("cancel_reason", Scalar),
    ("source_name", Scalar),
    ("location_id", Scalar),
    ("test", Scalar),
    (
        "line_items",
        List(&[
            ("id", Scalar),
            ("variant_id", Scalar),
            ("product_id", Scalar),
            ("sku", Scalar),
            ("quantity", Scalar),
            ("current_quantity", Scalar),
        ]),
    ),
];

const REFUND: Fields = &[
    ("id", Scalar),
    ("order_id", Scalar),
    ("created_at", Scalar),
    ("updated_at", Scalar),
    ("processed_at", Scalar),
    ("restock", Scalar),
    (
        "refund_line_items",
        List(&[
            ("id", Scalar),
            ("quantity", Scalar),
            ("line_item_id", Scalar),
            ("location_id", Scalar),
            ("restock_type", Scalar),
            ("line_item", Object(&[("variant_id", Scalar), ("product_id", Scalar), ("sku", Scalar), ("quantity", Scalar)])),
        ]),
    ),
];

/// Of a location its name and state; its address and phone are nothing that stock needs.
const LOCATION: Fields = &[
    ("id", Scalar),
    ("name", Scalar),
    ("active", Scalar),
    ("created_at", Scalar),
    ("updated_at", Scalar),
    ("admin_graphql_api_id", Scalar),
];

const TRANSFER_ITEM: Fields = &[("id", Scalar), ("inventory_item_id", Scalar), ("quantity", Scalar)];

const TRANSFER: Fields = &[
    ("id", Scalar),
    ("happened_at", Scalar),
    ("updated_at", Scalar),
    ("status", Scalar),
    ("origin", Object(&[("id", Scalar)])),
    ("destination", Object(&[("id", Scalar)])),
    ("line_items", List(TRANSFER_ITEM)),
    ("items_added", List(TRANSFER_ITEM)),
    ("items_removed", List(TRANSFER_ITEM)),
    ("items_updated", List(TRANSFER_ITEM)),
];

const BULK: Fields = &[
    ("admin_graphql_api_id", Scalar),
    ("completed_at", Scalar),
    ("created_at", Scalar),
    ("updated_at", Scalar),
    ("error_code", Scalar),
    ("status", Scalar),
    ("type", Scalar),
];

const UNINSTALLED: Fields = &[("id", Scalar), ("domain", Scalar), ("myshopify_domain", Scalar), ("updated_at", Scalar)];

const COMPLIANCE: Fields =
    &[("shop_id", Scalar), ("shop_domain", Scalar), ("updated_at", Scalar), ("data_request", Object(&[("id", Scalar)]))];

/// The fields of a topic; none for facts that are our own and come through no webhook.
fn fields_of(fact_type: FactType) -> Option<Fields> {
    use FactType::*;
    Some(match fact_type {
        ProductsCreate | ProductsUpdate => PRODUCT,
        ProductsDelete | ItemsDelete | LocationsDelete => &[("id", Scalar), ("updated_at", Scalar)],
        VariantsInStock | VariantsOutOfStock => VARIANT,
        LevelsUpdate | LevelsConnect | LevelsDisconnect => LEVEL,
        ItemsCreate | ItemsUpdate => ITEM,
        OrdersCreate | OrdersCancelled => ORDER,
        RefundsCreate => REFUND,
        LocationsCreate | LocationsUpdate | LocationsActivate | LocationsDeactivate => LOCATION,
        TransfersAddItems
        | TransfersCancel
        | TransfersComplete
        | TransfersReadyToShip
        | TransfersRemoveItems
        | TransfersUpdateItemQuantities
        | TransfersUpdated => TRANSFER,
        BulkOperationsFinish => BULK,
        AppUninstalled => UNINSTALLED,
        CustomersDataRequest | CustomersRedact | ShopRedact => COMPLIANCE,
        ShopRegistered | ShopRemoved | RulesApplied | ShopRulesApplied | Tick | EffectSettled | ProposalMoved => return None,
    })
}

/// The body with nothing but the allowed fields of its topic, in their order, as they were written. What
/// [`codec::read_body`] reads from it is what it reads from `body`; one exception: a list where an object belongs is refused
/// always.
pub fn minimise(fact_type: FactType, body: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let fields = fields_of(fact_type).ok_or_else(|| {
        Unreadable::new(Reason::UnknownTopic, format!("{} is a fact of our own, not a webhook's topic", fact_type.as_str()))
    })?;
    if body.is_empty() {
        return Err(Unreadable::new(Reason::EmptyRecord, "the body is empty; a webhook's body is a JSON object"));
    }
    codec::require_object(body)?;
    let mut out = Vec::with_capacity(body.len().min(64 * 1024));
    let mut json = serde_json::Deserializer::from_slice(body);
    let copy = Copy { allowed: &Object(fields), out: &mut out };
    copy.deserialize(&mut json).and_then(|()| json.end()).map_err(|e| codec::unreadable(&e))?;
    Ok(out)
}

/// Copies one value into `out`, as far as it is allowed.
struct Copy<'a> {
    allowed: &'a Allowed,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Copy<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        match self.allowed {
            Scalar => {
                let raw = <&RawValue>::deserialize(from)?.get().as_bytes();
                self.out.extend_from_slice(match raw.first() {
                    Some(b'{') => b"{}",
                    Some(b'[') => b"[]",
                    _ => raw,
                });
                Ok(())
            }
            Scalars => {
                let raw = <&RawValue>::deserialize(from)?;
                let copied = match raw.get().starts_with('[') {
                    true => raw.deserialize_seq(self),
                    false => Copy { allowed: &Scalar, out: self.out }.deserialize(raw),
                };
                copied.map_err(D::Error::custom)
            }
            Object(_) | List(_) => from.deserialize_any(self),
        }
    }
}

impl Copy<'_> {
    /// In place of a value whose kind is not the one wanted: an empty one of its own kind.
    fn emptied<E>(self, empty: &str) -> Result<(), E> {
        self.out.extend_from_slice(empty.as_bytes());
        Ok(())
    }
}

impl<'de> Visitor<'de> for Copy<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.allowed {
            Scalar => "a scalar",
            Scalars => "a scalar or a list of scalars",
            Object(_) => "an object",
            List(_) => "a list of objects",
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let fields: Fields = match self.allowed {
            Object(fields) => fields,
            Scalar | Scalars | List(_) => &[],
        };
        self.out.push(b'{');
        let mut first = true;
        while let Some(known) = map.next_key_seed(Key(fields))? {
            let Some((name, allowed)) = known else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if !first {
                self.out.push(b',');
            }
            first = false;
            self.out.push(b'"');
            self.out.extend_from_slice(name.as_bytes());
            self.out.extend_from_slice(b"\":");
            map.next_value_seed(Copy { allowed, out: self.out })?;
        }
        self.out.push(b'}');
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let element = match self.allowed {
            List(fields) => Object(fields),
            Scalars => Scalar,
            // A reader would take the list's elements for the object's fields, by position.
            Scalar | Object(_) => return Err(A::Error::custom("a list where an object belongs")),
        };
        self.out.push(b'[');
        let mut next = self.out.len();
        while list.next_element_seed(Copy { allowed: &element, out: self.out })?.is_some() {
            next = self.out.len();
            self.out.push(b',');
        }
        self.out.truncate(next);
        self.out.push(b']');
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        self.emptied("\"\"")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.emptied("false")
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.emptied("0")
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.emptied("0")
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.emptied("0")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.emptied("null")
    }
}

/// Finds a key among the allowed ones; none: not allowed.
struct Key(Fields);

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Option<&'static (&'static str, Allowed)>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Option<&'static (&'static str, Allowed)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().find(|(name, _)| *name == key))
    }
}

#[cfg(test)]
mod tests;
