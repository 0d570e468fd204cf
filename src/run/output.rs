//! Where the report goes. A file is written beside its target and renamed over it, so that readers
//! see the old one or the new one, whole; a target that is not a plain file is never written
//! through, but for devices. A reader that stalls cannot keep us: a signal ends the wait.

use crate::cli::Output;
use crate::error::{Error, Result};
use crate::sys::clock;
use crate::sys::machine::random;
use crate::sys::signal::{Signals, wait};
use rustix::event::PollFlags;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, openat, renameat, statat, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
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
    /// A file, by its folder and name.
    File {
        /// The folder, opened.
        folder: OwnedFd,
        /// The file's name in it.
        name: OsString,
        /// Both, for messages.
        shown: String,
    },
}

impl Destination {
    /// Checks that the report can be written there, before anything else is done.
    pub fn open(output: &Output) -> Result<Destination> {
        let Output::File(path) = output else {
            return Ok(Destination::Stdout);
        };
        let shown = path.display().to_string();
        let doing = || format!("opening {shown} for the report");
        if shown.ends_with('/') {
            return Err(Error::failed(
                doing(),
                "that is the name of a folder",
                "name a file with -o",
            ));
        }
        let name = path
            .file_name()
            .ok_or_else(|| Error::failed(doing(), "that is not the name of a file", "see -o"))?;
        let folder_path = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let folder = openat(
            CWD,
            folder_path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| {
            Error::failed(doing(), io::Error::from(errno), "does its folder exist?")
        })?;
        let advice = "name another file with -o";
        let kind = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .map(|stat| FileType::from_raw_mode(stat.st_mode));
        match kind {
            Ok(FileType::RegularFile) | Err(rustix::io::Errno::NOENT) => {}
            Ok(FileType::CharacterDevice) => return device(&folder, name, shown),
            Ok(FileType::Directory) => {
                return Err(Error::failed(doing(), "it is a directory", advice));
            }
            Ok(FileType::Symlink) => {
                return Err(Error::failed(
                    doing(),
                    "it is a symbolic link, which is never written through",
                    "name another file with -o; - is stdout",
                ));
            }
            Ok(_) => {
                return Err(Error::failed(
                    doing(),
                    "it is neither a file nor a device",
                    advice,
                ));
            }
            Err(errno) => return Err(Error::failed(doing(), io::Error::from(errno), advice)),
        }
        let destination = Destination::File {
            folder,
            name: name.to_owned(),
            shown,
        };
        destination
            .try_folder()
            .map_err(|error| Error::failed(destination.doing(), error, advice))?;
        Ok(destination)
    }

    /// What the messages call it; the seed says STDOUT.
    pub fn shown(&self) -> &str {
        match self {
            Destination::Stdout => "STDOUT",
            Destination::Device(_, shown) | Destination::File { shown, .. } => shown,
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
            Destination::File { .. } => self
                .create_beside()
                .map(|(file, beside)| (file, Some(beside))),
        };
        let (file, beside) = sink.map_err(|error| Error::failed(self.doing(), error, ""))?;
        let plain = fstat(&file)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        let chunk_len = if plain {
            FILE_CHUNK_LEN
        } else {
            PIPE_CHUNK_LEN
        };
        Ok(Sink {
            file,
            beside,
            signals,
            chunk_len,
            any_signal_ends: true,
            deadline: None,
        })
    }

    /// Opens a sink for a report that is seen as it grows.
    /// Its reader may stall until `deadline`.
    pub fn growing_sink<'a>(
        &'a self,
        signals: &'a Signals,
        deadline: Option<Duration>,
    ) -> Result<Sink<'a>> {
        let mut sink = self.sink(signals)?;
        sink.deadline = deadline;
        sink.any_signal_ends = false;
        sink.publish()
            .map_err(|error| Error::failed(self.doing(), error, ""))?;
        Ok(sink)
    }

    /// "writing the report to ...", for errors.
    pub fn doing(&self) -> String {
        format!("writing the report to {}", self.shown())
    }

    /// Shows that the folder takes files: with one that has no name and leaves no trace, or, where
    /// the file system has no such files, with the one that the report would be written to.
    fn try_folder(&self) -> io::Result<()> {
        let Destination::File { folder, .. } = self else {
            return Ok(());
        };
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        match openat(folder, ".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(_) => Ok(()),
            Err(
                rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::NOENT,
            ) => self.create_beside().map(drop),
            Err(errno) => Err(errno.into()),
        }
    }

    fn create_beside(&self) -> io::Result<(File, Beside<'_>)> {
        let Destination::File { folder, name, .. } = self else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // A name that nobody can take before us.
        let mut beside = OsString::from(".");
        beside.push(name);
        beside.push(format!(".{:016x}", random::<8>().map(u64::from_ne_bytes)?));
        let fd = openat(folder, &beside, flags, Mode::RUSR | Mode::WUSR)?;
        Ok((
            File::from(fd),
            Beside {
                folder,
                name: beside,
                target: name,
                keep: false,
            },
        ))
    }
}

fn device(folder: &OwnedFd, name: &OsStr, shown: String) -> Result<Destination> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    match openat(folder, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Destination::Device(File::from(fd), shown)),
        Err(errno) => Err(Error::failed(
            format_args!("opening {shown} for the report"),
            io::Error::from(errno),
            "",
        )),
    }
}

/// A file beside its target; removed when dropped.
#[derive(Debug)]
struct Beside<'a> {
    folder: &'a OwnedFd,
    name: OsString,
    target: &'a OsStr,
    /// Published, or all that there is of the report.
    keep: bool,
}

impl Beside<'_> {
    /// Renames it over its target. Where that cannot be done, the report stays where it is.
    fn publish(&mut self) -> io::Result<()> {
        self.keep = true;
        renameat(self.folder, &self.name, self.folder, self.target).map_err(|errno| {
            let name = self.name.to_string_lossy();
            io::Error::other(format!(
                "{}; the report is beside it, in {name}",
                io::Error::from(errno)
            ))
        })
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        if !self.keep {
            let _ = unlinkat(self.folder, &self.name, AtFlags::empty()); // on the way out of an error
        }
    }
}

/// An open report.
#[derive(Debug)]
pub struct Sink<'a> {
    file: File,
    beside: Option<Beside<'a>>,
    signals: &'a Signals,
    chunk_len: usize,
    /// Whether a signal ends even a write that does not block.
    any_signal_ends: bool,
    /// When a stalled reader is waited for no longer (monotonic time).
    deadline: Option<Duration>,
}

impl Sink<'_> {
    /// Everything is written: makes the report visible.
    pub fn finish(mut self) -> io::Result<()> {
        if self.beside.is_some() {
            self.file.sync_data()?;
        }
        self.publish()
    }

    fn publish(&mut self) -> io::Result<()> {
        if let Some(beside) = &mut self.beside {
            beside.publish()?;
            self.beside = None;
        }
        Ok(())
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
