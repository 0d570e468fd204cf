//! A network namespace for a moment.

use rustix::fd::AsRawFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::io;
use std::mem::MaybeUninit;
use std::thread;

/// Runs `work` in a thread whose network namespace is new, has a loopback device that is up, and goes
/// when the last socket made in it does. Where the kernel has but one namespace, it runs in that.
pub fn in_new_network<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let enter = move || {
        // SAFETY: without CLONE_FILES no descriptor changes hands.
        match unsafe { unshare_unsafe(UnshareFlags::NEWNET) } {
            Ok(()) => loopback_up()?,
            Err(rustix::io::Errno::INVAL) => {} // without CONFIG_NET_NS
            Err(errno) => return Err(errno.into()),
        }
        Ok(work())
    };
    thread::scope(|scope| {
        let worker = thread::Builder::new().spawn_scoped(scope, enter)?;
        worker
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread has panicked")))
    })
}

fn loopback_up() -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all fields are integers or pointers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads a request of this kind, whole, and writes nothing.
    let result = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
