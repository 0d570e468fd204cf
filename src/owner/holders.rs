//! Which process holds a socket: the links of /proc/PID/fd that say "socket:[inode]" (proc(5)), in an
//! index that is kept. Nothing is read anew for a socket whose holder is known, but the one link that
//! says so; and what is read anew is limited to a share of the time, however many sockets are asked for.

use super::process::Folder;
use crate::hashing::{HashMap, HashSet};
use crate::limits::{ANCESTORS_MAX, HOLDINGS_MAX, UNHELD_MAX, UNHELD_PAUSE, WALK_FACTOR};
use crate::sys::clock;
use rustix::fs::{CWD, Mode, OFlags, RawDir, openat, readlinkat_raw};
use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Room for names of a folder.
const NAMES_LEN: usize = 32 << 10;
/// Processes that are looked at first, since they have had new sockets before.
const BUSY_MAX: usize = 8;
/// How many descriptors below and above the last new one are tried before all are read: the kernel gives
/// the lowest that is free, so it is the same again where that was closed, else one that is not far.
const NEAR_BELOW: u32 = 4;
/// See NEAR_BELOW.
const NEAR_ABOVE: u32 = 16;

/// A holding: inode, process, descriptor.
type Holding = (u32, u32, u32);

/// Lets something be done only so often that it takes a small share of the time.
#[derive(Debug, Default)]
pub struct Pace {
    next: Duration,
}

impl Pace {
    /// Begins to measure, where it is time.
    pub fn begin(&self) -> Option<Duration> {
        Some(clock::monotonic()).filter(|now| *now >= self.next)
    }

    /// Ends what `begin` began.
    pub fn end(&mut self, begun: Duration) {
        let now = clock::monotonic();
        self.next = now + now.saturating_sub(begun) * WALK_FACTOR;
    }
}

/// The index.
#[derive(Debug)]
pub struct Holders {
    holdings: BTreeSet<Holding>,
    /// The processes that were walked.
    pids: HashSet<u32>,
    /// Inodes that nobody holds, and when they are looked for again.
    unheld: HashMap<u32, Duration>,
    /// Processes with the descriptor of their newest socket; the last one first.
    busy: Vec<(u32, u32)>,
    new_pids: Pace,
    near: Pace,
    busy_pids: Pace,
    whole: Pace,
    names: Box<[MaybeUninit<u8>]>,
}

impl Holders {
    /// Empty: the first question walks.
    pub fn new() -> Holders {
        Holders {
            holdings: BTreeSet::new(),
            pids: HashSet::default(),
            unheld: HashMap::default(),
            busy: Vec::new(),
            new_pids: Pace::default(),
            near: Pace::default(),
            busy_pids: Pace::default(),
            whole: Pace::default(),
            names: vec![MaybeUninit::uninit(); NAMES_LEN].into_boxed_slice(),
        }
    }

    /// The processes that hold a socket now; each has been seen to, just now. None where there is none,
    /// or where it was not time to look for it. One that got a known socket from another process after
    /// the last walk is missing where the other one still holds it.
    pub fn of(&mut self, inode: u32) -> Vec<u32> {
        let found = self.verified(inode);
        if !found.is_empty() {
            return found;
        }
        let now = clock::monotonic();
        if self.unheld.get(&inode).is_some_and(|again| now < *again) {
            return found;
        }
        if let Some(begun) = self.new_pids.begin() {
            self.walk_new();
            self.new_pids.end(begun);
        }
        let mut found = self.verified(inode);
        if found.is_empty() {
            found = self.near_the_last(inode);
        }
        if found.is_empty() {
            found = self.among_busy(inode);
        }
        if !found.is_empty() {
            self.add_ancestors(inode);
            found = self.verified(inode);
        } else if let Some(begun) = self.whole.begin() {
            self.walk();
            self.whole.end(begun);
            found = self.verified(inode);
            self.note_unheld(inode, found.is_empty());
        }
        self.note_busy(inode);
        found
    }

    /// Those of the index that hold it still; the others are taken out.
    fn verified(&mut self, inode: u32) -> Vec<u32> {
        let range = (inode, 0, 0)..=(inode, u32::MAX, u32::MAX);
        let known: Vec<Holding> = self.holdings.range(range).copied().collect();
        let mut pids = Vec::new();
        for holding in known {
            let (_, pid, fd) = holding;
            if socket_at(&format!("/proc/{pid}/fd/{fd}")) != Some(inode) {
                self.holdings.remove(&holding);
            } else if pids.last() != Some(&pid) {
                pids.push(pid);
            }
        }
        pids
    }

    /// Reads all of /proc, however lately that was done.
    pub fn walk(&mut self) {
        self.unheld.clear();
        let pids = self.list();
        let mut holdings = Vec::new();
        for pid in &pids {
            self.read(*pid, &mut |holding| {
                if holdings.len() < HOLDINGS_MAX {
                    holdings.push(holding);
                }
            });
        }
        self.holdings = holdings.into_iter().collect();
        self.pids = pids.into_iter().collect();
    }

    /// Reads the processes that were not there at the last walk.
    fn walk_new(&mut self) {
        let pids = self.list();
        for pid in &pids {
            if !self.pids.contains(pid) {
                self.walk_one(*pid);
            }
        }
        self.pids = pids.into_iter().collect();
    }

    fn walk_one(&mut self, pid: u32) {
        let mut holdings = Vec::new();
        self.read(pid, &mut |holding| holdings.push(holding));
        let room = HOLDINGS_MAX.saturating_sub(self.holdings.len());
        self.holdings.extend(holdings.into_iter().take(room));
    }

    /// Looks for a new socket beside the last new ones.
    fn near_the_last(&mut self, inode: u32) -> Vec<u32> {
        let Some(begun) = self.near.begin() else {
            return Vec::new();
        };
        let found = self.busy.iter().find_map(|(pid, last)| {
            let below = last.saturating_sub(NEAR_BELOW)..*last;
            let mut tried = (*last..last.saturating_add(NEAR_ABOVE)).chain(below);
            let fd = tried.find(|fd| socket_at(&format!("/proc/{pid}/fd/{fd}")) == Some(inode))?;
            Some((*pid, fd))
        });
        self.near.end(begun);
        let Some((pid, fd)) = found else {
            return Vec::new();
        };
        self.holdings.insert((inode, pid, fd));
        vec![pid]
    }

    fn note_busy(&mut self, inode: u32) {
        let range = (inode, 0, 0)..=(inode, u32::MAX, u32::MAX);
        if let Some((_, pid, fd)) = self.holdings.range(range).next_back().copied() {
            self.busy.retain(|(busy, _)| *busy != pid);
            self.busy.insert(0, (pid, fd));
            self.busy.truncate(BUSY_MAX);
        }
    }

    /// Reads the processes that had new sockets before, until one has this one.
    fn among_busy(&mut self, inode: u32) -> Vec<u32> {
        let Some(begun) = self.busy_pids.begin() else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for (pid, _) in self.busy.clone() {
            self.walk_one(pid);
            found = self.verified(inode);
            if !found.is_empty() {
                break;
            }
        }
        self.busy_pids.end(begun);
        found
    }

    /// Who has inherited a socket has it under the same number as its parent, where that has it still.
    fn add_ancestors(&mut self, inode: u32) {
        let range = (inode, 0, 0)..=(inode, u32::MAX, u32::MAX);
        let known: Vec<Holding> = self.holdings.range(range).copied().collect();
        for (_, pid, fd) in known {
            let mut pid = pid;
            for _ in 0..ANCESTORS_MAX {
                let stat = Folder::open(pid).and_then(|folder| folder.stat());
                pid = stat.map_or(0, |stat| stat.ppid);
                if pid == 0 || socket_at(&format!("/proc/{pid}/fd/{fd}")) != Some(inode) {
                    break;
                }
                self.holdings.insert((inode, pid, fd));
            }
        }
    }

    /// Walks no more.
    #[cfg(test)]
    pub fn rest(&mut self) {
        for pace in [
            &mut self.new_pids,
            &mut self.near,
            &mut self.busy_pids,
            &mut self.whole,
        ] {
            pace.next = Duration::MAX;
        }
    }

    fn note_unheld(&mut self, inode: u32, is_unheld: bool) {
        if !is_unheld {
            self.unheld.remove(&inode);
            return;
        }
        if self.unheld.len() >= UNHELD_MAX {
            self.unheld.clear();
        }
        self.unheld.insert(inode, clock::monotonic() + UNHELD_PAUSE);
    }

    fn list(&mut self) -> Vec<u32> {
        let mut pids = Vec::new();
        if let Some(fd) = open_folder("/proc") {
            let mut folder = RawDir::new(&fd, &mut self.names);
            while let Some(Ok(entry)) = folder.next() {
                pids.extend(number(entry.file_name().to_bytes()));
            }
        }
        pids
    }

    /// Reads the descriptors of one process, which may be gone.
    fn read(&mut self, pid: u32, take: &mut dyn FnMut(Holding)) {
        let Some(fd) = open_folder(&format!("/proc/{pid}/fd")) else {
            return;
        };
        let mut folder = RawDir::new(&fd, &mut self.names);
        let mut target = [0; LINK_LEN];
        while let Some(Ok(entry)) = folder.next() {
            let name = entry.file_name();
            let Some(number) = number(name.to_bytes()) else {
                continue;
            };
            let len = readlinkat_raw(&fd, name, &mut target).unwrap_or(0);
            if let Some(inode) = inode_of(&target[..len]) {
                take((inode, pid, number));
            }
        }
    }
}

/// "socket:[4294967295]", and more than that of what is no socket.
const LINK_LEN: usize = 32;

fn open_folder(path: &str) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).ok()
}

fn socket_at(path: &str) -> Option<u32> {
    let mut target = [0; LINK_LEN];
    let len = readlinkat_raw(CWD, path, &mut target).ok()?;
    inode_of(&target[..len])
}

fn inode_of(link: &[u8]) -> Option<u32> {
    number(link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?)
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::unix::fs::MetadataExt;

    /// The inode of a socket, as the socket itself says.
    fn inode(socket: &UdpSocket) -> u32 {
        let file = std::fs::File::from(OwnedFd::from(socket.try_clone().unwrap()));
        u32::try_from(file.metadata().unwrap().ino()).unwrap()
    }

    #[test]
    fn links_of_sockets_are_read_and_others_are_not() {
        assert_eq!(inode_of(b"socket:[4294967295]"), Some(u32::MAX));
        for other in [
            &b"socket:[]"[..],
            b"socket:[1",
            b"pipe:[1]",
            b"socket:[4294967296]",
            b"",
        ] {
            assert_eq!(inode_of(other), None);
        }
    }

    #[test]
    fn a_socket_is_held_until_it_is_closed() {
        let _alone = crate::owner::alone();
        let mut holders = Holders::new();
        let ours = std::process::id();
        let first = UdpSocket::bind("127.0.0.1:0").unwrap();
        let first_inode = inode(&first);
        assert_eq!(holders.of(first_inode), [ours]);
        drop(first);
        assert_eq!(holders.of(first_inode), [0; 0]);
        // A process that had a new socket once is looked at again, without a walk.
        holders.whole.next = Duration::MAX;
        holders.busy_pids.next = Duration::ZERO;
        let second = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(holders.of(inode(&second)), [ours]);
    }

    #[test]
    fn what_nobody_holds_is_not_looked_for_again_and_again() {
        let mut holders = Holders::new();
        let (nobody, other) = (u32::MAX, u32::MAX - 1);
        assert_eq!(holders.of(nobody), [0; 0]);
        assert!(holders.unheld.contains_key(&nobody));
        let next = holders.whole.next;
        assert!(next > clock::monotonic());
        assert_eq!(holders.of(nobody), [0; 0]);
        assert_eq!(holders.of(other), [0; 0]);
        assert_eq!(holders.whole.next, next, "not walked so soon again");
        assert!(
            !holders.unheld.contains_key(&other),
            "nor taken to be held by nobody"
        );
    }
}
