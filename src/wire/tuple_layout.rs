//! The layout that the kernel gives nearly every tuple, read in one go (`ctnetlink_dump_tuples`,
//! net/netfilter/nf_conntrack_netlink.c): addresses, then the protocol with both ports, nothing else.
//!
//! Two tuples make two thirds of an event's attributes, and the walk from attribute to attribute is
//! most of what it costs to read one. Here each header is compared with the one that is expected at
//! its place; whatever differs, be it a single bit, is left to the reader in conntrack.rs, which
//! says the same of what is read here: the tests there compare the two.

use super::attr::header;
use super::conntrack::Tuple;
use super::kernel::*;

const IPV4_LEN: usize = 48;
const IPV6_LEN: usize = 72;

/// Reads a tuple of TCP, UDP or another protocol with ports, where it has the usual layout; where not,
/// what the tuple holds then means nothing.
#[inline]
pub(super) fn usual(payload: &[u8], tuple: &mut Tuple) -> Option<()> {
    match payload.len() {
        IPV4_LEN => {
            let kinds = [CTA_IP_V4_SRC, CTA_IP_V4_DST];
            let (src, dst) = layout::<IPV4_LEN, 4>(payload, [20, 8], kinds, tuple)?;
            (tuple.ipv6, tuple.src, tuple.dst) = (false, wide(src), wide(dst));
        }
        IPV6_LEN => {
            let kinds = [CTA_IP_V6_SRC, CTA_IP_V6_DST];
            let (src, dst) = layout::<IPV6_LEN, 16>(payload, [44, 20], kinds, tuple)?;
            (tuple.ipv6, tuple.src, tuple.dst) = (true, src, dst);
        }
        _ => return None,
    }
    Some(())
}

/// Reads the tuple that comes first, where it is of this kind and has that layout. Returns what comes
/// behind it.
#[inline(always)]
pub(super) fn usual_first<'a>(
    attributes: &'a [u8],
    kind: u16,
    tuple: &mut Tuple,
) -> Option<&'a [u8]> {
    let mut rest = Fields(attributes);
    let first = u32::from_ne_bytes(rest.take()?);
    let kind = kind | NLA_F_NESTED;
    let len = if first == header(52, kind) {
        IPV4_LEN
    } else if first == header(76, kind) {
        IPV6_LEN
    } else {
        return None;
    };
    let (payload, rest) = rest.0.split_at_checked(len)?;
    usual(payload, tuple)?;
    Some(rest)
}

/// The fields in their order, of `LEN` bytes with addresses of `A` bytes; lengths count the header.
#[inline(always)]
fn layout<const LEN: usize, const A: usize>(
    payload: &[u8],
    [ip_len, address_len]: [u16; 2],
    [src_kind, dst_kind]: [u16; 2],
    tuple: &mut Tuple,
) -> Option<([u8; A], [u8; A])> {
    let mut rest = Fields(<&[u8; LEN]>::try_from(payload).ok()?);
    rest.expect(ip_len, CTA_TUPLE_IP | NLA_F_NESTED)?;
    rest.expect(address_len, src_kind)?;
    let src = rest.take()?;
    rest.expect(address_len, dst_kind)?;
    let dst = rest.take()?;
    rest.expect(28, CTA_TUPLE_PROTO | NLA_F_NESTED)?;
    rest.expect(5, CTA_PROTO_NUM)?;
    let [proto, _, _, _] = rest.take()?;
    rest.expect(6, CTA_PROTO_SRC_PORT)?;
    let [s0, s1, _, _] = rest.take()?;
    rest.expect(6, CTA_PROTO_DST_PORT)?;
    let [d0, d1, _, _] = rest.take()?;
    tuple.proto = proto;
    (tuple.sport, tuple.dport) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
    Some((src, dst))
}

fn wide([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// Bytes of a known number, taken off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    #[inline(always)]
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    /// The header of an attribute, as it must be.
    #[inline(always)]
    fn expect(&mut self, len: u16, kind: u16) -> Option<()> {
        (u32::from_ne_bytes(self.take()?) == header(len, kind)).then_some(())
    }
}
