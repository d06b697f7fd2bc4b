//! Links that move a proposal without a login: whoever has the mail may follow them. What stands in one is signed, so that nothing of
//! it can be changed, and it holds for 30 days.
//!
//! Token: base64url of payload and HMAC-SHA256 of the payload. The payload is a JSON array: version, proposal, move, end (Unix seconds),
//! handler, who, what.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

use crate::events::fact::Move;
use crate::events::time::Millis;
use crate::vault::Vault;

/// Path of the links, before the token.
pub const PATH: &str = "/links/";
/// How long a link holds.
pub const LIFETIME_MS: Millis = 30 * 24 * 60 * 60 * 1000;

const VERSION: u8 = 1;
const MAC: usize = 32;
/// Longest token that is looked at.
const LIMIT: usize = 2048;

/// What a link stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub proposal_id: Uuid,
    pub moved: Move,
    /// To the second.
    pub ends_at: Millis,
    /// Name of the handler whose mail it stands in.
    pub via: String,
    /// Whom the mail went to.
    pub by: String,
    /// What the proposal is about, for people.
    pub what: String,
}

#[derive(Serialize, Deserialize)]
struct Payload(u8, Uuid, Move, i64, String, String, String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Not made here, or changed.
    Forged,
    Expired,
}

/// Signs and checks; from the installation's master key, so that every node's links hold on every other.
#[derive(Clone)]
pub struct LinkKey([u8; 32]);

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey(…)")
    }
}

impl LinkKey {
    pub fn new(vault: &Vault) -> LinkKey {
        LinkKey(vault.derive("signed links"))
    }

    fn mac(&self, payload: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(payload);
        mac
    }

    pub fn seal(&self, claim: &Claim) -> String {
        let Claim { proposal_id, moved, ends_at, via, by, what } = claim.clone();
        let payload = Payload(VERSION, proposal_id, moved, ends_at.div_euclid(1000), via, by, what);
        let payload = serde_json::to_vec(&payload).expect("a payload is plain data");
        URL_SAFE_NO_PAD.encode([&payload[..], &self.mac(&payload).finalize().into_bytes()].concat())
    }

    pub fn open(&self, token: &str, now: Millis) -> Result<Claim, Refused> {
        if token.len() > LIMIT {
            return Err(Refused::Forged);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| Refused::Forged)?;
        let at = bytes.len().checked_sub(MAC).ok_or(Refused::Forged)?;
        let (payload, mac) = bytes.split_at(at);
        self.mac(payload).verify_slice(mac).map_err(|_| Refused::Forged)?;
        let Payload(version, proposal_id, moved, ends, via, by, what) =
            serde_json::from_slice(payload).map_err(|_| Refused::Forged)?;
        if version != VERSION {
            return Err(Refused::Forged);
        }
        let ends_at = ends.saturating_mul(1000);
        if now >= ends_at {
            return Err(Refused::Expired);
        }
        Ok(Claim { proposal_id, moved, ends_at, via, by, what })
    }
}

/// Makes links that lead here from outside.
#[derive(Debug, Clone)]
pub struct Links {
    key: LinkKey,
    /// Without a slash at its end.
    base: String,
}

impl Links {
    pub fn new(key: LinkKey, public_url: &str) -> Links {
        Links { key, base: public_url.trim_end_matches('/').to_owned() }
    }

    pub fn url(&self, claim: &Claim) -> String {
        format!("{}{PATH}{}", self.base, self.key.seal(claim))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Claim {
        Claim {
            proposal_id: Uuid::from_u128(7),
            moved: Move::Acknowledge,
            ends_at: 1_000_000,
            via: "mail".into(),
            by: "a@b.example".into(),
            what: "24 × TB".into(),
        }
    }

    fn key() -> LinkKey {
        LinkKey::new(&Vault::from_base64(&Vault::new_key().expect("randomness")).expect("key"))
    }

    #[test]
    fn a_token_opens_unchanged_in_time_and_with_its_key_only() {
        let (key, claim) = (key(), claim());
        let token = key.seal(&claim);
        assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{token}");
        assert_eq!(key.open(&token, 999_999), Ok(claim));
        assert_eq!(key.open(&token, 1_000_000), Err(Refused::Expired));
        for i in 0..token.len() {
            let mut bent = token.clone().into_bytes();
            bent[i] = if bent[i] == b'A' { b'B' } else { b'A' };
            let bent = String::from_utf8(bent).expect("ASCII");
            assert_eq!(key.open(&bent, 0), Err(Refused::Forged), "byte {i}");
        }
        assert_eq!(self::key().open(&token, 0), Err(Refused::Forged));
        for wrong in ["", "a", "%00", &"A".repeat(5000)] {
            assert_eq!(key.open(wrong, 0), Err(Refused::Forged), "{wrong}");
        }
    }
}
