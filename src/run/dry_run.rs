//! `--dry-run`: says what a capture would do to the system, and does nothing.

use crate::cli::Options;
use crate::error::Result;

/// Prints what would be done, one line each. Returns the exit status.
pub fn run(_options: &Options) -> Result<u8> {
    todo!()
}
