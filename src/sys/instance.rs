//! Files that say which process runs: one for each network namespace, under /run, so that there is one
//! instance in it, and the pidfile of a daemon. The holder has it locked, its pid is in it, and it goes
//! when that ends. A lock that others can take (an abstract socket, a file in /tmp) would let any user
//! keep root from starting.

use super::machine;
use super::place::{Place, Unfit};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, test_kill_process};
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

/// Held for as long as this process runs.
#[derive(Debug)]
pub struct Instance {
    place: Place,
    file: File,
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.place.remove(); // a file without a lock is nobody's, and is taken over
    }
}

impl Instance {
    /// Names nobody as the holder: a next run waits for this one, instead of leaving.
    pub fn hold_for_a_moment(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()
    }

    /// Names this process as the holder.
    pub fn name_us(&mut self) -> io::Result<()> {
        self.hold_for_a_moment()?;
        writeln!(self.file, "{}", std::process::id())
    }
}

/// Takes the lock of this namespace, or says who holds it: a pid, 0 where that is not known.
pub fn acquire() -> io::Result<Result<Instance, i32>> {
    let mut lock = lock(lock_place()?)?;
    if let Ok(instance) = &mut lock {
        instance.name_us()?;
    }
    Ok(lock)
}

/// Takes the lock of a file, which then names nobody yet, or says who holds it. A holder that was just
/// killed is waited for: the kernel takes a moment to end it, and a child of it, between fork and exec,
/// may hold its lock longer.
pub fn lock(place: Place) -> Result<Result<Instance, i32>, Unfit> {
    let (mut patience, mut patience_with_the_living) = (100, 30);
    loop {
        let mut file = place.open_to_lock()?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // The holder before may have removed the file between our open and our lock.
            Ok(()) if !place.holds(&file) => continue,
            Ok(()) => {
                let mut instance = Instance { place, file };
                instance.hold_for_a_moment().map_err(Unfit::from)?;
                return Ok(Ok(instance));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(Unfit::from(io::Error::from(errno))),
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

/// The file of the namespace that we are in.
pub fn lock_path() -> io::Result<PathBuf> {
    Ok(PathBuf::from(lock_place()?.shown()))
}

/// The process that holds the lock of this namespace, as the kernel lists it: nothing is locked to find
/// out. 0 where it cannot be seen from here.
pub fn holder() -> io::Result<Option<i32>> {
    match fs::symlink_metadata(lock_path()?) {
        Ok(lock) => Ok(locker(
            &fs::read_to_string("/proc/locks")?,
            lock.dev(),
            lock.ino(),
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Who holds a file by flock(2): 1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF
fn locker(locks: &str, device: u64, inode: u64) -> Option<i32> {
    let file = format!(
        "{:02x}:{:02x}:{inode}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    );
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (kind, pid, at) = (fields.next()?, fields.nth(2)?, fields.next()?);
        (kind == "FLOCK" && at == file).then(|| pid.parse().unwrap_or(0))
    })
}

fn lock_place() -> io::Result<Place> {
    let namespace = machine::own_netns().ok_or(io::ErrorKind::NotFound)?;
    Ok(Place::in_run(&format!("conntracker-{namespace}.lock"))?)
}

fn pid_in(file: &mut File) -> i32 {
    let mut text = String::new();
    let _ = file.take(20).read_to_string(&mut text);
    text.trim().parse().unwrap_or(0)
}

fn is_alive(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_the_one_that_the_kernel_lists() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 00:1b:42 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 9 00:1b:42 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 8 00:1b:42 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 6 00:1b:421 0 EOF\n";
        let device = rustix::fs::makedev(0, 0x1b);
        assert_eq!(locker(locks, device, 42), Some(8));
        assert_eq!(locker(locks, device, 43), None);
        assert_eq!(locker(locks, rustix::fs::makedev(1, 0x1b), 42), None);
    }

    #[test]
    fn a_lock_of_our_own_is_listed() {
        let name = format!("conntracker-lock-test-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let file = File::create(&path).unwrap();
        let of = || {
            let there = fs::metadata(&path).unwrap();
            let locks = fs::read_to_string("/proc/locks").unwrap();
            locker(&locks, there.dev(), there.ino())
        };
        assert_eq!(of(), None);
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert_eq!(of(), i32::try_from(std::process::id()).ok());
        fs::remove_file(&path).unwrap();
    }
}
