//! Which process is behind a flow, without a program in the kernel: the socket from the kernel's own
//! tables, its process from /proc. It works on any kernel, and for sockets older than we are; but it
//! sees only what is still there when it looks.

use super::holders::Holders;
use super::process::Folder;
use super::tables::Tables;
use crate::limits::{ANCESTORS_MAX, SEED_SOCKETS_MAX};
use crate::sys::clock;
use crate::wire::conntrack::Tuple;
use crate::wire::kernel::{
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_RAW, IPPROTO_TCP, IPPROTO_UDP, TCP_LISTEN,
};
use crate::wire::probe::{COMM_LEN, Moment, Record, Source, comm};
use crate::wire::sock_diag::Socket;
use std::time::Duration;

/// The process that has the netlink socket of netfilter with this port id, in our network namespace.
pub fn holder_of_port_id(port_id: u32) -> Option<u32> {
    let sockets = std::fs::read_to_string("/proc/net/netlink").ok()?;
    let inode = sockets.lines().find_map(|line| inode_of(line, port_id))?;
    Holders::new().of(inode).first().copied()
}

/// The inode in a line of /proc/net/netlink: sk, protocol, port id, groups, Rmem, Wmem, Dump, Locks,
/// Drops, inode.
fn inode_of(line: &str, port_id: u32) -> Option<u32> {
    const NETLINK_NETFILTER: u32 = 12;
    let mut numbers = line
        .split_whitespace()
        .skip(1)
        .map(|field| field.parse().ok());
    let ends = (numbers.next()??, numbers.next()??);
    (ends == (NETLINK_NETFILTER, port_id)).then(|| numbers.nth(6))??
}

/// The sockets of our network namespace and who has them.
#[derive(Debug)]
pub struct SocketTable {
    tables: Tables,
    holders: Holders,
}

impl Default for SocketTable {
    fn default() -> Self {
        SocketTable::new()
    }
}

impl SocketTable {
    /// Asks nothing yet.
    pub fn new() -> SocketTable {
        SocketTable {
            tables: Tables::new(),
            holders: Holders::new(),
        }
    }

    /// Every TCP, UDP, raw and ping socket that there is, with who has it. The ends are the socket's:
    /// the remote one is any where it is not connected. Without a process where nobody is seen to hold
    /// it (a socket of the kernel's own; a process outside our pid namespace). Walks all of /proc.
    ///
    /// Where several processes hold a socket, `inherited` is set, for then who uses it is a guess: the
    /// process that was started first, for a socket that is open to all, since it made the socket and
    /// the others got it; the one that was started last, for a connection, since servers leave
    /// connections to their children. Processes that are no family have no such order: a connection
    /// of theirs comes without a process.
    pub fn seed(&mut self) -> Vec<Record> {
        let now = clock::monotonic();
        self.holders.walk();
        let mut records = Vec::new();
        for (ipv6, proto) in [
            (false, IPPROTO_TCP),
            (true, IPPROTO_TCP),
            (false, IPPROTO_UDP),
            (true, IPPROTO_UDP),
            (false, IPPROTO_RAW),
            (true, IPPROTO_RAW),
            (false, IPPROTO_ICMP),
            (true, IPPROTO_ICMPV6),
        ] {
            for socket in self.tables.all(ipv6, proto, 0) {
                if socket.inode != 0 && records.len() < SEED_SOCKETS_MAX {
                    records.push(self.record(&socket, &socket.ends, now));
                }
            }
        }
        records
    }

    /// Walks all of /proc now, for what is asked last: nobody can ask again later.
    pub fn refresh(&mut self) {
        self.holders.walk();
    }

    /// The owner of a flow, whose tuple is as the local end sends. The record has the flow's ends.
    /// `now` is CLOCK_MONOTONIC.
    ///
    /// Without a process, but with the user that made the socket, where the process is not found: in
    /// that case asking again a little later may help, since /proc is not walked for each flow. With
    /// `inherited` where a connection is not accepted yet: the listener's process is told, and another
    /// may accept it; where several hold the socket (see `seed`); and where several have a UDP socket
    /// each that is open to all on one port, of which the one is told that would take a datagram. `None` where there is no socket
    /// any more, where nobody holds it, or where it cannot be told which one it is.
    pub fn find(&mut self, ends: &Tuple, now: Duration) -> Option<Record> {
        match ends.proto {
            IPPROTO_TCP | IPPROTO_UDP => {
                let socket = self.tables.find(ends)?;
                if socket.inode == 0 {
                    return None;
                }
                let mut record = self.record(&socket, ends, now);
                record.inherited |= socket.state == TCP_LISTEN;
                let others = self.tables.others(&socket, ends);
                record.inherited |= others.iter().any(|other| {
                    let holders = self.holders.of(*other);
                    !holders.is_empty() && !record.pid.is_some_and(|pid| holders.contains(&pid))
                });
                Some(record)
            }
            _ if ends.is_icmp() => self.find_icmp(ends, now),
            _ => self.find_raw(ends, now),
        }
    }

    /// The processes that hold a socket, by its inode.
    pub fn holders(&mut self, inode: u32) -> Vec<u32> {
        self.holders.of(inode)
    }

    /// A ping socket has the id for a port. Other queries come from raw sockets, with any id; what
    /// answers a query is the kernel itself.
    fn find_icmp(&mut self, ends: &Tuple, now: Duration) -> Option<Record> {
        let (kind, _, _) = ends.icmp();
        let answers: &[u8] = if ends.ipv6 {
            &[129, 140] // echo, node information
        } else {
            &[0, 14, 16, 18] // echo, timestamp, information, address mask
        };
        if answers.contains(&kind) {
            return None;
        }
        // The port of a connected one means nothing, and a flow has its type there.
        let asked = Tuple { dport: 0, ..*ends };
        let sockets = self.tables.all(ends.ipv6, ends.proto, ends.sport);
        let socket = sockets.into_iter().find(|socket| {
            let mut socket = *socket;
            socket.ends.dport = 0;
            socket.inode != 0 && socket.takes(&asked)
        });
        match socket {
            Some(socket) => Some(self.record(&socket, ends, now)),
            None => self.find_raw(ends, now),
        }
    }

    /// Raw sockets do not tell which packets are theirs: only where one process alone has such, and
    /// can be meant, it is the one. Sockets of IPPROTO_RAW, which can send any protocol, do not count.
    fn find_raw(&mut self, ends: &Tuple, now: Duration) -> Option<Record> {
        let asked = Tuple {
            sport: 0,
            dport: 0,
            ..*ends
        };
        let mut sockets = self.tables.all(ends.ipv6, IPPROTO_RAW, ends.proto.into());
        sockets
            .retain(|socket| socket.inode != 0 && socket.ipv6 == ends.ipv6 && socket.takes(&asked));
        let mut one: Option<Record> = None;
        for (at, socket) in sockets.iter().enumerate() {
            let record = self.record(socket, ends, now);
            match one {
                Some(other) if record.pid.is_none() || other.pid != record.pid => return None,
                None if record.pid.is_none() && at + 1 < sockets.len() => return None,
                _ => one = Some(record),
            }
        }
        one
    }

    fn record(&mut self, socket: &Socket, ends: &Tuple, now: Duration) -> Record {
        let holders = self.holders.of(socket.inode);
        let chosen = choose(&holders, socket.is_open_to_all()).and_then(|pid| {
            let folder = Folder::open(pid)?;
            Some((pid, comm(&folder.comm()?), folder.uid()?))
        });
        let (pid, comm, uid) = match chosen {
            Some((pid, comm, uid)) => (Some(pid), comm, uid),
            None => (None, [0; COMM_LEN], socket.uid),
        };
        Record {
            at_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            cookie: Some(socket.cookie).filter(|cookie| *cookie != 0),
            netns: None,
            pid,
            uid: Some(uid),
            source: Source::Diag,
            moment: Moment::Socket,
            ends: *ends,
            inherited: holders.len() > 1,
            comm,
        }
    }
}

/// Which one of several is told (see `seed`).
fn choose(holders: &[u32], is_open_to_all: bool) -> Option<u32> {
    if let [] | [_] = holders {
        return holders.first().copied();
    }
    let mut found: Vec<(u64, bool, u32, u32)> = Vec::new();
    for pid in holders {
        if let Some(stat) = Folder::open(*pid).and_then(|folder| folder.stat()) {
            // Of two that were started in one tick the parent was first.
            found.push((
                stat.start_ticks,
                holders.contains(&stat.ppid),
                *pid,
                stat.ppid,
            ));
        }
    }
    found.sort_unstable();
    let (_, _, first, its_parent) = *found.first()?;
    if is_open_to_all {
        return Some(first);
    }
    let is_family =
        |pid: u32, parent: u32| (its_parent > 1 && parent == its_parent) || descends(pid, first);
    found
        .iter()
        .skip(1)
        .all(|(_, _, pid, parent)| is_family(*pid, *parent))
        .then(|| found.last().map(|(_, _, pid, _)| *pid))?
}

fn descends(pid: u32, from: u32) -> bool {
    let mut pid = pid;
    for _ in 0..ANCESTORS_MAX {
        if pid == from {
            return true;
        }
        let stat = Folder::open(pid).and_then(|folder| folder.stat());
        match stat.map(|stat| stat.ppid) {
            None | Some(0) => return false,
            Some(parent) => pid = parent,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_netlink_socket_is_found_by_protocol_and_port_id() {
        let line = "00000000f4e5ae11 12  4242       00000005 0        0        0        2        94874    22137   ";
        assert_eq!(inode_of(line, 4242), Some(22137));
        assert_eq!(
            (inode_of(line, 4243), inode_of("sk  Eth Pid", 4242)),
            (None, None)
        );
        assert_eq!(inode_of(&line.replace(" 12 ", " 15 "), 4242), None);
    }
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

    fn tuple(proto: u8, local: SocketAddr, remote: SocketAddr) -> Tuple {
        let bytes = |address: SocketAddr| {
            let mut bytes = [0; 16];
            match address {
                SocketAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.ip().octets()),
                SocketAddr::V6(v6) => bytes.copy_from_slice(&v6.ip().octets()),
            }
            bytes
        };
        Tuple {
            ipv6: local.is_ipv6(),
            proto,
            src: bytes(local),
            dst: bytes(remote),
            sport: local.port(),
            dport: remote.port(),
        }
    }

    /// With sock_diag, and with /proc/net alone.
    fn both(check: impl Fn(&mut SocketTable)) {
        check(&mut SocketTable::new());
        let mut table = SocketTable::new();
        table.tables.forget_diag();
        check(&mut table);
    }

    fn finds(table: &mut SocketTable, ends: &Tuple) -> Option<Record> {
        table.find(ends, clock::monotonic())
    }

    #[test]
    fn both_ends_of_a_connection_and_what_waits_for_one() {
        let _alone = crate::owner::alone();
        both(|table| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let at = listener.local_addr().unwrap();
            let client = TcpStream::connect(at).unwrap();
            let out = tuple(IPPROTO_TCP, client.local_addr().unwrap(), at);
            let record = finds(table, &out).unwrap();
            assert_eq!((record.pid, record.ends), (Some(std::process::id()), out));
            assert!(!record.inherited);
            // Nobody has accepted it: its listener is told.
            let answer = out.inverse();
            assert!(finds(table, &answer).unwrap().inherited);
            let accepted = listener.accept().unwrap();
            let mut fresh = SocketTable::new();
            assert!(!finds(&mut fresh, &answer).unwrap().inherited);
            drop((client, accepted));
            let mut fresh = SocketTable::new();
            assert_eq!(finds(&mut fresh, &out), None, "nothing but a memory of it");
        });
    }

    #[test]
    fn datagrams_of_connected_and_unconnected_sockets() {
        let _alone = crate::owner::alone();
        both(|table| {
            let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
            let any = UdpSocket::bind("0.0.0.0:0").unwrap();
            let port = any.local_addr().unwrap().port();
            let at = SocketAddr::from(([127, 0, 0, 1], port));
            connected.connect(at).unwrap();
            let out = tuple(IPPROTO_UDP, connected.local_addr().unwrap(), at);
            let client = finds(table, &out).unwrap();
            let server = finds(table, &out.inverse()).unwrap();
            let ours = Some(std::process::id());
            assert_eq!((client.pid, server.pid), (ours, ours));
            assert!(client.cookie.is_none() || client.cookie != server.cookie);
            let records = table.seed();
            let seeded = |port| records.iter().find(|record| record.ends.sport == port);
            assert_eq!(seeded(out.sport).unwrap().ends, out);
            assert_eq!(seeded(port).unwrap().ends.dst, [0; 16]);
            assert_eq!(seeded(port).unwrap().pid, ours);
        });
    }

    #[test]
    fn who_is_not_found_has_a_user_at_least() {
        let _alone = crate::owner::alone();
        let mut table = SocketTable::new();
        table.seed();
        table.holders.rest();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        let ends = tuple(IPPROTO_UDP, at, SocketAddr::from(([127, 0, 0, 1], 9)));
        let record = finds(&mut table, &ends).unwrap();
        let user = rustix::process::geteuid().as_raw();
        assert_eq!((record.pid, record.uid), (None, Some(user)));
    }

    #[test]
    fn a_family_has_an_order_and_strangers_have_none() {
        let _alone = crate::owner::alone();
        let ours = std::process::id();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let family = [ours, child.id()];
        assert_eq!(choose(&family, true), Some(ours));
        assert_eq!(choose(&family, false), Some(child.id()));
        assert_eq!(choose(&[], true), None);
        assert_eq!(choose(&[child.id()], false), Some(child.id()));
        assert!(descends(child.id(), ours) && !descends(ours, child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
