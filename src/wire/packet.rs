//! The head of a traced packet: addresses, protocol and ports, and what tells it from other packets
//! of its flow (RFC 791, 8200, 9293, 768, 792, 4443; conntrack's view of ICMP as in
//! net/netfilter/nf_conntrack_proto_icmp.c).
//!
//! A translated packet changes one end at a time and keeps its length, its IPv4 identification and
//! its place in the stream: by these its steps before and after are known to be one packet's.

use super::conntrack::Tuple;
use super::kernel::*;

const IPV4_HEADER_LEN: usize = 20;
const IPV6_HEADER_LEN: usize = 40;
/// Bytes behind the ports that count: a trace of nf_tables has 20 bytes from the ports on.
const FINGERPRINT_LEN: usize = 12;
/// Extension headers walked at most; more is not a packet of a common flow.
const EXTENSIONS_MAX: usize = 8;

/// What the head of a packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// As conntrack would make it of this packet: for ICMP the ports are (id, type and code).
    pub tuple: Tuple,
    /// Stays the same while the packet is translated; differs between most packets of a flow.
    pub fingerprint: u64,
    /// An ICMP error: about another flow, not a flow of its own.
    pub icmp_error: bool,
}

impl Head {
    /// Reads a packet from its IP header on; `None` where it is cut too short, or is a fragment that
    /// does not begin its packet.
    #[cfg_attr(small, optimize(speed))]
    pub fn of_packet(packet: &[u8]) -> Option<Head> {
        match packet.first()? >> 4 {
            4 => {
                let header_len = usize::from(packet.first()? & 0xf).checked_mul(4)?;
                Head::ipv4(packet, packet.get(header_len..).unwrap_or_default())
            }
            6 => {
                let (proto, transport) = transport_of_ipv6(packet)?;
                Head::ipv6(packet, proto, transport)
            }
            _ => None,
        }
    }

    /// Reads a packet from its network header and its transport header, as nf_tables traces give them.
    #[cfg_attr(small, optimize(speed))]
    pub fn of_headers(network: &[u8], transport: &[u8]) -> Option<Head> {
        match network.first()? >> 4 {
            4 => Head::ipv4(network, transport),
            6 => {
                let proto = *network.get(6)?;
                // Behind extension headers the protocol is not to be had from the header alone.
                (!is_extension(proto)).then(|| Head::ipv6(network, proto, transport))?
            }
            _ => None,
        }
    }

    #[cfg_attr(small, optimize(speed))]
    fn ipv4(header: &[u8], transport: &[u8]) -> Option<Head> {
        let header = header.get(..IPV4_HEADER_LEN)?;
        if be16(header, 6)? & 0x1fff != 0 {
            return None; // a later fragment
        }
        let mut tuple = Tuple {
            proto: *header.get(9)?,
            ..Tuple::default()
        };
        address::<4>(&mut tuple.src, header, 12)?;
        address::<4>(&mut tuple.dst, header, 16)?;
        let length_and_id = u64::from(be32(header, 2)?);
        Some(Head::transport(tuple, length_and_id, transport))
    }

    fn ipv6(header: &[u8], proto: u8, transport: &[u8]) -> Option<Head> {
        let header = header.get(..IPV6_HEADER_LEN)?;
        let mut tuple = Tuple {
            ipv6: true,
            proto,
            ..Tuple::default()
        };
        address::<16>(&mut tuple.src, header, 8)?;
        address::<16>(&mut tuple.dst, header, 24)?;
        let label_and_length =
            u64::from(be32(header, 0)? & 0xf_ffff) << 12 ^ u64::from(be16(header, 4)?);
        Some(Head::transport(tuple, label_and_length, transport))
    }

    #[cfg_attr(small, optimize(speed))]
    fn transport(mut tuple: Tuple, network_part: u64, transport: &[u8]) -> Head {
        let mut icmp_error = false;
        // Not the ports, nor a checksum: translation changes those.
        let mut kept = transport
            .get(4..FINGERPRINT_LEN.min(transport.len()))
            .unwrap_or_default();
        if tuple.is_icmp() {
            let kind_and_code = be16(transport, 0).unwrap_or(0);
            let [kind, _] = kind_and_code.to_be_bytes();
            tuple.dport = kind_and_code;
            icmp_error = is_icmp_error(tuple.ipv6, kind);
            if has_icmp_id(tuple.ipv6, kind) {
                tuple.sport = be16(transport, 4).unwrap_or(0);
                // Translation changes the id as it does a port.
                kept = kept.get(2..).unwrap_or_default();
            }
        } else if tuple.can_have_ports() && tuple.proto != IPPROTO_GRE {
            tuple.sport = be16(transport, 0).unwrap_or(0);
            tuple.dport = be16(transport, 2).unwrap_or(0);
            kept = match tuple.proto {
                IPPROTO_TCP => transport.get(4..16).unwrap_or_default(), // numbers, flags, window
                IPPROTO_UDP | IPPROTO_UDPLITE => transport.get(8..).unwrap_or_default(),
                _ => transport.get(4..8).unwrap_or_default(),
            };
        }
        Head {
            tuple,
            fingerprint: fingerprint(network_part, kept),
            icmp_error,
        }
    }

    /// Whether `later` can be this packet after it was translated at one end, or not at all.
    #[cfg_attr(small, optimize(speed))]
    pub fn becomes(&self, later: &Head) -> bool {
        let (a, b) = (&self.tuple, &later.tuple);
        self.fingerprint == later.fingerprint
            && (a.ipv6, a.proto) == (b.ipv6, b.proto)
            && if a.is_icmp() {
                a.dport == b.dport && (a.src == b.src || a.dst == b.dst)
            } else {
                (a.src, a.sport) == (b.src, b.sport) || (a.dst, a.dport) == (b.dst, b.dport)
            }
    }
}

/// Mixes the part of the network header with the first FINGERPRINT_LEN bytes of `kept`, as many as
/// there are.
#[cfg_attr(small, optimize(speed))]
fn fingerprint(network_part: u64, kept: &[u8]) -> u64 {
    let kept = kept.get(..FINGERPRINT_LEN).unwrap_or(kept);
    let mut state = network_part;
    let mut rest = kept;
    while !rest.is_empty() {
        let word;
        if let Some((whole, behind)) = rest.split_first_chunk::<4>() {
            (word, rest) = (*whole, behind);
        } else {
            // Zeroes at the end of a packet count, too.
            word = match *rest {
                [a, b, c] => [a, b, c, 3],
                [a, b, ..] => [a, b, 0, 2],
                [a, ..] => [a, 0, 0, 1],
                [] => [0; 4],
            };
            rest = &[];
        }
        state = (state ^ u64::from(u32::from_ne_bytes(word)))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }
    state
}

/// The protocol behind the extension headers, and where it begins.
fn transport_of_ipv6(packet: &[u8]) -> Option<(u8, &[u8])> {
    let mut proto = *packet.get(6)?;
    let mut rest = packet.get(IPV6_HEADER_LEN..)?;
    for _ in 0..EXTENSIONS_MAX {
        if !is_extension(proto) {
            break;
        }
        let len = match proto {
            IPPROTO_FRAGMENT if be16(rest, 2)? & 0xfff8 != 0 => return None, // a later fragment
            IPPROTO_FRAGMENT => 8,
            _ => usize::from(*rest.get(1)?).checked_add(1)?.checked_mul(8)?,
        };
        proto = *rest.first()?;
        rest = rest.get(len..)?;
    }
    Some((proto, rest))
}

const IPPROTO_HOPOPTS: u8 = 0;
const IPPROTO_ROUTING: u8 = 43;
const IPPROTO_FRAGMENT: u8 = 44;
const IPPROTO_DSTOPTS: u8 = 60;

fn is_extension(proto: u8) -> bool {
    matches!(
        proto,
        IPPROTO_HOPOPTS | IPPROTO_ROUTING | IPPROTO_FRAGMENT | IPPROTO_DSTOPTS
    )
}

fn is_icmp_error(ipv6: bool, kind: u8) -> bool {
    if ipv6 {
        kind < 128
    } else {
        matches!(kind, 3 | 4 | 5 | 11 | 12)
    }
}

/// Whether bytes 4 and 5 of the message are an id that tells flows apart.
fn has_icmp_id(ipv6: bool, kind: u8) -> bool {
    if ipv6 {
        matches!(kind, 128 | 129)
    } else {
        matches!(kind, 0 | 8 | 13..=18)
    }
}

fn address<const LEN: usize>(to: &mut [u8; 16], header: &[u8], offset: usize) -> Option<()> {
    let (from, _) = header.get(offset..)?.split_first_chunk::<LEN>()?;
    *to.first_chunk_mut::<LEN>()? = *from;
    Some(())
}

fn be16(bytes: &[u8], offset: usize) -> Option<u16> {
    let (value, _) = bytes.get(offset..)?.split_first_chunk::<2>()?;
    Some(u16::from_be_bytes(*value))
}

fn be32(bytes: &[u8], offset: usize) -> Option<u32> {
    let (value, _) = bytes.get(offset..)?.split_first_chunk::<4>()?;
    Some(u32::from_be_bytes(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(proto: u8, id: u16, last_of_dst: u8, transport: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 60]; //  version and header length, tos, total length
        packet.extend(id.to_be_bytes()); //        identification
        packet.extend([0x40, 0, 64, proto]); //    don't fragment, ttl, protocol
        packet.extend([0, 0]); //                  checksum
        packet.extend([10, 0, 0, 1]); //           source
        packet.extend([10, 0, 0, last_of_dst]); // destination
        packet.extend(transport);
        packet
    }

    #[test]
    fn ports_and_echo_ids_are_found() {
        let tcp = [0x30, 0x39, 0, 80, 1, 2, 3, 4];
        let head = Head::of_packet(&ipv4(6, 7, 2, &tcp)).unwrap();
        assert_eq!((head.tuple.sport, head.tuple.dport), (12345, 80));
        assert_eq!(head.tuple.dst[..4], [10, 0, 0, 2]);
        let echo = [8, 0, 0xaa, 0xbb, 0, 9, 0, 1]; // type, code, checksum, id, sequence number
        let head = Head::of_packet(&ipv4(1, 7, 2, &echo)).unwrap();
        assert_eq!(head.tuple.icmp(), (8, 0, 9));
        assert!(!head.icmp_error);
        assert!(
            Head::of_packet(&ipv4(1, 7, 2, &[3, 1, 0, 0]))
                .unwrap()
                .icmp_error
        );
    }

    #[test]
    fn ipv6_extensions_are_walked_and_later_fragments_refused() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 24, 0, 64]; // payload length 24, hop-by-hop, hop limit
        packet.extend([0xfd; 16]);
        packet.extend([0xfe; 16]);
        packet.extend([17, 0, 0, 0, 0, 0, 0, 0]); //            next is UDP, 8 bytes long
        packet.extend([0, 53, 0, 54, 0, 8, 0, 0]);
        let head = Head::of_packet(&packet).unwrap();
        assert_eq!(
            (head.tuple.proto, head.tuple.sport, head.tuple.dport),
            (17, 53, 54)
        );
        assert_eq!(
            Head::of_headers(&packet[..40], &packet[48..]),
            None,
            "UDP is not to be seen there"
        );
        packet[6] = 44;
        packet[40..48].copy_from_slice(&[17, 0, 0, 8, 0, 0, 0, 1]); // offset 1
        assert_eq!(Head::of_packet(&packet), None);
    }

    #[test]
    fn a_translated_packet_is_known_by_its_other_end() {
        let udp = [0x30, 0x39, 0, 53, 0, 12, 0, 0];
        let before = Head::of_packet(&ipv4(17, 7, 2, &udp)).unwrap();
        let translated = Head::of_packet(&ipv4(17, 7, 9, &udp)).unwrap();
        let another = Head::of_packet(&ipv4(17, 8, 9, &udp)).unwrap();
        assert!(before.becomes(&before) && before.becomes(&translated));
        assert!(!before.becomes(&another));
    }

    #[test]
    fn a_translated_echo_is_known_though_its_id_is_another() {
        let echo = |id: u8, sequence: u8| [8, 0, 1, id, 0, id, 0, sequence, 5, 6, 7, 8];
        let head = |id, sequence| Head::of_packet(&ipv4(1, 7, 2, &echo(id, sequence))).unwrap();
        assert!(head(3, 1).becomes(&head(4, 1)));
        assert!(!head(3, 1).becomes(&head(3, 2)));
    }

    #[test]
    fn every_cut_has_an_answer() {
        let packet = ipv4(6, 1, 2, &[1; 20]);
        for len in 0..packet.len() {
            let head = Head::of_packet(&packet[..len]);
            assert_eq!(head.is_some(), len >= IPV4_HEADER_LEN, "{len}");
        }
    }
}
