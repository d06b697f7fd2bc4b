//! Simulated shops: deliveries as Shopify would send them, drawn from a seed, in virtual time.
//!
//! [`Simulation`] makes the deliveries, a sink of [`sinks`] sends them on schedule, [`standins`] are what the engine's
//! handlers talk to in the demo, [`screen`] shows it live. The statistics and their sources are in RULES.md ("Generator
//! style"): Zipf shops and products, Gamma-Poisson demand, daily and weekly profiles, Gamma lead times, returns, and the
//! faults of the transport.
//!
//! To add a fault: its share in [`Faults`], what it does in `generator.rs` where a delivery is made, a test beside it that
//! counts it.

mod bodies;
mod delivery;
mod generator;
mod histogram;
mod profile;
mod settings;
mod truth;
mod world;

#[cfg(test)]
mod generator_tests;

pub mod screen;
pub mod sinks;
pub mod standins;

pub use delivery::{Delivery, Phase, RecordHeaders};
pub use generator::Simulation;
pub use histogram::{Histogram, Percentiles};
pub use profile::Profile;
pub use settings::{BadSettings, Faults, Settings};
pub use truth::{Cause, Fate, TruthRow};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The webhook secret of a simulated shop: derived from the seed, so that whoever registers the shops and whoever sends
/// for them need not talk to each other. It guards nothing but simulated shops.
pub fn webhook_secret(seed: u64, shop: &str) -> String {
    format!("shpss_{}", hex::encode(&mac(&seed.to_be_bytes(), shop.as_bytes())[..16]))
}

/// `X-Shopify-Hmac-Sha256` of a body.
pub fn shopify_signature(secret: &str, body: &[u8]) -> String {
    STANDARD.encode(mac(secret.as_bytes(), body))
}

fn mac(key: &[u8], bytes: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_shopifys() {
        // The worked vector of products/delete in the contracts: secret and body as published there.
        let body = b"{\n \"id\": 10231453024540\n}";
        assert_eq!(
            shopify_signature("shpss_0123456789abcdef0123456789abcdef", body),
            "9Q9Tj7OYV8SBGB/suMfRGr6ogu1l3UKs/Q8tJ+SF3Es="
        );
    }

    #[test]
    fn each_shop_has_its_own_secret_and_keeps_it() {
        assert_eq!(webhook_secret(7, "a.myshopify.com"), webhook_secret(7, "a.myshopify.com"));
        assert_ne!(webhook_secret(7, "a.myshopify.com"), webhook_secret(7, "b.myshopify.com"));
        assert_ne!(webhook_secret(7, "a.myshopify.com"), webhook_secret(8, "a.myshopify.com"));
    }
}
