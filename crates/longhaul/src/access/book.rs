//! All tokens of a server.
//!
//! Job: each is durable before it is handed out, and gone durably before its revocation is answered; a look-up reads
//! memory alone, so that a stranger's guesses cost no disk. Owns: the records of kind `token`.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use longhaul_engine::Engine;
use longhaul_model::{RunKey, Timestamp, limits};
use longhaul_store::{Commit, CommitError, RecordKey, RecordWrite, StoreError, Urgency};
use tokio_util::sync::CancellationToken;

use super::token::{Bounds, Refusal, Token, VERSION};

/// The kind of tokens' records.
const KIND: &str = "token";

/// How long an expired token is remembered, so that whoever uses it is told why it fails.
const REMEMBERED_MS: i64 = 7 * 86_400_000;

/// A token and what ends with it.
#[derive(Debug, Clone)]
struct Entry {
    token: Arc<Token>,
    /// Ends when it is revoked: streams that it opened end with it.
    revoked: CancellationToken,
}

/// The tokens.
#[derive(Debug, Default)]
pub struct Tokens {
    entries: RwLock<HashMap<String, Entry>>,
    /// Held by whoever changes them.
    change: tokio::sync::Mutex<()>,
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// There are as many as there may be.
    #[error("there are {0} tokens, which is as many as there may be")]
    TooMany(usize),
    /// It could not be made durable.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Why a token was not revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// There is none with this id.
    #[error("there is no such token")]
    NotFound,
    /// Its removal could not be made durable.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

fn key(id: &str) -> RecordKey {
    RecordKey::new(KIND, id)
}

fn gone(id: &str) -> RecordWrite {
    RecordWrite { key: key(id), value: None, only_new: false, stamp: false }
}

impl Tokens {
    /// Reads them.
    ///
    /// # Errors
    /// Of the store; a record that cannot be read is `Corrupt`.
    pub async fn load(engine: &Engine) -> Result<Self, StoreError> {
        let mut entries = HashMap::new();
        for (key, bytes) in engine.store().records(KIND, "", longhaul_store::limits::RECORDS_MAX).await? {
            let corrupt = |what: String| StoreError::Corrupt { place: format!("record of token {}", key.id), what };
            let token: Token = serde_json::from_slice(&bytes).map_err(|e| corrupt(e.to_string()))?;
            if token.v != VERSION {
                return Err(corrupt(format!("it has version {}, this program knows {VERSION}", token.v)));
            }
            entries.insert(token.id.clone(), Entry { token: Arc::new(token), revoked: CancellationToken::new() });
        }
        Ok(Self { entries: RwLock::new(entries), change: tokio::sync::Mutex::default() })
    }

    /// The token that a text is, and what ends with its revocation.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check(&self, text: &str, now: Timestamp) -> Result<(Arc<Token>, CancellationToken), Refusal> {
        let (id, secret) = Token::parts(text).ok_or(Refusal::Unknown)?;
        let entry = self.read().get(id).cloned().ok_or(Refusal::Unknown)?;
        if !entry.token.has_secret(secret) {
            return Err(Refusal::Unknown);
        }
        if entry.token.expires_at <= now {
            return Err(Refusal::Expired(entry.token.expires_at));
        }
        Ok((entry.token, entry.revoked))
    }

    /// Makes a token; its text is in no other place than this answer.
    ///
    /// # Errors
    /// [`CreateError`]; there is no token then.
    pub async fn create(
        &self,
        engine: &Engine,
        name: Option<String>,
        bounds: Bounds,
        ttl_ms: u64,
    ) -> Result<(Arc<Token>, String), CreateError> {
        let _alone = self.change.lock().await;
        let now = engine.now();
        let old: Vec<String> = {
            let entries = self.read();
            let is_old = |t: &Token| t.expires_at.unix_ms().saturating_add(REMEMBERED_MS) < now.unix_ms();
            entries.values().filter(|e| is_old(&e.token)).map(|e| e.token.id.clone()).collect()
        };
        let left = self.read().len() - old.len();
        if left >= limits::TOKENS_MAX {
            return Err(CreateError::TooMany(left));
        }
        let (token, text) = Token::make(name, bounds, now, ttl_ms);
        let value = serde_json::to_vec(&token).unwrap_or_default();
        let mut records: Vec<RecordWrite> = old.iter().map(|id| gone(id)).collect();
        records.push(RecordWrite { key: key(&token.id), value: Some(value.into()), only_new: true, stamp: false });
        engine.store().commit(Commit { records, ..Commit::default() }).await?;
        let token = Arc::new(token);
        let mut entries = self.write();
        for id in &old {
            entries.remove(id);
        }
        let entry = Entry { token: Arc::clone(&token), revoked: CancellationToken::new() };
        entries.insert(token.id.clone(), entry);
        Ok((token, text))
    }

    /// Ends a token and the streams that it opened.
    ///
    /// # Errors
    /// [`RevokeError`]; the token is as good as before then.
    pub async fn revoke(&self, engine: &Engine, id: &str) -> Result<(), RevokeError> {
        let _alone = self.change.lock().await;
        if !self.read().contains_key(id) {
            return Err(RevokeError::NotFound);
        }
        self.remove(engine, &[id.to_owned()]).await?;
        Ok(())
    }

    /// Ends the shares of a run that was erased.
    ///
    /// # Errors
    /// Of the store; the shares then open a run that is gone.
    pub async fn forget(&self, engine: &Engine, run: &RunKey) -> Result<(), CommitError> {
        let _alone = self.change.lock().await;
        let of_run = |entry: &&Entry| entry.token.shown().as_ref() == Some(run);
        let ids: Vec<String> = self.read().values().filter(of_run).map(|entry| entry.token.id.clone()).collect();
        if ids.is_empty() { Ok(()) } else { self.remove(engine, &ids).await }
    }

    /// All of them, the oldest first.
    pub fn list(&self) -> Vec<Arc<Token>> {
        let mut all: Vec<Arc<Token>> = self.read().values().map(|entry| Arc::clone(&entry.token)).collect();
        all.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        all
    }

    async fn remove(&self, engine: &Engine, ids: &[String]) -> Result<(), CommitError> {
        let records = ids.iter().map(|id| gone(id)).collect();
        engine.store().commit(Commit { records, urgency: Urgency::Reserve, ..Commit::default() }).await?;
        let mut entries = self.write();
        for id in ids {
            if let Some(entry) = entries.remove(id) {
                entry.revoked.cancel();
            }
        }
        Ok(())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<String, Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<String, Entry>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}
