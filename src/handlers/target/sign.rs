//! Standard Webhooks signatures (standardwebhooks.com): `webhook-signature: v1,BASE64(HMAC-SHA256(secret, id.timestamp.body))`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The key behind a `whsec_…` secret.
#[derive(Clone)]
pub struct SigningKey(Vec<u8>);

impl SigningKey {
    /// The error says how to make a secret.
    pub fn parse(secret: &str) -> Result<SigningKey, String> {
        let encoded = secret.strip_prefix("whsec_").unwrap_or(secret);
        match STANDARD.decode(encoded) {
            Ok(key) if !key.is_empty() => Ok(SigningKey(key)),
            _ => Err("secret is not a Standard Webhooks secret (whsec_ and base64); make one with: \
                      echo whsec_$(head -c 32 /dev/urandom | base64)"
                .to_owned()),
        }
    }

    /// Value of `webhook-signature`. `timestamp` in Unix seconds.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_of_the_specification() {
        // The example of the Standard Webhooks libraries.
        let key = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("secret");
        let signature = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_that_is_no_base64_is_refused_with_the_way_to_make_one() {
        for bad in ["", "whsec_", "not base64!"] {
            assert!(SigningKey::parse(bad).err().is_some_and(|e| e.contains("/dev/urandom")), "{bad}");
        }
    }
}
