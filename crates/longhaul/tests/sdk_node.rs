//! The OpenAI SDK for Node, unmodified, and its own retries.

mod support;

use support::sdk::{Names, Sdk};
use support::tool;

fn sdk() -> Option<Sdk> {
    let names = Names { internal: "InternalServerError", rate_limit: "RateLimitError" };
    let package = tool("node-openai")?;
    Some(Sdk {
        program: "node".into(),
        script: "openai_sdk.mjs",
        more: vec![package.to_str().unwrap().to_owned()],
        names,
    })
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
