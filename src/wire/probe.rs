//! The record that probes send: who uses which socket, at which moment (bpf/record.h).
//!
//! The programs in the kernel write it, and so do the readers of sock_diag and /proc: one format for
//! all that is said of an owner, whoever says it. Parsed by offset like any other wire format.

use super::conntrack::Tuple;

/// Bytes of a record.
pub const RECORD_LEN: usize = 88;
/// Bytes of a task's name, the zero behind it included (TASK_COMM_LEN).
pub const COMM_LEN: usize = 16;

const FLAG_IPV6: u8 = 1;
const FLAG_NO_UID: u8 = 2;
const FLAG_INHERITED: u8 = 4;

/// Who sent a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The programs of the rung that is in use.
    Probe,
    /// An iterator over the sockets that there are.
    Sockets,
    /// sock_diag and /proc.
    Diag,
    /// The uid that a traced packet came with.
    Log,
}

/// What the process did, or what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It connects, before the first packet leaves.
    Connect,
    /// It sends a datagram, before that leaves; the local address may be any.
    Send,
    /// It took a connection.
    Accept,
    /// It took a datagram; the remote end may be any.
    Receive,
    /// The first packet of a flow leaves, with its addresses on the wire.
    PacketOut,
    /// The first packet of a flow arrives, likewise.
    PacketIn,
    /// Conntrack confirms a flow; the record has its original tuple.
    Confirm,
    /// It has this socket; the remote end is any where that is not connected.
    Socket,
    /// It closes the socket of a flow.
    Release,
}

const SOURCES: [Source; 4] = [Source::Probe, Source::Sockets, Source::Diag, Source::Log];
const MOMENTS: [Moment; 9] = [
    Moment::Connect,
    Moment::Send,
    Moment::Accept,
    Moment::Receive,
    Moment::PacketOut,
    Moment::PacketIn,
    Moment::Confirm,
    Moment::Socket,
    Moment::Release,
];

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When, by CLOCK_MONOTONIC, in nanoseconds.
    pub at_ns: u64,
    /// The socket's cookie; `None` where it is not known.
    pub cookie: Option<u64>,
    /// The socket's network namespace: one value for one namespace, whatever it stands for.
    pub netns: Option<u64>,
    /// The process in the first pid namespace; `None` where it is not known.
    pub pid: Option<u32>,
    /// Its effective user.
    pub uid: Option<u32>,
    /// Who says so.
    pub source: Source,
    /// What happened.
    pub moment: Moment,
    /// The socket's ends as the process sends: source is local. All zero is any. IPv4-mapped
    /// addresses are IPv4.
    pub ends: Tuple,
    /// Whether the process is the one that made the listening socket: another may have accepted.
    pub inherited: bool,
    /// The name of the task.
    pub comm: [u8; COMM_LEN],
}

impl Record {
    /// Reads a record from the beginning of `bytes` (a perf sample has padding behind it). `None`
    /// where it is too short or of a kind that is not known.
    pub fn parse(bytes: &[u8]) -> Option<Record> {
        let flags = u8_at(bytes, 35)?;
        let uid = u32::from_ne_bytes(at(bytes, 28)?);
        let ends = Tuple {
            ipv6: flags & FLAG_IPV6 != 0,
            proto: u8_at(bytes, 34)?,
            src: at(bytes, 40)?,
            dst: at(bytes, 56)?,
            sport: u16::from_ne_bytes(at(bytes, 36)?),
            dport: u16::from_ne_bytes(at(bytes, 38)?),
        };
        Some(Record {
            at_ns: u64::from_ne_bytes(at(bytes, 0)?),
            cookie: known(u64::from_ne_bytes(at(bytes, 8)?)),
            netns: known(u64::from_ne_bytes(at(bytes, 16)?)),
            pid: Some(u32::from_ne_bytes(at(bytes, 24)?)).filter(|pid| *pid != 0),
            uid: Some(uid).filter(|_| flags & FLAG_NO_UID == 0),
            source: *number(u8_at(bytes, 32)?).and_then(|number| SOURCES.get(number))?,
            moment: *number(u8_at(bytes, 33)?).and_then(|number| MOMENTS.get(number))?,
            ends: unmapped(ends),
            inherited: flags & FLAG_INHERITED != 0,
            comm: at(bytes, 72)?,
        })
    }

    /// The record as a probe would send it.
    pub fn to_bytes(&self) -> [u8; RECORD_LEN] {
        let mut bytes = [0; RECORD_LEN];
        let mut flags = 0;
        flags |= if self.ends.ipv6 { FLAG_IPV6 } else { 0 };
        flags |= if self.uid.is_none() { FLAG_NO_UID } else { 0 };
        flags |= if self.inherited { FLAG_INHERITED } else { 0 };
        let numbers = [
            place(&SOURCES, &self.source),
            place(&MOMENTS, &self.moment),
            self.ends.proto,
            flags,
        ];
        let fields: [(usize, &[u8]); 11] = [
            (0, &self.at_ns.to_ne_bytes()),
            (8, &self.cookie.unwrap_or(0).to_ne_bytes()),
            (16, &self.netns.unwrap_or(0).to_ne_bytes()),
            (24, &self.pid.unwrap_or(0).to_ne_bytes()),
            (28, &self.uid.unwrap_or(0).to_ne_bytes()),
            (32, &numbers),
            (36, &self.ends.sport.to_ne_bytes()),
            (38, &self.ends.dport.to_ne_bytes()),
            (40, &self.ends.src),
            (56, &self.ends.dst),
            (72, &self.comm),
        ];
        for (offset, field) in fields {
            let room = bytes.get_mut(offset..).unwrap_or_default();
            for (byte, value) in room.iter_mut().zip(field) {
                *byte = *value;
            }
        }
        bytes
    }

    /// The name of the task as text; what is not UTF-8 in it is replaced.
    pub fn name(&self) -> String {
        let name = self.comm.split(|byte| *byte == 0).next();
        String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
    }
}

/// The bytes of a task's name, cut where there is no room for more.
pub fn comm(name: &[u8]) -> [u8; COMM_LEN] {
    let mut comm = [0; COMM_LEN];
    for (byte, value) in comm.iter_mut().zip(name.iter().take(COMM_LEN - 1)) {
        *byte = *value;
    }
    comm
}

const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// IPv4 that travels through an IPv6 socket is IPv4. What is any in it is any IPv4 address.
pub fn unmapped(ends: Tuple) -> Tuple {
    let is_mapped = |address: &[u8; 16]| address.starts_with(&MAPPED);
    let is_any = |address: &[u8; 16]| *address == [0; 16];
    let (src, dst) = (&ends.src, &ends.dst);
    let mapped = is_mapped(src) && (is_mapped(dst) || is_any(dst)) || is_any(src) && is_mapped(dst);
    if !ends.ipv6 || !mapped {
        return ends;
    }
    let inner = |address: &[u8; 16]| {
        let mut inner = [0; 16];
        for (byte, value) in inner.iter_mut().zip(address.iter().skip(MAPPED.len())) {
            *byte = *value;
        }
        inner
    };
    Tuple {
        ipv6: false,
        src: inner(src),
        dst: inner(dst),
        ..ends
    }
}

/// The place in a list of what has a number from 1.
fn number(value: u8) -> Option<usize> {
    usize::from(value).checked_sub(1)
}

fn place<T: PartialEq>(list: &[T], value: &T) -> u8 {
    let at = list.iter().position(|item| item == value).unwrap_or(0);
    u8::try_from(at).unwrap_or(0).saturating_add(1)
}

fn known(value: u64) -> Option<u64> {
    Some(value).filter(|value| *value != 0)
}

fn u8_at(bytes: &[u8], offset: usize) -> Option<u8> {
    bytes.get(offset).copied()
}

fn at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let mut ends = Tuple {
            proto: 6,
            sport: 40000,
            dport: 443,
            ..Tuple::default()
        };
        ends.src[..4].copy_from_slice(&[10, 0, 0, 1]);
        ends.dst[..4].copy_from_slice(&[198, 51, 100, 80]);
        Record {
            at_ns: 123_456_789,
            cookie: Some(77),
            netns: None,
            pid: Some(4711),
            uid: Some(0),
            source: Source::Diag,
            moment: Moment::Release,
            ends,
            inherited: true,
            comm: comm(b"a-name-that-is-too-long"),
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let record = record();
        assert_eq!(Record::parse(&record.to_bytes()), Some(record));
        assert_eq!(record.name(), "a-name-that-is-");
        let nobody = Record {
            pid: None,
            uid: None,
            inherited: false,
            ..record
        };
        assert_eq!(Record::parse(&nobody.to_bytes()), Some(nobody));
    }

    #[test]
    fn short_and_unknown_records_are_refused() {
        let bytes = record().to_bytes();
        for len in 0..bytes.len() {
            assert_eq!(Record::parse(&bytes[..len]), None);
        }
        for (offset, value) in [(32, 0), (32, 5), (33, 0), (33, 10)] {
            let mut bytes = bytes;
            bytes[offset] = value;
            assert_eq!(Record::parse(&bytes), None);
        }
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let mut mapped = [0; 16];
        mapped[10..].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
        let inner = [192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let ends = |src, dst| Tuple {
            ipv6: true,
            src,
            dst,
            ..record().ends
        };
        let read = |ends| unmapped(ends);
        let both = read(ends(mapped, mapped));
        assert_eq!((both.ipv6, both.src, both.dst), (false, inner, inner));
        let unbound = read(ends([0; 16], mapped));
        assert_eq!((unbound.ipv6, unbound.dst), (false, inner));
        assert!(read(ends([0; 16], [0; 16])).ipv6);
        assert!(read(ends([1; 16], mapped)).ipv6);
    }
}
