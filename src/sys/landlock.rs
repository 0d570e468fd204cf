//! Where this process may still change files (landlock(7), Linux 5.13): beneath a few places, in the
//! ways that it needs there. What it may read is not limited.

use rustix::fs::{Mode, OFlags, open};
use std::io;
use std::ops::BitOr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

/// What may be done with files, by the kernel's bits (LANDLOCK_ACCESS_FS_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights(u64);

impl Rights {
    /// Writing to files that are there.
    pub const WRITE: Rights = Rights(1 << 1 | 1 << 14); // WRITE_FILE, TRUNCATE
    /// Removing files.
    pub const REMOVE: Rights = Rights(1 << 5); // REMOVE_FILE
    /// Making plain files.
    pub const MAKE: Rights = Rights(1 << 8); // MAKE_REG
}

impl BitOr for Rights {
    type Output = Rights;
    fn bitor(self, other: Rights) -> Rights {
        Rights(self.0 | other.0)
    }
}

/// All that has to do with change, or with running programs, in the order of the kernel's versions of
/// this interface: 1 (Linux 5.13) to 7, of which 2, 3 and 5 have brought one right each.
fn handled(version: libc::c_long) -> u64 {
    const EXECUTE: u64 = 1 << 0;
    const WRITE_FILE: u64 = 1 << 1;
    const REMOVE_DIR_TO_MAKE_SYM: u64 = 0x1ff0; // bits 4 to 12
    const REFER: u64 = 1 << 13;
    const TRUNCATE: u64 = 1 << 14;
    const IOCTL_DEV: u64 = 1 << 15;
    let first = EXECUTE | WRITE_FILE | REMOVE_DIR_TO_MAKE_SYM;
    match version {
        ..=1 => first,
        2 => first | REFER,
        3 | 4 => first | REFER | TRUNCATE,
        _ => first | REFER | TRUNCATE | IOCTL_DEV,
    }
}

/// struct landlock_path_beneath_attr
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: RawFd,
}

/// Restricts this process for good. A place that is not there is left out. Needs no_new_privs.
///
/// Returns descriptors of the places. While they are open the kernel cannot forget who a place is: in
/// /proc, what is forgotten comes back as something new, to which the right does not belong.
pub fn restrict(places: &[(&Path, Rights)]) -> io::Result<Vec<OwnedFd>> {
    const RULE_PATH_BENEATH: libc::c_int = 1;
    const CREATE_RULESET_VERSION: u32 = 1;
    let nothing = std::ptr::null::<u64>();
    // SAFETY: with this flag the kernel reads nothing.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            nothing,
            0usize,
            CREATE_RULESET_VERSION,
        )
    };
    if version < 0 {
        return Err(io::Error::last_os_error());
    }
    let handled = handled(version);
    // SAFETY: the kernel reads the first field of struct landlock_ruleset_attr, and makes a descriptor.
    let ruleset = unsafe {
        let fd = libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const handled,
            size_of::<u64>(),
            0u32,
        );
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd as RawFd)
    };
    let mut held = Vec::new();
    for (place, rights) in places {
        let Ok(place) = open(*place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else {
            continue;
        };
        let beneath = PathBeneath {
            allowed_access: rights.0 & handled,
            parent_fd: place.as_raw_fd(),
        };
        // SAFETY: the kernel reads the rule, and the descriptors are open.
        checked(unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                ruleset.as_raw_fd(),
                RULE_PATH_BENEATH,
                &raw const beneath,
                0u32,
            )
        })?;
        held.push(place);
    }
    // SAFETY: the descriptor is open.
    checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) })?;
    Ok(held)
}

fn checked(result: libc::c_long) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_what_it_knows() {
        assert_eq!(handled(1), 0x1ff3); // bits 0 to 12 without reading (2 and 3)
        assert_eq!(handled(2), 0x3ff3);
        assert_eq!(handled(4), 0x7ff3);
        assert_eq!(handled(7), 0xfff3);
        let all = Rights::WRITE | Rights::REMOVE | Rights::MAKE;
        assert_eq!(all.0, 0x4122);
        assert_eq!(all.0 & !handled(7), 0, "what is allowed is handled");
    }
}
