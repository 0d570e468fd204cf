//! One instance per network namespace: an abstract Unix socket is a lock that belongs to the
//! namespace, leaves no file behind, and goes when its process does.

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
    sockopt,
};
use std::io;
use std::os::fd::OwnedFd;

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

/// Takes the name, or says who holds it.
pub fn acquire() -> io::Result<Result<Instance, Holder>> {
    let address = SocketAddrUnix::new_abstract_name(NAME)?;
    let socket = new_socket()?;
    match bind(&socket, &address) {
        Ok(()) => {
            listen(&socket, 1)?;
            Ok(Ok(Instance { _socket: socket }))
        }
        Err(rustix::io::Errno::ADDRINUSE) => holder(&address).map(Err),
        Err(errno) => Err(errno.into()),
    }
}

fn holder(address: &SocketAddrUnix) -> io::Result<Holder> {
    let socket = new_socket()?;
    connect(&socket, address)?;
    let credentials = sockopt::socket_peercred(&socket)?;
    Ok(Holder {
        pid: credentials.pid.as_raw_nonzero().get().unsigned_abs(),
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
