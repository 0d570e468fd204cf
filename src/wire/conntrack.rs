//! Conntrack entries as ctnetlink sends them, in events and in dumps
//! (include/uapi/linux/netfilter/nfnetlink_conntrack.h; net/netfilter/nf_conntrack_netlink.c).
//!
//! One small reader per nesting level, shaped like the kernel's nesting. An entry is only rejected
//! for broken framing or for lack of an original tuple; any other attribute that cannot be read is
//! a counted flaw, and one that is absent is `None`, which is not zero.

use super::attr::{Attributes, BrokenFraming, be16_of, be32_of, be64_of, u8_of};
use super::kernel::*;
use super::request::Request;
use super::tuple_layout::usual;
pub use super::zone::{Zone, ZoneDirection};

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

    /// Reads them into an entry that holds nothing yet. What it holds after an error means nothing.
    #[cfg_attr(small, optimize(speed))]
    pub fn read(&mut self, attributes: Attributes<'_>) -> Result<(), Rejected> {
        let (mut original, mut reply) = (Err(Rejected::NoTuple), Err(Rejected::NoTuple));
        for attribute in attributes {
            let (kind, payload) = attribute?;
            match kind {
                CTA_TUPLE_ORIG => original = self.tuple(payload, ZoneDirection::Original),
                CTA_TUPLE_REPLY => reply = self.tuple(payload, ZoneDirection::Reply),
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
        original?;
        if reply.is_err() {
            self.flaw();
            self.reply = self.original.inverse();
        }
        Ok(())
    }

    /// CTA_TUPLE_ORIG or CTA_TUPLE_REPLY; a zone in it holds for that direction.
    #[cfg_attr(small, optimize(speed))]
    fn tuple(&mut self, payload: &[u8], direction: ZoneDirection) -> Result<(), Rejected> {
        let tuple = match usual(payload) {
            Some(tuple) => tuple,
            None => tuple(payload, self, direction)?,
        };
        if direction == ZoneDirection::Reply {
            self.reply = tuple;
        } else {
            self.original = tuple;
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
mod tests {
    use super::*;

    /// Lays out a tuple the way the kernel does.
    fn put_tuple(
        request: &mut Request,
        kind: u16,
        addresses: &[(u16, &[u8])],
        proto: &[(u16, &[u8])],
    ) {
        request.nest(kind, |tuple| {
            tuple.nest(CTA_TUPLE_IP, |ip| {
                addresses
                    .iter()
                    .for_each(|(kind, bytes)| ip.put(*kind, bytes))
            });
            tuple.nest(CTA_TUPLE_PROTO, |l4| {
                proto.iter().for_each(|(kind, bytes)| l4.put(*kind, bytes))
            });
        });
    }

    fn parse(fill: impl FnOnce(&mut Request)) -> Result<Entry, Rejected> {
        let mut request = Request::new(0, 0, 0, 0);
        fill(&mut request);
        Entry::parse(Attributes::new(&request.bytes()[20..]))
    }

    const V4: [(u16, &[u8]); 2] = [
        (CTA_IP_V4_SRC, &[10, 0, 0, 1]),
        (CTA_IP_V4_DST, &[10, 0, 0, 2]),
    ];

    #[test]
    fn a_tcp_entry_with_its_tuples_and_state() {
        let entry = parse(|r| {
            put_tuple(
                r,
                CTA_TUPLE_ORIG,
                &V4,
                &[
                    (CTA_PROTO_NUM, &[6]),
                    (CTA_PROTO_SRC_PORT, &[0x9c, 0x40]),
                    (CTA_PROTO_DST_PORT, &[0, 22]),
                ],
            );
            put_tuple(
                r,
                CTA_TUPLE_REPLY,
                &V4,
                &[
                    (CTA_PROTO_NUM, &[6]),
                    (CTA_PROTO_SRC_PORT, &[0, 22]),
                    (CTA_PROTO_DST_PORT, &[0x9c, 0x40]),
                ],
            );
            r.put(CTA_ID, &7u32.to_be_bytes());
            r.nest(CTA_PROTOINFO, |info| {
                info.nest(CTA_PROTOINFO_TCP, |tcp| {
                    tcp.put(CTA_PROTOINFO_TCP_STATE, &[3])
                })
            });
        })
        .unwrap();
        assert_eq!(
            (
                entry.original.sport,
                entry.original.dport,
                entry.original.proto
            ),
            (40000, 22, 6)
        );
        assert_eq!(entry.original.src[..4], [10, 0, 0, 1]);
        assert_eq!(
            (entry.id, entry.tcp_state, entry.mark, entry.flaws),
            (Some(7), Some(3), None, 0)
        );
    }

    /// Whatever is changed in a tuple of the usual layout, reading it in one go says what the walk
    /// over its attributes says, or nothing.
    #[test]
    fn the_usual_layout_is_read_as_the_walk_reads_it() {
        let l4: [(u16, &[u8]); 3] = [
            (CTA_PROTO_NUM, &[17]),
            (CTA_PROTO_SRC_PORT, &[0x9c, 0x40]),
            (CTA_PROTO_DST_PORT, &[0, 53]),
        ];
        let v6: [(u16, &[u8]); 2] = [(CTA_IP_V6_SRC, &[7; 16]), (CTA_IP_V6_DST, &[8; 16])];
        for addresses in [V4, v6] {
            let mut request = Request::new(0, 0, 0, 0);
            put_tuple(&mut request, CTA_TUPLE_ORIG, &addresses, &l4);
            let whole = &request.bytes()[24..];
            assert!(usual(whole).is_some());
            let mut read_in_one_go = 0;
            for at in 0..whole.len() {
                for bit in 0..8 {
                    let mut changed = whole.to_vec();
                    changed[at] ^= 1 << bit;
                    let Some(read) = usual(&changed) else {
                        continue;
                    };
                    let mut walked = Entry::default();
                    let by_walk = tuple(&changed, &mut walked, ZoneDirection::Original);
                    assert_eq!((Ok(read), walked.flaws), (by_walk, 0), "{changed:?}");
                    read_in_one_go += 1;
                }
                assert_eq!(usual(&whole[..at]), None);
            }
            // Each bit of the addresses, the ports, the protocol, and the seven bytes of padding.
            let fields = 2 * addresses[0].1.len() + 2 * 2 + 1 + 7;
            assert_eq!(read_in_one_go, 8 * fields);
        }
    }

    #[test]
    fn icmp_type_and_code_are_single_bytes() {
        let entry = parse(|r| {
            let echo: [(u16, &[u8]); 4] = [
                (CTA_PROTO_NUM, &[1]),
                (CTA_PROTO_ICMP_ID, &[0x12, 0x34]),
                (CTA_PROTO_ICMP_TYPE, &[8]),
                (CTA_PROTO_ICMP_CODE, &[0]),
            ];
            put_tuple(r, CTA_TUPLE_ORIG, &V4, &echo);
        })
        .unwrap();
        assert_eq!(entry.original.icmp(), (8, 0, 0x1234));
        assert_eq!(
            (entry.reply.icmp(), entry.flaws),
            ((0, 0, 0x1234), 1),
            "a missing reply tuple is a flaw"
        );
    }

    #[test]
    fn a_zone_of_one_direction() {
        let entry = parse(|r| {
            r.nest(CTA_TUPLE_ORIG, |tuple| {
                tuple.nest(CTA_TUPLE_IP, |ip| {
                    V4.iter().for_each(|(kind, bytes)| ip.put(*kind, bytes))
                });
                tuple.nest(CTA_TUPLE_PROTO, |l4| l4.put(CTA_PROTO_NUM, &[99]));
                tuple.put(CTA_TUPLE_ZONE, &6u16.to_be_bytes());
            });
        })
        .unwrap();
        assert_eq!(
            entry.zone,
            Zone {
                id: 6,
                direction: ZoneDirection::Original
            }
        );
    }

    #[test]
    fn old_kernels_count_in_32_bits() {
        let entry = parse(|r| {
            put_tuple(r, CTA_TUPLE_ORIG, &V4, &[(CTA_PROTO_NUM, &[17])]);
            r.nest(CTA_COUNTERS_ORIG, |c| {
                c.put(CTA_COUNTERS32_PACKETS, &5u32.to_be_bytes());
                c.put(CTA_COUNTERS32_BYTES, &600u32.to_be_bytes());
            });
        })
        .unwrap();
        assert_eq!(
            entry.traffic_original,
            Some(Traffic {
                packets: 5,
                bytes: 600
            })
        );
        assert_eq!(entry.traffic_reply, None, "absent is not zero");
    }

    #[test]
    fn an_odd_optional_field_is_a_flaw_and_the_entry_stays() {
        let entry = parse(|r| {
            put_tuple(r, CTA_TUPLE_ORIG, &V4, &[(CTA_PROTO_NUM, &[17])]);
            put_tuple(r, CTA_TUPLE_REPLY, &V4, &[(CTA_PROTO_NUM, &[17])]);
            r.put(CTA_MARK, &[1, 2, 3]);
        })
        .unwrap();
        assert_eq!((entry.mark, entry.flaws), (None, 1));
    }

    #[test]
    fn without_a_whole_original_tuple_there_is_no_entry() {
        assert_eq!(parse(|_| ()), Err(Rejected::NoTuple));
        assert_eq!(
            parse(|r| put_tuple(r, CTA_TUPLE_ORIG, &V4, &[])),
            Err(Rejected::NoTuple)
        );
        let mixed: [(u16, &[u8]); 2] = [(CTA_IP_V4_SRC, &[10, 0, 0, 1]), (CTA_IP_V6_DST, &[0; 16])];
        assert_eq!(
            parse(|r| put_tuple(r, CTA_TUPLE_ORIG, &mixed, &[(CTA_PROTO_NUM, &[6])])),
            Err(Rejected::NoTuple)
        );
    }

    #[test]
    fn a_reply_turns_addresses_ports_and_icmp_type_round() {
        let echo = Tuple {
            proto: 58,
            ipv6: true,
            sport: 9,
            dport: 128 << 8,
            ..Tuple::default()
        };
        assert_eq!(echo.inverse().icmp(), (129, 0, 9));
        let tcp = Tuple {
            proto: 6,
            src: [1; 16],
            dst: [2; 16],
            sport: 1,
            dport: 2,
            ..Tuple::default()
        };
        assert_eq!(
            tcp.inverse(),
            Tuple {
                src: [2; 16],
                dst: [1; 16],
                sport: 2,
                dport: 1,
                ..tcp
            }
        );
    }
}
