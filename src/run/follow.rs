//! Writes each flow as it starts and ends.

use super::growing::Growing;
use crate::flow::entry::Flow;
use crate::flow::notes::Notes;
use crate::flow::table::{Change, Observer};
use crate::limits::FOLLOW_BUFFER_LEN;
use crate::report::text::Lines;
use crate::report::{self, Books, Format, Shown, summary::Summary};
use std::io;

/// Gathers lines and hands them on after each batch, or when the buffer is full.
#[derive(Debug)]
pub struct Follow<'a> {
    growing: Growing<'a>,
    format: Format,
    lines: Lines,
    buffer: Vec<u8>,
    failed: Option<io::Error>,
}

impl<'a> Follow<'a> {
    /// Follows into an open report.
    pub fn new(growing: Growing<'a>, format: Format) -> Self {
        let buffer = Vec::with_capacity(FOLLOW_BUFFER_LEN + 4096);
        Follow {
            growing,
            format,
            lines: Lines::default(),
            buffer,
            failed: None,
        }
    }

    /// Hands on what was gathered. An error stays: what follows it would have a hole before it.
    pub fn hand_on(&mut self) -> io::Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let written = self.growing.write_lines(&self.buffer);
        self.buffer.clear();
        written
    }

    /// Opens the file anew, which somebody may have renamed.
    pub(super) fn reopen(&mut self) {
        self.growing.reopen();
    }

    /// Lines that could not be written.
    pub(super) fn unwritten(&self) -> u64 {
        self.growing.unwritten()
    }

    /// Writes the end of the report and closes.
    pub fn finish(mut self, summary: &Summary<'_>) -> io::Result<()> {
        self.hand_on()?;
        report::write_end(summary, self.format, &mut self.buffer);
        self.growing.finish(&self.buffer)
    }
}

/// Who is told of changes: whoever follows, with the dictionaries of paths and processes.
#[derive(Debug)]
pub struct Watching<'w, 'f> {
    /// Where changes are written, if anywhere.
    pub follow: &'w mut Option<Follow<'f>>,
    /// What the numbers stand for.
    pub books: Books<'w>,
}

impl Observer for Watching<'_, '_> {
    fn is_there(&self) -> bool {
        self.follow.is_some()
    }

    fn changed(&mut self, change: Change, flow: &Flow, notes: Notes) {
        let Some(follow) = self.follow else { return };
        if follow.failed.is_some() {
            return;
        }
        let shown = Shown {
            flow,
            notes,
            books: self.books,
        };
        report::write_change(
            &mut follow.lines,
            follow.format,
            change,
            &shown,
            &mut follow.buffer,
        );
        if follow.buffer.len() >= FOLLOW_BUFFER_LEN {
            follow.failed = follow.hand_on().err();
        }
    }
}
