//! Names of users, from /etc/passwd (passwd(5)) as it stands. The name services of the C library are
//! not asked: a static binary has none, and they may want the network that is being watched.

use crate::hashing::HashMap;
use crate::limits::{PASSWD_LEN_MAX, PASSWD_PAUSE};
use crate::sys::clock;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What tells one version of the file from the next: inode, length, seconds and nanoseconds.
type Version = (u64, u64, i64, i64);

/// Users by their numbers. Reads the file again when it has changed, which it looks for once a second
/// at most.
#[derive(Debug)]
pub struct Users {
    path: PathBuf,
    names: HashMap<u32, String>,
    version: Option<Version>,
    next_look: Duration,
}

impl Default for Users {
    fn default() -> Self {
        Users::new(Path::new("/etc/passwd"))
    }
}

impl Users {
    /// The users of a file of this format.
    pub fn new(path: &Path) -> Users {
        Users {
            path: path.to_owned(),
            names: HashMap::default(),
            version: None,
            next_look: Duration::ZERO,
        }
    }

    /// The name of a user; `None` where the file has none. Where a number stands twice, the first
    /// name is taken, as getpwuid(3) does.
    pub fn name(&mut self, uid: u32) -> Option<&str> {
        let now = clock::monotonic();
        if now >= self.next_look {
            self.next_look = now + PASSWD_PAUSE;
            self.refresh();
        }
        self.names.get(&uid).map(String::as_str)
    }

    fn refresh(&mut self) {
        let version = fs::metadata(&self.path)
            .ok()
            .map(|file| (file.ino(), file.len(), file.mtime(), file.mtime_nsec()));
        if version == self.version {
            return;
        }
        self.version = version;
        let mut bytes = Vec::new();
        let file = File::open(&self.path);
        let read = file.and_then(|file| file.take(PASSWD_LEN_MAX as u64).read_to_end(&mut bytes));
        if read.is_ok() || version.is_none() {
            self.names = parse(&bytes);
        }
    }
}

/// Lines of "name:password:uid:gid:..."; others are skipped.
fn parse(bytes: &[u8]) -> HashMap<u32, String> {
    let mut names = HashMap::default();
    for line in bytes.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        let (Some(name), Some(uid)) = (fields.next(), fields.nth(1)) else {
            continue;
        };
        let uid = std::str::from_utf8(uid)
            .ok()
            .and_then(|uid| uid.parse().ok());
        if let (Some(uid), false) = (uid, name.is_empty()) {
            let name = || String::from_utf8_lossy(name).into_owned();
            names.entry(uid).or_insert_with(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_lines_are_skipped_and_the_first_name_counts() {
        let text = b"root:x:0:0:root:/root:/bin/sh\n\n# a comment\nbroken:x\n:x:5:5::/:\ntoor:x:0:0::/:\nx:x:-1:0::/:\ny:x:4294967296:0::/:\nw\xe9b:x:33:33::/var/www:\nlast:x:7";
        let names = parse(text);
        assert_eq!(names.len(), 3);
        assert_eq!(names[&0], "root");
        assert_eq!(names[&33], "w\u{fffd}b");
        assert_eq!(names[&7], "last");
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let path = std::env::temp_dir().join(format!("conntracker-users-{}", std::process::id()));
        fs::write(&path, "one:x:1:1::/:\n").unwrap();
        let mut users = Users::new(&path);
        assert_eq!(users.name(1), Some("one"));
        fs::write(&path, "first:x:1:1::/:\ntwo:x:2:2::/:\n").unwrap();
        assert_eq!(users.name(1), Some("one"), "not looked at again so soon");
        users.next_look = Duration::ZERO;
        assert_eq!(users.name(1), Some("first"));
        assert_eq!(users.name(2), Some("two"));
        fs::remove_file(&path).unwrap();
        users.next_look = Duration::ZERO;
        assert_eq!(users.name(2), None);
    }
}
