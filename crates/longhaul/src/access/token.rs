//! One token: what is stored of it, and its text.
//!
//! `lht_ID.SECRET` for a token, `lhs_ID.SECRET` for a share: found by the id, compared by the digest of the secret. The
//! prefix tells ours from the key that an SDK sends to whomever it speaks to, and shows a leak to whoever scans for one.

use longhaul_api::{Scope, TokenInfo};
use longhaul_model::{ProjectId, RunId, RunKey, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// How the text of a token begins.
const TOKEN: &str = "lht_";

/// How the text of a share begins.
const SHARE: &str = "lhs_";

/// The version of the record's form.
pub(super) const VERSION: u32 = 1;

/// What a token is limited to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// How far it reaches.
    pub scope: Scope,
    /// Its project; every one without it.
    pub project: Option<ProjectId>,
    /// The one run that it shows; then it is a share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Directories below which its runs may work, symbolic links resolved; anywhere if there are none.
    #[serde(default)]
    pub allowed_roots: Vec<String>,
    /// Runs with a process at once that its client may have; what the server allows without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<usize>,
}

/// What is durable of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The version of this form.
    pub v: u32,
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it is limited to.
    pub bounds: Bounds,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused.
    pub expires_at: Timestamp,
    /// sha-256 of its secret, in hex.
    pub digest: String,
}

/// Why a text is not accepted as a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is none with this id and secret.
    Unknown,
    /// It was right until then.
    Expired(Timestamp),
}

impl Token {
    /// A new token and its text, which nobody can make again.
    pub(super) fn make(name: Option<String>, bounds: Bounds, now: Timestamp, ttl_ms: u64) -> (Self, String) {
        let random = || uuid::Uuid::new_v4().simple().to_string();
        // 244 random bits: nobody guesses it, so a plain digest of it can be kept.
        let secret = format!("{}{}", random(), random());
        let mut id = random();
        id.truncate(12);
        let kind = if bounds.run.is_some() { SHARE } else { TOKEN };
        let text = format!("{kind}{id}.{secret}");
        let expires_at = now.unix_ms().saturating_add(i64::try_from(ttl_ms).unwrap_or(i64::MAX));
        let token = Self {
            v: VERSION,
            name: name.unwrap_or_else(|| id.clone()),
            id,
            bounds,
            created_at: now,
            expires_at: Timestamp::from_unix_ms(expires_at),
            digest: digest(&secret),
        };
        (token, text)
    }

    /// Whether a text is one of ours by its form.
    pub fn is_ours(text: &str) -> bool {
        text.starts_with(TOKEN) || text.starts_with(SHARE)
    }

    /// Whether a text may stand in an address, as a share may: an EventSource cannot send headers.
    pub fn may_be_in_an_address(text: &str) -> bool {
        text.starts_with(SHARE)
    }

    /// Id and secret of a text that is one of ours.
    pub(super) fn parts(text: &str) -> Option<(&str, &str)> {
        text.strip_prefix(TOKEN).or_else(|| text.strip_prefix(SHARE))?.split_once('.')
    }

    /// Whether this is its secret; takes as long whatever it is.
    pub(super) fn has_secret(&self, secret: &str) -> bool {
        bool::from(digest(secret).as_bytes().ct_eq(self.digest.as_bytes()))
    }

    /// The run that it shows, of a share.
    pub fn shown(&self) -> Option<RunKey> {
        let project = self.bounds.project.clone()?;
        Some(RunKey { project, run: self.bounds.run.clone()? })
    }

    /// As it is shown, with the text where it is handed out.
    pub fn info(&self, text: Option<String>) -> TokenInfo {
        let object = if self.bounds.run.is_some() { "share" } else { "token" };
        TokenInfo {
            id: self.id.clone(),
            object: object.to_owned(),
            name: self.name.clone(),
            scope: self.bounds.scope,
            project: self.bounds.project.clone(),
            run_id: self.bounds.run.clone(),
            allowed_roots: self.bounds.allowed_roots.clone(),
            lane: self.bounds.lane,
            created_at: self.created_at,
            expires_at: self.expires_at,
            token: text,
        }
    }
}

fn digest(secret: &str) -> String {
    Sha256::digest(secret.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_taken_apart_and_its_secret_is_not_kept() {
        let bounds = Bounds { scope: Scope::Read, project: None, run: None, allowed_roots: vec![], lane: None };
        let (token, text) = Token::make(None, bounds, Timestamp::from_unix_ms(1000), 5);
        let (id, secret) = Token::parts(&text).unwrap();
        assert_eq!((id, token.name.as_str(), token.expires_at.unix_ms()), (&*token.id, &*token.id, 1005));
        assert!(token.has_secret(secret) && !token.has_secret("x") && secret.len() == 64);
        assert!(!serde_json::to_string(&token).unwrap().contains(secret));
        assert!(Token::is_ours(&text) && !Token::is_ours("sk-proj-1"));
    }
}
