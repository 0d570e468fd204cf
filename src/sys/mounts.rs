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
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if !groups.lines().any(|line| line.starts_with("0::")) {
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

/// Where tracefs is mounted, for us to see.
pub fn tracefs() -> Option<PathBuf> {
    let places = ["/sys/kernel/debug/tracing", "/sys/kernel/tracing"];
    let mut places = places.into_iter().map(PathBuf::from);
    places.find(|place| place.join("trace_pipe").exists() || place.join("events").exists())
}

/// Mounts tracefs for this thread, and what is started from it, alone: what others mount still comes
/// to us, and ours goes to nobody. Lasts until the process ends.
pub fn mount_tracefs() -> io::Result<()> {
    // SAFETY: without CLONE_FILES no descriptor changes hands.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    let propagation = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", propagation)?;
    let place = Path::new("/sys/kernel/tracing");
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tracefs", place, "tracefs", flags, None)?;
    Ok(())
}
