//! Signals as something to read, not something that interrupts.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};
use std::time::Duration;

/// The signals that end a capture, readable instead of delivered.
#[derive(Debug)]
pub struct Signals {
    file: File,
}

impl Signals {
    /// Blocks SIGTERM, SIGINT, SIGQUIT and SIGHUP for this process, and opens a descriptor that tells
    /// of them. One that is ignored (by nohup, say) stays ignored. A file that grows beyond a limit is
    /// an error of its write, not a signal.
    pub fn open() -> io::Result<Signals> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set that the calls behind it read; signalfd returns
        // a new descriptor that nobody else owns; SIG_IGN is a disposition, not a function.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            libc::sigemptyset(set.as_mut_ptr());
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
                if !is_ignored(signal) {
                    libc::sigaddset(set.as_mut_ptr(), signal);
                }
            }
            let errno = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            if errno != 0 {
                return Err(io::Error::from_raw_os_error(errno));
            }
            let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Signals {
                file: File::from_raw_fd(fd),
            })
        }
    }

    /// Whether a signal has come since the last call.
    pub fn pending(&self) -> bool {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        matches!((&self.file).read(&mut info), Ok(len) if len > 0)
    }

    /// The descriptor, readable while a signal is pending.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
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
