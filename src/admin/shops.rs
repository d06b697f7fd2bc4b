//! Shops: their registration, with secrets sealed in the store, and the fact of it, without them, in the log.

use serde_json::{Value, json};

use super::command::ShopAdd;
use super::{Admin, AdminError, Refusal};
use crate::config::Secret;
use crate::events::fact::{self, FactType, ShopRegistered, header};
use crate::events::ids::{self, DEFAULT_ORGANISATION};
use crate::events::record::{NewRecord, Topic};
use crate::events::time;
use crate::ports::registry::{ShopEntry, ShopKind};

/// How a webhook secret that was given relates to those known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rotation {
    /// None given, or the newest again.
    Unchanged,
    First,
    /// The previous one is still accepted.
    Rotated,
}

impl Rotation {
    fn as_str(self) -> &'static str {
        match self {
            Rotation::Unchanged => "unchanged",
            Rotation::First => "set",
            Rotation::Rotated => "rotated",
        }
    }
}

impl Admin {
    /// The registry is written first: if the log then fails, the same command again appends the missing fact, and until
    /// then nothing was promised.
    pub(super) async fn shop_add(&self, add: ShopAdd) -> Result<Value, AdminError> {
        let (key, known) = self.find(&add).await?;
        let organisation = match (&add.organisation, &known) {
            (Some(named), _) => named.clone(),
            (None, Some(entry)) => entry.organisation.clone(),
            (None, None) => DEFAULT_ORGANISATION.to_owned(),
        };
        self.known_organisation(&organisation).await?;
        let moved = known.as_ref().map(|k| k.organisation.clone()).filter(|o| *o != organisation);
        if let Some(entry) = &known {
            check_same(entry, &add, &organisation)?;
        }
        let (webhook_secrets, rotation) = self.rotate(&key, known.as_ref(), add.webhook_secret.as_ref())?;
        let access_token = match &add.access_token {
            Some(token) => Some(self.vault.seal(&key, token.expose().as_bytes())?),
            None => known.as_ref().and_then(|k| k.access_token.clone()),
        };
        let answer = json!({
            "shop": key,
            "organisation": organisation,
            "kind": add.kind,
            "added": known.is_none(),
            "moved_from": moved,
            "webhook_secret": rotation.as_str(),
            "webhook_secrets": webhook_secrets.len(),
            "access_token": access_token.is_some(),
        });
        let entry = ShopEntry {
            shop: key.clone(),
            organisation: organisation.clone(),
            kind: add.kind,
            webhook_secrets,
            access_token,
            added_at: known.map_or_else(|| self.now(), |k| k.added_at),
        };
        self.registry.put_shop(entry).await?;
        let fact = ShopRegistered { shop: key.clone(), organisation, kind: add.kind.as_str().to_owned() };
        let position = self.append_one(self.shop_fact(FactType::ShopRegistered, &key, &fact)).await?;
        Ok(with(answer, "position", position.to_string()))
    }

    pub(super) async fn shop_list(&self, organisation: Option<&str>) -> Result<Value, AdminError> {
        if let Some(name) = organisation {
            self.known_organisation(name).await?;
        }
        let shops: Vec<Value> = self
            .registry
            .shops()
            .await?
            .iter()
            .filter(|s| organisation.is_none_or(|o| s.organisation == o))
            .map(|s| {
                json!({
                    "shop": s.shop,
                    "organisation": s.organisation,
                    "kind": s.kind,
                    "webhook_secrets": s.webhook_secrets.len(),
                    "access_token": s.access_token.is_some(),
                    "added_at": time::format(s.added_at.timestamp_millis()),
                })
            })
            .collect();
        Ok(json!({ "shops": shops }))
    }

    /// The fact is written first: if the registry then fails, the shop is still there for the same command again.
    pub(super) async fn shop_remove(&self, shop: &str) -> Result<Value, AdminError> {
        let key = self.registered(shop).await?;
        let fact = json!({ "shop": key });
        let position = self.append_one(self.shop_fact(FactType::ShopRemoved, &key, &fact)).await?;
        self.registry.remove_shop(&key).await?;
        Ok(json!({ "shop": key, "removed": true, "position": position.to_string() }))
    }

    /// The key of a registered shop as a user names it.
    pub(super) async fn registered(&self, shop: &str) -> Result<String, AdminError> {
        for key in [shop.to_owned(), shop.to_lowercase()] {
            if ids::is_shop_key(&key) && self.registry.shop(&key).await?.is_some() {
                return Ok(key);
            }
        }
        let all = self.registry.shops().await?;
        // A store is known to its people by its name alone.
        let named: Vec<&str> = all.iter().map(|s| s.shop.as_str()).filter(|k| store_name(k) == Some(shop)).collect();
        if let [only] = named.as_slice() {
            return Ok((*only).to_owned());
        }
        let message = match crate::config::nearest(shop, all.iter().map(|s| s.shop.as_str())) {
            Some(near) => format!("there is no shop \"{shop}\"; did you mean \"{near}\"?"),
            None => format!("there is no shop \"{shop}\""),
        };
        Err(AdminError::refused(Refusal::NotFound, message, "stockwarden shop list names all"))
    }

    /// The log key that is meant, and what is registered under it.
    async fn find(&self, add: &ShopAdd) -> Result<(String, Option<ShopEntry>), AdminError> {
        let key = match add.kind {
            ShopKind::Store => store_key(add)?,
            // A domain has no case; headers bring it in lower case.
            ShopKind::Shopify | ShopKind::Generic => add.shop.to_lowercase(),
        };
        let domain = !key.contains([':', '/', '_']) && key.contains('.') && !key.ends_with('.') && !key.contains("..");
        if !ids::is_shop_key(&key) || (add.kind != ShopKind::Store && !domain) {
            return Err(AdminError::refused(
                Refusal::Invalid,
                format!("\"{}\" is not a shop's domain", add.shop),
                "give the domain alone, such as my-shop.myshopify.com; for a physical store add --kind store",
            ));
        }
        let known = self.registry.shop(&key).await?;
        Ok((key, known))
    }

    fn rotate(
        &self,
        key: &str,
        known: Option<&ShopEntry>,
        given: Option<&Secret>,
    ) -> Result<(Vec<Vec<u8>>, Rotation), AdminError> {
        let sealed: Vec<Vec<u8>> = known.map(|k| k.webhook_secrets.clone()).unwrap_or_default();
        let Some(given) = given else { return Ok((sealed, Rotation::Unchanged)) };
        let Some(newest) = sealed.first() else {
            return Ok((vec![self.vault.seal(key, given.expose().as_bytes())?], Rotation::First));
        };
        if self.vault.open(key, newest)? == given.expose().as_bytes() {
            return Ok((sealed, Rotation::Unchanged));
        }
        Ok((vec![self.vault.seal(key, given.expose().as_bytes())?, newest.clone()], Rotation::Rotated))
    }

    fn shop_fact(&self, fact_type: FactType, key: &str, value: &impl serde::Serialize) -> NewRecord {
        NewRecord {
            topic: Topic::Facts,
            partition: None,
            key: Some(key.as_bytes().to_vec()),
            headers: self.headers(fact_type),
            value: Some(serde_json::to_vec(value).expect("a registration is plain data")),
        }
    }

    pub(super) fn headers(&self, fact_type: FactType) -> Vec<(&'static str, Vec<u8>)> {
        let now = time::format(self.now().timestamp_millis());
        vec![
            (header::FACT, fact_type.as_str().as_bytes().to_vec()),
            (header::VERSION, fact::VERSION.to_string().into_bytes()),
            (header::SOURCE, b"admin".to_vec()),
            (header::EVENT_TIME, now.clone().into_bytes()),
            (header::TRIGGERED_AT, now.into_bytes()),
        ]
    }
}

/// What may not change silently.
fn check_same(entry: &ShopEntry, add: &ShopAdd, organisation: &str) -> Result<(), AdminError> {
    if entry.kind != add.kind {
        return Err(AdminError::refused(
            Refusal::Conflict,
            format!("the shop \"{}\" is registered as {}, not {}", entry.shop, entry.kind.as_str(), add.kind.as_str()),
            "a shop's kind stays; remove the shop first if it was a mistake",
        ));
    }
    if entry.organisation != organisation && !add.move_here {
        return Err(AdminError::refused(
            Refusal::Conflict,
            format!("the shop \"{}\" belongs to the organisation \"{}\"", entry.shop, entry.organisation),
            format!("--move takes it over to \"{organisation}\", with its stock, history and open proposals"),
        ));
    }
    Ok(())
}

fn store_key(add: &ShopAdd) -> Result<String, AdminError> {
    let organisation = add.organisation.as_deref();
    match add.shop.strip_prefix("store:") {
        None => Ok(format!("store:{}/{}", organisation.unwrap_or(DEFAULT_ORGANISATION), add.shop)),
        Some(rest) => match rest.split_once('/') {
            Some((o, name)) if !name.is_empty() && organisation.unwrap_or(o) == o => Ok(add.shop.clone()),
            _ => Err(AdminError::refused(
                Refusal::Invalid,
                format!("\"{}\" does not name a store of that organisation", add.shop),
                "give the store's name alone, with --org; its key is then store:ORGANISATION/NAME",
            )),
        },
    }
}

fn store_name(key: &str) -> Option<&str> {
    key.strip_prefix("store:")?.split_once('/').map(|(_, name)| name)
}

fn with(mut object: Value, key: &str, value: impl Into<Value>) -> Value {
    object[key] = value.into();
    object
}
