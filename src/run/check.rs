//! `conntracker check`: what would work on this machine, and what to do about the rest.

use crate::cli::Options;
use crate::error::Result;

/// Prints the table. Returns the exit status: 0 when the main job works.
pub fn run(_options: &Options) -> Result<u8> {
    todo!()
}
