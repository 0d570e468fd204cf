//! Messages for the person: one line each, never into the report. On stderr, or, of a daemon, to
//! syslog.

use super::syslog::{Severity, Syslog};
use crate::error::{Error, Result};
use crate::features::{Daemon, DaemonOnly};
use crate::report::steers;
use std::fmt::{self, Write as _};
use std::io::{self, Cursor, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Where a daemon's messages go.
static SYSLOG: Mutex<Option<DaemonOnly<Syslog>>> = Mutex::new(None);

/// From here on messages go to syslog.
pub fn to_syslog(built: Daemon) -> io::Result<()> {
    *syslog() = Some(built.only(Syslog::open()?));
    Ok(())
}

/// One line that says what goes on. Allocates nothing: the capture says things, too.
pub fn line(message: fmt::Arguments<'_>) {
    match &mut *syslog() {
        Some(syslog) => syslog.say(Severity::Info, format_args!("{}", Harmless(message))),
        None => on_stderr(message),
    }
}

/// One line that says what did not work: on stderr even of a daemon, as long as somebody reads it there.
pub fn failure(message: fmt::Arguments<'_>) {
    on_stderr(message);
    if let Some(syslog) = &mut *syslog() {
        syslog.say(Severity::Error, format_args!("{}", Harmless(message)));
    }
}

fn on_stderr(message: fmt::Arguments<'_>) {
    // What cannot be written there is nobody's to hear.
    let _ = write_line(io::stderr().lock(), format_args!("conntracker: {message}"));
}

/// Writes a line, in one write, so that it stays one among those of others. Whatever is in it, names of
/// files and processes, rules, what other programs said: nothing in it reaches a terminal as a command.
pub fn write_line(mut out: impl Write, message: fmt::Arguments<'_>) -> io::Result<()> {
    let message = Harmless(message);
    let mut line = Cursor::new([0u8; 2048]);
    match writeln!(line, "{message}") {
        Ok(()) => out.write_all(&line.get_ref()[..line.position() as usize])?,
        Err(_) => writeln!(out, "{message}")?, // a long one, piece by piece
    }
    out.flush()
}

/// Shows characters that steer a terminal, or turn text, for what they are.
struct Harmless<'a>(fmt::Arguments<'a>);

impl fmt::Display for Harmless<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Filter<'f, 'g>(&'f mut fmt::Formatter<'g>);
        impl fmt::Write for Filter<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                let mut rest = text;
                while let Some(at) = rest.find(steers) {
                    let (harmless, from) = rest.split_at(at);
                    let mut characters = from.chars();
                    self.0.write_str(harmless)?;
                    for character in characters.by_ref().take(1) {
                        write!(self.0, "{}", character.escape_default())?;
                    }
                    rest = characters.as_str();
                }
                self.0.write_str(rest)
            }
        }
        Filter(out).write_fmt(self.0)
    }
}

/// Whether messages go to syslog.
pub fn is_syslog() -> bool {
    syslog().is_some()
}

/// After what time messages that wait for syslogd want to be offered again, if any do.
pub fn next() -> Option<Duration> {
    syslog().as_ref().and_then(|syslog| syslog.next())
}

/// Offers them.
pub fn flush() {
    if let Some(syslog) = &mut *syslog() {
        syslog.flush();
    }
}

fn syslog() -> MutexGuard<'static, Option<DaemonOnly<Syslog>>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        write_line(&mut out, format_args!("said: {text}")).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn whatever_is_said_stays_one_line_without_commands() {
        for code in (0..0xa0).chain(0x2020..0x2070) {
            let character = char::from_u32(code).unwrap();
            let line = written(&format!("<{character}>"));
            let shown = if steers(character) {
                character.escape_default().to_string()
            } else {
                character.to_string()
            };
            assert_eq!(line, format!("said: <{shown}>\n"));
            assert_eq!(line.find(steers), Some(line.len() - 1), "{line:?}");
        }
    }

    #[test]
    fn a_long_line_is_whole() {
        for len in [2040, 2041, 2042, 2048, 5000] {
            let text = "\u{e9}".repeat(len) + "\u{1b}";
            let shown = "\u{e9}".repeat(len) + "\\u{1b}";
            assert_eq!(written(&text), format!("said: {shown}\n"));
        }
    }
}
