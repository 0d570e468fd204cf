//! What machine and kernel this is.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Physical memory in bytes, or what one thing in a program can take of it: with 32 bits that may be less.
pub fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    let memory = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
    memory.min(isize::MAX as u64)
}

/// Whether we may do what root may.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The kernel's release, e.g. "6.1.0-32-amd64".
pub fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// The processor, as the kernel calls it, e.g. "x86_64".
pub fn architecture() -> String {
    rustix::system::uname()
        .machine()
        .to_string_lossy()
        .into_owned()
}

/// Whether the kernel is of this version or a later one.
pub fn is_linux(major: u32, minor: u32) -> bool {
    let release = kernel_release();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().ok());
    let version = (numbers.next().flatten(), numbers.next().flatten());
    version >= (Some(major), Some(minor))
}

/// Whether the kernel may take the processor from a task that is inside it: it was built so that it
/// can, though a setting may say that it does not.
pub fn is_preemptible() -> bool {
    let name = rustix::system::uname();
    name.version().to_string_lossy().contains("PREEMPT")
}

/// A kernel setting under /proc/sys, by its dotted name; `None` where this kernel has no such.
pub fn sysctl(name: &str) -> Option<String> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    fs::read_to_string(path)
        .ok()
        .map(|value| value.trim().to_owned())
}

/// The inode number of our network namespace, which names it.
pub fn own_netns() -> Option<u64> {
    let namespace = fs::metadata("/proc/self/ns/net").ok()?;
    Some(namespace.ino())
}

/// Random bytes from the kernel.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(filled) if filled == N => {}
        Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
        // Before Linux 3.17.
        Err(rustix::io::Errno::NOSYS) => File::open("/dev/urandom")?.read_exact(&mut bytes)?,
        Err(errno) => return Err(errno.into()),
    }
    Ok(bytes)
}

/// Whether nf_tables is in this kernel now: loaded, or built in.
pub fn has_nf_tables() -> bool {
    super::modules::NF_TABLES.is_there()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_is_not_of_the_future() {
        assert!(is_linux(3, 0) && is_linux(4, 4));
        assert!(!is_linux(99, 0));
    }
}
