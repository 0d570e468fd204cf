//! A small child process that outlives a `kill -9` of its parent, and then does what the parent
//! could not do any more. While the parent lives it does for it what that has given up the right to.
//!
//! Requests are lines; an answer is a byte (0: done, 1: an error), its length, and what is to be said.
//!
//! It learns of the parent's end from a socket that only the parent's side, and the programs that
//! the parent runs, hold open: so it acts when the last of these is done with its change, too.

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, WaitOptions, getpid, getppid, setsid, waitpid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A line longer than any request.
const REQUEST_LEN_MAX: u64 = 512;
/// Longer than any program runs that is asked for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The request to end.
const END: &str = "end";

/// What the child does.
#[derive(Clone, Copy, Debug)]
pub struct Duties {
    /// Gives up what it needs no right to; at its start.
    pub confine: fn(),
    /// Does what a line of the parent's asks for, and returns what there is to say: of an error, too.
    pub serve: fn(&str) -> Result<String, String>,
    /// After the parent's end, where that did not dismiss it.
    pub orphaned: fn(),
}

/// Requests, and their answers.
#[derive(Debug)]
pub struct Line(UnixStream);

impl Line {
    /// Has the child do something, and waits for its answer, at most `len_max` bytes long: `Err` inside
    /// is the child's.
    pub fn ask(&mut self, request: &str, len_max: usize) -> io::Result<Result<String, String>> {
        self.0.write_all(format!("{request}\n").as_bytes())?;
        let mut head = [0; 5];
        self.0.read_exact(&mut head)?;
        let [is_error, a, b, c, d] = head;
        let len = u32::from_ne_bytes([a, b, c, d]) as usize;
        if len > len_max {
            return Err(ErrorKind::InvalidData.into());
        }
        let mut answer = vec![0; len];
        self.0.read_exact(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        Ok(if is_error == 0 {
            Ok(answer)
        } else {
            Err(answer)
        })
    }
}

/// The parent's side. Dropped without `dismiss`, the child acts once the process has ended.
#[derive(Debug)]
pub struct Watchdog {
    child: Pid,
    line: UnixStream,
}

impl Watchdog {
    /// Forks the child. To be called early, while the process has one thread and little memory: the
    /// child shares that.
    pub fn start(duties: Duties) -> io::Result<Watchdog> {
        let (line, childs_end) = UnixStream::pair()?;
        line.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        fcntl_setfd(&line, FdFlags::empty())?; // for the programs that we run
        let parent = getpid();
        // SAFETY: the process has one thread, so the child's memory is in order, locks included.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => watch(childs_end, parent, duties),
            child => {
                drop(childs_end);
                let child = Pid::from_raw(child).ok_or(ErrorKind::InvalidData)?;
                (&line).read_exact(&mut [0])?; // it has let go of what is ours
                Ok(Watchdog { child, line })
            }
        }
    }

    /// A second end of the line, for requests.
    pub fn line(&self) -> io::Result<Line> {
        self.line.try_clone().map(Line)
    }

    /// There is nothing left to do for the child: it ends, and is waited for.
    pub fn dismiss(mut self) -> io::Result<()> {
        let told = self.line.write_all(format!("{END}\n").as_bytes());
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
fn watch(line: UnixStream, parent: Pid, duties: Duties) -> ! {
    // Nothing of the parent's own may unwind or be flushed here.
    let act = std::panic::catch_unwind(|| {
        settle(&line);
        (duties.confine)();
        let _ = (&line).write_all(&[0]); // where the parent is gone, the first read says so
        serve_until_end(line, parent, duties.serve)
    });
    if matches!(act, Ok(true)) {
        let _ = std::panic::catch_unwind(duties.orphaned);
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
            // What is meant for the parent may be sent to all of its name.
            libc::SIGUSR1,
            libc::SIGUSR2,
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

/// Does what the parent asks for, until that is gone; says whether it went without a word.
fn serve_until_end(
    line: UnixStream,
    parent: Pid,
    serve: fn(&str) -> Result<String, String>,
) -> bool {
    let mut requests = BufReader::with_capacity(REQUEST_LEN_MAX as usize, &line);
    loop {
        let mut request = String::new();
        match (&mut requests)
            .take(REQUEST_LEN_MAX)
            .read_line(&mut request)
        {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        }
        let request = request.trim_end();
        if request == END {
            return false;
        }
        let answer = serve(request);
        let (is_error, text) = match &answer {
            Ok(text) => (0, text),
            Err(text) => (1, text),
        };
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX).to_ne_bytes();
        let head = [[is_error].as_slice(), &len].concat();
        // Where the parent is gone meanwhile, the next read says so.
        let _ = (&line)
            .write_all(&head)
            .and_then(|()| (&line).write_all(text.as_bytes()));
    }
    // Its descriptors are closed one by one: what it held is free when it has another parent.
    while getppid() == Some(parent) {
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}
