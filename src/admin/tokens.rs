//! API tokens: shown once, kept as SHA-256.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Admin, AdminError, Refusal};
use crate::events::time;
use crate::ports::registry::{Role, TokenEntry};

/// So that a token that leaked is recognised as ours, by people and by scanners.
const PREFIX: &str = "swt_";

/// What the registry knows a token by: SHA-256 of its whole text. 256 random bits need no salt and no slow hash.
pub fn token_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

impl Admin {
    pub(super) async fn token_create(&self, organisation: &str, role: Role, shops: Vec<String>) -> Result<Value, AdminError> {
        self.known_organisation(organisation).await?;
        let shops = self.own_shops(organisation, shops).await?;
        let mut random = [0u8; 32];
        getrandom::fill(&mut random).map_err(|e| AdminError::Internal(format!("the system gave no random bytes: {e}")))?;
        let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
        let hash = token_hash(&token);
        let now = self.now();
        let entry = TokenEntry {
            id: hex::encode(&hash[..6]),
            hash,
            organisation: organisation.to_owned(),
            role,
            shops,
            created_at: now,
            revoked_at: None,
        };
        self.registry.add_token(entry.clone()).await?;
        let mut shown = shown(&entry);
        shown["token"] = token.into();
        Ok(shown)
    }

    pub(super) async fn token_list(&self) -> Result<Value, AdminError> {
        let tokens: Vec<Value> = self.registry.tokens().await?.iter().map(shown).collect();
        Ok(json!({ "tokens": tokens }))
    }

    pub(super) async fn token_revoke(&self, id: &str) -> Result<Value, AdminError> {
        if self.registry.revoke_token(id, self.now()).await? {
            return Ok(json!({ "id": id, "revoked": true }));
        }
        let known = self.registry.tokens().await?.into_iter().find(|t| t.id == id);
        match known {
            // Asked twice, done once.
            Some(t) if t.revoked_at.is_some() => Ok(json!({ "id": id, "revoked": true, "already": true })),
            _ => Err(AdminError::refused(
                Refusal::NotFound,
                // Somebody may have given the token itself instead of its id.
                if id.starts_with(PREFIX) {
                    "that is a token, not its id".to_owned()
                } else {
                    format!("there is no token \"{id}\"")
                },
                "stockwarden token list names all ids",
            )),
        }
    }

    /// Refuses shops of another organisation (DESIGN §7.10).
    async fn own_shops(&self, organisation: &str, shops: Vec<String>) -> Result<Vec<String>, AdminError> {
        let mut keys = Vec::with_capacity(shops.len());
        for shop in shops {
            let key = self.registered(&shop).await?;
            match self.registry.shop(&key).await? {
                Some(entry) if entry.organisation != organisation => {
                    return Err(AdminError::refused(
                        Refusal::Conflict,
                        format!(
                            "the shop \"{key}\" belongs to the organisation \"{}\", not \"{organisation}\"",
                            entry.organisation
                        ),
                        format!("create the token with --org {}", entry.organisation),
                    ));
                }
                _ => keys.push(key),
            }
        }
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }
}

fn shown(t: &TokenEntry) -> Value {
    json!({
        "id": t.id,
        "organisation": t.organisation,
        "role": t.role,
        "shops": t.shops,
        "created_at": time::format(t.created_at.timestamp_millis()),
        "revoked_at": t.revoked_at.map(|at| time::format(at.timestamp_millis())),
    })
}
