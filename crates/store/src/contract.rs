//! The contract suite: every promise of [`Store`] as a case that any store must pass.
//!
//! Job: one async function per promise, over a [`Place`] that opens and reopens the store under test, and a macro that
//! makes a test of each. Owns: nothing; each case gets a fresh place. Never: knows which store it looks at.

mod concurrency;
mod feed;
pub mod fixture;
mod plain;
mod records;
mod reference;
mod runs;
mod spans;
mod streams;
mod tickets;

use std::sync::Arc;

use crate::{BoxFuture, Store};

pub use concurrency::*;
pub use feed::*;
pub use plain::*;
pub use records::*;
pub use reference::*;
pub use runs::*;
pub use spans::*;
pub use streams::*;
pub use tickets::*;

/// Where a store under test lives: an empty place that no other case uses.
pub trait Place: Send + Sync {
    /// Opens the store.
    fn open(&self) -> BoxFuture<'_, Arc<dyn Store>>;

    /// Ends the store and opens it again over what it made durable. The case holds no other handle.
    fn reopen(&self, store: Arc<dyn Store>) -> BoxFuture<'_, Arc<dyn Store>>;
}

/// The memory store as a place.
#[derive(Default)]
pub struct MemoryPlace {
    current: std::sync::Mutex<Option<crate::MemoryStore>>,
}

impl MemoryPlace {
    fn keep(&self, store: crate::MemoryStore) -> Arc<dyn Store> {
        let kept = store.clone();
        *self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(kept);
        Arc::new(store)
    }
}

impl Place for MemoryPlace {
    fn open(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { self.keep(crate::MemoryStore::new()) })
    }

    fn reopen(&self, store: Arc<dyn Store>) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async move {
            drop(store);
            let old = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            self.keep(old.unwrap_or_default().reopen())
        })
    }
}

/// Makes a `#[tokio::test]` of every case; `$place` is an expression that gives a fresh [`Place`].
///
/// ```ignore
/// longhaul_store::contract_tests!(MyPlace::new());
/// ```
#[macro_export]
macro_rules! contract_tests {
    ($place:expr) => {
        $crate::contract_tests!(@each $place;
            appends_are_dense_and_read_back,
            a_wrong_tail_is_a_conflict,
            a_lower_epoch_is_fenced_and_a_higher_takes_over,
            a_terminal_row_closes_the_stream,
            an_unknown_stream_is_gone_or_not_found,
            pages_are_bounded_but_never_empty,
            a_cursor_beyond_the_tail_is_ahead,
            head_and_cursor_survive,
            a_watch_follows_and_never_goes_back,
            a_watch_ends_with_its_stream,
            a_commit_over_several_streams_is_all_or_nothing,
            contradictions_are_invalid,
            a_dropped_future_takes_nothing_back,
            large_commits_survive,
            a_run_exists_once,
            rows_read_their_own_writes,
            lists_filter_and_page_newest_first,
            live_runs_are_those_that_are_not_terminal,
            an_erased_run_is_gone_and_its_key_is_free,
            records_are_put_replaced_and_deleted,
            only_new_records_refuse_the_whole_commit,
            records_list_by_prefix_in_order,
            the_feed_is_dense_and_global,
            the_feed_filters_and_says_how_far_it_looked,
            the_feed_forgets_an_erased_run,
            the_feed_never_shows_an_erased_run,
            the_feed_watch_follows,
            opaque_messages_come_back_as_they_went,
            plain_lines_take_no_newline,
            plain_streams_are_fenced_and_watched,
            plain_streams_are_no_runs,
            a_dropped_stream_is_gone,
            records_are_stamped_with_the_opened_stream,
            contradictions_with_plain_streams_are_invalid,
            opening_writing_and_dropping_are_one,
            retention_expires_exactly,
            retention_follows_appends,
            spans_are_whole_messages,
            submitted_commits_keep_their_order,
            a_refused_append_refuses_those_behind_it,
            a_dropped_ticket_takes_nothing_back,
            many_writers_on_many_streams,
            many_writers_on_one_stream,
            one_of_many_creates_a_run,
            readers_see_no_gap_while_it_is_written,
            everything_survives_reopening,
            a_closed_store_says_so,
            it_does_what_the_reference_does,
        );
    };
    (@each $place:expr; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let place = $place;
                $crate::contract::$case(&place).await;
            }
        )*
    };
}

#[cfg(test)]
mod tests {
    crate::contract_tests!(super::MemoryPlace::default());
}
