//! The way to a folder, step by step, each folder held open: what was looked at is what is used,
//! however fast somebody puts other things in its place.

use super::{ANOTHER_FOLDER, Unfit};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, fgetxattr_query, fstat, openat, readlinkat, statat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows (MAXSYMLINKS).
const LINKS_MAX: usize = 40;

/// Groups below are of the system's own services (login.defs: SYS_GID_MAX).
const USER_GROUPS_FROM: u32 = 1000;
/// "users", everybody's group by custom.
const GROUP_OF_ALL: u32 = 100;

const ACCESS_LIST: &str = "system.posix_acl_access";

/// Goes to a folder, through folders and links that nobody but us and root can change.
pub(super) fn walk(path: &Path) -> Result<OwnedFd, Unfit> {
    let trust = Trust::of_this_process();
    let mut at = if path.is_absolute() {
        Folder::root(&trust)?
    } else {
        // What is above it is not on the way.
        let shown = env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        Folder::open(CWD, OsStr::new("."), shown, &trust)?
    };
    let mut ahead = steps(path);
    let mut links = 0;
    while let Some(step) = ahead.pop() {
        match at.enter(&step, &trust)? {
            Entered::Folder(folder) => at = folder,
            Entered::Link(target) => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Unfit::errno(&path.display(), Errno::LOOP, ANOTHER_FOLDER));
                }
                if target.is_absolute() {
                    at = Folder::root(&trust)?;
                }
                ahead.extend(steps(&target));
            }
        }
    }
    Ok(at.fd)
}

/// The steps of a path, the first one last.
fn steps(path: &Path) -> Vec<OsString> {
    let of_the_way =
        |step: &Component<'_>| matches!(step, Component::Normal(_) | Component::ParentDir);
    let steps = path.components().filter(of_the_way);
    steps
        .rev()
        .map(|step| step.as_os_str().to_owned())
        .collect()
}

/// A folder on the way that was found fit.
struct Folder {
    fd: OwnedFd,
    shown: PathBuf,
    /// Others may put things in it, though they cannot move those of others (the sticky bit).
    is_shared: bool,
}

enum Entered {
    Folder(Folder),
    Link(PathBuf),
}

impl Folder {
    fn root(trust: &Trust) -> Result<Folder, Unfit> {
        Folder::open(CWD, OsStr::new("/"), PathBuf::from("/"), trust)
    }

    fn open(at: impl AsFd, name: &OsStr, shown: PathBuf, trust: &Trust) -> Result<Folder, Unfit> {
        let fail = |errno| Unfit::errno(&shown.display(), errno, "does that folder exist?");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(at, name, flags, Mode::empty()).map_err(fail)?;
        let stat = fstat(&fd).map_err(fail)?;
        if let Some(why) = trust.against_folder(&stat, || has_access_list(&fd)) {
            return Err(Unfit::new(
                format!("{} {why}", shown.display()),
                ANOTHER_FOLDER,
            ));
        }
        let others = Mode::WGRP | Mode::WOTH;
        Ok(Folder {
            fd,
            shown,
            is_shared: Mode::from_raw_mode(stat.st_mode).intersects(others),
        })
    }

    /// One step on. A link is not followed here: that is the caller's, from the target's beginning.
    fn enter(&self, step: &OsStr, trust: &Trust) -> Result<Entered, Unfit> {
        let shown = self.shown.join(step);
        // Asking for a folder first has file systems mounted that are mounted when they are used.
        let is_folder = statat(&self.fd, step, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        if is_folder {
            return Folder::open(&self.fd, step, shown, trust).map(Entered::Folder);
        }
        let fail = |errno| Unfit::errno(&shown.display(), errno, "does that folder exist?");
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, step, flags, Mode::empty()).map_err(fail)?;
        let stat = fstat(&fd).map_err(fail)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Err(fail(Errno::NOTDIR));
        }
        if let Some(why) = trust.against_link(&stat, self.is_shared) {
            return Err(Unfit::new(
                format!("{} {why}", shown.display()),
                ANOTHER_FOLDER,
            ));
        }
        let target = readlinkat(&fd, "", Vec::new()).map_err(fail)?;
        Ok(Entered::Link(
            OsString::from_vec(target.into_bytes()).into(),
        ))
    }
}

fn has_access_list(folder: &OwnedFd) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let found = openat(folder, ".", flags, Mode::empty())
        .and_then(|folder| fgetxattr_query(folder, ACCESS_LIST));
    !matches!(found, Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS))
}

/// Whose things are as good as our own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trust {
    pub(super) own: u32,
    /// Our group where we are not root: it is often a user's alone, and writes in the user's folders.
    pub(super) group: Option<u32>,
    /// Who the owner of everything outside of our user namespace seems to be. What is that user's
    /// cannot be told from what is root's there: root in such a namespace has to take both.
    pub(super) outside: Option<u32>,
}

impl Trust {
    pub(super) fn of_this_process() -> Trust {
        let own = geteuid();
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Trust {
            own: own.as_raw(),
            group: (!own.is_root()).then(|| getegid().as_raw()),
            outside: (!map.is_empty() && !is_everybody(&map)).then(overflow_user),
        }
    }

    fn owns_way(&self, user: u32) -> bool {
        user == 0 || user == self.own || Some(user) == self.outside
    }

    /// Why what is in a folder may not be what we think it is. An access list hides behind the
    /// group's bits.
    pub(super) fn against_folder(
        &self,
        stat: &Stat,
        has_access_list: impl Fn() -> bool,
    ) -> Option<String> {
        let mode = Mode::from_raw_mode(stat.st_mode);
        if !self.owns_way(stat.st_uid) {
            let user = stat.st_uid;
            return Some(format!(
                "belongs to user {user}, who could put something else in its place"
            ));
        }
        if mode.contains(Mode::SVTX) {
            None
        } else if mode.contains(Mode::WOTH) {
            Some("can be written by everybody, and is not sticky (chmod +t)".to_owned())
        } else if mode.contains(Mode::WGRP) && !self.is_group_of_system(stat.st_gid) {
            let group = stat.st_gid;
            Some(format!("can be written by group {group} (chmod g-w)"))
        } else if mode.contains(Mode::WGRP) && has_access_list() {
            Some("can be written by those in its access list (setfacl -b)".to_owned())
        } else {
            None
        }
    }

    /// A link in a folder that others use may be root's and yet have been brought there by another:
    /// by its second name.
    pub(super) fn against_link(&self, stat: &Stat, is_shared: bool) -> Option<String> {
        let user = stat.st_uid;
        if !self.owns_way(user) {
            Some(format!(
                "is a symbolic link of user {user}, who could have it lead elsewhere"
            ))
        } else if is_shared && stat.st_nlink > 1 {
            Some("is a symbolic link that has another name, too".to_owned())
        } else {
            None
        }
    }

    /// Why a plain file that is there is not one that we write on.
    pub(super) fn against_file(&self, stat: &Stat) -> Option<String> {
        let mode = Mode::from_raw_mode(stat.st_mode);
        let user = stat.st_uid;
        if user != 0 && user != self.own {
            Some(format!("it belongs to user {user}"))
        } else if stat.st_nlink > 1 {
            Some("it has another name, too (a hard link)".to_owned())
        } else if mode.contains(Mode::WOTH) {
            Some("it can be written by everybody".to_owned())
        } else if mode.contains(Mode::WGRP) && !self.is_group_of_system(stat.st_gid) {
            Some(format!("it can be written by group {}", stat.st_gid))
        } else {
            None
        }
    }

    /// Ubuntu's /var/log can be written by group syslog. The groups of the system are of services
    /// that root set up, with no users in them but those whom root put there.
    fn is_group_of_system(&self, group: u32) -> bool {
        (group < USER_GROUPS_FROM && group != GROUP_OF_ALL) || Some(group) == self.group
    }
}

/// Whether a uid_map is that of the first user namespace.
pub(super) fn is_everybody(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn overflow_user() -> u32 {
    let read = fs::read_to_string("/proc/sys/kernel/overflowuid");
    let user = read.and_then(|text| text.trim().parse().map_err(io::Error::other));
    user.unwrap_or(65534)
}
