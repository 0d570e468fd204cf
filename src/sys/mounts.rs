//! File systems of the kernel that may not be mounted where we are, or nowhere: taken without
//! anybody else seeing a mount.

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, fsconfig_create,
    fsmount, fsopen, mount, mount_change,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The root of the version 2 control groups, `None` where nobody uses them: a mount of theirs would
/// take controllers from version 1. It is reached by a mount that lies nowhere, as it may not be
/// visible here: `ip netns exec` puts a new /sys over it.
pub fn control_groups() -> io::Result<Option<OwnedFd>> {
    if !has_control_groups() {
        return Ok(None);
    }
    let context = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let mounted = fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Some(openat(&mounted, ".", flags, Mode::empty())?))
}

/// Whether somebody uses the version 2 control groups.
pub fn has_control_groups() -> bool {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    groups.lines().any(|line| line.starts_with("0::"))
}

/// Where libbpf looks for tracefs first: there it lies in debugfs, which mounts it there, for everybody
/// to see, as soon as somebody looks inside.
const IN_DEBUGFS: &str = "/sys/kernel/debug/tracing";
/// And where that is not.
const TRACEFS: &str = "/sys/kernel/tracing";

/// Where tracefs is mounted already.
pub fn tracefs() -> Option<PathBuf> {
    [IN_DEBUGFS, TRACEFS]
        .into_iter()
        .find(|place| is_mounted("tracefs", place))
        .map(PathBuf::from)
}

/// Sees to it that tracefs is mounted where libbpf takes it from, and returns that place. Where it was
/// not, it is for this thread, and what is started from it, alone: what others mount still comes to us,
/// and ours goes to nobody. Lasts until the process ends.
pub fn open_tracefs() -> io::Result<PathBuf> {
    if is_mounted("tracefs", IN_DEBUGFS) {
        return Ok(IN_DEBUGFS.into());
    }
    let has_debugfs = is_mounted("debugfs", "/sys/kernel/debug");
    if has_debugfs || !is_mounted("tracefs", TRACEFS) {
        keep_mounts_to_us()?;
    }
    if has_debugfs && Path::new(IN_DEBUGFS).exists() {
        return Ok(IN_DEBUGFS.into());
    }
    if !is_mounted("tracefs", TRACEFS) {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("tracefs", TRACEFS, "tracefs", flags, None)?;
    }
    Ok(TRACEFS.into())
}

fn keep_mounts_to_us() -> io::Result<()> {
    // SAFETY: without CLONE_FILES no descriptor changes hands.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    let propagation = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(mount_change("/", propagation)?)
}

/// Asks the list of what is mounted, which mounts nothing.
fn is_mounted(kind: &str, place: &str) -> bool {
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap_or_default();
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        (fields.next(), fields.next()) == (Some(place), Some(kind))
    })
}
