//! Messages for the person: one line each, never into the report. On stderr, or, of a daemon, to
//! syslog.

use super::syslog::{Severity, Syslog};
use crate::error::{Error, Result};
use std::fmt;
use std::io::{self, Cursor, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Where a daemon's messages go.
static SYSLOG: Mutex<Option<Syslog>> = Mutex::new(None);

/// From here on messages go to syslog.
pub fn to_syslog() -> io::Result<()> {
    *syslog() = Some(Syslog::open()?);
    Ok(())
}

/// One line that says what goes on. Allocates nothing: the capture says things, too.
pub fn line(message: fmt::Arguments<'_>) {
    match &mut *syslog() {
        Some(syslog) => syslog.say(Severity::Info, message),
        None => on_stderr(message),
    }
}

/// One line that says what did not work: on stderr even of a daemon, as long as somebody reads it there.
pub fn failure(message: fmt::Arguments<'_>) {
    on_stderr(message);
    if let Some(syslog) = &mut *syslog() {
        syslog.say(Severity::Error, message);
    }
}

/// In one write, so that the line stays one among those of others. What cannot be written there is
/// nobody's to hear.
fn on_stderr(message: fmt::Arguments<'_>) {
    let mut line = Cursor::new([0u8; 2048]);
    let mut stderr = io::stderr().lock();
    let _ = match writeln!(line, "conntracker: {message}") {
        Ok(()) => stderr.write_all(&line.get_ref()[..line.position() as usize]),
        Err(_) => writeln!(stderr, "conntracker: {message}"), // a long one, piece by piece
    };
}

/// Whether messages go to syslog.
pub fn is_syslog() -> bool {
    syslog().is_some()
}

/// After what time messages that wait for syslogd want to be offered again, if any do.
pub fn next() -> Option<Duration> {
    syslog().as_ref().and_then(Syslog::next)
}

/// Offers them.
pub fn flush() {
    if let Some(syslog) = &mut *syslog() {
        syslog.flush();
    }
}

fn syslog() -> MutexGuard<'static, Option<Syslog>> {
    SYSLOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints a text on stdout; for --help and --version.
pub fn print(text: &str) -> Result<u8> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Error::failed("writing to stdout", error, ""))?;
    Ok(0)
}
