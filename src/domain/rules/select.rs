//! Which variants a rule is about. Every key is optional, `*` and `?` are wildcards, all must match.

use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use crate::domain::shop::ProductInfo;
use crate::events::ids::{LocationId, VariantId};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Select {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shop: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_type: Option<String>,
    /// One of the product's tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sku: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Only with scope `location`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
}

fn fits(pattern: Option<&String>, text: &str) -> bool {
    pattern.is_none_or(|p| WildMatch::new(p).matches(text))
}

impl Select {
    pub fn takes_shop(&self, shop: &str) -> bool {
        fits(self.shop.as_ref(), shop)
    }

    /// Whether it takes a variant of a shop that it takes.
    pub fn takes(&self, variant: VariantId, sku: Option<&str>, product: &ProductInfo) -> bool {
        fits(self.vendor.as_ref(), &product.vendor)
            && fits(self.product_type.as_ref(), &product.product_type)
            && fits(self.sku.as_ref(), sku.unwrap_or_default())
            && self.variant.as_ref().is_none_or(|p| WildMatch::new(p).matches(&variant.to_string()))
            && self.tag.as_ref().is_none_or(|p| {
                let pattern = WildMatch::new(p);
                product.tags.iter().any(|t| pattern.matches(t))
            })
    }

    pub fn takes_location(&self, location: LocationId) -> bool {
        self.location.as_ref().is_none_or(|p| WildMatch::new(p).matches(&location.to_string()))
    }
}
