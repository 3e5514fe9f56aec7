//! Logs and metrics: where they go and in which form.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// Buckets of request times, seconds.
const SECONDS: &[f64] = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// How often recorded times are folded into their buckets.
const FOLD_EVERY: Duration = Duration::from_secs(2);

/// Starts logging to stderr. `LONGHAUL_LOG` takes a filter such as `debug`; the default is `info`.
pub fn start(json: bool) {
    let filter = EnvFilter::try_from_env("LONGHAUL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // A second start in one process keeps the first: tests run servers side by side.
    let _ = if json { builder.json().try_init() } else { builder.try_init() };
}

/// The one recorder of this process.
pub fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let builder = PrometheusBuilder::new();
            let builder =
                builder.set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS).unwrap_or_default();
            match builder.install_recorder() {
                Ok(handle) => handle,
                Err(_) => PrometheusBuilder::new().build_recorder().handle(),
            }
        })
        .clone()
}

/// Folds recorded times into their buckets, now and then and without end: until then each one is kept by itself.
pub async fn fold(metrics: PrometheusHandle) {
    loop {
        tokio::time::sleep(FOLD_EVERY).await;
        metrics.run_upkeep();
    }
}
