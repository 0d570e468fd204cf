//! A conntrack entry as a kernel holds it, and the messages that it makes of it: the attributes in the
//! order of ctnetlink_fill_info (dumps), ctnetlink_conntrack_event (events) and __ctnetlink_glue_build
//! (lines of a log, 4.4).

use super::bytes::*;
use super::kernels::{CONNTRACK, Kernel};
use std::net::IpAddr;

/// What tells flows of a protocol apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layer4 {
    /// Protocol, source and destination port (or key).
    Ports(u8, u16, u16),
    /// Type, code, id.
    Icmp(u8, u8, u16),
    Icmpv6(u8, u8, u16),
    /// A protocol that this kernel tracks by its addresses alone: it puts nothing behind the number.
    Nothing(u8),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ends {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub layer4: Layer4,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ProtoInfo {
    /// enum tcp_conntrack.
    Tcp(u8),
    Dccp(u8),
    Sctp(u8),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Zone {
    Both(u16),
    Original(u16),
    Reply(u16),
}

/// Packets and bytes.
pub type Counted = (u64, u64);

/// An entry; `None` and false are what a kernel does not send.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub original: Ends,
    pub reply: Ends,
    /// Where the kernel keeps it.
    pub address: u64,
    pub zone: Option<Zone>,
    pub status: u32,
    pub timeout: u32,
    pub counters: Option<[Counted; 2]>,
    pub start_ns: Option<u64>,
    pub stop_ns: Option<u64>,
    pub protoinfo: Option<ProtoInfo>,
    pub helper: Option<&'static str>,
    pub mark: u32,
    pub secctx: Option<&'static str>,
    pub labels: Option<[u8; 16]>,
    pub master: Option<Ends>,
    /// Position, offset before, offset after, of each direction.
    pub adjusted: Option<[[u32; 3]; 2]>,
}

/// What an event is about, besides that it is one.
#[derive(Clone, Copy, Debug, Default)]
pub struct About {
    pub protoinfo: bool,
    pub labels: bool,
    pub adjusted: bool,
}

/// A kernel on a machine.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    pub kernel: Kernel,
    /// It aligns 64-bit numbers, where it is new enough to do so.
    pub aligns: bool,
    /// It is of a stable tree that hashes the address.
    pub hashes: bool,
}

const CTNETLINK: u16 = 1;
const FAMILY_V4: u8 = 2;
const FAMILY_V6: u8 = 10;

impl Sender {
    pub fn plain(kernel: Kernel) -> Sender {
        Sender {
            kernel,
            aligns: false,
            hashes: false,
        }
    }

    /// CTA_ID: the low half of the entry's address; the hash is of another kind, but hides it as well.
    pub fn id(&self, entry: &Entry) -> u32 {
        let address = entry.address;
        if self.hashes {
            (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
        } else {
            address as u32
        }
    }

    /// One entry of a dump: IPCTNL_MSG_CT_NEW, NLM_F_MULTI, the asker's sequence and port.
    pub fn dumped(&self, entry: &Entry) -> Vec<u8> {
        let parts = [
            self.tuples_and_zone(entry),
            vec![be32(3, entry.status), be32(7, entry.timeout)], // CTA_STATUS, CTA_TIMEOUT
            self.counters(entry),
            self.timestamp(entry),
            protoinfo(entry),
            help(entry),
            vec![be32(8, entry.mark)], // CTA_MARK, also where it is 0
            secctx(entry),
            labels(entry),
            vec![be32(12, self.id(entry)), be32(11, 1)], // CTA_ID, CTA_USE
            master(entry),
            adjusted(entry),
        ];
        netfilter(self.head(entry, 0, MULTI), &parts.concat())
    }

    /// A dump: entries in datagrams of at most `room` bytes, and what ends it.
    pub fn dump(&self, entries: &[Entry], room: usize) -> Vec<Vec<u8>> {
        let mut datagrams = vec![Vec::new()];
        let ends = done(ASKER_SEQUENCE, ASKER_PORT);
        for message in entries.iter().map(|entry| self.dumped(entry)).chain([ends]) {
            let last = datagrams.last_mut().unwrap();
            if last.len() + message.len() > room {
                datagrams.push(message);
            } else {
                last.extend(message);
            }
        }
        datagrams
    }

    pub fn begun(&self, entry: &Entry, about: About) -> Vec<u8> {
        self.event(entry, about, CREATE_EXCL)
    }

    pub fn update(&self, entry: &Entry, about: About) -> Vec<u8> {
        self.event(entry, about, 0)
    }

    fn event(&self, entry: &Entry, about: About, flags: u16) -> Vec<u8> {
        let when = |wanted: bool, part: Vec<Vec<u8>>| if wanted { part } else { Vec::new() };
        let parts = [
            self.tuples_and_zone(entry),
            vec![be32(12, self.id(entry)), be32(3, entry.status)], // CTA_ID, CTA_STATUS
            vec![be32(7, entry.timeout)],                          // CTA_TIMEOUT
            when(about.protoinfo, protoinfo(entry)),
            help(entry),
            secctx(entry),
            when(about.labels, labels(entry)),
            when(flags != 0, master(entry)), // IPCT_RELATED comes with the beginning
            when(about.adjusted, adjusted(entry)),
            mark_where_set(entry),
        ];
        netfilter(self.head(entry, 0, flags), &parts.concat())
    }

    /// IPCTNL_MSG_CT_DELETE: neither timeout nor protoinfo.
    pub fn destroy(&self, entry: &Entry) -> Vec<u8> {
        let parts = [
            self.tuples_and_zone(entry),
            vec![be32(12, self.id(entry)), be32(3, entry.status)],
            self.counters(entry),
            self.timestamp(entry),
            mark_where_set(entry),
        ];
        netfilter(self.head(entry, 2, 0), &parts.concat())
    }

    /// NFULA_CT of a line of a log.
    pub fn glued(&self, entry: &Entry) -> Vec<u8> {
        let parts = [
            self.tuples_and_zone(entry),
            vec![be32(12, self.id(entry)), be32(3, entry.status)],
            vec![be32(7, entry.timeout)],
            protoinfo(entry),
            mark_where_set(entry),
        ];
        nested(18, &parts.concat())
    }

    fn head(&self, entry: &Entry, message: u16, flags: u16) -> Head {
        let asked = flags == MULTI;
        Head {
            subsystem: CTNETLINK,
            message,
            flags,
            sequence: if asked { ASKER_SEQUENCE } else { 0 },
            port: if asked { ASKER_PORT } else { 0 },
            family: family(&entry.original),
            resource: 0,
        }
    }

    fn tuples_and_zone(&self, entry: &Entry) -> Vec<Vec<u8>> {
        let one_sided = self.kernel.sends(CONNTRACK, "ORIG/ZONE");
        let (mut original, mut reply) = (tuple(&entry.original), tuple(&entry.reply));
        let mut both = Vec::new();
        match entry.zone {
            Some(Zone::Both(id)) => both.push(be16(18, id)), // CTA_ZONE
            Some(Zone::Original(id)) if one_sided => original.push(be16(3, id)), // CTA_TUPLE_ZONE
            Some(Zone::Reply(id)) if one_sided => reply.push(be16(3, id)),
            Some(_) => panic!("this kernel has no zones of one direction"),
            None => {}
        }
        let mut parts = vec![nested(1, &original), nested(2, &reply)]; // CTA_TUPLE_ORIG, CTA_TUPLE_REPLY
        parts.extend(both);
        parts
    }

    fn pad(&self, name: &str, kind: u16) -> Option<u16> {
        (self.aligns && self.kernel.sends(CONNTRACK, name)).then_some(kind)
    }

    /// CTA_COUNTERS_ORIG, CTA_COUNTERS_REPLY: CTA_COUNTERS_PACKETS, CTA_COUNTERS_BYTES.
    fn counters(&self, entry: &Entry) -> Vec<Vec<u8>> {
        let pad = self.pad("COUNTERS_ORIG/PAD", 5);
        let side = |kind, (packets, bytes): Counted| {
            nested(kind, &[be64(1, packets, pad), be64(2, bytes, pad)])
        };
        let sides = entry
            .counters
            .map(|[original, reply]| vec![side(9, original), side(10, reply)]);
        sides.unwrap_or_default()
    }

    /// CTA_TIMESTAMP: CTA_TIMESTAMP_START, and CTA_TIMESTAMP_STOP once it is known.
    fn timestamp(&self, entry: &Entry) -> Vec<Vec<u8>> {
        let pad = self.pad("TIMESTAMP/PAD", 3);
        let Some(start_ns) = entry.start_ns else {
            return Vec::new();
        };
        let mut times = vec![be64(1, start_ns, pad)];
        times.extend(entry.stop_ns.map(|stop_ns| be64(2, stop_ns, pad)));
        vec![nested(20, &times)]
    }
}

const ASKER_SEQUENCE: u32 = 7;
const ASKER_PORT: u32 = 4711;

pub fn family(ends: &Ends) -> u8 {
    if ends.src.is_ipv6() {
        FAMILY_V6
    } else {
        FAMILY_V4
    }
}

/// What is in CTA_TUPLE_*: CTA_TUPLE_IP and CTA_TUPLE_PROTO.
fn tuple(ends: &Ends) -> Vec<Vec<u8>> {
    let address = |address: IpAddr, v4, v6| match address {
        IpAddr::V4(address) => attribute(v4, &address.octets()),
        IpAddr::V6(address) => attribute(v6, &address.octets()),
    };
    let ip = [address(ends.src, 1, 3), address(ends.dst, 2, 4)]; // CTA_IP_V4_SRC, _V6_SRC; _DST
    let proto = match ends.layer4 {
        // CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT
        Layer4::Ports(number, src, dst) => vec![u8_of(1, number), be16(2, src), be16(3, dst)],
        // CTA_PROTO_ICMP_ID, _TYPE, _CODE
        Layer4::Icmp(kind, code, id) => {
            vec![u8_of(1, 1), be16(4, id), u8_of(5, kind), u8_of(6, code)]
        }
        // CTA_PROTO_ICMPV6_ID, _TYPE, _CODE
        Layer4::Icmpv6(kind, code, id) => {
            vec![u8_of(1, 58), be16(7, id), u8_of(8, kind), u8_of(9, code)]
        }
        Layer4::Nothing(number) => vec![u8_of(1, number)],
    };
    vec![nested(1, &ip), nested(2, &proto)]
}

/// CTA_PROTOINFO.
fn protoinfo(entry: &Entry) -> Vec<Vec<u8>> {
    let info = match entry.protoinfo {
        None => return Vec::new(),
        Some(ProtoInfo::Tcp(state)) => nested(
            1,
            &[
                u8_of(1, state),          // CTA_PROTOINFO_TCP_STATE
                u8_of(2, 7),              // CTA_PROTOINFO_TCP_WSCALE_ORIGINAL
                u8_of(3, 6),              // CTA_PROTOINFO_TCP_WSCALE_REPLY
                attribute(4, &[0x23, 0]), // CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: flags, mask
                attribute(5, &[0x23, 0]), // CTA_PROTOINFO_TCP_FLAGS_REPLY
            ],
        ),
        Some(ProtoInfo::Dccp(state)) => nested(
            2,
            &[
                u8_of(1, state),        // CTA_PROTOINFO_DCCP_STATE
                u8_of(2, 1),            // CTA_PROTOINFO_DCCP_ROLE
                be64(3, 1 << 40, None), // CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ
            ],
        ),
        Some(ProtoInfo::Sctp(state)) => nested(
            3,
            &[
                u8_of(1, state),      // CTA_PROTOINFO_SCTP_STATE
                be32(2, 0x0102_0304), // CTA_PROTOINFO_SCTP_VTAG_ORIGINAL
                be32(3, 0x0506_0708), // CTA_PROTOINFO_SCTP_VTAG_REPLY
            ],
        ),
    };
    vec![nested(4, &[info])]
}

/// CTA_HELP: CTA_HELP_NAME.
fn help(entry: &Entry) -> Vec<Vec<u8>> {
    let help = entry.helper.map(|name| nested(5, &[string(1, name)]));
    help.into_iter().collect()
}

/// CTA_SECCTX: CTA_SECCTX_NAME.
fn secctx(entry: &Entry) -> Vec<Vec<u8>> {
    let secctx = entry.secctx.map(|name| nested(19, &[string(1, name)]));
    secctx.into_iter().collect()
}

/// CTA_LABELS.
fn labels(entry: &Entry) -> Vec<Vec<u8>> {
    entry
        .labels
        .iter()
        .map(|bits| attribute(22, bits))
        .collect()
}

/// CTA_TUPLE_MASTER.
fn master(entry: &Entry) -> Vec<Vec<u8>> {
    let master = entry.master.map(|master| nested(14, &tuple(&master)));
    master.into_iter().collect()
}

/// CTA_SEQ_ADJ_ORIG, CTA_SEQ_ADJ_REPLY: position, offset before, offset after.
fn adjusted(entry: &Entry) -> Vec<Vec<u8>> {
    let side = |(kind, [at, before, after]): (u16, [u32; 3])| {
        nested(kind, &[be32(1, at), be32(2, before), be32(3, after)])
    };
    let sides = entry
        .adjusted
        .map(|[original, reply]| [(15, original), (16, reply)].map(side));
    sides.into_iter().flatten().collect()
}

/// CTA_MARK in events.
fn mark_where_set(entry: &Entry) -> Vec<Vec<u8>> {
    let marks = [entry.mark];
    marks
        .into_iter()
        .filter(|mark| *mark != 0)
        .map(|mark| be32(8, mark))
        .collect()
}
