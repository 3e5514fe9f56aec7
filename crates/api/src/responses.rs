//! Responses over runs: the request, the object, and the stream that events become.
//!
//! Job: what OpenAI's Responses API says of a run. The same events make the same bytes, whenever and however often they
//! are read. Never: shows the agent's own tools as calls for somebody else to make; calls a truncated answer whole.

mod encoder;
mod request;

pub use encoder::{Encoder, Note};
pub use request::{ParsedResponse, RESPONSE_DIGEST_TAG, ResponseRequest};

use longhaul_model::RunId;

use crate::error::Problem;

/// How the id of a response begins; what follows is the run's.
const PREFIX: &str = "resp_";

/// The id of a run on this face.
pub fn id_of(run: &RunId) -> String {
    format!("{PREFIX}{run}")
}

/// The run that an id of this face names.
///
/// # Errors
/// `invalid_field` for `param`.
pub fn run_of(id: &str, param: &str) -> Result<RunId, Problem> {
    let Some(rest) = id.strip_prefix(PREFIX) else {
        let text = format!("the id of a response is {PREFIX} and the id of its run, {id:?} is not");
        return Err(Problem::invalid(param, text));
    };
    RunId::parse(rest).map_err(|error| Problem::invalid(param, error.to_string()))
}
