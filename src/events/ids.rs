//! Identifiers. Inside they are numbers; in our JSON they are text, because they exceed 2^53 (DESIGN §5).

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! numeric_ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

numeric_ids! {
    ProductId,
    VariantId,
    /// Shopify's inventory item: what is stocked; a variant has one.
    ItemId,
    LocationId,
    /// Shopify's inventory transfer.
    TransferId,
}

/// The organisation of shops that nobody put into another one.
pub const DEFAULT_ORGANISATION: &str = "default";

/// Key of the rule sets that are appended to every partition.
pub const RULES_KEY: &[u8] = b"~rules";
/// Key of the ticks.
pub const CLOCK_KEY: &[u8] = b"~clock";

/// Whether `key` can name a shop or store: 1 to 255 letters, digits and `. - _ : /`, beginning with a letter or digit.
pub fn is_shop_key(key: &str) -> bool {
    (1..=255).contains(&key.len())
        && key.as_bytes()[0].is_ascii_alphanumeric()
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'/'))
}

/// serde of ids as text.
pub mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub trait Id: Copy {
        fn number(self) -> u64;
        fn of(number: u64) -> Self;
    }

    macro_rules! ids {
        ($($t:ty),+) => {$(
            impl Id for $t {
                fn number(self) -> u64 { self.0 }
                fn of(number: u64) -> Self { Self(number) }
            }
        )+};
    }
    ids!(super::ProductId, super::VariantId, super::ItemId, super::LocationId);

    pub fn serialize<I: Id, S: Serializer>(id: &I, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&id.number())
    }

    pub fn deserialize<'de, I: Id, D: Deserializer<'de>>(d: D) -> Result<I, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map(I::of).map_err(|_| D::Error::custom(format!("\"{text}\" is not a numeric id")))
    }

    /// The same for an id that may be null.
    pub mod option {
        use serde::{Deserialize, Deserializer, Serializer, de::Error};

        use super::Id;

        pub fn serialize<I: Id, S: Serializer>(id: &Option<I>, s: S) -> Result<S::Ok, S::Error> {
            match id {
                Some(id) => s.collect_str(&id.number()),
                None => s.serialize_none(),
            }
        }

        pub fn deserialize<'de, I: Id, D: Deserializer<'de>>(d: D) -> Result<Option<I>, D::Error> {
            let text = Option::<std::borrow::Cow<str>>::deserialize(d)?;
            text.map(|t| t.parse().map(I::of).map_err(|_| D::Error::custom(format!("\"{t}\" is not a numeric id")))).transpose()
        }
    }
}
