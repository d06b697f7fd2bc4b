//! Organisations, shops, tokens and rule versions.

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::{SqliteStore, json, micros, time_of};
use crate::adapters::sql::{Fault, digest, known};
use crate::ports::registry::{Registry, Role, ShopEntry, ShopKind, TokenEntry};
use crate::ports::snapshot_store::StoreError;

const PUT_SHOP: &str = "\
insert into shop (shop, organisation, kind, webhook_secrets, access_token, added_at) values ($1, $2, $3, $4, $5, $6)
on conflict (shop) do update set organisation = excluded.organisation, kind = excluded.kind,
    webhook_secrets = excluded.webhook_secrets, access_token = excluded.access_token, added_at = excluded.added_at";

impl Registry for SqliteStore {
    fn add_organisation<'a>(&'a self, name: &'a str, now: DateTime<Utc>) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.write("adding an organisation", async move |c| {
            let done = sqlx::query("insert into organisation (name, added_at) values ($1, $2) on conflict (name) do nothing")
                .bind(name)
                .bind(micros(now))
                .execute(c)
                .await?;
            Ok(done.rows_affected() == 1)
        }))
    }

    fn organisations(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        Box::pin(self.read("listing organisations", async |c| {
            Ok(sqlx::query_scalar("select name from organisation order by name").fetch_all(c).await?)
        }))
    }

    fn put_shop(&self, shop: ShopEntry) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.write("storing a shop", async move |c| {
            let secrets: Vec<String> = shop.webhook_secrets.iter().map(hex::encode).collect();
            sqlx::query(PUT_SHOP)
                .bind(shop.shop)
                .bind(shop.organisation)
                .bind(shop.kind.as_str())
                .bind(json(&secrets)?)
                .bind(shop.access_token)
                .bind(micros(shop.added_at))
                .execute(c)
                .await?;
            Ok(())
        }))
    }

    fn remove_shop<'a>(&'a self, shop: &'a str) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.write("removing a shop", async move |c| {
            let done = sqlx::query("delete from shop where shop = $1").bind(shop).execute(c).await?;
            Ok(done.rows_affected() == 1)
        }))
    }

    fn shop<'a>(&'a self, shop: &'a str) -> BoxFuture<'a, Result<Option<ShopEntry>, StoreError>> {
        Box::pin(self.read("reading a shop", async move |c| {
            let row = sqlx::query("select * from shop where shop = $1").bind(shop).fetch_optional(c).await?;
            row.as_ref().map(read_shop).transpose()
        }))
    }

    fn shops(&self) -> BoxFuture<'_, Result<Vec<ShopEntry>, StoreError>> {
        Box::pin(self.read("listing shops", async |c| {
            let rows = sqlx::query("select * from shop order by shop").fetch_all(c).await?;
            rows.iter().map(read_shop).collect()
        }))
    }

    fn add_token(&self, token: TokenEntry) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.write("adding a token", async move |c| {
            sqlx::query(
                "insert into token (id, hash, organisation, role, shops, created_at, revoked_at) \
                 values ($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(token.id)
            .bind(&token.hash[..])
            .bind(token.organisation)
            .bind(token.role.as_str())
            .bind(json(&token.shops)?)
            .bind(micros(token.created_at))
            .bind(token.revoked_at.map(micros))
            .execute(c)
            .await?;
            Ok(())
        }))
    }

    fn revoke_token<'a>(&'a self, id: &'a str, now: DateTime<Utc>) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.write("revoking a token", async move |c| {
            let done = sqlx::query("update token set revoked_at = $2 where id = $1 and revoked_at is null")
                .bind(id)
                .bind(micros(now))
                .execute(c)
                .await?;
            Ok(done.rows_affected() == 1)
        }))
    }

    fn tokens(&self) -> BoxFuture<'_, Result<Vec<TokenEntry>, StoreError>> {
        Box::pin(self.read("listing tokens", async |c| {
            let rows = sqlx::query("select * from token order by created_at, seq").fetch_all(c).await?;
            rows.iter().map(read_token).collect()
        }))
    }

    fn token_by_hash<'a>(&'a self, hash: &'a [u8; 32]) -> BoxFuture<'a, Result<Option<TokenEntry>, StoreError>> {
        Box::pin(self.read("looking up a token", async move |c| {
            let row = sqlx::query("select * from token where hash = $1 and revoked_at is null")
                .bind(&hash[..])
                .fetch_optional(c)
                .await?;
            row.as_ref().map(read_token).transpose()
        }))
    }

    fn next_rule_version<'a>(
        &'a self,
        organisation: &'a str,
        digest: &'a [u8; 32],
    ) -> BoxFuture<'a, Result<(i64, bool), StoreError>> {
        Box::pin(self.write("numbering rules", async move |c| next_rule_version(c, organisation, digest).await))
    }
}

async fn next_rule_version(c: &mut SqliteConnection, organisation: &str, digest: &[u8; 32]) -> Result<(i64, bool), Fault> {
    let new: Option<i64> = sqlx::query_scalar(
        "insert into rule_version (organisation, version, digest) values ($1, 1, $2) on conflict (organisation) do update \
         set version = version + 1, digest = excluded.digest where digest <> excluded.digest returning version",
    )
    .bind(organisation)
    .bind(&digest[..])
    .fetch_optional(&mut *c)
    .await?;
    if let Some(version) = new {
        return Ok((version, true));
    }
    let current =
        sqlx::query_scalar("select version from rule_version where organisation = $1").bind(organisation).fetch_one(c).await?;
    Ok((current, false))
}

fn read_shop(row: &SqliteRow) -> Result<ShopEntry, Fault> {
    let secrets: Vec<String> = list(row.try_get("webhook_secrets")?)?;
    Ok(ShopEntry {
        shop: row.try_get("shop")?,
        organisation: row.try_get("organisation")?,
        kind: known("kind of shop", row.try_get("kind")?, ShopKind::parse)?,
        webhook_secrets: secrets
            .iter()
            .map(|s| hex::decode(s).map_err(|_| Fault::Other("a stored secret is not hexadecimal".into())))
            .collect::<Result<_, _>>()?,
        access_token: row.try_get("access_token")?,
        added_at: time_of(row.try_get("added_at")?)?,
    })
}

fn read_token(row: &SqliteRow) -> Result<TokenEntry, Fault> {
    Ok(TokenEntry {
        id: row.try_get("id")?,
        hash: digest(row.try_get("hash")?)?,
        organisation: row.try_get("organisation")?,
        role: known("role", row.try_get("role")?, Role::parse)?,
        shops: list(row.try_get("shops")?)?,
        created_at: time_of(row.try_get("created_at")?)?,
        revoked_at: row.try_get::<Option<i64>, _>("revoked_at")?.map(time_of).transpose()?,
    })
}

fn list(text: &str) -> Result<Vec<String>, Fault> {
    serde_json::from_str(text).map_err(|_| Fault::Other("a stored list is not a JSON array of strings".into()))
}
