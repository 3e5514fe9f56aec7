//! What is read: a stream that people write, or the log of a run. One cursor holds in both.

use longhaul_engine::streams::{Happened, Info, ReadError, Reader, SpanPage};
use longhaul_model::Timestamp;
use longhaul_model::stream::Offset;

use super::run_log::RunLog;

/// Bytes of a page.
fn length(page: &SpanPage) -> usize {
    page.body.iter().map(axum::body::Bytes::len).sum()
}

/// Something that is open for reading.
pub(super) enum Source {
    /// A stream that people write.
    Stream(Reader),
    /// The log of a run.
    Run(RunLog),
}

impl Source {
    /// What can be said of it now.
    pub(super) async fn info(&self) -> Result<Info, ReadError> {
        match self {
            Self::Stream(reader) => reader.info().await,
            Self::Run(log) => log.info().await,
        }
    }

    /// Messages after a position, as they lie in the store: what there is, or about so many bytes of it. What lies in
    /// several places, as a fork's beginning in its source, is put together.
    pub(super) async fn span(&self, after: Offset, bytes_max: usize) -> Result<SpanPage, ReadError> {
        let mut page = self.part(after, bytes_max).await?;
        let mut bytes = length(&page);
        while !page.up_to_date && bytes < bytes_max {
            let more = self.part(page.next, bytes_max - bytes).await?;
            if more.messages == 0 && !more.up_to_date {
                break;
            }
            bytes += length(&more);
            let (mut body, messages) = (page.body, page.messages + more.messages);
            body.extend(more.body);
            page = SpanPage { body, messages, ..more };
        }
        Ok(page)
    }

    async fn part(&self, after: Offset, bytes_max: usize) -> Result<SpanPage, ReadError> {
        match self {
            Self::Stream(reader) => reader.read_span(after, bytes_max).await,
            Self::Run(log) => log.span(after, bytes_max).await,
        }
    }

    /// Waits until there are messages after a position, or never will be.
    ///
    /// # Cancel safety
    /// May be dropped and asked again.
    pub(super) async fn wait(&mut self, after: Offset) -> Result<Happened, ReadError> {
        match self {
            Self::Stream(reader) => reader.wait(after).await,
            Self::Run(log) => log.wait(after).await,
        }
    }

    /// A position before which every message is older than a point in time.
    pub(super) async fn since(&self, at: Timestamp) -> Result<Offset, ReadError> {
        match self {
            Self::Stream(reader) => reader.since(at).await,
            Self::Run(log) => log.since(at).await,
        }
    }
}
