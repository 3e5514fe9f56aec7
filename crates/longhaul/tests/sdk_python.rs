//! The OpenAI SDK for Python, unmodified, and its own retries.

mod support;

use support::sdk::{Names, Sdk};
use support::tool;

fn sdk() -> Option<Sdk> {
    let names = Names { internal: "InternalServerError", rate_limit: "RateLimitError" };
    Some(Sdk { program: tool("python")?, script: "openai_sdk.py", more: vec![], names })
}

macro_rules! scenarios {
    ($($name:ident),*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            if let Some(sdk) = sdk() {
                sdk.$name().await;
            }
        }
    )*};
}

scenarios!(
    ordinary_use,
    time_outs,
    dropped_connections,
    saturation,
    identical_requests,
    restarts,
    responses,
    responses_in_turns,
    broken_responses,
    responses_over_a_kill,
    quiet_responses
);
