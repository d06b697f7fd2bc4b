//! Times: Unix milliseconds inside, RFC 3339 with milliseconds in UTC on the wire.

use chrono::{DateTime, SecondsFormat, Utc};

/// Unix milliseconds.
pub type Millis = i64;

/// Reads RFC 3339; Unix nanoseconds.
pub fn parse_nanos(text: &str) -> Option<i64> {
    DateTime::parse_from_rfc3339(text).ok()?.timestamp_nanos_opt()
}

/// Reads RFC 3339; Unix milliseconds.
pub fn parse_millis(text: &str) -> Option<Millis> {
    DateTime::parse_from_rfc3339(text).ok().map(|t| t.timestamp_millis())
}

pub fn format(ms: Millis) -> String {
    DateTime::<Utc>::from_timestamp_millis(ms).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// serde of [`Millis`] as text.
pub mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Millis;

    pub fn serialize<S: Serializer>(ms: &Millis, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::format(*ms))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Millis, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        super::parse_millis(&text).ok_or_else(|| D::Error::custom(format!("\"{text}\" is not an RFC 3339 time")))
    }

    pub mod option {
        use serde::{Deserialize, Deserializer, Serializer, de::Error};

        use super::Millis;

        pub fn serialize<S: Serializer>(ms: &Option<Millis>, s: S) -> Result<S::Ok, S::Error> {
            match ms {
                Some(ms) => s.serialize_str(&crate::events::time::format(*ms)),
                None => s.serialize_none(),
            }
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Millis>, D::Error> {
            let text = Option::<std::borrow::Cow<str>>::deserialize(d)?;
            text.map(|t| {
                crate::events::time::parse_millis(&t).ok_or_else(|| D::Error::custom(format!("\"{t}\" is not an RFC 3339 time")))
            })
            .transpose()
        }
    }
}
