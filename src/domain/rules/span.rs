//! Lengths of time as text: "24h", "30d", "0s", "90m", "500ms".

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::events::time::Millis;

const UNITS: [(&str, Millis); 6] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 7 * 86_400_000)];

/// A length of time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Millis);

impl Span {
    pub const fn hours(hours: i64) -> Span {
        Span(hours * 3_600_000)
    }

    pub fn as_hours(self) -> f64 {
        self.0 as f64 / 3_600_000.0
    }

    pub fn parse(text: &str) -> Option<Span> {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = text.split_at(digits);
        let number: Millis = number.parse().ok()?;
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        number.checked_mul(*factor).filter(|ms| *ms < 100 * 365 * 86_400_000).map(Span)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.0 == 0 {
            return s.serialize_str("0s");
        }
        let (unit, factor) = UNITS.iter().rev().skip(1).find(|(_, f)| self.0 % f == 0).unwrap_or(&UNITS[0]);
        s.collect_str(&format_args!("{}{unit}", self.0 / factor))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Span::parse(&text).ok_or_else(|| {
            D::Error::custom(format!("\"{text}\" is not a length of time; write it as \"24h\", \"30d\", \"90m\" or \"0s\""))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_reads_what_it_prints() {
        for text in ["24h", "30d", "0s", "90m", "500ms", "1h"] {
            let span = Span::parse(text).expect(text);
            let printed = serde_json::to_string(&span).expect("text");
            assert_eq!(serde_json::from_str::<Span>(&printed).expect("text"), span, "{text} → {printed}");
        }
        for bad in ["", "24", "h", "-1h", "1.5h", "1 h", "99999999999999999d", "5y"] {
            assert!(Span::parse(bad).is_none(), "{bad}");
        }
    }
}
