//! One line on the terminal while the capture runs; nothing where stderr is not a terminal.

use crate::limits::STATUS_INTERVAL;
use crate::sys::signal::wait;
use rustix::event::PollFlags;
use rustix::termios::isatty;
use std::cell::Cell;
use std::io::{self, Cursor, Write};
use std::os::fd::AsFd;
use std::time::Duration;

/// The line, redrawn in place.
#[derive(Debug)]
pub struct StatusLine {
    on: bool,
    next: Duration,
    events_before: u64,
    drawn_before: Duration,
    is_there: Cell<bool>,
}

/// What else is said, an error at the end say, does not stand behind it.
impl Drop for StatusLine {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What it shows.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    /// Since the capture began.
    pub elapsed: Duration,
    /// Entries in the table.
    pub flows: u32,
    /// Events read so far.
    pub events: u64,
    /// Events lost so far.
    pub lost: u64,
    /// Until `--for` ends it.
    pub left: Option<Duration>,
}

impl StatusLine {
    /// For a capture that begins now.
    pub fn new() -> StatusLine {
        StatusLine {
            on: isatty(io::stderr()),
            next: Duration::ZERO,
            events_before: 0,
            drawn_before: Duration::ZERO,
            is_there: Cell::new(false),
        }
    }

    /// When it wants to be redrawn, counted from the beginning.
    pub fn next(&self) -> Option<Duration> {
        self.on.then_some(self.next)
    }

    /// Redraws it when its time has come.
    pub fn draw(&mut self, status: &Status) {
        if !self.on || status.elapsed < self.next {
            return;
        }
        self.next = status.elapsed + STATUS_INTERVAL;
        // A terminal that was stopped (Ctrl-S) would keep the capture waiting.
        let stderr = io::stderr();
        if !matches!(
            wait([(stderr.as_fd(), PollFlags::OUT)], Some(Duration::ZERO)),
            Ok([true])
        ) {
            return;
        }
        let interval_ms = (status.elapsed - self.drawn_before).as_millis().max(1) as u64;
        let rate = (status.events - self.events_before).saturating_mul(1000) / interval_ms;
        let mut line = Cursor::new([0u8; 200]); // on the stack: capturing allocates nothing
        let _ = write!(
            line,
            "\r\x1b[K{} s, {} flows, {rate} events/s, {} lost",
            status.elapsed.as_secs(),
            status.flows,
            status.lost
        );
        if let Some(left) = status.left {
            let _ = write!(line, ", {} s left", left.as_millis().div_ceil(1000));
        }
        let len = line.position() as usize;
        let _ = io::stderr().write_all(&line.get_ref()[..len]);
        self.is_there.set(true);
        self.events_before = status.events;
        self.drawn_before = status.elapsed;
    }

    /// Takes it away, so that other lines can be written.
    pub fn clear(&self) {
        if self.is_there.take() {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}
