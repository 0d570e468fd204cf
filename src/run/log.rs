//! Messages for the person: on stderr, one line each, never into the report.

use crate::error::{Error, Result};
use std::fmt;
use std::io::{self, Cursor, Write};

/// One log line on stderr, in one write, so that it stays one among those of others. What cannot be
/// written there is nobody's to hear. Allocates nothing: the capture says things, too.
pub fn line(message: fmt::Arguments<'_>) {
    let mut line = Cursor::new([0u8; 2048]);
    let mut stderr = io::stderr().lock();
    let _ = match writeln!(line, "conntracker: {message}") {
        Ok(()) => stderr.write_all(&line.get_ref()[..line.position() as usize]),
        Err(_) => writeln!(stderr, "conntracker: {message}"), // a long one, piece by piece
    };
}

/// Prints a text on stdout; for --help and --version.
pub fn print(text: &str) -> Result<u8> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Error::failed("writing to stdout", error, ""))?;
    Ok(0)
}
