//! The contract suite over the embedded store: closed in order or dropped, answered by the library or by memory.

use std::sync::Arc;
use std::time::Duration;

use longhaul_store::contract::Place;
use longhaul_store::{BoxFuture, Store};
use longhaul_store_embedded::{EmbeddedStore, Options};

/// A directory of its own.
struct Directory {
    dir: tempfile::TempDir,
    /// Whether the store is closed before it is opened again.
    closes: bool,
    /// How soon the applier acts: at once, so that the library answers; or never, so that memory does.
    apply_after: Duration,
}

impl Directory {
    fn new(closes: bool, apply_after_ms: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { dir, closes, apply_after: Duration::from_millis(apply_after_ms) }
    }

    fn start(&self) -> Arc<dyn Store> {
        let mut options = Options::new(self.dir.path()).on_fatal(|why| panic!("{why}"));
        options.apply_after = self.apply_after;
        options.ballast_bytes = 1 << 20;
        Arc::new(EmbeddedStore::open(options).expect("the store opens"))
    }
}

impl Place for Directory {
    fn open(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { self.start() })
    }

    fn reopen(&self, store: Arc<dyn Store>) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async move {
            if self.closes {
                store.close().await.expect("the store closes");
            }
            drop(store);
            self.start()
        })
    }
}

mod closed_and_applied_at_once {
    longhaul_store::contract_tests!(super::Directory::new(true, 0));
}

mod dropped_and_applied_late {
    longhaul_store::contract_tests!(super::Directory::new(false, 3_600_000));
}

mod dropped_and_applied_as_usual {
    longhaul_store::contract_tests!(super::Directory::new(false, 20));
}
