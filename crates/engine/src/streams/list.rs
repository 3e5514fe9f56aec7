//! Heads and lists.

use longhaul_model::ProjectId;
use longhaul_model::stream::StreamKey;
use longhaul_store::StoreError;

use crate::streams::Streams;
use crate::streams::config::STREAM;
use crate::streams::error::OpenError;
use crate::streams::requests::{Info, ListPage, Listed};

impl Streams {
    /// What can be said of a stream; does not count as use of it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn head(&self, key: &StreamKey) -> Result<Info, OpenError> {
        let handle = self.open_handle(key).await?;
        Ok(self.info(&handle).await?)
    }

    /// Streams of a project whose path begins with `prefix`, by path, after one; at most `limit`.
    ///
    /// # Errors
    /// Of the store.
    pub async fn list(
        &self,
        project: &ProjectId,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<ListPage, StoreError> {
        let prefix = format!("{project}/{prefix}");
        let mut after = if after.is_empty() { String::new() } else { format!("{project}/{after}") };
        let mut page = ListPage::default();
        while page.streams.len() < limit {
            let asked = limit - page.streams.len();
            let found = self.store().records_after(STREAM, &prefix, &after, asked).await?;
            let more = found.len() == asked;
            for (record, _) in found {
                after.clone_from(&record.id);
                let Some(key) = StreamKey::from_text(&record.id) else { continue };
                match self.head(&key).await {
                    Ok(info) => page.streams.push(Listed { path: key.path, info }),
                    Err(OpenError::NotFound | OpenError::Gone) => {}
                    Err(OpenError::Store(error)) => return Err(error),
                }
            }
            if !more {
                return Ok(page);
            }
        }
        page.next = after.split_once('/').map(|(_, path)| path.to_owned());
        Ok(page)
    }

    /// What the health page shows of streams.
    pub fn health(&self) -> Vec<(&'static str, u64)> {
        vec![("streams_held", self.inner.handles.len() as u64)]
    }
}
