//! What a process is, from /proc/PID (proc(5); fs/proc/array.c for stat), and which of those that are
//! named in records are known already.
//!
//! All files of one process are read through one descriptor of its folder: once the process is gone
//! they are gone with it, and another process that gets the number cannot be mixed in.

use crate::hashing::HashMap;
use crate::limits::{
    CMDLINE_LEN_MAX, PROC_FILE_LEN_MAX, PROCESS_TRUST, PROCESSES_CACHED, THREAD_NAMES_KNOWN,
};
use crate::sys::clock;
use crate::wire::probe::COMM_LEN;
use rustix::fs::{CWD, Mode, OFlags, fstat, openat, readlinkat};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// One tick of /proc/PID/stat. USER_HZ is 100 on all machines but Alpha and IA-64.
const TICK: Duration = Duration::from_millis(10);

/// A process as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number in our pid namespace.
    pub pid: u32,
    /// When it was started: ticks of 10 ms since the machine started (field 22 of stat). With the pid,
    /// this is a name that nobody else gets.
    pub start_ticks: u64,
    /// Its parent; 0 for the first one.
    pub ppid: u32,
    /// Its effective user.
    pub uid: u32,
    /// The name of its first thread.
    pub comm: String,
    /// Its arguments, joined by one blank each; empty for a thread of the kernel.
    pub cmdline: String,
    /// The file that it runs, with " (deleted)" where the kernel says so; empty where it has none.
    pub exe: String,
    /// Its control group: of the unified hierarchy, else of the first one that is listed. Empty where
    /// there are none.
    pub cgroup: String,
    /// The inode of its network namespace.
    pub netns: Option<u64>,
}

/// What stat tells that is needed often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The name of the first thread.
    pub comm: Vec<u8>,
    /// The parent.
    pub ppid: u32,
    /// Field 22.
    pub start_ticks: u64,
    /// Where the stack begins (field 28): another place for each program that is executed. Zero where
    /// we may not know it.
    pub stack: u64,
}

/// The folder of one process.
pub(super) struct Folder {
    fd: OwnedFd,
}

impl Folder {
    pub(super) fn open(pid: u32) -> Option<Folder> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, format!("/proc/{pid}"), flags, Mode::empty()).ok()?;
        Some(Folder { fd })
    }

    /// The effective user: the folder's owner, whether or not the process lets itself be dumped
    /// (fs/proc/base.c, task_dump_owner).
    pub(super) fn uid(&self) -> Option<u32> {
        fstat(&self.fd).ok().map(|stat| stat.st_uid)
    }

    pub(super) fn stat(&self) -> Option<Stat> {
        parse_stat(&self.read("stat", PROC_FILE_LEN_MAX)?)
    }

    pub(super) fn comm(&self) -> Option<Vec<u8>> {
        let mut comm = self.read("comm", PROC_FILE_LEN_MAX)?;
        comm.truncate(comm.trim_ascii_end().len());
        Some(comm)
    }

    fn read(&self, name: &str, len_max: usize) -> Option<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = File::from(openat(&self.fd, name, flags, Mode::empty()).ok()?);
        let mut bytes = Vec::with_capacity(512);
        file.take(len_max as u64).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    fn link(&self, name: &str) -> Option<String> {
        let target = readlinkat(&self.fd, name, Vec::new()).ok()?;
        Some(String::from_utf8_lossy(target.as_bytes()).into_owned())
    }
}

impl Process {
    /// Reads a process. `None` where there is none, or none any more.
    pub fn read(pid: u32) -> Option<Process> {
        read(pid).map(|(process, _)| process)
    }

    fn started(&self) -> Duration {
        started(self.start_ticks)
    }

    /// Whether its first thread has this name.
    fn is_called(&self, name: &[u8; COMM_LEN]) -> bool {
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        self.comm == String::from_utf8_lossy(name)
    }

    /// Whether this is the same program, run alike: names of threads aside.
    fn is_as(&self, other: &Process) -> bool {
        let other = Process {
            comm: self.comm.clone(),
            ..other.clone()
        };
        *self == other
    }
}

/// How long after the machine it was started.
pub(super) fn started(ticks: u64) -> Duration {
    let ms = ticks.saturating_mul(TICK.as_millis() as u64);
    Duration::from_millis(ms)
}

fn read(pid: u32) -> Option<(Process, u64)> {
    let folder = Folder::open(pid)?;
    let mut stat = folder.stat()?;
    // Whoever is read while it executes another program is read again.
    for _ in 0..3 {
        let process = Process {
            pid,
            start_ticks: stat.start_ticks,
            ppid: stat.ppid,
            uid: folder.uid()?,
            comm: String::from_utf8_lossy(&stat.comm).into_owned(),
            cmdline: cmdline_text(&folder.read("cmdline", CMDLINE_LEN_MAX)?),
            exe: folder.link("exe").unwrap_or_default(),
            cgroup: cgroup_path(&folder.read("cgroup", PROC_FILE_LEN_MAX).unwrap_or_default()),
            netns: folder.link("ns/net").and_then(|link| inode_of(&link)),
        };
        let after = folder.stat()?;
        let is_whole = after.stack == stat.stack;
        stat = after;
        if is_whole {
            return Some((process, stat.stack));
        }
    }
    None
}

/// A line of stat: "pid (comm) state ppid ...". The name may have blanks and brackets in it, so what
/// follows is counted from the last bracket.
fn parse_stat(line: &[u8]) -> Option<Stat> {
    let open = line.iter().position(|byte| *byte == b'(')?;
    let close = line.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    Some(Stat {
        comm: line.get(open + 1..close)?.to_vec(),
        ppid: fields.nth(1)?.parse().ok()?,         // field 4
        start_ticks: fields.nth(17)?.parse().ok()?, // field 22
        stack: fields
            .nth(5)
            .and_then(|field| field.parse().ok())
            .unwrap_or(0), // field 28
    })
}

/// The arguments, each of which ends with a zero.
fn cmdline_text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |at| at + 1);
    let blanks: Vec<u8> = bytes[..end]
        .iter()
        .map(|byte| if *byte == 0 { b' ' } else { *byte })
        .collect();
    String::from_utf8_lossy(&blanks).into_owned()
}

/// Lines of "hierarchy:controllers:path"; the unified hierarchy is number 0 and has no controllers.
fn cgroup_path(bytes: &[u8]) -> String {
    let lines = || bytes.split(|byte| *byte == b'\n');
    let path = lines()
        .find_map(|line| line.strip_prefix(b"0::"))
        .or_else(|| lines().next()?.splitn(3, |byte| *byte == b':').nth(2));
    String::from_utf8_lossy(path.unwrap_or_default()).into_owned()
}

/// "net:[4026531840]"
fn inode_of(link: &str) -> Option<u64> {
    link.split_once('[')?.1.strip_suffix(']')?.parse().ok()
}

/// What a record's process is to whoever has been told of processes before.
#[derive(Debug, PartialEq, Eq)]
pub enum Look<'a> {
    /// The one that was told before under this number.
    Same,
    /// One that was not told, or that is another program by now.
    Tell(&'a Process),
    /// Not there any more, or there is another one by its number: nothing can be said of it.
    Gone,
}

/// The processes that were told, by their numbers.
#[derive(Debug)]
pub struct Cache {
    entries: HashMap<u32, Entry>,
    capacity: usize,
    looks: u64,
}

#[derive(Debug)]
struct Entry {
    process: Process,
    stack: u64,
    /// By CLOCK_MONOTONIC.
    verified: Duration,
    /// Under which names threads of it were met since it was read.
    comms: Vec<[u8; COMM_LEN]>,
    last_look: u64,
}

impl Default for Cache {
    fn default() -> Self {
        Cache::with_capacity(PROCESSES_CACHED)
    }
}

impl Cache {
    /// Remembers this many, at least one.
    pub fn with_capacity(capacity: usize) -> Cache {
        Cache {
            entries: HashMap::default(),
            capacity: capacity.max(1),
            looks: 0,
        }
    }

    /// Looks at the process of a record that was made at `at_ns` (CLOCK_MONOTONIC, nanoseconds) by a
    /// task with this name.
    pub fn look(&mut self, pid: u32, comm: &[u8; COMM_LEN], at_ns: u64) -> Look<'_> {
        let now = clock::monotonic();
        let at = Duration::from_nanos(at_ns);
        // Where the machine has slept since the record, that moves later, and more processes could
        // have made it: none that did is refused.
        let at_boot = at + clock::boottime().saturating_sub(now);
        let is_later = |process: &Process| process.started() > at_boot;
        // The kernel tells a start to the tick. What was started in the tick of the record may be the
        // next process by this number: it is the one only if it has the record's name.
        let may_be_later = |process: &Process| {
            is_later(process) || process.started() + TICK > at_boot && !process.is_called(comm)
        };
        self.looks += 1;
        if let Some(entry) = self.entries.get_mut(&pid) {
            entry.last_look = self.looks;
            if is_later(&entry.process) {
                self.entries.remove(&pid); // whoever hears that it is gone is to be told again
                return Look::Gone;
            }
            let is_known = entry.comms.contains(comm);
            if is_known && at <= entry.verified + PROCESS_TRUST {
                return Look::Same;
            }
            if is_known && entry.is_still_there() {
                entry.verified = now;
                return Look::Same;
            }
        }
        let Some((process, stack)) = read(pid).filter(|(process, _)| !may_be_later(process)) else {
            self.entries.remove(&pid);
            return Look::Gone;
        };
        if let Some(entry) = self.entries.get_mut(&pid) {
            if entry.process.is_as(&process) {
                entry.meet(comm);
                (entry.verified, entry.stack) = (now, stack);
                return Look::Same;
            }
        }
        self.insert(Entry {
            process,
            stack,
            verified: now,
            comms: vec![*comm],
            last_look: self.looks,
        })
    }

    fn insert(&mut self, entry: Entry) -> Look<'_> {
        let pid = entry.process.pid;
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&pid) {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last_look);
            if let Some(oldest) = oldest.map(|(pid, _)| *pid) {
                self.entries.remove(&oldest);
            }
        }
        let slot = self.entries.entry(pid).insert_entry(entry);
        Look::Tell(&slot.into_mut().process)
    }
}

impl Entry {
    /// Whether the process is there and has executed nothing else.
    fn is_still_there(&self) -> bool {
        let stat = Folder::open(self.process.pid).and_then(|folder| folder.stat());
        stat.is_some_and(|stat| {
            stat.start_ticks == self.process.start_ticks && stat.stack == self.stack
        })
    }

    fn meet(&mut self, comm: &[u8; COMM_LEN]) {
        if self.comms.len() >= THREAD_NAMES_KNOWN {
            self.comms.remove(0);
        }
        self.comms.push(*comm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::probe::comm;
    use std::process::{Child, Command, Stdio};

    const LINE: &[u8] = b"4711 (a) b (c)) S 17 4711 4711 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 1000 200 18446744073709551615 94 95 140722 0 0\n";

    #[test]
    fn a_name_with_brackets_moves_nothing() {
        let stat = parse_stat(LINE).unwrap();
        assert_eq!(stat.comm, b"a) b (c)");
        assert_eq!(
            (stat.ppid, stat.start_ticks, stat.stack),
            (17, 123_456, 140_722)
        );
        for len in 0..LINE.len() {
            parse_stat(&LINE[..len]);
        }
        assert_eq!(parse_stat(b")("), None);
    }

    #[test]
    fn arguments_and_groups_become_text() {
        assert_eq!(
            cmdline_text(b"curl\0-s\0http://a b\0"),
            "curl -s http://a b"
        );
        assert_eq!(cmdline_text(b"nginx: master\0\0\0\0"), "nginx: master");
        assert_eq!(cmdline_text(b"a\xff\0"), "a\u{fffd}");
        assert_eq!(cmdline_text(b""), "");
        assert_eq!(
            cgroup_path(b"0::/system.slice/a:b.service\n"),
            "/system.slice/a:b.service"
        );
        let both = b"12:cpu,cpuacct:/v1\n1:name=systemd:/s\n0::/v2\n";
        assert_eq!(cgroup_path(both), "/v2");
        assert_eq!(
            cgroup_path(b"12:cpu,cpuacct:/v1\n1:name=systemd:/s\n"),
            "/v1"
        );
        assert_eq!(cgroup_path(b""), "");
        assert_eq!(inode_of("net:[4026531840]"), Some(4_026_531_840));
        assert_eq!(inode_of("net:"), None);
    }

    fn sleeper() -> Child {
        let child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn();
        let child = child.unwrap();
        while Process::read(child.id()).is_none_or(|process| process.cmdline != "sleep 60") {}
        child
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn now_ns() -> u64 {
        clock::monotonic().as_nanos() as u64
    }

    #[test]
    fn a_process_is_read() {
        let _alone = crate::owner::alone();
        let child = sleeper();
        let process = Process::read(child.id()).unwrap();
        assert_eq!(
            (process.pid, process.ppid),
            (child.id(), std::process::id())
        );
        assert_eq!((&*process.comm, &*process.cmdline), ("sleep", "sleep 60"));
        assert_eq!(process.uid, rustix::process::geteuid().as_raw());
        assert!(!process.exe.is_empty() && process.netns.is_some());
        let age = clock::boottime().checked_sub(process.started()).unwrap();
        assert!(age < Duration::from_secs(10), "{age:?}");
        let pid = child.id();
        end(child);
        assert_eq!(Process::read(pid), None);
        assert_eq!(Process::read(0), None);
    }

    #[test]
    fn a_process_is_told_once_and_a_later_one_inherits_nothing() {
        let _alone = crate::owner::alone();
        let before = now_ns();
        std::thread::sleep(TICK * 3);
        let child = sleeper();
        let pid = child.id();
        let name = comm(b"sleep");
        let mut cache = Cache::default();
        assert_eq!(cache.look(pid, &name, before), Look::Gone);
        assert!(matches!(cache.look(pid, &name, now_ns()), Look::Tell(_)));
        assert_eq!(cache.look(pid, &name, before), Look::Gone);
        assert!(matches!(cache.look(pid, &name, now_ns()), Look::Tell(_)));
        assert_eq!(cache.look(pid, &name, now_ns()), Look::Same);
        std::thread::sleep(TICK * 2); // whose name it is counts while it may be the next one's
        assert_eq!(cache.look(pid, &comm(b"thread"), now_ns()), Look::Same);
        std::thread::sleep(PROCESS_TRUST * 2);
        assert_eq!(cache.look(pid, &name, now_ns()), Look::Same);
        let last = now_ns();
        end(child);
        assert_eq!(cache.look(pid, &name, last), Look::Same);
        let late = last + 2 * PROCESS_TRUST.as_nanos() as u64;
        assert_eq!(cache.look(pid, &name, late), Look::Gone);
    }

    #[test]
    fn another_program_of_the_same_process_is_told() {
        let _alone = crate::owner::alone();
        let script = "read line; exec sleep 60";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id();
        let is_now = |line: &str| {
            Process::read(pid).is_some_and(|process| process.cmdline.starts_with(line))
        };
        while !is_now("sh -c") {}
        let mut cache = Cache::default();
        assert!(matches!(
            cache.look(pid, &comm(b"sh"), now_ns()),
            Look::Tell(_)
        ));
        drop(child.stdin.take());
        while !is_now("sleep 60") {}
        match cache.look(pid, &comm(b"sleep"), now_ns()) {
            Look::Tell(process) => assert_eq!(process.cmdline, "sleep 60"),
            other => panic!("{other:?}"),
        }
        end(child);
    }

    #[test]
    fn the_least_recently_used_goes() {
        let _alone = crate::owner::alone();
        let children = [sleeper(), sleeper(), sleeper()];
        let [a, b, c] = [0, 1, 2].map(|at: usize| children[at].id());
        let name = comm(b"sleep");
        let mut cache = Cache::with_capacity(2);
        let mut tells = |pid| matches!(cache.look(pid, &name, now_ns()), Look::Tell(_));
        assert!(tells(a) && tells(b) && !tells(a) && tells(c));
        assert!(!tells(a) && tells(b));
        for child in children {
            end(child);
        }
    }
}
