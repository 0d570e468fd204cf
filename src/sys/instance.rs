//! One instance per network namespace: an abstract Unix socket is a lock that belongs to the
//! namespace, leaves no file behind, and goes when its process does.

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
    sockopt,
};
use rustix::process::{Pid, test_kill_process};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

const NAME: &[u8] = b"conntracker";

/// Held for as long as this instance runs.
#[derive(Debug)]
pub struct Instance {
    _socket: OwnedFd,
}

/// Who holds the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process id, as seen from our pid namespace; 0 from outside of it.
    pub pid: u32,
    /// User id.
    pub uid: u32,
}

/// Takes the name, or says who holds it. A holder that is dead is waited for: a child of it, between
/// fork and exec, may hold its socket for a moment longer.
pub fn acquire() -> io::Result<Result<Instance, Holder>> {
    let address = SocketAddrUnix::new_abstract_name(NAME)?;
    let mut patience = 100;
    loop {
        let socket = new_socket()?;
        match bind(&socket, &address) {
            Ok(()) => {
                listen(&socket, 1)?;
                return Ok(Ok(Instance { _socket: socket }));
            }
            Err(rustix::io::Errno::ADDRINUSE) => {}
            Err(errno) => return Err(errno.into()),
        }
        match holder(&address) {
            Ok(holder) if patience == 0 || is_alive(holder.pid) => return Ok(Err(holder)),
            Err(error) if patience == 0 => return Err(error),
            _ => patience -= 1, // dead, or gone between the two calls
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// 0 is a process outside of our pid namespace: of that we only know that it holds the name.
fn is_alive(pid: u32) -> bool {
    match i32::try_from(pid).ok().and_then(Pid::from_raw) {
        Some(pid) => test_kill_process(pid) != Err(rustix::io::Errno::SRCH),
        None => true,
    }
}

fn holder(address: &SocketAddrUnix) -> io::Result<Holder> {
    let socket = new_socket()?;
    connect(&socket, address)?;
    let credentials = sockopt::socket_peercred(&socket)?;
    Ok(Holder {
        pid: Pid::as_raw(Some(credentials.pid)).unsigned_abs(),
        uid: credentials.uid.as_raw(),
    })
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        flags,
        None,
    )?)
}
