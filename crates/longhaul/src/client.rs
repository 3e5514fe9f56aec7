//! The client side: finding a server, starting one, calling it, following a run.
//!
//! Job: everything a command does over HTTP, with a name for each way it can fail.
//! Owns: connections and the position in a followed run. Never: prints, reads the environment, decides an exit status.

mod call;
mod error;
mod find;
mod follow;
mod launch;
mod settings;

pub use call::{Client, ListQuery, RunPage};
pub use error::ClientError;
pub use find::{Finder, Found, LocalServer, Origin, Starting, local_server};
pub use follow::{Follow, Hello, Step};
pub use launch::{LaunchError, Launched, Listen, StartLock, launch, launch_under, log_path};
pub use settings::{Settings, SettingsError, token_file};
