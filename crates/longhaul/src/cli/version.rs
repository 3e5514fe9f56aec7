//! `longhaul version`.

use super::session::{Session, VERSION};
use super::trouble::Trouble;

/// Prints it.
///
/// # Errors
/// The output cannot be written.
pub fn run(session: &Session) -> Result<u8, Trouble> {
    session.screen.out(&format!("longhaul {VERSION}\n"))?;
    Ok(0)
}
