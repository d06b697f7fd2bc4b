//! Access tokens of the Admin API: issued to the app by its credentials, or stored.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use serde::Deserialize;

use crate::config::Secret;
use crate::ports::Registry;
use crate::vault::Vault;

/// An issued token is renewed this long before its end, or after nine tenths of a shorter life.
const MARGIN: Duration = Duration::from_secs(5 * 60);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Someone has to mend what the text says.
    #[error("{0}")]
    None(String),
    #[error("{reason}")]
    Away { reason: String, after: Option<Duration> },
}

/// The tokens that shops were registered with.
pub trait StoredTokens: Send + Sync + 'static {
    fn access_token<'a>(&'a self, shop: &'a str) -> BoxFuture<'a, Result<Secret, TokenError>>;
}

/// Where no node runs (`check`, tests): nothing is sent there.
pub struct NoStoredTokens;

impl StoredTokens for NoStoredTokens {
    fn access_token<'a>(&'a self, shop: &'a str) -> BoxFuture<'a, Result<Secret, TokenError>> {
        Box::pin(async move { Err(TokenError::None(format!("the token of \"{shop}\" is not at hand here"))) })
    }
}

/// Out of the registry, opened with the vault; read anew for every call, so that a token that was replaced works at once.
pub struct RegisteredTokens {
    pub registry: Arc<dyn Registry>,
    pub vault: Vault,
}

impl StoredTokens for RegisteredTokens {
    fn access_token<'a>(&'a self, shop: &'a str) -> BoxFuture<'a, Result<Secret, TokenError>> {
        Box::pin(async move {
            let away = |e| TokenError::Away { reason: format!("the token of \"{shop}\" cannot be read: {e}"), after: None };
            let entry = self.registry.shop(shop).await.map_err(away)?;
            let none = |what: &str| TokenError::None(format!("{what}; give one with: {}", give(shop)));
            let Some(entry) = entry else { return Err(none(&format!("\"{shop}\" is not registered"))) };
            let Some(sealed) = entry.access_token else {
                return Err(none(&format!("no access token is stored for \"{shop}\"")));
            };
            let opened = self.vault.open(shop, &sealed).map_err(|e| TokenError::None(e.to_string()))?;
            let text = String::from_utf8(opened).map_err(|_| none(&format!("the access token of \"{shop}\" is not text")))?;
            Ok(Secret::new(text.trim()))
        })
    }
}

fn give(shop: &str) -> String {
    format!("stockwarden shop add {shop} --kind shopify --access-token-env NAME")
}

/// Where the token of a shop comes from.
#[derive(Clone)]
pub enum Credentials {
    /// The app's own, exchanged for a token of the shop that lasts about a day (client credentials).
    App { client_id: String, client_secret: Secret },
    /// One token, whatever the shop.
    Token(Secret),
    /// Each shop's own.
    Stored(Arc<dyn StoredTokens>),
}

#[derive(Clone)]
struct Issued {
    token: Secret,
    /// None: it has no end that we know of.
    renew_at: Option<DateTime<Utc>>,
}

/// A shop's issued token; whoever holds the lock asks for a new one, and the others wait for it.
type Slot = Arc<tokio::sync::Mutex<Option<Issued>>>;

pub(super) struct Tokens {
    pub credentials: Credentials,
    slots: Mutex<HashMap<String, Slot>>,
}

/// Exchanges the app's credentials for a token: the body of `POST /admin/oauth/access_token`, to its answer.
pub(super) trait Exchange: Sync {
    fn exchange<'a>(&'a self, shop: &'a str, form: String) -> BoxFuture<'a, Result<Vec<u8>, TokenError>>;
}

#[derive(Deserialize)]
struct Grant {
    access_token: String,
    expires_in: Option<u64>,
}

impl Tokens {
    pub(super) fn new(credentials: Credentials) -> Tokens {
        Tokens { credentials, slots: Mutex::default() }
    }

    /// The token to send now. `refused` is one that Shopify has just refused: not that one again.
    pub(super) async fn get(
        &self,
        shop: &str,
        refused: Option<&Secret>,
        by: &dyn Exchange,
        now: DateTime<Utc>,
    ) -> Result<Secret, TokenError> {
        let (client_id, client_secret) = match &self.credentials {
            Credentials::Token(token) => return Ok(token.clone()),
            Credentials::Stored(tokens) => return tokens.access_token(shop).await,
            Credentials::App { client_id, client_secret } => (client_id, client_secret),
        };
        let slot = self.slots.lock().expect("no code panics while holding this lock").entry(shop.to_owned()).or_default().clone();
        let mut held = slot.lock().await;
        if let Some(issued) = held.as_ref()
            && refused != Some(&issued.token)
            && issued.renew_at.is_none_or(|at| now < at)
        {
            return Ok(issued.token.clone());
        }
        *held = None;
        let form =
            form(&[("grant_type", "client_credentials"), ("client_id", client_id), ("client_secret", client_secret.expose())]);
        let answer = by.exchange(shop, form).await?;
        // The answer is never quoted: a token is in it.
        let grant: Grant = serde_json::from_slice(&answer)
            .map_err(|_| TokenError::Away { reason: "Shopify's answer holds no access token".to_owned(), after: None })?;
        let life = grant.expires_in.map(Duration::from_secs);
        let issued = Issued {
            token: Secret::new(grant.access_token),
            renew_at: life
                .and_then(|life| now.checked_add_signed(chrono::TimeDelta::from_std(life - MARGIN.min(life / 10)).ok()?)),
        };
        *held = Some(issued.clone());
        Ok(issued.token)
    }

    /// Whether another token may be had where Shopify refuses one.
    pub(super) fn renews(&self) -> bool {
        matches!(self.credentials, Credentials::App { .. })
    }

    /// What to do about a refused token.
    pub(super) fn mend(&self, shop: &str) -> String {
        match &self.credentials {
            Credentials::App { .. } => {
                "a newly issued one is refused as well: is the app still installed in this shop?".to_owned()
            }
            Credentials::Token(_) => "it was revoked or has expired: give the handler a new access_token".to_owned(),
            Credentials::Stored(_) => format!("it was revoked or has expired: give a new one with: {}", give(shop)),
        }
    }
}

/// `application/x-www-form-urlencoded`.
fn form(pairs: &[(&str, &str)]) -> String {
    let mut url: reqwest::Url = "form:".parse().expect("a constant");
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_escaped() {
        assert_eq!(form(&[("client_id", "a b"), ("client_secret", "x&y=z+é")]), "client_id=a+b&client_secret=x%26y%3Dz%2B%C3%A9");
    }
}
