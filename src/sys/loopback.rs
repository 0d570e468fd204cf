//! One datagram to ourselves over the loopback interface: a flow that we know, to see whether
//! something notices it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Sends one empty UDP datagram from one local socket to another. Returns both addresses.
pub fn send_datagram(ipv6: bool) -> io::Result<(SocketAddr, SocketAddr)> {
    let any_port = if ipv6 {
        SocketAddr::from((Ipv6Addr::LOCALHOST, 0))
    } else {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    };
    let (from, to) = (UdpSocket::bind(any_port)?, UdpSocket::bind(any_port)?);
    let (from_address, to_address) = (from.local_addr()?, to.local_addr()?);
    from.set_nonblocking(true)?;
    from.send_to(&[], to_address)?;
    Ok((from_address, to_address))
}
