//! Organisations, shops with their (encrypted) secrets, and API tokens (hashed).

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::snapshot_store::StoreError;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShopKind {
    Shopify,
    Store,
    Generic,
}

impl ShopKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            ShopKind::Shopify => "shopify",
            ShopKind::Store => "store",
            ShopKind::Generic => "generic",
        }
    }

    pub fn parse(s: &str) -> Option<ShopKind> {
        [ShopKind::Shopify, ShopKind::Store, ShopKind::Generic].into_iter().find(|k| k.as_str() == s)
    }
}

/// A registered shop. Secrets are sealed (encrypted) bytes; nothing here can be read without the master key.
#[derive(Debug, Clone, PartialEq)]
pub struct ShopEntry {
    /// Log key: the shop's domain, or `store:{organisation}/{store}`.
    pub shop: String,
    pub organisation: String,
    pub kind: ShopKind,
    /// Sealed webhook secrets, the newest first; two during a rotation.
    pub webhook_secrets: Vec<Vec<u8>>,
    /// Sealed Admin API access token.
    pub access_token: Option<Vec<u8>>,
    pub added_at: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Reader,
    Staff,
    Auditor,
    Admin,
    Ingest,
}

impl Role {
    pub const ALL: [Role; 5] = [Role::Reader, Role::Staff, Role::Auditor, Role::Admin, Role::Ingest];

    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Reader => "reader",
            Role::Staff => "staff",
            Role::Auditor => "auditor",
            Role::Admin => "admin",
            Role::Ingest => "ingest",
        }
    }

    pub fn parse(s: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|r| r.as_str() == s)
    }
}

/// An API token; only the SHA-256 of its text is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenEntry {
    /// Short public id, for listing and revoking.
    pub id: String,
    pub hash: [u8; 32],
    pub organisation: String,
    pub role: Role,
    /// Empty: all shops of the organisation.
    pub shops: Vec<String>,
    pub created_at: DateTime<Utc>,
    pub revoked_at: Option<DateTime<Utc>>,
}

pub trait Registry: Send + Sync + 'static {
    /// True if it was new.
    fn add_organisation<'a>(&'a self, name: &'a str, now: DateTime<Utc>) -> BoxFuture<'a, Result<bool, StoreError>>;
    /// Sorted by name; `default` always exists.
    fn organisations(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>>;

    /// Inserts or replaces.
    fn put_shop(&self, shop: ShopEntry) -> BoxFuture<'_, Result<(), StoreError>>;
    fn remove_shop<'a>(&'a self, shop: &'a str) -> BoxFuture<'a, Result<bool, StoreError>>;
    fn shop<'a>(&'a self, shop: &'a str) -> BoxFuture<'a, Result<Option<ShopEntry>, StoreError>>;
    /// Sorted by shop.
    fn shops(&self) -> BoxFuture<'_, Result<Vec<ShopEntry>, StoreError>>;

    fn add_token(&self, token: TokenEntry) -> BoxFuture<'_, Result<(), StoreError>>;
    /// False if there is no such live token.
    fn revoke_token<'a>(&'a self, id: &'a str, now: DateTime<Utc>) -> BoxFuture<'a, Result<bool, StoreError>>;
    /// All, revoked ones included, oldest first.
    fn tokens(&self) -> BoxFuture<'_, Result<Vec<TokenEntry>, StoreError>>;
    /// The live token with this hash.
    fn token_by_hash<'a>(&'a self, hash: &'a [u8; 32]) -> BoxFuture<'a, Result<Option<TokenEntry>, StoreError>>;

    /// Next version number of an organisation's rules if `digest` differs from the last one's, else the current number
    /// and false. Starts at 1.
    fn next_rule_version<'a>(
        &'a self,
        organisation: &'a str,
        digest: &'a [u8; 32],
    ) -> BoxFuture<'a, Result<(i64, bool), StoreError>>;
}
