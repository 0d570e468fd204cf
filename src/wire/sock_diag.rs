//! Which sockets there are: questions to sock_diag and its answers (include/uapi/linux/sock_diag.h,
//! include/uapi/linux/inet_diag.h; net/ipv4/{inet,tcp,udp,raw}_diag.c).
//!
//! An exact question names both ends of a socket. TCP's is asked as the socket has its ends and finds
//! the connection, else the listener that would take it. UDP's is asked from the other side ("src and
//! dst are swapped for historical reasons", udp_diag.c) and finds what would take a datagram: the
//! connected socket, else the unconnected one.

use super::conntrack::Tuple;
use super::kernel::{
    AF_INET, AF_INET6, INET_DIAG_NOCOOKIE, IPPROTO_RAW, IPPROTO_UDP, IPPROTO_UDPLITE, NLM_F_DUMP,
    NLM_F_REQUEST, SOCK_DIAG_BY_FAMILY, TCP_LISTEN,
};
use super::message::Message;
use super::probe::unmapped;
use super::request::Request;

/// One socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Whether the socket is of family AF_INET6; its ends may be IPv4 all the same.
    pub ipv6: bool,
    /// Protocol (IPPROTO_*).
    pub proto: u8,
    /// State, by the numbers of TCP; what is not TCP is TCP_ESTABLISHED (connected) or TCP_CLOSE.
    pub state: u8,
    /// Its ends, source local, all zero where it is any; IPv4-mapped addresses are IPv4. Raw sockets
    /// have no ports; an ICMP socket's local port is its id.
    pub ends: Tuple,
    /// The kernel's own name of the socket; zero where the source does not tell.
    pub cookie: u64,
    /// The user that made it.
    pub uid: u32,
    /// The number that /proc/PID/fd shows; zero where no process has or had it.
    pub inode: u32,
    /// The index of the interface that it is bound to, or zero.
    pub interface: u32,
}

impl Socket {
    /// Whether it waits for connections, or takes datagrams from anybody.
    pub fn is_open_to_all(&self) -> bool {
        self.state == TCP_LISTEN || (self.ends.dst == [0; 16] && self.ends.dport == 0)
    }

    /// Whether it can be the local end of a flow, `ends` being as that end sends: the socket's
    /// addresses and ports agree wherever the socket has any.
    pub fn takes(&self, ends: &Tuple) -> bool {
        let fits = |own: &[u8; 16], of_flow: &[u8; 16]| own == &[0; 16] || own == of_flow;
        let any = self.ends.src == [0; 16] && self.ends.dst == [0; 16];
        // Any IPv6 address is any IPv4 address too, unless the socket is for IPv6 alone, which is not
        // told here: the kernel has chosen by it already.
        let same_family = self.ends.ipv6 == ends.ipv6 || (any && self.ipv6 && !ends.ipv6);
        same_family
            && self.proto == ends.proto
            && fits(&self.ends.src, &ends.src)
            && fits(&self.ends.dst, &ends.dst)
            && self.ends.sport == ends.sport
            && (self.ends.dport == 0 || self.ends.dport == ends.dport)
    }
}

/// The state mask of all states but these.
pub fn all_states_but(states: &[u8]) -> u32 {
    states.iter().fold(u32::MAX, |mask, state| {
        mask & !1u32.checked_shl(u32::from(*state)).unwrap_or(0)
    })
}

/// Asks for all sockets of a family and protocol whose state is in the mask (1 << state), and of one
/// local port (for raw sockets: of one protocol) where that is not zero. IPPROTO_RAW asks for raw
/// sockets of all protocols. The kernel may load the module that knows.
pub fn dump_request(sequence: u32, ipv6: bool, proto: u8, states: u32, port: u16) -> Request {
    let ends = Tuple {
        ipv6,
        proto,
        sport: port,
        ..Tuple::default()
    };
    request(NLM_F_REQUEST | NLM_F_DUMP, sequence, &ends, states, 0)
}

/// Asks for the socket with these ends (source local); all zero at the remote end asks for a listener.
/// A socket that is bound to an interface is found only where `interface` names it. The answer is one
/// message, or the error ENOENT.
pub fn exact_request(sequence: u32, ends: &Tuple, interface: u32) -> Request {
    let asked = match ends.proto {
        IPPROTO_UDP | IPPROTO_UDPLITE => Tuple {
            src: ends.dst,
            dst: ends.src,
            sport: ends.dport,
            dport: ends.sport,
            ..*ends
        },
        _ => *ends,
    };
    request(NLM_F_REQUEST, sequence, &asked, u32::MAX, interface)
}

fn request(flags: u16, sequence: u32, ends: &Tuple, states: u32, interface: u32) -> Request {
    let mut body = Vec::with_capacity(REQUEST_LEN);
    body.push(if ends.ipv6 { AF_INET6 } else { AF_INET }); // sdiag_family
    body.push(ends.proto); //                          sdiag_protocol
    body.push(0); //                                   idiag_ext: no further attributes
    body.push(0); //                                   pad
    body.extend(states.to_ne_bytes()); //              idiag_states
    body.extend(ends.sport.to_be_bytes()); //          idiag_sport
    body.extend(ends.dport.to_be_bytes()); //          idiag_dport
    body.extend(ends.src); //                          idiag_src
    body.extend(ends.dst); //                          idiag_dst
    body.extend(interface.to_ne_bytes()); //           idiag_if
    body.extend(INET_DIAG_NOCOOKIE.to_ne_bytes()); //  idiag_cookie
    body.extend(INET_DIAG_NOCOOKIE.to_ne_bytes());
    Request::plain(SOCK_DIAG_BY_FAMILY, flags, sequence, &body)
}

const REQUEST_LEN: usize = 56;

/// Reads an answer (`struct inet_diag_msg`) to a question about `proto`, which it does not repeat.
/// `None` where it is none, or too short. A raw socket's protocol stands where others have their port.
pub fn parse(message: &Message<'_>, proto: u8) -> Option<Socket> {
    if message.kind != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let body = message.body;
    let [family, state, _timer, _retrans] = at(body, 0)?;
    let ipv6 = match family {
        AF_INET => false,
        AF_INET6 => true,
        _ => return None,
    };
    let [c0, c1, c2, c3, c4, c5, c6, c7] = at(body, 44)?;
    let cookie_low = u32::from_ne_bytes([c0, c1, c2, c3]);
    let cookie_high = u32::from_ne_bytes([c4, c5, c6, c7]);
    let mut ends = Tuple {
        ipv6,
        proto,
        src: address(ipv6, at(body, 8)?),
        dst: address(ipv6, at(body, 24)?),
        sport: u16::from_be_bytes(at(body, 4)?),
        dport: u16::from_be_bytes(at(body, 6)?),
    };
    if proto == IPPROTO_RAW {
        ends.proto = u8::try_from(ends.sport).unwrap_or(IPPROTO_RAW);
        (ends.sport, ends.dport) = (0, 0);
    }
    Some(Socket {
        ipv6,
        proto: ends.proto,
        state,
        ends: unmapped(ends),
        cookie: (u64::from(cookie_high) << 32) | u64::from(cookie_low),
        uid: u32::from_ne_bytes(at(body, 64)?),
        inode: u32::from_ne_bytes(at(body, 68)?),
        interface: u32::from_ne_bytes(at(body, 40)?),
    })
}

/// Kernels before 4.2 leave what they do not use of an IPv4 address as it is.
fn address(ipv6: bool, address: [u8; 16]) -> [u8; 16] {
    if ipv6 {
        return address;
    }
    let [a, b, c, d, ..] = address;
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::super::kernel::{IPPROTO_ICMP, IPPROTO_TCP, TCP_ESTABLISHED};
    use super::super::message::Messages;
    use super::*;

    fn v4(address: [u8; 4]) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&address);
        bytes
    }

    fn answer(family: u8, state: u8, sport: u16, src: [u8; 16], dport: u16) -> Vec<u8> {
        let mut bytes = vec![family, state, 0, 0]; // idiag_family, _state, _timer, _retrans
        bytes.extend(sport.to_be_bytes()); //         idiag_sport
        bytes.extend(dport.to_be_bytes()); //         idiag_dport
        bytes.extend(src); //                         idiag_src
        bytes.extend(v4([198, 51, 100, 80])); //      idiag_dst
        bytes.extend(3u32.to_ne_bytes()); //          idiag_if
        bytes.extend(0x11u32.to_ne_bytes()); //       idiag_cookie
        bytes.extend(0x22u32.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes()); //          idiag_expires
        bytes.extend(0u32.to_ne_bytes()); //          idiag_rqueue
        bytes.extend(0u32.to_ne_bytes()); //          idiag_wqueue
        bytes.extend(1000u32.to_ne_bytes()); //       idiag_uid
        bytes.extend(4711u32.to_ne_bytes()); //       idiag_inode
        bytes
    }

    fn read(body: &[u8], proto: u8) -> Option<Socket> {
        let message = Message {
            kind: SOCK_DIAG_BY_FAMILY,
            flags: 0,
            body,
        };
        parse(&message, proto)
    }

    #[test]
    fn a_socket_is_read_and_anything_shorter_is_not() {
        let bytes = answer(AF_INET, TCP_ESTABLISHED, 40000, v4([10, 0, 0, 1]), 443);
        assert_eq!(bytes.len(), 72);
        let socket = read(&bytes, IPPROTO_TCP).unwrap();
        let ends = Tuple {
            ipv6: false,
            proto: IPPROTO_TCP,
            src: v4([10, 0, 0, 1]),
            dst: v4([198, 51, 100, 80]),
            sport: 40000,
            dport: 443,
        };
        assert_eq!(
            socket,
            Socket {
                ipv6: false,
                proto: IPPROTO_TCP,
                state: TCP_ESTABLISHED,
                ends,
                cookie: 0x22_0000_0011,
                uid: 1000,
                inode: 4711,
                interface: 3,
            }
        );
        for len in 0..bytes.len() {
            assert_eq!(read(&bytes[..len], IPPROTO_TCP), None);
        }
        assert!(socket.takes(&ends) && !socket.is_open_to_all());
        assert!(!socket.takes(&Tuple {
            sport: 40001,
            ..ends
        }));
        assert!(!socket.takes(&ends.inverse()));
    }

    #[test]
    fn unknown_families_and_messages_are_refused() {
        assert_eq!(read(&answer(1, 1, 1, [0; 16], 1), IPPROTO_TCP), None);
        let body = answer(AF_INET, 1, 1, [0; 16], 1);
        let message = Message {
            kind: 3,
            flags: 0,
            body: &body,
        };
        assert_eq!(parse(&message, IPPROTO_TCP), None);
    }

    #[test]
    fn a_raw_socket_tells_its_protocol_in_the_port() {
        let bytes = answer(AF_INET, 7, 1, [0; 16], 0);
        let socket = read(&bytes, IPPROTO_RAW).unwrap();
        assert_eq!((socket.proto, socket.ends.sport), (IPPROTO_ICMP, 0));
    }

    #[test]
    fn any_ipv6_takes_ipv4() {
        let mut bytes = answer(AF_INET6, TCP_LISTEN, 80, [0; 16], 0);
        bytes[24..40].fill(0);
        let socket = read(&bytes, IPPROTO_TCP).unwrap();
        let ends = Tuple {
            proto: IPPROTO_TCP,
            src: v4([10, 0, 0, 1]),
            dst: v4([10, 0, 0, 2]),
            sport: 80,
            dport: 40000,
            ..Tuple::default()
        };
        assert!(socket.is_open_to_all() && socket.takes(&ends));
    }

    #[test]
    fn udp_is_asked_from_the_other_side() {
        let ends = Tuple {
            src: v4([10, 0, 0, 1]),
            dst: v4([10, 0, 0, 2]),
            sport: 0x0102,
            dport: 0x0304,
            ..Tuple::default()
        };
        let body = |proto| {
            let request = exact_request(1, &Tuple { proto, ..ends }, 9);
            let message = Messages::new(request.bytes()).next().unwrap().unwrap();
            assert_eq!((message.kind, message.flags), (20, 1));
            assert_eq!(message.body.len(), REQUEST_LEN);
            message.body.to_vec()
        };
        let tcp = body(IPPROTO_TCP);
        assert_eq!(tcp[..4], [AF_INET, IPPROTO_TCP, 0, 0]); // family, protocol, ext, pad
        assert_eq!(tcp[8..12], [1, 2, 3, 4]); //               ports, in network order
        assert_eq!(tcp[12..16], [10, 0, 0, 1]); //             idiag_src
        assert_eq!(tcp[28..32], [10, 0, 0, 2]); //             idiag_dst
        assert_eq!(tcp[44..48], 9u32.to_ne_bytes()); //        idiag_if
        assert_eq!(tcp[48..56], [0xff; 8]); //                 idiag_cookie
        let udp = body(IPPROTO_UDP);
        assert_eq!(udp[8..12], [3, 4, 1, 2]);
        assert_eq!((udp[15], udp[31]), (2, 1));
    }

    #[test]
    fn a_dump_names_its_states() {
        let request = dump_request(5, true, IPPROTO_TCP, all_states_but(&[6, 3]), 80);
        let message = Messages::new(request.bytes()).next().unwrap().unwrap();
        assert_eq!((message.kind, message.flags), (20, 0x301));
        assert_eq!(message.body[0], AF_INET6);
        let states = u32::from_ne_bytes(message.body[4..8].try_into().unwrap());
        assert_eq!(states, !0b100_1000);
        assert_eq!(message.body[8..10], [0, 80]);
    }
}
