//! Secrets at rest: sealed with XChaCha20-Poly1305 under the master key, so that the store alone gives nothing away.
//!
//! Sealed form, version 1: one byte `1`, 24 bytes nonce, ciphertext with tag. What is sealed is bound to its owner (`context`,
//! the shop), so that a row copied to another shop does not open.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use sha2::Sha256;

const VERSION: u8 = 1;
const NONCE: usize = 24;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    #[error("the master key is not base64 of 32 bytes; make one with: head -c 32 /dev/urandom | base64")]
    BadKey,
    #[error(
        "a stored secret of \"{0}\" does not open with this master key; is STOCKWARDEN_MASTER_KEY the one it was sealed with?"
    )]
    DoesNotOpen(String),
    #[error("the system gave no random bytes: {0}")]
    NoRandomness(String),
}

#[derive(Clone)]
pub struct Vault {
    cipher: XChaCha20Poly1305,
    /// Further keys come from it; keyed with the master key.
    root: Hmac<Sha256>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(…)")
    }
}

impl Vault {
    /// `key`: base64 of 32 bytes.
    pub fn from_base64(key: &str) -> Result<Vault, VaultError> {
        let bytes = STANDARD.decode(key.trim()).map_err(|_| VaultError::BadKey)?;
        let cipher = XChaCha20Poly1305::new_from_slice(&bytes).map_err(|_| VaultError::BadKey)?;
        let root = <Hmac<Sha256> as Mac>::new_from_slice(&bytes).map_err(|_| VaultError::BadKey)?;
        Ok(Vault { cipher, root })
    }

    /// A key for something else than secrets at rest, the same wherever the master key is; those of two purposes say nothing of
    /// each other.
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        self.root.clone().chain_update(purpose).finalize().into_bytes().into()
    }

    /// A new random key, in base64.
    pub fn new_key() -> Result<String, VaultError> {
        let mut key = [0u8; 32];
        getrandom::fill(&mut key).map_err(|e| VaultError::NoRandomness(e.to_string()))?;
        Ok(STANDARD.encode(key))
    }

    pub fn seal(&self, context: &str, secret: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut nonce = [0u8; NONCE];
        getrandom::fill(&mut nonce).map_err(|e| VaultError::NoRandomness(e.to_string()))?;
        let payload = Payload { msg: secret, aad: context.as_bytes() };
        let sealed = self.cipher.encrypt(XNonce::from_slice(&nonce), payload).expect("memory suffices for a short secret");
        Ok([&[VERSION][..], &nonce, &sealed].concat())
    }

    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>, VaultError> {
        let shut = || VaultError::DoesNotOpen(context.to_owned());
        let (&version, rest) = sealed.split_first().ok_or_else(shut)?;
        if version != VERSION || rest.len() < NONCE {
            return Err(shut());
        }
        let (nonce, text) = rest.split_at(NONCE);
        let payload = Payload { msg: text, aad: context.as_bytes() };
        self.cipher.decrypt(XNonce::from_slice(nonce), payload).map_err(|_| shut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_only_with_its_key_its_owner_and_its_bytes() {
        let vault = Vault::from_base64(&Vault::new_key().expect("randomness")).expect("key");
        let sealed = vault.seal("a.myshopify.com", b"shpss_1").expect("sealed");
        assert_eq!(vault.open("a.myshopify.com", &sealed).expect("opens"), b"shpss_1");
        assert!(vault.open("b.myshopify.com", &sealed).is_err());
        for i in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[i] ^= 1;
            assert!(vault.open("a.myshopify.com", &bent).is_err(), "byte {i}");
        }
        let other = Vault::from_base64(&Vault::new_key().expect("randomness")).expect("key");
        assert!(other.open("a.myshopify.com", &sealed).is_err());
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        assert_eq!(Vault::from_base64("c2hvcnQ=").err(), Some(VaultError::BadKey));
        assert_eq!(Vault::from_base64("not base64!").err(), Some(VaultError::BadKey));
    }
}
