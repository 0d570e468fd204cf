//! A small child process that outlives a `kill -9` of its parent, and then does what the parent
//! could not do any more.
//!
//! It learns of the parent's end from a socket that only the parent's side, and the programs that
//! the parent runs, hold open: so it acts when the last of these is done with its change, too.

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, WaitOptions, getpid, getppid, setsid, waitpid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The parent's side. Dropped without `dismiss`, the child acts once the process has ended.
#[derive(Debug)]
pub struct Watchdog {
    child: Pid,
    line: UnixStream,
}

impl Watchdog {
    /// Forks the child. To be called early, while the process has one thread and little memory: the
    /// child shares that. `orphaned` runs in the child, after the parent's end.
    pub fn start(orphaned: fn()) -> io::Result<Watchdog> {
        let (line, childs_end) = UnixStream::pair()?;
        fcntl_setfd(&line, FdFlags::empty())?; // for the programs that we run
        let parent = getpid();
        // SAFETY: the process has one thread, so the child's memory is in order, locks included.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => watch(childs_end, parent, orphaned),
            child => Ok(Watchdog {
                child: Pid::from_raw(child).ok_or(ErrorKind::InvalidData)?,
                line,
            }),
        }
    }

    /// There is nothing left to do for the child: it ends, and is waited for.
    pub fn dismiss(mut self) -> io::Result<()> {
        let told = self.line.write_all(&[1]);
        loop {
            match waitpid(Some(self.child), WaitOptions::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CHILD) | Ok(_) => break, // ignored SIGCHLD reaps it
                Err(errno) => return Err(errno.into()),
            }
        }
        match told {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()), // somebody ended it
            told => told,
        }
    }
}

/// The child's life.
fn watch(line: UnixStream, parent: Pid, orphaned: fn()) -> ! {
    // Nothing of the parent's own may unwind or be flushed here.
    let act = std::panic::catch_unwind(|| {
        settle(&line);
        wait_for_end(line, parent)
    });
    if matches!(act, Ok(true)) {
        let _ = std::panic::catch_unwind(orphaned);
    }
    // SAFETY: ends the process without anything of the parent's that waits for its exit.
    unsafe { libc::_exit(0) }
}

/// Lets go of all that is the parent's: its terminal, its folder, its descriptors.
fn settle(line: &UnixStream) {
    let _ = setsid(); // a new child leads no group, so this cannot fail
    // SAFETY: SIG_IGN is a disposition, not a function; the name is a string with a NUL.
    unsafe {
        for signal in [
            libc::SIGHUP,
            libc::SIGINT,
            libc::SIGQUIT,
            libc::SIGTERM,
            libc::SIGPIPE,
        ] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::prctl(libc::PR_SET_NAME, c"conntracker-dog".as_ptr());
    }
    let _ = std::env::set_current_dir("/");
    if let Ok(null) = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        let _ = dup2_stdin(&null)
            .and(dup2_stdout(&null))
            .and(dup2_stderr(&null));
    }
    close_all_but(line.as_raw_fd());
}

fn close_all_but(kept: RawFd) {
    let listed = fs::read_dir("/proc/self/fd").map(|entries| {
        let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        names.collect::<Vec<RawFd>>()
    });
    for fd in listed.unwrap_or_else(|_| (0..1024).collect()) {
        if fd > libc::STDERR_FILENO && fd != kept {
            // SAFETY: nothing in this process uses them, and it never returns to what owned them.
            unsafe { libc::close(fd) };
        }
    }
}

/// Waits until the parent is gone; says whether it went without a word.
fn wait_for_end(mut line: UnixStream, parent: Pid) -> bool {
    let mut byte = [0];
    loop {
        match line.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => return false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    // Its descriptors are closed one by one: what it held is free when it has another parent.
    while getppid() == Some(parent) {
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}
