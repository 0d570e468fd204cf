//! Processes of our own: the daemon, and children that work on a copy of our memory.

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, WaitStatus, chdir, setsid, waitpid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The line from a daemon to whoever started it, who waits for a word.
#[derive(Debug)]
pub struct Starter(File);

/// Who goes on after the fork.
#[derive(Debug)]
pub enum Forked {
    /// The process that was called: this is its exit status, `None` where the daemon died without a word.
    Caller(Option<u8>),
    /// The daemon: in a session of its own without being its leader, so that no terminal becomes its.
    Daemon(Starter),
}

/// Forks twice, and waits in the caller for the daemon's word. To be called before anything is opened,
/// locked or started, since all that belongs to the process that does it.
pub fn daemon() -> io::Result<Forked> {
    let (reader, writer) = pipe()?;
    match fork()? {
        Some(child) => {
            drop(writer);
            reap(child)?;
            Ok(Forked::Caller(word(reader)?))
        }
        None => {
            drop(reader);
            let _ = setsid(); // a new child leads no group, so this cannot fail
            match fork() {
                Ok(None) => Ok(Forked::Daemon(Starter(writer))),
                Ok(Some(_)) => exit_now(0),
                Err(error) => {
                    let mut starter = Starter(writer);
                    let _ = writeln!(io::stderr(), "conntracker: forking the daemon: {error}");
                    let _ = starter.tell(1);
                    exit_now(1)
                }
            }
        }
    }
}

fn pipe() -> io::Result<(File, File)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((File::from(reader), File::from(writer)))
}

fn word(mut reader: File) -> io::Result<Option<u8>> {
    let mut byte = [0];
    loop {
        match reader.read(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl Starter {
    /// Lets the caller end with this exit status. An error says that it is gone.
    pub fn tell(&mut self, exit_status: u8) -> io::Result<()> {
        self.0.write_all(&[exit_status])
    }
}

/// What stands in the place of a terminal that is let go of.
pub fn open_null() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/null")
}

/// Lets go of the caller's folder, terminal and pipes.
pub fn settle(null: &File) -> io::Result<()> {
    chdir("/")?;
    dup2_stdin(null)?;
    dup2_stdout(null)?;
    dup2_stderr(null)?;
    Ok(())
}

/// A child that works on a copy of our memory while we go on.
#[derive(Debug)]
pub struct Copy {
    pid: Pid,
    /// Brings its last words; once we let go of it, the child knows that it is to end.
    line: UnixStream,
}

impl Copy {
    /// Forks it. `work` is given a descriptor that becomes readable when it is to end; what it returns is
    /// the message that `ended` gives. Nothing of ours is dropped in the child, and it does not outlive us.
    pub fn start(work: impl FnOnce(BorrowedFd<'_>) -> Result<(), String>) -> io::Result<Copy> {
        let (line, mut childs_end) = UnixStream::pair()?;
        let parent = rustix::process::getpid();
        match fork()? {
            Some(pid) => {
                line.set_nonblocking(true)?;
                Ok(Copy { pid, line })
            }
            None => {
                drop(line);
                // SAFETY: sets a number in the kernel.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                if rustix::process::getppid() != Some(parent) {
                    exit_now(1)
                }
                let work = || work(childs_end.as_fd());
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                if let Ok(Err(message)) = &done {
                    let len = message.len().min(MESSAGE_LEN_MAX);
                    let _ = childs_end.write_all(&message.as_bytes()[..len]);
                }
                exit_now(i32::from(!matches!(done, Ok(Ok(())))))
            }
        }
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<Result<(), String>> {
        match waitpid(Some(self.pid), WaitOptions::NOHANG) {
            Ok(None) | Err(rustix::io::Errno::INTR) => None,
            Ok(Some((_, status))) => Some(self.outcome(status)),
            Err(errno) => Some(Err(io::Error::from(errno).to_string())),
        }
    }

    fn outcome(&mut self, status: WaitStatus) -> Result<(), String> {
        if status.exit_status() == Some(0) {
            return Ok(());
        }
        let mut message = Vec::new();
        let _ = self.line.read_to_end(&mut message); // what there is, without waiting
        Err(match String::from_utf8_lossy(&message) {
            message if message.is_empty() => {
                format!("the process that did it ended with {status:?}")
            }
            message => message.into_owned(),
        })
    }

    /// Has it end, and waits until it has.
    pub fn end(self) {
        drop(self.line);
        let _ = reap(self.pid); // it is not there any more
    }
}

/// What the line takes without blocking is more.
const MESSAGE_LEN_MAX: usize = 2048;

/// The child's pid; `None` in the child. Only while the process has one thread: the child's memory is in
/// order then, locks included.
fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the program makes no threads.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid)),
    }
}

fn reap(child: Pid) -> io::Result<()> {
    loop {
        match waitpid(Some(child), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CHILD) | Ok(_) => return Ok(()), // ignored SIGCHLD reaps it
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Ends the process with nothing of what waits for its exit.
fn exit_now(status: i32) -> ! {
    // SAFETY: never returns to what owned anything.
    unsafe { libc::_exit(status) }
}

/// Bytes of this process's memory that are in use; 0 where /proc does not say. Allocates nothing.
pub fn resident_bytes() -> u64 {
    let mut text = [0u8; 256];
    let len = File::open("/proc/self/statm").and_then(|mut file| file.read(&mut text));
    let text = text.get(..len.unwrap_or(0)).unwrap_or_default();
    let pages = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// What the environment may tell us; nothing else of it is heeded.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// NOTIFY_SOCKET: where systemd listens.
    pub notify_socket: Option<OsString>,
    /// WATCHDOG_USEC: in what time it wants to hear of us, if WATCHDOG_PID does not name another process.
    pub watchdog: Option<Duration>,
}

/// Reads what the environment tells, and forgets all of it: no variable changes what a process of
/// root's does, nor what the programs do that it runs.
pub fn take_environment() -> Told {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let watchdog = number("WATCHDOG_USEC").filter(|time| is_ours && *time > 0);
    let told = Told {
        notify_socket: std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()),
        watchdog: watchdog.map(Duration::from_micros),
    };
    // SAFETY: the program makes no threads, so nobody reads the environment meanwhile.
    unsafe { libc::clearenv() };
    told
}
