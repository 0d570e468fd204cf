//! A report that is seen as it grows. Into a pipe or a terminal it goes as it can; in a file it is
//! kept in whole lines, makes way for a new file when it is long enough, and waits where the disk is
//! full: what could not be written is counted, since a capture must not end for want of room.

use super::log;
use super::output::Sink;
use crate::cli::Rotate;
use crate::limits::WRITE_AGAIN_PAUSE;
use crate::sys::clock;
use crate::sys::place::Place;
use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

/// Where what is followed goes.
#[derive(Debug)]
pub enum Growing<'a> {
    /// To a reader, who may stall.
    Stream(Sink<'a>),
    /// To a file.
    File(GrowingFile<'a>),
}

impl Growing<'_> {
    /// Takes whole lines. An error ends the report.
    pub(super) fn write_lines(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Growing::Stream(sink) => sink.write_all(lines),
            Growing::File(file) => {
                file.write_lines(lines);
                Ok(())
            }
        }
    }

    /// Opens the file anew.
    pub(super) fn reopen(&mut self) {
        if let Growing::File(file) = self {
            file.reopen();
        }
    }

    /// Lines that could not be written.
    pub(super) fn unwritten(&self) -> u64 {
        match self {
            Growing::Stream(_) => 0,
            Growing::File(file) => file.unwritten,
        }
    }

    /// Takes the last lines.
    pub(super) fn finish(self, lines: &[u8]) -> io::Result<()> {
        match self {
            Growing::Stream(mut sink) => {
                sink.write_all(lines)?;
                sink.finish()
            }
            Growing::File(mut file) => {
                file.try_write(&mut &*lines)?;
                file.file.sync_data()
            }
        }
    }
}

/// A file that grows, with those that it was before.
#[derive(Debug)]
pub struct GrowingFile<'a> {
    place: &'a Place,
    file: File,
    rotate: Option<Rotate>,
    /// When it is tried again, since the last write failed.
    again: Option<Duration>,
    unwritten: u64,
    /// Of these, what was not written when it failed first.
    unwritten_before: u64,
}

impl<'a> GrowingFile<'a> {
    /// Goes on with an open file.
    pub(super) fn new(place: &'a Place, file: File, rotate: Option<Rotate>) -> GrowingFile<'a> {
        GrowingFile {
            place,
            file,
            rotate,
            again: None,
            unwritten: 0,
            unwritten_before: 0,
        }
    }

    fn write_lines(&mut self, mut lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        let now = clock::monotonic();
        let written = match self.again {
            Some(again) if now < again => None,
            _ => Some(self.try_write(&mut lines)),
        };
        self.unwritten += line_count(lines); // what is left of them
        let suspended = self.again.is_some();
        match written {
            Some(Ok(())) if suspended => {
                self.again = None;
                log::line(format_args!(
                    "writing to {} goes on; {} lines could not be written",
                    self.place.shown(),
                    self.unwritten - self.unwritten_before
                ));
            }
            Some(Err(error)) => {
                self.again = Some(now + WRITE_AGAIN_PAUSE);
                if !suspended {
                    self.unwritten_before = self.unwritten - line_count(lines);
                    log::failure(format_args!(
                        "writing to {}: {error} (nothing is written until it can be again; lines are counted)",
                        self.place.shown()
                    ));
                }
            }
            _ => {}
        }
    }

    /// Takes off the lines that it has written.
    fn try_write(&mut self, lines: &mut &[u8]) -> io::Result<()> {
        while !lines.is_empty() {
            let len = self.file.metadata()?.len();
            let fitting = match self.rotate {
                Some(rotate) => fitting(lines, rotate.bytes.saturating_sub(len)),
                None => lines.len(),
            };
            let (now, later) = lines.split_at(fitting);
            if let (Some(rotate), true) = (self.rotate, now.is_empty() && len > 0) {
                self.make_way(rotate.count)?;
                self.file = self.place.open_to_append().map_err(io::Error::other)?;
                continue;
            }
            // A line alone that is longer than a file may be has one to itself.
            let (now, later) = if now.is_empty() {
                (*lines, &[][..])
            } else {
                (now, later)
            };
            self.file.write_all(now).inspect_err(|_| {
                let _ = self.file.set_len(len); // no half line, if that can be helped
            })?;
            *lines = later;
        }
        Ok(())
    }

    /// Renames the file, and those of before, of which the oldest goes.
    fn make_way(&self, count: u32) -> io::Result<()> {
        for number in (1..=count).rev() {
            let newer = match number {
                1 => None,
                _ => Some(self.place.beside(&format!(".{}", number - 1))?),
            };
            let newer = newer.as_ref().unwrap_or(self.place);
            match newer.move_to(&self.place.beside(&format!(".{number}"))?) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {} // there are not so many yet
                moved => moved?,
            }
        }
        Ok(())
    }

    fn reopen(&mut self) {
        match self.place.open_to_append() {
            Ok(file) => self.file = file,
            Err(error) => log::failure(format_args!(
                "opening {} anew: {error}; the file of before is written to",
                self.place.shown()
            )),
        }
    }
}

/// How much of the lines fits, in whole lines.
fn fitting(lines: &[u8], room: u64) -> usize {
    let room = usize::try_from(room).unwrap_or(usize::MAX).min(lines.len());
    let end = lines[..room].iter().rposition(|byte| *byte == b'\n');
    end.map_or(0, |end| end + 1)
}

fn line_count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}
