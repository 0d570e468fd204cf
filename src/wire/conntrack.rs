//! Conntrack entries as ctnetlink sends them, in events and in dumps
//! (include/uapi/linux/netfilter/nfnetlink_conntrack.h; net/netfilter/nf_conntrack_netlink.c).
//!
//! One small reader per nesting level, shaped like the kernel's nesting. An entry is only rejected
//! for broken framing or for lack of an original tuple; any other attribute that cannot be read is
//! a counted flaw, and one that is absent is `None`, which is not zero.

use super::attr::{Attributes, BrokenFraming, be16_of, be32_of, be64_of, header, u8_of};
use super::kernel::*;
use super::request::Request;
use super::tuple_layout::{usual, usual_first};
pub use super::zone::{Zone, ZoneDirection};

const ID: u32 = header(8, CTA_ID);
const STATUS: u32 = header(8, CTA_STATUS);
const MARK: u32 = header(8, CTA_MARK);
const TIMEOUT: u32 = header(8, CTA_TIMEOUT);

/// Why an entry could not be used at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// A length field lies.
    Framing,
    /// No original tuple with addresses of one family and a protocol number.
    NoTuple,
}

impl From<BrokenFraming> for Rejected {
    fn from(_: BrokenFraming) -> Self {
        Rejected::Framing
    }
}

/// One direction of a flow: addresses in network byte order, everything else in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Tuple {
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// Protocol number (IPPROTO_*).
    pub proto: u8,
    /// Source address; IPv4 in the first four bytes, the rest zero.
    pub src: [u8; 16],
    /// Destination address, likewise.
    pub dst: [u8; 16],
    /// Source port, or GRE key, or ICMP id; zero where the protocol has none.
    pub sport: u16,
    /// Destination port, or GRE key, or ICMP type (high byte) and code (low byte).
    pub dport: u16,
}

impl Tuple {
    /// Whether this is ICMP over IPv4 or ICMPv6 over IPv6, whose ports are (id, type and code).
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn is_icmp(&self) -> bool {
        self.proto
            == if self.ipv6 {
                IPPROTO_ICMPV6
            } else {
                IPPROTO_ICMP
            }
    }

    /// ICMP type, code and id; meaningful where `is_icmp`.
    pub fn icmp(&self) -> (u8, u8, u16) {
        let [kind, code] = self.dport.to_be_bytes();
        (kind, code, self.sport)
    }

    /// The tuple of a reply that nothing translates. ICMP queries are answered by another type.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn inverse(&self) -> Tuple {
        let mut inverse = Tuple {
            src: self.dst,
            dst: self.src,
            ..*self
        };
        if self.is_icmp() {
            let (kind, code, _) = self.icmp();
            inverse.dport = u16::from_be_bytes([reply_type(self.ipv6, kind), code]);
        } else {
            (inverse.sport, inverse.dport) = (self.dport, self.sport);
        }
        inverse
    }
}

/// Which ICMP type answers a query (nf_conntrack_proto_icmp.c, `invmap`); others answer themselves.
fn reply_type(ipv6: bool, kind: u8) -> u8 {
    match (ipv6, kind) {
        (false, 8) => 0, // echo
        (false, 0) => 8,
        (false, 13) => 14, // timestamp
        (false, 14) => 13,
        (false, 15) => 16, // information
        (false, 16) => 15,
        (false, 17) => 18, // address mask
        (false, 18) => 17,
        (true, 128) => 129, // echo
        (true, 129) => 128,
        (true, 139) => 140, // node information
        (true, 140) => 139,
        (_, other) => other,
    }
}

/// What the kernel counted in one direction (only with nf_conntrack_acct=1 since the flow began).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes, IP header included.
    pub bytes: u64,
}

/// A conntrack entry. Times are nanoseconds since 1970 by the kernel's clock.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Entry {
    /// As the first packet was sent.
    pub original: Tuple,
    /// As a reply is expected: the inverse of the packet after translation.
    pub reply: Tuple,
    /// CTA_ID: the same in events, dumps and (from Linux 6.16) traces.
    pub id: Option<u32>,
    /// IPS_* bits.
    pub status: Option<u32>,
    /// The conntrack mark.
    pub mark: Option<u32>,
    /// The zone, 0 when the kernel named none.
    pub zone: Zone,
    /// enum tcp_conntrack.
    pub tcp_state: Option<u8>,
    /// Counters of the original direction.
    pub traffic_original: Option<Traffic>,
    /// Counters of the reply direction.
    pub traffic_reply: Option<Traffic>,
    /// When the entry was made (nf_conntrack_timestamp=1).
    pub start_ns: Option<u64>,
    /// When it was removed, in DESTROY events (nf_conntrack_timestamp=1).
    pub stop_ns: Option<u64>,
    /// When the event happened (Linux 6.14, nf_conntrack_timestamp=1).
    pub event_ns: Option<u64>,
    /// How many attributes were there and could not be read.
    pub flaws: u32,
}

impl Entry {
    /// Reads the attributes of one IPCTNL_MSG_CT_* message.
    pub fn parse(attributes: Attributes<'_>) -> Result<Entry, Rejected> {
        let mut entry = Entry::default();
        entry.read(attributes)?;
        Ok(entry)
    }

    /// Forgets what it holds, but for the tuples, which `read` sets.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn clear(&mut self) {
        (self.id, self.status, self.mark) = (None, None, None);
        (self.zone, self.tcp_state) = (Zone::default(), None);
        (self.traffic_original, self.traffic_reply) = (None, None);
        (self.start_ns, self.stop_ns, self.event_ns) = (None, None, None);
        self.flaws = 0;
    }

    /// Reads them into an entry that holds nothing yet. What it holds after an error means nothing.
    ///
    /// What most entries have is looked for first, by whole headers: both tuples in front, and the
    /// attributes of four bytes.
    #[cfg_attr(small, optimize(speed))]
    pub fn read(&mut self, mut attributes: Attributes<'_>) -> Result<(), Rejected> {
        let mut tuples = Tuples::default();
        let rest = attributes.rest();
        if let Some(rest) = usual_first(rest, CTA_TUPLE_ORIG, &mut self.original) {
            (tuples.original, attributes) = (Ok(()), Attributes::new(rest));
            if let Some(rest) = usual_first(rest, CTA_TUPLE_REPLY, &mut self.reply) {
                (tuples.reply, attributes) = (Ok(()), Attributes::new(rest));
            }
        }
        loop {
            while let Some((header, value)) = attributes.word() {
                match header {
                    ID => self.id = Some(value),
                    STATUS => self.status = Some(value),
                    MARK => self.mark = Some(value),
                    TIMEOUT => {}
                    _ => break,
                }
                attributes.skip_word();
            }
            let Some(attribute) = attributes.next() else {
                return self.finish(&tuples);
            };
            self.attribute(attribute?, &mut tuples);
        }
    }

    /// Reads any attribute.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    fn attribute(&mut self, (kind, payload): (u16, &[u8]), tuples: &mut Tuples) {
        match kind {
            CTA_TUPLE_ORIG => tuples.original = self.tuple(payload, ZoneDirection::Original),
            CTA_TUPLE_REPLY => tuples.reply = self.tuple(payload, ZoneDirection::Reply),
            CTA_STATUS => self.status = self.noted(be32_of(payload)),
            CTA_PROTOINFO => self.tcp_state = protoinfo(payload, &mut self.flaws),
            CTA_MARK => self.mark = self.noted(be32_of(payload)),
            CTA_COUNTERS_ORIG => self.traffic_original = self.noted(counters(payload)),
            CTA_COUNTERS_REPLY => self.traffic_reply = self.noted(counters(payload)),
            CTA_ID => self.id = self.noted(be32_of(payload)),
            CTA_ZONE => {
                if let Some(id) = self.noted(be16_of(payload)) {
                    self.zone = Zone {
                        id,
                        direction: ZoneDirection::Both,
                    };
                }
            }
            CTA_TIMESTAMP => timestamp(payload, self),
            CTA_TIMESTAMP_EVENT => self.event_ns = self.noted(be64_of(payload)),
            _ => {}
        }
    }

    /// An entry must have its original tuple; a reply can be thought of.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    fn finish(&mut self, tuples: &Tuples) -> Result<(), Rejected> {
        tuples.original?;
        if tuples.reply.is_err() {
            self.flaw();
            self.reply = self.original.inverse();
        }
        Ok(())
    }

    /// CTA_TUPLE_ORIG or CTA_TUPLE_REPLY; a zone in it holds for that direction.
    #[cfg_attr(small, optimize(speed))]
    fn tuple(&mut self, payload: &[u8], direction: ZoneDirection) -> Result<(), Rejected> {
        let into = match direction {
            ZoneDirection::Reply => &mut self.reply,
            _ => &mut self.original,
        };
        if usual(payload, into).is_none() {
            let tuple = tuple(payload, self, direction)?;
            match direction {
                ZoneDirection::Reply => self.reply = tuple,
                _ => self.original = tuple,
            }
        }
        Ok(())
    }

    fn flaw(&mut self) {
        self.flaws = self.flaws.saturating_add(1);
    }

    /// Counts a flaw when an attribute that is there could not be read.
    #[cfg_attr(small, optimize(speed))]
    fn noted<T>(&mut self, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.flaw();
        }
        value
    }
}

/// How far the tuples of an entry could be read.
struct Tuples {
    original: Result<(), Rejected>,
    reply: Result<(), Rejected>,
}

impl Default for Tuples {
    fn default() -> Self {
        Tuples {
            original: Err(Rejected::NoTuple),
            reply: Err(Rejected::NoTuple),
        }
    }
}

/// A request for all entries of a family (AF_UNSPEC: all).
pub fn dump_request(family: u8, sequence: u32) -> Request {
    let kind = (NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_GET;
    Request::new(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, family)
}

/// CTA_TUPLE_*: addresses, protocol, and a zone that holds for this direction only.
#[cfg_attr(small, optimize(speed))]
fn tuple(payload: &[u8], entry: &mut Entry, direction: ZoneDirection) -> Result<Tuple, Rejected> {
    let mut tuple = Tuple::default();
    let (mut has_ip, mut has_proto) = (false, false);
    for attribute in Attributes::new(payload) {
        let (kind, payload) = attribute?;
        match kind {
            CTA_TUPLE_IP => has_ip = addresses(payload, &mut tuple)?,
            CTA_TUPLE_PROTO => has_proto = protocol(payload, &mut tuple, &mut entry.flaws)?,
            CTA_TUPLE_ZONE => {
                if let Some(id) = entry.noted(be16_of(payload)) {
                    entry.zone = Zone { id, direction };
                }
            }
            _ => {}
        }
    }
    if has_ip && has_proto {
        Ok(tuple)
    } else {
        Err(Rejected::NoTuple)
    }
}

/// CTA_TUPLE_IP: both addresses, of one family; false where one is missing.
#[cfg_attr(small, optimize(speed))]
fn addresses(payload: &[u8], tuple: &mut Tuple) -> Result<bool, Rejected> {
    let (mut src, mut dst) = (None, None);
    for attribute in Attributes::new(payload) {
        let (kind, payload) = attribute?;
        match kind {
            CTA_IP_V4_SRC => src = ipv4(payload).map(|address| (false, address)),
            CTA_IP_V4_DST => dst = ipv4(payload).map(|address| (false, address)),
            CTA_IP_V6_SRC => src = payload.try_into().ok().map(|address| (true, address)),
            CTA_IP_V6_DST => dst = payload.try_into().ok().map(|address| (true, address)),
            _ => {}
        }
    }
    let (Some((src_ipv6, src)), Some((dst_ipv6, dst))) = (src, dst) else {
        return Ok(false);
    };
    (tuple.ipv6, tuple.src, tuple.dst) = (src_ipv6, src, dst);
    Ok(src_ipv6 == dst_ipv6)
}

#[cfg_attr(small, optimize(speed))]
fn ipv4(payload: &[u8]) -> Option<[u8; 16]> {
    let [a, b, c, d] = *<&[u8; 4]>::try_from(payload).ok()?;
    Some([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

/// CTA_TUPLE_PROTO: protocol number and what tells flows of that protocol apart.
#[cfg_attr(small, optimize(speed))]
fn protocol(payload: &[u8], tuple: &mut Tuple, flaws: &mut u32) -> Result<bool, Rejected> {
    let mut has_number = false;
    let (mut kind_byte, mut code_byte, mut is_icmp) = (0, 0, false);
    let mut read16 = |value: Option<u16>| {
        value.unwrap_or_else(|| {
            *flaws = flaws.saturating_add(1);
            0
        })
    };
    for attribute in Attributes::new(payload) {
        let (kind, payload) = attribute?;
        match kind {
            CTA_PROTO_NUM => {
                tuple.proto = u8_of(payload).ok_or(Rejected::NoTuple)?;
                has_number = true;
            }
            CTA_PROTO_SRC_PORT | CTA_PROTO_ICMP_ID | CTA_PROTO_ICMPV6_ID => {
                tuple.sport = read16(be16_of(payload))
            }
            CTA_PROTO_DST_PORT => tuple.dport = read16(be16_of(payload)),
            CTA_PROTO_ICMP_TYPE | CTA_PROTO_ICMPV6_TYPE => {
                (kind_byte, is_icmp) = (read16(u8_of(payload).map(u16::from)), true);
            }
            CTA_PROTO_ICMP_CODE | CTA_PROTO_ICMPV6_CODE => {
                (code_byte, is_icmp) = (read16(u8_of(payload).map(u16::from)), true);
            }
            _ => {}
        }
    }
    if is_icmp {
        tuple.dport = (kind_byte << 8) | code_byte;
    }
    Ok(has_number)
}

/// CTA_PROTOINFO: the TCP state, where the protocol is TCP.
fn protoinfo(payload: &[u8], flaws: &mut u32) -> Option<u8> {
    let nested = find(payload, CTA_PROTOINFO_TCP)?;
    let state = find(nested, CTA_PROTOINFO_TCP_STATE).and_then(u8_of);
    if state.is_none() {
        *flaws = flaws.saturating_add(1);
    }
    state
}

/// CTA_COUNTERS_*: 64-bit since Linux 2.6.29; 32-bit attributes are what older kernels sent.
#[cfg_attr(small, optimize(speed))]
fn counters(payload: &[u8]) -> Option<Traffic> {
    let wide = |kind, kind32| {
        let value = find(payload, kind).and_then(be64_of);
        value.or_else(|| find(payload, kind32).and_then(be32_of).map(u64::from))
    };
    Some(Traffic {
        packets: wide(CTA_COUNTERS_PACKETS, CTA_COUNTERS32_PACKETS)?,
        bytes: wide(CTA_COUNTERS_BYTES, CTA_COUNTERS32_BYTES)?,
    })
}

/// CTA_TIMESTAMP: start, and stop in DESTROY events.
#[cfg_attr(small, optimize(speed))]
fn timestamp(payload: &[u8], entry: &mut Entry) {
    if let Some(start) = find(payload, CTA_TIMESTAMP_START) {
        entry.start_ns = entry.noted(be64_of(start));
    }
    if let Some(stop) = find(payload, CTA_TIMESTAMP_STOP) {
        entry.stop_ns = entry.noted(be64_of(stop));
    }
}

fn find(payload: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes::new(payload)
        .map_while(Result::ok)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, payload)| payload)
}

#[cfg(test)]
#[path = "conntrack_tests.rs"]
mod tests;
