//! Organisations: who owns shops, rules and tokens.

use serde_json::{Value, json};

use super::{Admin, AdminError, Refusal};

impl Admin {
    pub(super) async fn org_add(&self, name: &str) -> Result<Value, AdminError> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        let starts = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if !starts || name.len() > 64 || !name.bytes().all(legal) {
            return Err(AdminError::refused(
                Refusal::Invalid,
                format!("\"{name}\" cannot name an organisation"),
                "use 1 to 64 lower-case letters, digits, - and _, beginning with a letter or digit",
            ));
        }
        let added = self.registry.add_organisation(name, self.now()).await?;
        Ok(json!({ "organisation": name, "added": added }))
    }

    pub(super) async fn org_list(&self) -> Result<Value, AdminError> {
        let organisations = self.registry.organisations().await?;
        let shops = self.registry.shops().await?;
        let rows: Vec<Value> = organisations
            .iter()
            .map(|o| json!({ "organisation": o, "shops": shops.iter().filter(|s| s.organisation == *o).count() }))
            .collect();
        Ok(json!({ "organisations": rows }))
    }
}
