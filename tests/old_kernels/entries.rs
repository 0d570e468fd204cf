//! Entries of every kind that these kernels track.

use super::conntrack::{Ends, Entry, Layer4, ProtoInfo, Zone};
use super::expected::BASE_NS;
use super::kernels::{CONNTRACK, Kernel};

/// IPS_*: include/uapi/linux/netfilter/nf_conntrack_common.h.
pub const EXPECTED: u32 = 1;
pub const SEEN_REPLY: u32 = 1 << 1;
pub const ASSURED: u32 = 1 << 2;
pub const CONFIRMED: u32 = 1 << 3;
pub const SRC_NAT: u32 = 1 << 4;
pub const SEQ_ADJUST: u32 = 1 << 6;
pub const SRC_NAT_DONE: u32 = 1 << 7;
pub const DYING: u32 = 1 << 9;

pub fn ends(src: &str, dst: &str, layer4: Layer4) -> Ends {
    Ends {
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        layer4,
    }
}

/// The answer's ends where nothing is translated.
pub fn answer(ends: &Ends) -> Ends {
    let layer4 = match ends.layer4 {
        Layer4::Ports(number, src, dst) => Layer4::Ports(number, dst, src),
        Layer4::Icmp(8, code, id) => Layer4::Icmp(0, code, id),
        Layer4::Icmpv6(128, code, id) => Layer4::Icmpv6(129, code, id),
        other => other,
    };
    Ends {
        src: ends.dst,
        dst: ends.src,
        layer4,
    }
}

/// An entry without anything that a kernel may leave out.
pub fn bare(src: &str, dst: &str, layer4: Layer4, address: u64) -> Entry {
    let original = ends(src, dst, layer4);
    Entry {
        original,
        reply: answer(&original),
        address,
        zone: None,
        status: CONFIRMED,
        timeout: 30,
        counters: None,
        start_ns: None,
        stop_ns: None,
        protoinfo: None,
        helper: None,
        mark: 0,
        secctx: None,
        labels: None,
        master: None,
        adjusted: None,
    }
}

/// Where a kernel of 64 bits keeps entry number `at`: objects of one slab.
pub fn address(at: u64) -> u64 {
    0xffff_8800_3b5e_4000 + 0x140 * at
}

/// A flow with all that there is to tell.
pub fn rich() -> Entry {
    let v4 = |port| Layer4::Ports(6, port, 21);
    Entry {
        reply: ends("192.0.2.1", "203.0.113.7", Layer4::Ports(6, 21, 61000)), // masqueraded
        status: SEEN_REPLY | ASSURED | CONFIRMED | SRC_NAT | SEQ_ADJUST | SRC_NAT_DONE,
        timeout: 431_999,
        counters: Some([(12, 1540), ((1 << 33) + 5, (1 << 40) + 7)]),
        start_ns: Some(BASE_NS + 1_000_000_001),
        protoinfo: Some(ProtoInfo::Tcp(3)),
        helper: Some("ftp"),
        mark: 0x00c0_ffee,
        secctx: Some("system_u:object_r:unlabeled_t:s0"),
        labels: Some([0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80]),
        adjusted: Some([[0x1000, 0, 4], [0, 0, 0]]),
        ..bare("10.1.0.5", "192.0.2.1", v4(40021), address(0))
    }
}

/// Everything at once; zones of one direction where the kernel has them.
pub fn all(kernel: Kernel) -> Vec<Entry> {
    let mut all = vec![rich(), expected()];
    all.extend(counted());
    all.extend(uncounted());
    all.push(Entry {
        zone: Some(Zone::Both(7)),
        protoinfo: Some(ProtoInfo::Tcp(7)),
        status: SEEN_REPLY | CONFIRMED | ASSURED,
        start_ns: Some(BASE_NS + 2_500_000_000),
        ..six(Layer4::Ports(6, 1024, 443), 11)
    });
    if kernel.sends(CONNTRACK, "ORIG/ZONE") {
        for (at, zone) in [(12, Zone::Original(9)), (13, Zone::Reply(10))] {
            all.push(Entry {
                zone: Some(zone),
                ..four(Layer4::Ports(17, 9000 + at, 9000), at.into())
            });
        }
    }
    all
}

fn four(layer4: Layer4, at: u64) -> Entry {
    bare("10.1.0.5", "192.0.2.9", layer4, address(at))
}

fn six(layer4: Layer4, at: u64) -> Entry {
    bare("2001:db8::5", "2001:db8:1::9", layer4, address(at))
}

/// The data connection of the rich one, which its helper expected.
fn expected() -> Entry {
    let ports = Layer4::Ports(6, 20, 61001);
    Entry {
        status: EXPECTED | SEEN_REPLY | CONFIRMED,
        protoinfo: Some(ProtoInfo::Tcp(1)),
        master: Some(rich().original),
        ..bare("192.0.2.1", "203.0.113.7", ports, address(1))
    }
}

/// Answered, with accounting.
fn counted() -> [Entry; 3] {
    let counted = |entry: Entry, counters| Entry {
        status: SEEN_REPLY | CONFIRMED,
        counters: Some(counters),
        ..entry
    };
    let sctp = Entry {
        protoinfo: Some(ProtoInfo::Sctp(4)),
        ..six(Layer4::Ports(132, 5000, 36412), 5)
    };
    [
        counted(four(Layer4::Icmp(8, 0, 0x1234), 3), [(1, 84), (0, 0)]),
        counted(six(Layer4::Icmpv6(128, 0, 77), 4), [(3, 312), (3, 312)]),
        counted(sctp, [(9, 900), (8, 800)]),
    ]
}

/// Not answered, without accounting.
fn uncounted() -> [Entry; 6] {
    let dccp = Entry {
        protoinfo: Some(ProtoInfo::Dccp(3)),
        ..four(Layer4::Ports(33, 5001, 5002), 6)
    };
    [
        four(Layer4::Ports(17, 5353, 53), 2),
        dccp,
        four(Layer4::Ports(47, 0x0102, 0x0304), 7), // keys of PPTP
        four(Layer4::Nothing(253), 8),
        four(Layer4::Nothing(50), 9),
        four(Layer4::Ports(136, 600, 601), 10),
    ]
}
