//! Organisations, shops, tokens and rule versions.

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row};

use super::{PATIENCE, PostgresStore};
use crate::adapters::sql::{Fault, digest, known};
use crate::ports::registry::{Registry, Role, ShopEntry, ShopKind, TokenEntry};
use crate::ports::snapshot_store::StoreError;

const PUT_SHOP: &str = "\
insert into shop (shop, organisation, kind, webhook_secrets, access_token, added_at) values ($1, $2, $3, $4, $5, $6)
on conflict (shop) do update set organisation = excluded.organisation, kind = excluded.kind,
    webhook_secrets = excluded.webhook_secrets, access_token = excluded.access_token, added_at = excluded.added_at";

impl Registry for PostgresStore {
    fn add_organisation<'a>(&'a self, name: &'a str, now: DateTime<Utc>) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.run("adding an organisation", PATIENCE, async move |c| {
            let done = sqlx::query("insert into organisation (name, added_at) values ($1, $2) on conflict (name) do nothing")
                .bind(name)
                .bind(now)
                .execute(c)
                .await?;
            Ok(done.rows_affected() == 1)
        }))
    }

    fn organisations(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        Box::pin(self.run("listing organisations", PATIENCE, async |c| {
            // By bytes, so that the order does not hang on the server's locale.
            Ok(sqlx::query_scalar("select name from organisation order by name collate \"C\"").fetch_all(c).await?)
        }))
    }

    fn put_shop(&self, shop: ShopEntry) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.run("storing a shop", PATIENCE, async move |c| {
            sqlx::query(PUT_SHOP)
                .bind(shop.shop)
                .bind(shop.organisation)
                .bind(shop.kind.as_str())
                .bind(shop.webhook_secrets)
                .bind(shop.access_token)
                .bind(shop.added_at)
                .execute(c)
                .await?;
            Ok(())
        }))
    }

    fn remove_shop<'a>(&'a self, shop: &'a str) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.run("removing a shop", PATIENCE, async move |c| {
            let done = sqlx::query("delete from shop where shop = $1").bind(shop).execute(c).await?;
            Ok(done.rows_affected() == 1)
        }))
    }

    fn shop<'a>(&'a self, shop: &'a str) -> BoxFuture<'a, Result<Option<ShopEntry>, StoreError>> {
        Box::pin(self.run("reading a shop", PATIENCE, async move |c| {
            let row = sqlx::query("select * from shop where shop = $1").bind(shop).fetch_optional(c).await?;
            row.as_ref().map(read_shop).transpose()
        }))
    }

    fn shops(&self) -> BoxFuture<'_, Result<Vec<ShopEntry>, StoreError>> {
        Box::pin(self.run("listing shops", PATIENCE, async |c| {
            let rows = sqlx::query("select * from shop order by shop collate \"C\"").fetch_all(c).await?;
            rows.iter().map(read_shop).collect()
        }))
    }

    fn add_token(&self, token: TokenEntry) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.run("adding a token", PATIENCE, async move |c| {
            sqlx::query(
                "insert into token (id, hash, organisation, role, shops, created_at, revoked_at) \
                 values ($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(token.id)
            .bind(&token.hash[..])
            .bind(token.organisation)
            .bind(token.role.as_str())
            .bind(token.shops)
            .bind(token.created_at)
            .bind(token.revoked_at)
            .execute(c)
            .await?;
            Ok(())
        }))
    }

    fn revoke_token<'a>(&'a self, id: &'a str, now: DateTime<Utc>) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.run("revoking a token", PATIENCE, async move |c| {
            let done = sqlx::query("update token set revoked_at = $2 where id = $1 and revoked_at is null")
                .bind(id)
                .bind(now)
                .execute(c)
                .await?;
            Ok(done.rows_affected() == 1)
        }))
    }

    fn tokens(&self) -> BoxFuture<'_, Result<Vec<TokenEntry>, StoreError>> {
        Box::pin(self.run("listing tokens", PATIENCE, async |c| {
            let rows = sqlx::query("select * from token order by created_at, seq").fetch_all(c).await?;
            rows.iter().map(read_token).collect()
        }))
    }

    fn token_by_hash<'a>(&'a self, hash: &'a [u8; 32]) -> BoxFuture<'a, Result<Option<TokenEntry>, StoreError>> {
        Box::pin(self.run("looking up a token", PATIENCE, async move |c| {
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
        Box::pin(self.run("numbering rules", PATIENCE, async move |c| next_rule_version(c, organisation, digest).await))
    }
}

async fn next_rule_version(c: &mut PgConnection, organisation: &str, digest: &[u8; 32]) -> Result<(i64, bool), Fault> {
    let mut tx = c.begin().await?;
    let new: Option<i64> = sqlx::query_scalar(
        "insert into rule_version as v (organisation, version, digest) values ($1, 1, $2) \
         on conflict (organisation) do update set version = v.version + 1, digest = excluded.digest \
         where v.digest <> excluded.digest returning version",
    )
    .bind(organisation)
    .bind(&digest[..])
    .fetch_optional(&mut *tx)
    .await?;
    let answer = match new {
        Some(version) => (version, true),
        // The statement above has locked the row although it changed nothing, so this is the version it compared with.
        None => {
            let current = sqlx::query_scalar("select version from rule_version where organisation = $1")
                .bind(organisation)
                .fetch_one(&mut *tx)
                .await?;
            (current, false)
        }
    };
    tx.commit().await?;
    Ok(answer)
}

fn read_shop(row: &PgRow) -> Result<ShopEntry, Fault> {
    Ok(ShopEntry {
        shop: row.try_get("shop")?,
        organisation: row.try_get("organisation")?,
        kind: known("kind of shop", row.try_get("kind")?, ShopKind::parse)?,
        webhook_secrets: row.try_get("webhook_secrets")?,
        access_token: row.try_get("access_token")?,
        added_at: row.try_get("added_at")?,
    })
}

fn read_token(row: &PgRow) -> Result<TokenEntry, Fault> {
    Ok(TokenEntry {
        id: row.try_get("id")?,
        hash: digest(row.try_get("hash")?)?,
        organisation: row.try_get("organisation")?,
        role: known("role", row.try_get("role")?, Role::parse)?,
        shops: row.try_get("shops")?,
        created_at: row.try_get("created_at")?,
        revoked_at: row.try_get("revoked_at")?,
    })
}
