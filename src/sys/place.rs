//! A place for a file that others cannot have prepared. Root writes files with names that anybody
//! knows: who could put a link there, or in the place of a folder above it, would have root write
//! where they cannot. So each step to the folder must be root's (or ours), and the file is made new,
//! or is one that can only be ours.

#[cfg(test)]
mod tests;
mod way;

use super::machine::random;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, openat, renameat, statat,
    unlinkat,
};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Others may make and remove the file while we open it, but not for ever.
const ATTEMPTS: usize = 100;

const ANOTHER_FOLDER: &str = "name a file in a folder of root's";
const ANOTHER_FILE: &str = "name another file";

/// What root alone may write or read.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// A name in a folder that is held open; there may be a file.
#[derive(Debug)]
pub struct Place {
    folder: OwnedFd,
    name: OsString,
    shown: String,
}

/// Why there is no writing there.
#[derive(Debug)]
pub struct Unfit {
    /// What is wrong.
    pub cause: String,
    /// What to do about it; may be empty.
    pub advice: &'static str,
}

impl Unfit {
    fn new(cause: impl Into<String>, advice: &'static str) -> Unfit {
        Unfit {
            cause: cause.into(),
            advice,
        }
    }

    /// There is something that is not a file.
    pub fn in_the_way(kind: FileType) -> Unfit {
        let cause = match kind {
            FileType::Directory => "it is a directory",
            FileType::Symlink => "it is a symbolic link, which is never written through",
            _ => "it is neither a file nor a device",
        };
        Unfit::new(cause, ANOTHER_FILE)
    }

    fn errno(what: &impl fmt::Display, errno: Errno, advice: &'static str) -> Unfit {
        Unfit::new(format!("{what}: {}", io::Error::from(errno)), advice)
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.advice {
            "" => out.write_str(&self.cause),
            advice => write!(out, "{} ({advice})", self.cause),
        }
    }
}

impl std::error::Error for Unfit {}

impl From<io::Error> for Unfit {
    fn from(error: io::Error) -> Unfit {
        Unfit::new(error.to_string(), "")
    }
}

impl From<Unfit> for io::Error {
    fn from(unfit: Unfit) -> io::Error {
        io::Error::other(unfit)
    }
}

impl Place {
    /// Goes to the folder of a path. Refused where anybody but root (or who runs us) could have put
    /// something on the way, or could put something in the place of what we make there.
    pub fn find(path: &Path) -> Result<Place, Unfit> {
        if path.as_os_str().as_bytes().ends_with(b"/") {
            return Err(Unfit::new("that is the name of a folder", "name a file"));
        }
        let name = path
            .file_name()
            .ok_or_else(|| Unfit::new("that is not the name of a file", "name a file"))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Ok(Place {
            folder: way::walk(folder)?,
            name: name.to_owned(),
            shown: path.display().to_string(),
        })
    }

    /// A file of ours that goes with a reboot: under /run, or under /var/run where there is no /run
    /// (OpenWrt).
    pub fn in_run(name: &str) -> Result<Place, Unfit> {
        let run = Path::new("/run");
        let folder = if run.is_dir() {
            run
        } else {
            Path::new("/var/run")
        };
        Place::find(&folder.join(name))
    }

    /// The place beside it whose name ends like this: "FILE" and ".1" give "FILE.1".
    pub fn beside(&self, ending: &str) -> io::Result<Place> {
        let mut name = self.name.clone();
        name.push(ending);
        Ok(Place {
            folder: self.folder.try_clone()?,
            name,
            shown: format!("{}{ending}", self.shown),
        })
    }

    /// The folder.
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// The path, as it was given.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// What there is; `None` where there is nothing.
    pub fn kind(&self) -> io::Result<Option<FileType>> {
        match statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Opens a device that is there, for writing.
    pub fn open_device(&self) -> Result<File, Unfit> {
        let refused = |errno| self.refused(errno);
        let fd = openat(
            &self.folder,
            &self.name,
            flags(OFlags::WRONLY),
            Mode::empty(),
        )
        .map_err(refused)?;
        let kind = fstat(&fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
        if kind.map_err(refused)? != FileType::CharacterDevice {
            return Err(Unfit::new("it is not a device", ANOTHER_FILE));
        }
        let blocking = fcntl_getfl(&fd).map_err(refused)? - OFlags::NONBLOCK;
        fcntl_setfl(&fd, blocking).map_err(refused)?;
        Ok(File::from(fd))
    }

    /// Makes the file; there must be nothing.
    pub fn create_new(&self) -> io::Result<File> {
        self.create(&self.name, OFlags::WRONLY)
    }

    /// Makes a file in the same folder, under a name that nobody can take before us, to be put in
    /// place by [`Draft::publish`].
    pub fn draft(&self) -> io::Result<(File, Draft<'_>)> {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(format!(".{:016x}", random::<8>().map(u64::from_ne_bytes)?));
        let file = self.create(&name, OFlags::WRONLY)?;
        Ok((
            file,
            Draft {
                place: self,
                name,
                keep: false,
            },
        ))
    }

    fn create(&self, name: &OsStr, access: OFlags) -> io::Result<File> {
        let flags = access | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(openat(&self.folder, name, flags, PRIVATE)?))
    }

    /// Shows that the folder takes files: with one that has no name and leaves no trace, or, where
    /// the file system has no such files, with a draft.
    pub fn try_folder(&self) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        match openat(&self.folder, ".", flags, PRIVATE) {
            Ok(_) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => self.draft().map(drop),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Opens the file, or makes it, to write at its end.
    pub fn open_to_append(&self) -> Result<File, Unfit> {
        self.open_or_create(OFlags::WRONLY | OFlags::APPEND)
    }

    /// Opens the file, or makes it, to lock it, and to read and write what it says.
    pub fn open_to_lock(&self) -> Result<File, Unfit> {
        self.open_or_create(OFlags::RDWR)
    }

    /// Opens the file to read it; `None` where there is none.
    pub fn open_to_read(&self) -> Result<Option<File>, Unfit> {
        self.open(OFlags::RDONLY)
    }

    fn open_or_create(&self, access: OFlags) -> Result<File, Unfit> {
        // Not made and opened in one: the kernel (fs.protected_regular, protected_fifos) would
        // refuse files of others before it can be said what they are.
        for _ in 0..ATTEMPTS {
            if let Some(file) = self.open(access)? {
                return Ok(file);
            }
            match self.create(&self.name, access) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => {
                    return result.map_err(|error| Unfit::new(error.to_string(), ANOTHER_FOLDER));
                }
            }
        }
        let cause = "somebody makes and removes it again and again";
        Err(Unfit::new(cause, ANOTHER_FILE))
    }

    fn open(&self, access: OFlags) -> Result<Option<File>, Unfit> {
        // The open of a pipe would wait for its other end.
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = match openat(&self.folder, &self.name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.refused(errno)),
        };
        let stat = fstat(&fd).map_err(|errno| self.refused(errno))?;
        if stat.st_nlink == 0 {
            return Ok(None); // removed just now
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::RegularFile {
            return Err(Unfit::in_the_way(kind));
        }
        match way::Trust::of_this_process().against_file(&stat) {
            Some(why) => Err(Unfit::new(why, ANOTHER_FILE)),
            None => Ok(Some(File::from(fd))),
        }
    }

    /// What there is says more than that it cannot be opened.
    fn refused(&self, errno: Errno) -> Unfit {
        match self.kind() {
            Ok(Some(kind)) if kind != FileType::RegularFile => Unfit::in_the_way(kind),
            _ => Unfit::new(io::Error::from(errno).to_string(), ANOTHER_FOLDER),
        }
    }

    /// Whether an open file is the one that is there now.
    pub fn holds(&self, file: &File) -> bool {
        let there = statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        match (fstat(file), there) {
            (Ok(ours), Ok(there)) => (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino),
            _ => false,
        }
    }

    /// Takes the file away; that there is none is fine.
    pub fn remove(&self) -> io::Result<()> {
        match unlinkat(&self.folder, &self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Renames what is here over what is in another place.
    pub fn move_to(&self, other: &Place) -> io::Result<()> {
        Ok(renameat(
            &self.folder,
            &self.name,
            &other.folder,
            &other.name,
        )?)
    }
}

/// How to open what may be anything: a pipe would have us wait for its other end.
fn flags(access: OFlags) -> OFlags {
    access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC
}

/// A file beside its target; removed when dropped.
#[derive(Debug)]
pub struct Draft<'a> {
    place: &'a Place,
    name: OsString,
    /// Published, or all that there is of it.
    keep: bool,
}

impl Draft<'_> {
    /// Renames it over its target. Where that cannot be done, it stays where it is.
    pub fn publish(&mut self) -> io::Result<()> {
        self.keep = true;
        let Place { folder, name, .. } = self.place;
        renameat(folder, &self.name, folder, name).map_err(|errno| {
            let name = self.name.to_string_lossy();
            io::Error::other(format!(
                "{}; what was written is beside it, in {name}",
                io::Error::from(errno)
            ))
        })
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.keep {
            // on the way out of an error
            let _ = unlinkat(&self.place.folder, &self.name, AtFlags::empty());
        }
    }
}
