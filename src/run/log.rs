//! Messages for the person: on stderr, one line each, never into the report.

use crate::error::{Error, Result};
use std::fmt;
use std::io::{self, Write};

/// One log line on stderr. What cannot be written there is nobody's to hear.
pub fn line(message: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "conntracker: {message}");
}

/// Prints a text on stdout; for --help and --version.
pub fn print(text: &str) -> Result<u8> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Error::failed("writing to stdout", error, ""))?;
    Ok(0)
}
