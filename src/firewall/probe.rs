//! Is conntrack active in this namespace? It tracks nothing until some rule refers to it, and no
//! kernel interface that all kernels have tells; so one datagram over loopback asks it directly.
//! The entry that proves it is removed again.

use crate::limits::EVENT_DATAGRAM_LEN;
use crate::sys::loopback;
use crate::sys::netlink::{Batch, Socket};
use crate::wire::conntrack::{Entry, Tuple, delete_request};
use crate::wire::kernel::{IPPROTO_UDP, NFNLGRP_CONNTRACK_NEW};
use crate::wire::message::Messages;
use std::io;
use std::net::SocketAddr;

/// Whether a loopback flow of the family was tracked. An error means that it could not be tried
/// (no loopback interface, no address of the family).
pub fn is_active(ipv6: bool) -> io::Result<bool> {
    let socket = Socket::open()?;
    socket.join(NFNLGRP_CONNTRACK_NEW)?;
    let (from, to) = loopback::send_datagram(ipv6)?;
    // The entry is confirmed, and its event queued, before the send returns.
    let mut batch = Batch::new(16, EVENT_DATAGRAM_LEN);
    loop {
        match socket.receive(&mut batch) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => continue,
            Err(error) => return Err(error),
        }
        let entries = batch
            .datagrams()
            .flat_map(|datagram| Messages::new(datagram.bytes))
            .filter_map(entry);
        if let Some(ours) = entries
            .into_iter()
            .find(|entry| is_flow(&entry.original, from, to))
        {
            if let Some(id) = ours.id {
                socket.send(delete_request(&ours.original, id, 1).bytes())?;
            }
            return Ok(true);
        }
    }
}

fn entry(
    message: Result<crate::wire::message::Message<'_>, crate::wire::attr::BrokenFraming>,
) -> Option<Entry> {
    let (_, attributes) = message.ok()?.netfilter().ok()?;
    Entry::parse(attributes).ok()
}

fn is_flow(tuple: &Tuple, from: SocketAddr, to: SocketAddr) -> bool {
    let local = if tuple.ipv6 {
        tuple.src[15] == 1
    } else {
        tuple.src[0] == 127
    };
    local
        && tuple.src == tuple.dst
        && tuple.ipv6 == from.is_ipv6()
        && (tuple.proto, tuple.sport, tuple.dport) == (IPPROTO_UDP, from.port(), to.port())
}
