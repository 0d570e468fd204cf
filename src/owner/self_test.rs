//! Proves that a rung tells the truth, on traffic whose truth is known: our own, in a network
//! namespace made for it, so that nobody's firewall sees or counts a packet of it.

use super::probes::Probes;
use super::rung::Rung;
use crate::limits;
use crate::sys::rights::{self, Right};
use crate::sys::{clock, networks, signal};
use crate::wire::conntrack::Tuple;
use crate::wire::probe::{COMM_LEN, Moment, Record, comm};
use rustix::event::PollFlags;
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, connect, sendto, socket_with,
};
use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Where nobody needs to listen: nothing is sent there.
const DISCARD: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9);
/// More than a datagram can have: refused, but not before a probe has seen it.
const TOO_LONG: usize = 70_000;

const CONNECTS: &[Moment] = &[Moment::Connect];
const TAKES: &[Moment] = &[Moment::Accept, Moment::PacketIn, Moment::Release];
const SENDS: &[Moment] = &[Moment::Send, Moment::PacketOut, Moment::Confirm];

/// A record that must come.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    what: &'static str,
    moments: &'static [Moment],
    ends: Tuple,
    /// Whether the local address may be any.
    local_any: bool,
    /// Whether it is as good to hear who listens there.
    listening: bool,
}

/// What our traffic was.
struct Traffic {
    expected: Vec<Expected>,
    name: [u8; COMM_LEN],
}

/// Whether a network namespace can be made for it.
pub fn could_be_made() -> Result<(), String> {
    match rights::missing(&[Right::SysAdmin])[..] {
        [] => Ok(()),
        _ => Err("its self-test needs a network namespace of its own: CAP_SYS_ADMIN".to_owned()),
    }
}

/// Sends a connection and a datagram over the loopback device, and waits for their records: with our
/// pid, our name and the very addresses and ports. Says what is wrong where they do not come. Returns
/// what `netns` is in this rung's records for our own network namespace.
pub fn prove(probes: &mut Probes, rung: Rung) -> Result<u64, String> {
    let sent = networks::in_new_network(traffic);
    let traffic = sent
        .and_then(|traffic| traffic)
        .map_err(|error| format!("the self-test could send nothing: {error}"))?;
    let mut check = Check::new(traffic);
    hear(probes, |record| check.hear(record))?;
    check.result()?;
    own_namespace(probes, rung)
}

/// Reads records until `is_done` says so, or none come any more.
fn hear(probes: &mut Probes, mut is_done: impl FnMut(&Record) -> bool) -> Result<(), String> {
    let failed = |error: io::Error| format!("records cannot be read: {error}");
    let end = clock::monotonic() + limits::SELF_TEST_WAIT;
    let mut done = false;
    loop {
        let mut take = |bytes: &[u8]| {
            if let Some(record) = Record::parse(bytes) {
                done |= is_done(&record);
            }
        };
        probes.read(&mut take).map_err(failed)?;
        let left = end.saturating_sub(clock::monotonic());
        if done || left == Duration::ZERO {
            return Ok(());
        }
        signal::wait([(probes.fd(), PollFlags::IN)], Some(left)).map_err(failed)?;
    }
}

/// Which of the expected records have come, and what came in their place.
struct Check {
    traffic: Traffic,
    pid: u32,
    instead: Option<Record>,
}

impl Check {
    fn new(traffic: Traffic) -> Check {
        Check {
            traffic,
            pid: std::process::id(),
            instead: None,
        }
    }

    /// Takes a record; whether all have come.
    fn hear(&mut self, record: &Record) -> bool {
        let is_ours = record.pid == Some(self.pid) && record.comm == self.traffic.name;
        let before = self.traffic.expected.len();
        if is_ours {
            let expected = &mut self.traffic.expected;
            expected.retain(|expected| !expected.is(record));
        }
        if self.traffic.expected.len() == before {
            let is_near = |expected: &Expected| expected.is_near(record);
            if self.instead.is_none() && (is_ours || self.traffic.expected.iter().any(is_near)) {
                self.instead = Some(*record);
            }
        }
        self.traffic.expected.is_empty()
    }

    fn result(&self) -> Result<(), String> {
        let Some(expected) = self.traffic.expected.first() else {
            return Ok(());
        };
        let mut why = format!(
            "the self-test heard nothing of {} ({} by pid {})",
            expected.what,
            written(&expected.ends),
            self.pid
        );
        if let Some(record) = self.instead {
            why += &format!(
                "; it heard {:?} {} by pid {} ({})",
                record.moment,
                written(&record.ends),
                record.pid.unwrap_or(0),
                record.name()
            );
        }
        Err(why)
    }
}

impl Expected {
    fn is(&self, record: &Record) -> bool {
        let (ours, theirs) = (&self.ends, &record.ends);
        let is_local = theirs.src == ours.src || self.local_any && theirs.src == [0; 16];
        if self.listening && record.moment == Moment::Socket {
            let local = (theirs.ipv6, theirs.proto, theirs.sport, theirs.src);
            return local == (ours.ipv6, ours.proto, ours.sport, ours.src);
        }
        self.moments.contains(&record.moment)
            && is_local
            && (theirs.ipv6, theirs.proto, theirs.dst) == (ours.ipv6, ours.proto, ours.dst)
            && (theirs.sport, theirs.dport) == (ours.sport, ours.dport)
    }

    fn is_near(&self, record: &Record) -> bool {
        let (ours, theirs) = (&self.ends, &record.ends);
        theirs.proto == ours.proto && (theirs.sport == ours.sport || theirs.dport == ours.dport)
    }
}

/// The ends, with all that a record says of them. What is no IPv4 address although it should be is
/// written as IPv6.
fn written(ends: &Tuple) -> String {
    let end = |address: [u8; 16], port: u16| match address {
        [a, b, c, d, rest @ ..] if !ends.ipv6 && rest == [0; 12] => {
            SocketAddr::from(([a, b, c, d], port))
        }
        _ => SocketAddr::from((address, port)),
    };
    format!(
        "protocol {}, {} to {}",
        ends.proto,
        end(ends.src, ends.sport),
        end(ends.dst, ends.dport)
    )
}

/// One connection and one datagram to ourselves.
fn traffic() -> io::Result<Traffic> {
    let name = fs::read("/proc/thread-self/comm")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    client.write_all(b"?")?;
    let (sender, receiver) = (
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?,
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?,
    );
    sender.send_to(b"?", receiver.local_addr()?)?;
    let (at_client, at_server) = (client.local_addr()?, server.local_addr()?);
    let (from, to) = (sender.local_addr()?, receiver.local_addr()?);
    let expected = |what, moments, ends: Tuple| Expected {
        what,
        moments,
        ends,
        local_any: ends.proto == UDP,
        listening: ends.proto == TCP && ends.sport == at_server.port(),
    };
    Ok(Traffic {
        name: comm(name.trim_ascii_end()),
        expected: vec![
            expected("a connection", CONNECTS, tuple(TCP, at_client, at_server)),
            expected(
                "a connection taken",
                TAKES,
                tuple(TCP, at_server, at_client),
            ),
            expected("a datagram", SENDS, tuple(UDP, from, to)),
        ],
    })
}

fn tuple(proto: u8, from: SocketAddr, to: SocketAddr) -> Tuple {
    let bytes = |address: SocketAddr| {
        let mut bytes = [0; 16];
        if let SocketAddr::V4(v4) = address {
            for (to, from) in bytes.iter_mut().zip(v4.ip().octets()) {
                *to = from;
            }
        }
        bytes
    };
    Tuple {
        proto,
        src: bytes(from),
        dst: bytes(to),
        sport: from.port(),
        dport: to.port(),
        ..Tuple::default()
    }
}

/// What our own network namespace is called in the rung's records, learnt without a packet.
fn own_namespace(probes: &mut Probes, rung: Rung) -> Result<u64, String> {
    let failed = |error: io::Error| format!("our own network namespace cannot be told: {error}");
    if rung == Rung::Trace {
        let namespace = fs::metadata("/proc/thread-self/ns/net").map_err(failed)?;
        return Ok(namespace.ino());
    }
    let socket = datagram_socket().map_err(|errno| failed(errno.into()))?;
    // Both fail or succeed without a word to anybody; what counts is that they were called.
    if rung == Rung::Cgroup {
        let _ = connect(&socket, &DISCARD);
    } else {
        let _ = sendto(&socket, &vec![0; TOO_LONG], SendFlags::empty(), &DISCARD);
    }
    let pid = std::process::id();
    let mut netns = None;
    let to = tuple(UDP, DISCARD.into(), DISCARD.into());
    hear(probes, |record| {
        let ends = &record.ends;
        let is_ours = record.pid == Some(pid)
            && (ends.proto, ends.dport, ends.dst) == (UDP, to.dport, to.dst);
        if is_ours {
            netns = record.netns;
        }
        is_ours
    })?;
    netns.ok_or_else(|| "the self-test heard nothing of our own network namespace".to_owned())
}

fn datagram_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::probe::Source;

    fn expected() -> Expected {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Expected {
            what: "a datagram",
            moments: SENDS,
            ends: tuple(UDP, at(1000), at(2000)),
            local_any: true,
            listening: false,
        }
    }

    fn record() -> Record {
        Record {
            at_ns: 1,
            cookie: None,
            netns: None,
            pid: Some(std::process::id()),
            uid: None,
            source: Source::Probe,
            moment: Moment::Send,
            ends: expected().ends,
            inherited: false,
            comm: comm(b"us"),
        }
    }

    fn check() -> Check {
        Check::new(Traffic {
            name: comm(b"us"),
            expected: vec![expected()],
        })
    }

    #[test]
    fn the_truth_is_believed() {
        let mut exact = check();
        assert!(exact.hear(&record()) && exact.result().is_ok());
        let (mut any, mut unbound) = (check(), record());
        unbound.ends.src = [0; 16];
        assert!(any.hear(&unbound) && any.result().is_ok());
    }

    #[test]
    fn a_listening_socket_is_as_good_as_a_connection_taken() {
        let mut expected = expected();
        (expected.listening, expected.ends.proto) = (true, TCP);
        let mut listens = record();
        (listens.moment, listens.ends.proto) = (Moment::Socket, TCP);
        (listens.ends.dst, listens.ends.dport) = ([0; 16], 0);
        assert!(expected.is(&listens));
        listens.ends.sport = 1;
        assert!(!expected.is(&listens));
    }

    #[test]
    fn anything_else_is_not() {
        let silent = check().result().unwrap_err();
        assert!(silent.contains("(protocol 17, 127.0.0.1:1000 to 127.0.0.1:2000 by"));
        let lies: [fn(&mut Record); 6] = [
            |record| record.pid = Some(1),
            |record| record.comm = comm(b"them"),
            |record| record.ends.sport = 1001,
            |record| record.ends.dst = [9; 16],
            |record| record.ends.proto = TCP,
            |record| record.moment = Moment::Connect,
        ];
        for lie in lies {
            let (mut check, mut record) = (check(), record());
            lie(&mut record);
            assert!(!check.hear(&record));
            assert!(check.result().unwrap_err().contains("; it heard "));
        }
    }
}
