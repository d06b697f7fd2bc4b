//! Shopify's Admin GraphQL API: how a shop is asked, with which token, and what its answers mean.
//!
//! A document is a file in `graphql/` and a line in [`documents`]; the tests validate every line there against the schemas of the
//! API versions that we speak, with variables as the code builds them. [`AdminClient`] sends what it is given and says of every failure
//! what may have happened ([`CallError`]); what to do about it is the caller's business.

mod answer;
mod client;
pub mod documents;
mod tokens;

pub use answer::CallError;
pub use client::{AdminClient, Answer, Settings};
pub use tokens::{Credentials, NoStoredTokens, RegisteredTokens, StoredTokens, TokenError};
