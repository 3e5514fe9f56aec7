//! `longhaul verify`: re-read a whole data directory and say what is wrong with it.

use std::path::PathBuf;

use super::session::Session;
use super::trouble::Trouble;

/// Re-read everything a data directory holds and print what is wrong with it
///
/// The exit status is 0 if nothing is, 1 if something is.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Data directory [default: the one of --data-dir]
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Does it.
///
/// # Errors
/// The directory cannot be read.
pub fn run(args: &Args, session: &Session) -> Result<u8, Trouble> {
    let dir = match &args.dir {
        Some(dir) => dir.as_path(),
        None => session.data_dir()?,
    };
    Err(Trouble::new(format!("{}: this build cannot verify a store yet", dir.display())))
}
