//! `conntracker check`: what would work on this machine, and what to do about the rest.
//!
//! Nothing is changed by it. What would load a part of the kernel that is not there yet is not asked for,
//! but looked up; of what has to be made, the kernel is asked whether it would take it, where it can be
//! asked that (`tried`), else it is judged by what can be seen (`expected`). Which rungs there are, and in
//! which order, is what a capture goes by, too.
//!
//! The exit status is about the main job alone: 0 where a capture of flows with these options would start
//! and see them. What else is missing stands in the table.

mod conntrack;
pub(super) mod foreseen;
mod machine;
mod owners;
pub(super) mod place;
mod rules;
mod tracing;

use crate::cli::Options;
use crate::error::{EXIT_FAILED, Error, Result};
use crate::features;
use crate::report::block::Block;
use crate::report::checkup;
use foreseen::Foreseen;
use std::io::{self, Write};

/// Prints the table. Returns the exit status: 0 when the main job works.
pub fn run(options: &Options) -> Result<u8> {
    features::Check::needed_by("check")?;
    let foreseen = Foreseen::of(options);
    let mut lines = machine::lines(options);
    lines.extend(conntrack::lines(options, &foreseen));
    lines.extend(rules::lines(&foreseen));
    lines.extend(tracing::lines(&foreseen));
    lines.extend(owners::lines(options, &foreseen));
    lines.extend(place::lines(options));
    let mut out = Block::default();
    checkup::write(&lines, options.format, &mut out);
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(out.bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Error::failed("writing to stdout", error, ""))?;
    Ok(if checkup::works(&lines) {
        0
    } else {
        EXIT_FAILED
    })
}
