//! One instance per network namespace: a locked file under /run, named after the namespace, that
//! holds the pid of its holder and goes when that ends. A lock that others can take (an abstract
//! socket, a file in /tmp) would let any user keep root from starting.

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, open};
use rustix::process::{Pid, test_kill_process};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

/// Held for as long as this instance runs.
#[derive(Debug)]
pub struct Instance {
    path: PathBuf,
    file: File,
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // a file without a lock is nobody's, and is taken over
    }
}

impl Instance {
    /// Names nobody as the holder: a next run waits for this one, instead of leaving.
    pub fn hold_for_a_moment(&mut self) -> io::Result<()> {
        self.file.set_len(0)
    }
}

/// Takes the lock of this namespace, or says who holds it: a pid, 0 where that is not known.
/// A holder that was just killed is waited for: the kernel takes a moment to end it, and a child of
/// it, between fork and exec, may hold its lock longer.
pub fn acquire() -> io::Result<Result<Instance, i32>> {
    let namespace = fs::metadata("/proc/self/ns/net")?.ino();
    let path = PathBuf::from(format!("/run/conntracker-{namespace}.lock"));
    let (mut patience, mut patience_with_the_living) = (100, 30);
    loop {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(open(&path, flags, Mode::RUSR | Mode::WUSR)?);
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // The holder before may have removed the file between our open and our lock.
            Ok(()) if !is_at(&file, &path) => continue,
            Ok(()) => {
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())?;
                return Ok(Ok(Instance { path, file }));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(errno.into()),
        }
        let holder = pid_in(&mut file);
        if is_alive(holder) {
            patience_with_the_living -= 1;
        }
        if patience == 0 || patience_with_the_living == 0 {
            return Ok(Err(holder));
        }
        patience -= 1;
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_at(file: &File, path: &PathBuf) -> bool {
    match (fstat(file), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.st_dev, ours.st_ino) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn pid_in(file: &mut File) -> i32 {
    let mut text = String::new();
    let _ = file.take(20).read_to_string(&mut text);
    text.trim().parse().unwrap_or(0)
}

fn is_alive(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}
