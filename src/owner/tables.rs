//! The kernel's socket tables: sock_diag, and /proc/net where a kernel has no sock_diag for a protocol.

use super::exchange::{Answer, Exchange};
use super::holders::Pace;
use crate::hashing::HashMap;
use crate::limits::{SEED_SOCKETS_MAX, SHARED_PORTS_MAX, SHARED_TRUST, SHARERS_MAX};
use crate::sys::clock;
use crate::sys::netlink::Family;
use crate::wire::conntrack::Tuple;
use crate::wire::kernel::{
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_RAW, IPPROTO_TCP, IPPROTO_UDP, TCP_CLOSE_WAIT,
    TCP_ESTABLISHED, TCP_SYN_RECV, TCP_TIME_WAIT,
};
use crate::wire::proc_net;
use crate::wire::sock_diag::{Socket, all_states_but, dump_request, exact_request, parse};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::time::Duration;

/// The tables.
#[derive(Debug)]
pub struct Tables {
    exchange: Exchange,
    /// Whether sock_diag knows a protocol.
    has_diag: HashMap<u8, bool>,
    by_port: HashMap<u8, Pace>,
    /// Open UDP sockets by their port, and until when that is believed.
    shared: HashMap<u16, (Duration, Vec<Socket>)>,
    /// What /proc/net had when it was read last, for protocols that sock_diag does not know: in order
    /// of protocol and local port.
    copy: Vec<Socket>,
    copied: Pace,
}

impl Tables {
    /// Asks nothing yet.
    pub fn new() -> Tables {
        Tables {
            exchange: Exchange::new(Family::SockDiag),
            has_diag: HashMap::default(),
            by_port: HashMap::default(),
            shared: HashMap::default(),
            copy: Vec::new(),
            copied: Pace::default(),
        }
    }

    /// All sockets of a protocol (IPPROTO_RAW: all raw ones) and family, and of one local port (raw:
    /// one protocol) where `port` is not zero; not those that no process has any more or yet.
    pub fn all(&mut self, ipv6: bool, proto: u8, port: u16) -> Vec<Socket> {
        let mut sockets = Vec::new();
        if self.has_diag(proto) {
            let states = all_states_but(&[TCP_TIME_WAIT, TCP_SYN_RECV]);
            let request = dump_request(1, ipv6, proto, states, port);
            let mut take = |socket| {
                if sockets.len() < SEED_SOCKETS_MAX {
                    sockets.push(socket);
                }
            };
            // What came before an error is as true as all of it.
            let _ = self.exchange.ask(&request, Answer::Dump, &mut |message| {
                parse(message, proto).into_iter().for_each(&mut take);
            });
        } else {
            read_proc_net(ipv6, proto, &mut sockets);
            sockets.retain(|socket| match proto {
                _ if port == 0 => true,
                IPPROTO_RAW => u16::from(socket.proto) == port,
                _ => socket.ends.sport == port,
            });
        }
        sockets
    }

    /// The socket that is, or would become, the local end of a flow of TCP or UDP.
    pub fn find(&mut self, ends: &Tuple) -> Option<Socket> {
        if !self.has_diag(ends.proto) {
            return self.find_in_copy(ends);
        }
        match self.exact(ends) {
            Some(socket) if is_unaccepted(&socket) => self.exact(&Tuple {
                dst: [0; 16],
                dport: 0,
                ..*ends
            }),
            Some(socket) => Some(socket),
            None => self.find_by_port(ends),
        }
    }

    fn exact(&mut self, ends: &Tuple) -> Option<Socket> {
        let mut socket = None;
        let request = exact_request(1, ends, 0);
        let asked = self.exchange.ask(&request, Answer::One, &mut |message| {
            socket = parse(message, ends.proto);
        });
        asked.ok()?;
        socket.filter(|socket| socket.takes(ends))
    }

    /// A socket that is bound to an interface is found by its number only, which a flow does not tell.
    fn find_by_port(&mut self, ends: &Tuple) -> Option<Socket> {
        let begun = self.by_port.entry(ends.proto).or_default().begin()?;
        let mut sockets = self.all(true, ends.proto, ends.sport);
        if !ends.ipv6 {
            sockets.extend(self.all(false, ends.proto, ends.sport));
        }
        self.by_port.entry(ends.proto).or_default().end(begun);
        best(&sockets, ends)
    }

    /// The inodes of other UDP sockets that the same flow could be of: those that share a port. The
    /// kernel tells one of them, which is the one that would take the next datagram; another may have
    /// sent. Known as of the last second at best, and of longer ago where that would take too long.
    pub fn others(&mut self, socket: &Socket, ends: &Tuple) -> Vec<u32> {
        if socket.proto != IPPROTO_UDP || !socket.is_open_to_all() {
            return Vec::new();
        }
        let port = ends.sport;
        let is_known = |until: &Duration| clock::monotonic() < *until;
        if !self
            .shared
            .get(&port)
            .is_some_and(|(until, _)| is_known(until))
        {
            if let Some(begun) = self.by_port.entry(IPPROTO_UDP).or_default().begin() {
                let mut sockets = self.all(true, IPPROTO_UDP, port);
                sockets.extend(self.all(false, IPPROTO_UDP, port));
                sockets.retain(|socket| socket.is_open_to_all() && socket.inode != 0);
                sockets.truncate(SHARERS_MAX);
                self.by_port.entry(IPPROTO_UDP).or_default().end(begun);
                if self.shared.len() >= SHARED_PORTS_MAX {
                    self.shared.clear();
                }
                self.shared.insert(port, (begun + SHARED_TRUST, sockets));
            }
        }
        let known = self.shared.get(&port).map(|(_, sockets)| &sockets[..]);
        let known = known.unwrap_or_default().iter();
        known
            .filter(|other| other.inode != socket.inode && other.takes(ends))
            .map(|other| other.inode)
            .collect()
    }

    fn find_in_copy(&mut self, ends: &Tuple) -> Option<Socket> {
        let found = best(self.copy_of(ends), ends);
        if found.is_some_and(|socket| !socket.is_open_to_all()) {
            return found;
        }
        let Some(begun) = self.copied.begin() else {
            return found;
        };
        let mut sockets = Vec::new();
        for proto in [IPPROTO_TCP, IPPROTO_UDP] {
            if !self.has_diag(proto) {
                read_proc_net(false, proto, &mut sockets);
                read_proc_net(true, proto, &mut sockets);
            }
        }
        sockets.sort_unstable_by_key(|socket| (socket.proto, socket.ends.sport));
        self.copy = sockets;
        self.copied.end(begun);
        best(self.copy_of(ends), ends)
    }

    fn copy_of(&self, ends: &Tuple) -> &[Socket] {
        let key = |socket: &Socket| (socket.proto, socket.ends.sport);
        let wanted = (ends.proto, ends.sport);
        let from = self.copy.partition_point(|socket| key(socket) < wanted);
        let to = self.copy.partition_point(|socket| key(socket) <= wanted);
        &self.copy[from..to]
    }

    /// Says as if it were so that sock_diag knows no protocol.
    #[cfg(test)]
    pub fn forget_diag(&mut self) {
        for proto in [IPPROTO_TCP, IPPROTO_UDP, IPPROTO_RAW] {
            self.has_diag.insert(proto, false);
        }
    }

    /// The same error says of an exact question that there is no such socket and that there is no such
    /// module. So a question with no states comes first, once.
    fn has_diag(&mut self, proto: u8) -> bool {
        if let Some(known) = self.has_diag.get(&proto) {
            return *known;
        }
        // Ping sockets have no module.
        let has = ![IPPROTO_ICMP, IPPROTO_ICMPV6].contains(&proto)
            && self
                .exchange
                .ask(
                    &dump_request(1, false, proto, 0, 1),
                    Answer::Dump,
                    &mut |_| {},
                )
                .is_ok();
        self.has_diag.insert(proto, has);
        has
    }
}

/// A connection that nobody has accepted yet has no process. What waits for its end has none either,
/// but will not get one.
fn is_unaccepted(socket: &Socket) -> bool {
    socket.proto == IPPROTO_TCP
        && socket.inode == 0
        && [TCP_ESTABLISHED, TCP_SYN_RECV, TCP_CLOSE_WAIT].contains(&socket.state)
}

/// The socket of a list that the kernel would choose: the connected one, else the one with a local
/// address, else the one for any; none where there are two alike.
fn best(sockets: &[Socket], ends: &Tuple) -> Option<Socket> {
    let rank = |socket: &Socket| (!socket.is_open_to_all(), socket.ends.src != [0; 16]);
    let taking = || sockets.iter().filter(|socket| socket.takes(ends));
    let chosen = |is_open: bool| {
        let fitting = || taking().filter(|socket| !is_open || socket.is_open_to_all());
        let first = fitting().max_by_key(|socket| rank(socket))?;
        let mut alike = fitting().filter(|socket| rank(socket) == rank(first));
        alike
            .all(|socket| socket.inode == first.inode)
            .then_some(*first)
    };
    chosen(false).and_then(|socket| match is_unaccepted(&socket) {
        true => chosen(true),
        false => Some(socket),
    })
}

/// Reads a file of /proc/net, which this kernel may not have.
fn read_proc_net(ipv6: bool, proto: u8, sockets: &mut Vec<Socket>) {
    let name = match proto {
        IPPROTO_TCP => "tcp",
        IPPROTO_UDP => "udp",
        IPPROTO_RAW => "raw",
        IPPROTO_ICMP | IPPROTO_ICMPV6 => "icmp",
        _ => return,
    };
    let path = format!("/proc/net/{name}{}", if ipv6 { "6" } else { "" });
    let Ok(file) = File::open(path) else {
        return;
    };
    let mut lines = BufReader::with_capacity(32 << 10, file);
    let mut line = Vec::new();
    while sockets.len() < SEED_SOCKETS_MAX {
        line.clear();
        match lines.read_until(b'\n', &mut line) {
            Ok(len) if len > 0 => sockets.extend(proc_net::parse(&line, ipv6, proto)),
            _ => break,
        }
    }
}
