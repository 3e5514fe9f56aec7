//! The secrets of subscriptions.
//!
//! Job: sign what webhooks are sent, make the tokens of wakes and check them. Owns: the signing key and the tokens' key,
//! made when they are first needed, kept in one private file: not in the store, so that no backup holds them, and whoever
//! has a copy of the store signs with another key. Never: shows or logs either.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use longhaul_model::Timestamp;
use longhaul_store::StoreError;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use ring::{digest, hmac};

use crate::streams::WriteError;

const SEED_BYTES: usize = 32;

/// What every token begins with.
const TOKEN: &str = "dst1";

/// The secrets of one server's subscriptions.
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
    /// The keys of a file, made durably if it is not there.
    ///
    /// # Errors
    /// The disk's, and [`StoreError::Corrupt`] for a file that is none of keys. It is never made anew then: what it signed
    /// would not be known any more.
    pub(super) async fn load(file: PathBuf) -> Result<Self, WriteError> {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let value = tokio::task::spawn_blocking(move || kept(&file)).await;
        let value = value.unwrap_or_else(|_| Err(io::Error::other("the work on it broke off")));
        let value = value.map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => WriteError::Full,
            _ => WriteError::Unknown(format!("the file {name} of the signing key: {error}")),
        })?;
        Self::of(&value).ok_or_else(|| {
            let what = "it holds no signing key; without the file another one is made".to_owned();
            WriteError::Store(StoreError::Corrupt { place: name, what })
        })
    }

    fn of(value: &[u8]) -> Option<Self> {
        let (seed, tokens) = value.split_at_checked(SEED_BYTES).filter(|_| value.len() == 2 * SEED_BYTES)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        // Source: RFC 7638 section 3, RFC 8037 section 2.
        let x = URL_SAFE_NO_PAD.encode(pair.public_key());
        let thumbprint =
            digest::digest(&digest::SHA256, format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#).as_bytes());
        let kid = format!("ds_{}", URL_SAFE_NO_PAD.encode(thumbprint));
        Some(Self { pair, tokens: hmac::Key::new(hmac::HMAC_SHA256, tokens), kid })
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

/// The file's bytes. One that is not there is made: durable under another name before it has its own, and that durable
/// before anything is signed.
fn kept(path: &Path) -> io::Result<Vec<u8>> {
    let value = found_or_made(path)?;
    // Also of a file that was found: whoever made it may have been killed before this.
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(value)
}

fn found_or_made(path: &Path) -> io::Result<Vec<u8>> {
    match File::open(path) {
        Ok(file) => {
            let mut value = Vec::new();
            // One byte more than there may be shows that there is more.
            file.take(2 * SEED_BYTES as u64 + 1).read_to_end(&mut value)?;
            return Ok(value);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut value = vec![0; 2 * SEED_BYTES];
    SystemRandom::new().fill(&mut value).map_err(|_| io::Error::other("the system gives no random numbers"))?;
    let new = path.with_extension("new");
    // What a crash left is not written to: whoever has it open would read on.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(&value)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use ring::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    #[tokio::test]
    async fn keys_outlive_the_server_and_sign_what_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        // What a crash left of an earlier try.
        std::fs::write(dir.path().join("keys.new"), "x".repeat(100)).unwrap();
        let keys = Keys::load(file.clone()).await.unwrap();
        let again = Keys::load(file.clone()).await.unwrap();
        assert_eq!(keys.kid(), again.kid());
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left over");
        let header = again.sign(b"{}", Timestamp::from_unix_ms(1_999));
        let signature = header.strip_prefix(&format!("t=1,kid={},ed25519=", keys.kid())).unwrap();
        let public = URL_SAFE_NO_PAD.decode(keys.public()).unwrap();
        let verify = UnparsedPublicKey::new(&ED25519, public);
        verify.verify(b"1.{}", &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
        assert!(!format!("{keys:?}").contains(&keys.public()));
    }

    #[tokio::test]
    async fn a_file_that_holds_no_keys_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        for bad in [0, 63, 65] {
            let file = dir.path().join(bad.to_string());
            std::fs::write(&file, vec![7; bad]).unwrap();
            let error = Keys::load(file.clone()).await.unwrap_err();
            assert!(matches!(error, WriteError::Store(StoreError::Corrupt { .. })), "{error}");
            assert_eq!(std::fs::read(&file).unwrap(), vec![7; bad]);
        }
        let nowhere = Keys::load(dir.path().join("no/keys")).await.unwrap_err();
        assert!(matches!(nowhere, WriteError::Unknown(_)), "{nowhere}");
    }

    #[tokio::test]
    async fn a_token_says_what_it_was_made_for_and_cannot_be_made_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::load(dir.path().join("keys")).await.unwrap();
        let token = keys.token("u", 7, "w_1");
        let of = TokenOf { uid: "u".to_owned(), generation: 7, wake_id: "w_1".to_owned() };
        assert_eq!(keys.check(&token), Some(of));
        let other = Keys::load(dir.path().join("other")).await.unwrap();
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
