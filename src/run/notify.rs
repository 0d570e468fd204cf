//! What systemd wants to hear (sd_notify(3)): that the start succeeded, that we live, that we end.

use crate::features;
use crate::limits::NOTIFY_MESSAGE_LEN;
use crate::sys::process::Told;
use std::fmt;
use std::io::{Cursor, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The line to whoever started us and wants to be told; silent where nobody does.
#[derive(Debug, Default)]
pub struct Notify {
    line: Option<(features::Daemon, UnixDatagram, SocketAddr)>,
    /// How often we must say that we live, if so: twice in the time that is given.
    pub interval: Option<Duration>,
}

impl Notify {
    /// By what the environment said.
    pub fn open(built: features::Daemon, told: &Told) -> Notify {
        let Some(name) = &told.notify_socket else {
            return Notify::default();
        };
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            _ => SocketAddr::from_pathname(name),
        };
        let socket = UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok((built, socket, address?))
        });
        Notify {
            line: socket.ok(),
            interval: told.watchdog.map(|time| time / 2),
        }
    }

    /// Says something; that nobody listens is no fault of ours.
    pub fn say(&self, message: fmt::Arguments<'_>) {
        if let Some((_, socket, address)) = &self.line {
            let mut datagram = Cursor::new([0u8; NOTIFY_MESSAGE_LEN]);
            let _ = datagram.write_fmt(message); // what fits
            let len = datagram.position() as usize;
            let _ = socket.send_to_addr(&datagram.get_ref()[..len], address);
        }
    }
}
