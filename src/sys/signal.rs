//! Signals as something to read, not something that interrupts.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Those that end whatever is done.
const ENDS: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT];
/// Those that ask a capture for something; SIGCHLD says that it has a report to look after.
const ASKS: [libc::c_int; 4] = [libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGCHLD];

/// Signals that are readable instead of delivered.
#[derive(Debug)]
pub struct Signals {
    ends: File,
    asks: Option<File>,
    /// Our terminal, which a SIGHUP may be about.
    terminal: Option<OwnedFd>,
}

/// What signals have asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// To end: SIGTERM, SIGINT, SIGQUIT, or SIGHUP because the terminal is gone.
    pub end: bool,
    /// To open the output anew (SIGHUP).
    pub reopen: bool,
    /// To write the report now (SIGUSR1).
    pub report: bool,
    /// To say how it goes (SIGUSR2).
    pub status: bool,
    /// To look after a child (SIGCHLD).
    pub child: bool,
}

impl Signals {
    /// For what only ends: SIGHUP does that, too. One that is ignored (by nohup, say) stays ignored. A
    /// file that grows beyond a limit is an error of its write, not a signal.
    pub fn that_end() -> io::Result<Signals> {
        let [term, int, quit] = ENDS;
        Ok(Signals {
            ends: blocked(&heeded(&[term, int, quit, libc::SIGHUP]))?,
            asks: None,
            terminal: None,
        })
    }

    /// For a capture, which goes on after SIGHUP. Somebody who has it ignored, or whose terminal it is,
    /// does not mean us to open a file.
    pub fn of_capture() -> io::Result<Signals> {
        let ignores_hangup = is_ignored(libc::SIGHUP);
        let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let terminal = open("/dev/tty", flags, Mode::empty()).ok();
        Ok(Signals {
            ends: blocked(&heeded(&ENDS))?,
            asks: Some(blocked(&ASKS)?),
            terminal: terminal.filter(|_| !ignores_hangup),
        })
    }

    /// Whether an ending signal has come since the last call.
    pub fn pending(&self) -> bool {
        next(&self.ends).is_some()
    }

    /// What has been asked for since the last call.
    pub fn asked(&self) -> Asked {
        let mut asked = Asked {
            end: self.pending(),
            ..Asked::default()
        };
        while let Some(signal) = self.asks.as_ref().and_then(next) {
            match signal {
                libc::SIGHUP if self.is_hung_up() => asked.end = true,
                libc::SIGHUP => asked.reopen = true,
                libc::SIGUSR1 => asked.report = true,
                libc::SIGUSR2 => asked.status = true,
                _ => asked.child = true,
            }
        }
        asked
    }

    /// In a child that works for us: what ends it is not a signal but this descriptor.
    pub fn end_by(&self, line: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: both are open descriptors; the one that is replaced stays ours, and is only read.
        match unsafe { libc::dup3(line.as_raw_fd(), self.ends.as_raw_fd(), libc::O_CLOEXEC) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Whether the terminal that we had is gone.
    fn is_hung_up(&self) -> bool {
        let Some(terminal) = &self.terminal else {
            return false;
        };
        let mut polled = [PollFd::new(terminal, PollFlags::empty())];
        let now = Timespec::default();
        poll(&mut polled, Some(&now)).is_ok_and(|count| count > 0)
    }

    /// Readable while an ending signal is pending.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.ends.as_fd()
    }

    /// Readable while something is asked for.
    pub fn asks_fd(&self) -> BorrowedFd<'_> {
        self.asks.as_ref().unwrap_or(&self.ends).as_fd()
    }
}

/// Those that are not ignored.
fn heeded(signals: &[libc::c_int]) -> Vec<libc::c_int> {
    let signals = signals.iter().copied();
    signals.filter(|signal| !is_ignored(*signal)).collect()
}

/// Blocks the signals for this process and opens a descriptor that tells of them.
fn blocked(signals: &[libc::c_int]) -> io::Result<File> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that the calls behind it read; signalfd returns
    // a new descriptor that nobody else owns; SIG_IGN and SIG_DFL are dispositions, not functions.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        let errno = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        if errno != 0 {
            return Err(io::Error::from_raw_os_error(errno));
        }
        for signal in signals {
            libc::signal(*signal, libc::SIG_DFL); // an ignored one is not even queued
        }
        let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(File::from_raw_fd(fd))
    }
}

/// The next pending signal.
fn next(mut file: &File) -> Option<libc::c_int> {
    let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
    match file.read(&mut info) {
        Ok(len) if len > 0 => {
            let [a, b, c, d, ..] = info;
            Some(i32::from_ne_bytes([a, b, c, d])) // ssi_signo
        }
        _ => None,
    }
}

/// Whoever starts us may ignore SIGCHLD; then the kernel forgets how a program that we run has ended.
pub fn hear_of_children() {
    // SAFETY: SIG_DFL is a disposition, not a function.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}
fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action, sigaction only writes the old one, whole, where it succeeds.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Waits until one of the descriptors is ready, for at most `timeout` (for ever where `None`).
/// Returns which; an interrupted wait reads as "none".
pub fn wait<const N: usize>(
    fds: [(BorrowedFd<'_>, PollFlags); N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags));
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => Ok(polled.map(|fd| !fd.revents().is_empty())),
        Err(rustix::io::Errno::INTR) => Ok([false; N]),
        Err(errno) => Err(errno.into()),
    }
}
