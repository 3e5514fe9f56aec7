//! Every way a call or the search for a server can fail.
//!
//! Job: one enum whose texts say what happened and where. Never: says what to do; the command line does.

use std::path::PathBuf;

use longhaul_api::error::ErrorDetail;

use super::launch::LaunchError;

/// Why a call gave no answer, or an answer that is a refusal.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at the address; nothing was done unless the connection broke after the request was sent.
    #[error("no answer from {address}: {why}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why, as the network says.
        why: String,
    },
    /// The server answered with an error of its catalogue.
    #[error("{}", .detail.message)]
    Refused {
        /// HTTP status.
        status: u16,
        /// What the server says.
        detail: Box<ErrorDetail>,
    },
    /// What answers does not speak this API.
    #[error("{address} answered {what}")]
    Strange {
        /// Where.
        address: String,
        /// What is wrong with it.
        what: String,
    },
    /// The address is not one this client can use.
    #[error("{address:?} is not a server address: {why}")]
    BadAddress {
        /// As given.
        address: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// No server runs, and none may be started here.
    #[error("no server is running for {}", .data_dir.display())]
    NoServer {
        /// The data directory that was looked into.
        data_dir: PathBuf,
    },
    /// This is the inside of a run, and the server that runs it cannot be found.
    #[error("this runs inside run {run}, whose server is not named in LONGHAUL_SERVER and not found in {}", .data_dir.display())]
    InsideRun {
        /// The run around us.
        run: String,
        /// The data directory that was looked into.
        data_dir: PathBuf,
    },
    /// The data directory cannot be used.
    #[error("the data directory {} cannot be used: {why}", .path.display())]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A background server was needed and could not be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
}

impl ClientError {
    /// The code of a refusal.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { detail, .. } => Some(&detail.code),
            _ => None,
        }
    }

    /// Whether the same call may succeed a little later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => matches!(status, 429 | 502 | 503 | 507),
            Self::Strange { .. }
            | Self::BadAddress { .. }
            | Self::NoServer { .. }
            | Self::InsideRun { .. }
            | Self::DataDir { .. }
            | Self::Launch(_) => false,
        }
    }
}
