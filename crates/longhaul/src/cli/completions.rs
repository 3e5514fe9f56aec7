//! `longhaul completions`: the script that makes a shell complete the command line.

use clap::CommandFactory;
use clap_complete::Shell;

use super::args::Cli;
use super::session::Session;
use super::trouble::Trouble;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Prints it.
///
/// # Errors
/// The output cannot be written.
pub fn run(args: &Args, session: &Session) -> Result<u8, Trouble> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "longhaul", &mut script);
    session.screen.out(&String::from_utf8_lossy(&script))?;
    Ok(0)
}
