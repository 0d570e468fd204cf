//! Lines of /proc/net/{tcp,udp,raw,icmp}{,6}: sockets, where there is no sock_diag for them
//! (net/ipv4/tcp_ipv4.c get_tcp4_sock, net/ipv4/{udp,raw,ping}.c, net/ipv6/datagram.c
//! __ip6_dgram_sock_seq_show).
//!
//! The columns: number, local and remote address as ADDRESS:PORT in hex, state, queues, timer,
//! retransmits, uid, timeout, inode. An address is one 32-bit number, or four, as the machine reads
//! them from memory; a port is a number. A raw socket has its protocol for a local port.

use super::conntrack::Tuple;
use super::kernel::{IPPROTO_RAW, TCP_CLOSE};
use super::probe::unmapped;
use super::sock_diag::Socket;

/// Reads a line of the file of `proto` (IPPROTO_RAW: of raw sockets). `None` where it is the heading,
/// or broken.
pub fn parse(line: &[u8], ipv6: bool, proto: u8) -> Option<Socket> {
    let mut fields = line
        .split(|byte| *byte == b' ')
        .filter(|field| !field.is_empty());
    let (src, sport) = end(fields.nth(1)?, ipv6)?;
    let (dst, dport) = end(fields.next()?, ipv6)?;
    let state = u8::try_from(hex(fields.next()?)?).ok()?;
    let uid = decimal(fields.nth(3)?)?; // skips queues, timer, retransmits
    let inode = decimal(fields.nth(1)?)?; // skips timeout
    let mut ends = Tuple {
        ipv6,
        proto,
        src,
        dst,
        sport,
        dport,
    };
    if proto == IPPROTO_RAW {
        ends.proto = u8::try_from(sport).ok()?;
        (ends.sport, ends.dport) = (0, 0);
    }
    Some(Socket {
        ipv6,
        proto: ends.proto,
        state: if state == 0 { TCP_CLOSE } else { state },
        ends: unmapped(ends),
        cookie: 0,
        uid,
        inode,
        interface: 0,
    })
}

fn end(field: &[u8], ipv6: bool) -> Option<([u8; 16], u16)> {
    let colon = field.iter().position(|byte| *byte == b':')?;
    let (digits, port) = field.split_at_checked(colon)?;
    let words = if ipv6 { 4 } else { 1 };
    if digits.len() != 8usize.checked_mul(words)? {
        return None;
    }
    let mut address = [0; 16];
    for (room, word) in address.chunks_exact_mut(4).zip(digits.chunks_exact(8)) {
        room.copy_from_slice(&hex(word)?.to_ne_bytes());
    }
    let port = u16::try_from(hex(port.get(1..)?)?).ok()?;
    Some((address, port))
}

fn hex(field: &[u8]) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(field).ok()?, 16).ok()
}

fn decimal(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::kernel::{IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, TCP_LISTEN};
    use super::*;

    /// As this machine prints an address that it has in memory in network byte order.
    fn word(bytes: [u8; 4]) -> String {
        format!("{:08X}", u32::from_ne_bytes(bytes))
    }

    #[test]
    fn a_listener_and_the_heading() {
        let line = format!(
            "   0: {}:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 14817 1 0000000000000000 100 0 0 10 0",
            word([127, 0, 0, 1])
        );
        let socket = parse(line.as_bytes(), false, IPPROTO_TCP).unwrap();
        assert_eq!(
            (socket.state, socket.uid, socket.inode),
            (TCP_LISTEN, 1000, 14817)
        );
        assert_eq!(
            (&socket.ends.src[..4], socket.ends.sport),
            (&[127, 0, 0, 1][..], 22)
        );
        assert!(socket.is_open_to_all());
        let heading = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert_eq!(parse(heading, false, IPPROTO_TCP), None);
        assert_eq!(parse(b"", false, IPPROTO_TCP), None);
        for len in 0..line.len() {
            parse(&line.as_bytes()[..len], false, IPPROTO_TCP);
        }
    }

    #[test]
    fn ipv6_and_mapped() {
        let line = |src: String, dst: String| {
            let line = format!(
                " 1234: {src}:14E9 {dst}:0035 01 00000000:00000000 00:00000000 00000000 65534        0 99 2 0000000000000000 0"
            );
            parse(line.as_bytes(), true, IPPROTO_UDP).unwrap()
        };
        let wide = |words: [[u8; 4]; 4]| words.map(word).concat();
        let zero = [0; 4];
        let socket = line(
            wide([[0x20, 1, 0xd, 0xb8], zero, zero, [0, 0, 0, 1]]),
            wide([[0x20, 1, 0xd, 0xb8], zero, zero, [0, 0, 0, 2]]),
        );
        assert_eq!(socket.ends.src[..4], [0x20, 1, 0xd, 0xb8]);
        assert_eq!((socket.ends.src[15], socket.ends.dst[15]), (1, 2));
        assert_eq!((socket.ends.sport, socket.ends.dport), (5353, 53));
        let mapped = |last| wide([zero, zero, [0, 0, 0xff, 0xff], last]);
        let socket = line(mapped([10, 0, 0, 1]), mapped([10, 0, 0, 2]));
        assert!(socket.ipv6 && !socket.ends.ipv6);
        assert_eq!(socket.ends.dst[..4], [10, 0, 0, 2]);
    }

    #[test]
    fn a_raw_socket_has_a_protocol_for_a_port() {
        let line = b"   1: 00000000:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1337 2 0000000000000000 0";
        let socket = parse(line, false, IPPROTO_RAW).unwrap();
        assert_eq!((socket.proto, socket.ends.sport), (IPPROTO_ICMP, 0));
        let ping = parse(line, false, IPPROTO_ICMP).unwrap();
        assert_eq!((ping.proto, ping.ends.sport), (IPPROTO_ICMP, 1));
    }
}
