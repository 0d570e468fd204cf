//! Where the report goes. A file is written beside its target and renamed over it, so that readers
//! see the old one or the new one, whole; a target that is not a plain file is never written
//! through, but for devices. A reader that stalls cannot keep us: a signal ends the wait.

use super::growing::{Growing, GrowingFile};
use crate::cli::{Output, Rotate};
use crate::error::{Error, Result};
use crate::sys::clock;
use crate::sys::place::{Draft, Place, Unfit};
use crate::sys::signal::{Signals, wait};
use rustix::event::PollFlags;
use rustix::fs::{FileType, Mode, fchmod, fstat};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

/// What a stalled reader's pipe takes without blocking (PIPE_BUF).
const PIPE_CHUNK_LEN: usize = 4096;
const FILE_CHUNK_LEN: usize = 1 << 20;

/// A place for the report that was found fit at the start.
#[derive(Debug)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A character device, opened.
    Device(File, String),
    /// A file.
    File(Place),
}

impl Destination {
    /// Checks that the report can be written there, before anything else is done.
    pub fn open(output: &Output) -> Result<Destination> {
        let Output::File(path) = output else {
            return Ok(Destination::Stdout);
        };
        let doing = format!("opening {} for the report", path.display());
        let unfit = |unfit: Unfit| {
            let advice = match unfit.advice {
                "" => "use -o - and redirect".to_owned(),
                advice => format!("{advice}, or use -o - and redirect"),
            };
            Error::failed(&doing, unfit.cause, &advice)
        };
        let failed = |error: io::Error| Error::failed(&doing, error, "name another file with -o");
        let place = Place::find(path).map_err(unfit)?;
        match place.kind().map_err(failed)? {
            None | Some(FileType::RegularFile) => {
                place.try_folder().map_err(failed)?;
                Ok(Destination::File(place))
            }
            Some(FileType::CharacterDevice) => {
                let device = place.open_device().map_err(unfit)?;
                Ok(Destination::Device(device, place.shown().to_owned()))
            }
            Some(kind) => Err(unfit(Unfit::in_the_way(kind))),
        }
    }

    /// What the messages call it; the seed says STDOUT.
    pub fn shown(&self) -> &str {
        match self {
            Destination::Stdout => "STDOUT",
            Destination::Device(_, shown) => shown,
            Destination::File(place) => place.shown(),
        }
    }

    /// Whether stdout belongs to the report.
    pub fn is_stdout(&self) -> bool {
        matches!(self, Destination::Stdout)
    }

    /// Opens a sink for a report that is seen when it is whole.
    pub fn sink<'a>(&'a self, signals: &'a Signals) -> Result<Sink<'a>> {
        let sink = match self {
            Destination::Stdout => io::stdout()
                .as_fd()
                .try_clone_to_owned()
                .map(File::from)
                .map(|file| (file, None)),
            Destination::Device(file, _) => file.try_clone().map(|file| (file, None)),
            Destination::File(place) => place.draft().map(|(file, draft)| (file, Some(draft))),
        };
        let (file, draft) = sink.map_err(|error| Error::failed(self.doing(), error, ""))?;
        let plain = fstat(&file)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        let chunk_len = if plain {
            FILE_CHUNK_LEN
        } else {
            PIPE_CHUNK_LEN
        };
        Ok(Sink {
            file,
            draft,
            signals,
            chunk_len,
            any_signal_ends: true,
            deadline: None,
        })
    }

    /// Opens a report that is seen as it grows. A file is a new one, unless it is to be appended to;
    /// another reader may stall until `deadline`.
    pub fn growing<'a>(
        &'a self,
        signals: &'a Signals,
        deadline: Option<Duration>,
        appends: bool,
        rotate: Option<Rotate>,
    ) -> Result<Growing<'a>> {
        if let Destination::File(place) = self {
            let file = if appends {
                place.open_to_append().map_err(io::Error::from)
            } else {
                place.draft().and_then(|(file, mut draft)| {
                    draft.publish()?;
                    Ok(file)
                })
            };
            let file = file.map_err(|error| Error::failed(self.doing(), error, ""))?;
            return Ok(Growing::File(GrowingFile::new(place, file, rotate)));
        }
        let mut sink = self.sink(signals)?;
        sink.deadline = deadline;
        sink.any_signal_ends = false;
        Ok(Growing::Stream(sink))
    }

    /// Takes away what was written, if that is a file.
    pub(super) fn remove(&self) {
        if let Destination::File(place) = self {
            let _ = place.remove(); // nobody is left to hear of it
        }
    }

    /// "writing the report to ...", for errors.
    pub fn doing(&self) -> String {
        format!("writing the report to {}", self.shown())
    }
}

/// An open report.
#[derive(Debug)]
pub struct Sink<'a> {
    file: File,
    draft: Option<Draft<'a>>,
    signals: &'a Signals,
    chunk_len: usize,
    /// Whether a signal ends even a write that does not block.
    any_signal_ends: bool,
    /// When a stalled reader is waited for no longer (monotonic time).
    deadline: Option<Duration>,
}

impl Sink<'_> {
    /// Everything is written: makes the report visible, for good.
    pub fn finish(self) -> io::Result<()> {
        if self.draft.is_some() {
            self.file.sync_data()?;
        }
        self.publish()
    }

    /// Makes it visible to everybody on the machine: for what holds no secrets.
    pub(super) fn publish_to_all(self) -> io::Result<()> {
        if self.draft.is_some() {
            fchmod(
                &self.file,
                Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH,
            )?;
        }
        self.publish()
    }

    /// Makes it visible; a power cut may leave less of it.
    pub(super) fn publish(mut self) -> io::Result<()> {
        match &mut self.draft {
            Some(draft) => draft.publish(),
            None => Ok(()),
        }
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let chunk = &bytes[..bytes.len().min(self.chunk_len)];
        loop {
            let polled = [
                (self.signals.fd(), PollFlags::IN),
                (self.file.as_fd(), PollFlags::OUT),
            ];
            let left = self
                .deadline
                .map(|deadline| deadline.saturating_sub(clock::monotonic()));
            let [signal, writable] = wait(polled, left)?;
            if left == Some(Duration::ZERO) && !writable {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "its reader stalled until the end of --for",
                ));
            }
            if signal && (self.any_signal_ends || !writable) {
                return Err(io::Error::other("ended by a signal before it was whole"));
            }
            if writable {
                return self.file.write(chunk);
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
