//! The secrets of subscriptions.
//!
//! Job: sign what webhooks are sent, make the tokens of wakes and check them. Owns: the signing key and the tokens' key,
//! made when they are first needed, kept in one record. Never: shows or logs either.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use longhaul_model::Timestamp;
use longhaul_store::{Commit, CommitError, RecordKey, RecordWrite, Store};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use ring::{digest, hmac};

use crate::streams::WriteError;

const KIND: &str = "sub_key";
const ID: &str = "1";
const SEED_BYTES: usize = 32;

/// What every token begins with.
const TOKEN: &str = "dst1";

/// The secrets of one store's subscriptions.
pub struct Keys {
    pair: Ed25519KeyPair,
    tokens: hmac::Key,
    kid: String,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// The wake that a token was made for. What it says was said by this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenOf {
    /// The subscription, by the store's name for it.
    pub uid: String,
    /// The generation.
    pub generation: u64,
    /// The wake.
    pub wake_id: String,
}

impl Keys {
    /// The store's keys, made durably if there are none yet.
    ///
    /// # Errors
    /// Of the store.
    pub(super) async fn load(store: &dyn Store) -> Result<Self, WriteError> {
        let key = RecordKey::new(KIND, ID);
        if let Some(value) = store.record(&key).await? {
            return Self::of(&value);
        }
        let mut value = [0; 2 * SEED_BYTES];
        let random = |_| WriteError::Unknown("the system gives no random numbers".to_owned());
        SystemRandom::new().fill(&mut value).map_err(random)?;
        let value = Bytes::copy_from_slice(&value);
        let write = RecordWrite { key: key.clone(), value: Some(value.clone()), only_new: true, stamp: false };
        match store.commit(Commit { records: vec![write], ..Commit::default() }).await {
            Ok(_) => Self::of(&value),
            Err(CommitError::Exists) => Self::of(&store.record(&key).await?.unwrap_or_default()),
            Err(error) => Err(error.into()),
        }
    }

    fn of(value: &[u8]) -> Result<Self, WriteError> {
        let damaged = || WriteError::Unknown("the record of the signing key is damaged".to_owned());
        let (seed, tokens) =
            value.split_at_checked(SEED_BYTES).filter(|_| value.len() == 2 * SEED_BYTES).ok_or_else(damaged)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| damaged())?;
        // Source: RFC 7638 section 3, RFC 8037 section 2.
        let x = URL_SAFE_NO_PAD.encode(pair.public_key());
        let thumbprint =
            digest::digest(&digest::SHA256, format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#).as_bytes());
        let kid = format!("ds_{}", URL_SAFE_NO_PAD.encode(thumbprint));
        Ok(Self { pair, tokens: hmac::Key::new(hmac::HMAC_SHA256, tokens), kid })
    }

    /// The name of the signing key.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public key, 32 bytes in base64url: the member `x` of a JWK.
    pub fn public(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.pair.public_key())
    }

    /// The header `Webhook-Signature` for a body that is sent now.
    pub(super) fn sign(&self, body: &[u8], now: Timestamp) -> String {
        let seconds = now.unix_ms().div_euclid(1_000);
        let mut signed = format!("{seconds}.").into_bytes();
        signed.extend_from_slice(body);
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(&signed));
        format!("t={seconds},kid={},ed25519={signature}", self.kid)
    }

    /// The token of a wake: the same each time, so that a webhook that is called again gets the one it had.
    pub(super) fn token(&self, uid: &str, generation: u64, wake_id: &str) -> String {
        let said = format!("{TOKEN}.{uid}.{generation}.{wake_id}");
        let tag = hmac::sign(&self.tokens, said.as_bytes());
        format!("{said}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// What a token was made for, if it was made here.
    pub(super) fn check(&self, token: &str) -> Option<TokenOf> {
        let (said, tag) = token.rsplit_once('.')?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        hmac::verify(&self.tokens, said.as_bytes(), &tag).ok()?;
        let mut parts = said.split('.');
        let (kind, uid, generation, wake_id) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let generation = generation.parse().ok()?;
        (kind == TOKEN).then(|| TokenOf { uid: uid.to_owned(), generation, wake_id: wake_id.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use longhaul_store::MemoryStore;
    use ring::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    #[tokio::test]
    async fn keys_outlive_the_server_and_sign_what_is_sent() {
        let store = MemoryStore::new();
        let keys = Keys::load(&store).await.unwrap();
        let again = Keys::load(&store.reopen()).await.unwrap();
        assert_eq!(keys.kid(), again.kid());
        let header = again.sign(b"{}", Timestamp::from_unix_ms(1_999));
        let signature = header.strip_prefix(&format!("t=1,kid={},ed25519=", keys.kid())).unwrap();
        let public = URL_SAFE_NO_PAD.decode(keys.public()).unwrap();
        let verify = UnparsedPublicKey::new(&ED25519, public);
        verify.verify(b"1.{}", &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
        assert!(!format!("{keys:?}").contains(&keys.public()));
    }

    #[tokio::test]
    async fn a_token_says_what_it_was_made_for_and_cannot_be_made_elsewhere() {
        let store = MemoryStore::new();
        let keys = Keys::load(&store).await.unwrap();
        let token = keys.token("u", 7, "w_1");
        let of = TokenOf { uid: "u".to_owned(), generation: 7, wake_id: "w_1".to_owned() };
        assert_eq!(keys.check(&token), Some(of));
        let other = Keys::load(&MemoryStore::new()).await.unwrap();
        assert_eq!(other.check(&token), None);
        for bad in [
            token.replace(".7.", ".8."),
            token.replace("w_1", "w_2"),
            token[..token.len() - 1].to_owned(),
            String::new(),
        ] {
            assert_eq!(keys.check(&bad), None, "{bad}");
        }
    }
}
