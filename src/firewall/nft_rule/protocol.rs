//! The headers that payload expressions look into, field by field, and what follows each.

use super::names;
use super::value::Kind;

/// A field of a header.
pub(super) struct Field {
    pub name: &'static str,
    /// In bits from the header's start.
    pub offset: u32,
    pub bits: u32,
    pub kind: Kind,
    /// The ICMP type that the field belongs to; the type of an answer counts as its question's.
    pub icmp: Option<u8>,
}

const fn field(name: &'static str, offset: u32, bits: u32, kind: Kind) -> Field {
    Field {
        name,
        offset,
        bits,
        kind,
        icmp: None,
    }
}

const fn of_icmp(name: &'static str, offset: u32, bits: u32, kind: Kind, icmp: u8) -> Field {
    Field {
        name,
        offset,
        bits,
        kind,
        icmp: Some(icmp),
    }
}

/// A header.
pub(super) struct Protocol {
    pub name: &'static str,
    /// 0 link layer, 1 network, 2 transport (enum nft_payload_bases).
    pub base: usize,
    /// The name of the field that says what follows.
    pub key: &'static str,
    pub fields: &'static [Field],
}

use Kind::{EtherType, Integer, Ipv4, Ipv6, Word};

/// Stands for the pseudo protocols, which have no fields: what follows is told by `meta`.
const fn pseudo(name: &'static str, base: usize) -> Protocol {
    Protocol {
        name,
        base,
        key: "",
        fields: &[],
    }
}

pub(super) static INET: Protocol = pseudo("inet", 0);
pub(super) static NETDEV: Protocol = pseudo("netdev", 0);
/// A protocol that we know no fields of.
pub(super) static UNKNOWN_NETWORK: Protocol = pseudo("", 1);
/// The same for transport protocols.
pub(super) static UNKNOWN_TRANSPORT: Protocol = pseudo("", 2);

pub(super) static ETHER: Protocol = Protocol {
    name: "ether",
    base: 0,
    key: "type",
    fields: &[
        field("daddr", 0, 48, Kind::Ether),
        field("saddr", 48, 48, Kind::Ether),
        field("type", 96, 16, EtherType),
    ],
};

/// Starts at bit 112, behind the Ethernet header.
pub(super) static VLAN: Protocol = Protocol {
    name: "vlan",
    base: 0,
    key: "type",
    fields: &[
        field("pcp", 112, 3, Integer),
        field("dei", 115, 1, Integer),
        field("id", 116, 12, Integer),
        field("type", 128, 16, EtherType),
    ],
};

pub(super) static ARP: Protocol = Protocol {
    name: "arp",
    base: 1,
    key: "",
    fields: &[
        field("htype", 0, 16, Integer),
        field("ptype", 16, 16, EtherType),
        field("hlen", 32, 8, Integer),
        field("plen", 40, 8, Integer),
        field("operation", 48, 16, Word(names::ARP_OPERATIONS)),
        field("saddr ether", 64, 48, Kind::Ether),
        field("saddr ip", 112, 32, Ipv4),
        field("daddr ether", 144, 48, Kind::Ether),
        field("daddr ip", 192, 32, Ipv4),
    ],
};

pub(super) static IP: Protocol = Protocol {
    name: "ip",
    base: 1,
    key: "protocol",
    fields: &[
        field("version", 0, 4, Integer),
        field("hdrlength", 4, 4, Integer),
        field("dscp", 8, 6, Kind::HexWord(names::DSCP)),
        field("ecn", 14, 2, Kind::HexWord(names::ECN)),
        field("length", 16, 16, Integer),
        field("id", 32, 16, Integer),
        field("frag-off", 48, 16, Integer),
        field("ttl", 64, 8, Integer),
        field("protocol", 72, 8, Word(names::PROTOCOLS)),
        field("checksum", 80, 16, Integer),
        field("saddr", 96, 32, Ipv4),
        field("daddr", 128, 32, Ipv4),
    ],
};

pub(super) static IP6: Protocol = Protocol {
    name: "ip6",
    base: 1,
    key: "nexthdr",
    fields: &[
        field("version", 0, 4, Integer),
        field("dscp", 4, 6, Kind::HexWord(names::DSCP)),
        field("ecn", 10, 2, Kind::HexWord(names::ECN)),
        field("flowlabel", 12, 20, Integer),
        field("length", 32, 16, Integer),
        field("nexthdr", 48, 8, Word(names::PROTOCOLS)),
        field("hoplimit", 56, 8, Integer),
        field("saddr", 64, 128, Ipv6),
        field("daddr", 192, 128, Ipv6),
    ],
};

const SOURCE: Field = field("sport", 0, 16, Integer);
const DESTINATION: Field = field("dport", 16, 16, Integer);

static TCP: Protocol = Protocol {
    name: "tcp",
    base: 2,
    key: "",
    fields: &[
        SOURCE,
        DESTINATION,
        field("sequence", 32, 32, Integer),
        field("ackseq", 64, 32, Integer),
        field("doff", 96, 4, Integer),
        field("reserved", 100, 4, Integer),
        field("flags", 104, 8, Kind::Bits(names::TCP_FLAGS)),
        field("window", 112, 16, Integer),
        field("checksum", 128, 16, Integer),
        field("urgptr", 144, 16, Integer),
    ],
};

static UDP: Protocol = Protocol {
    name: "udp",
    base: 2,
    key: "",
    fields: &[
        SOURCE,
        DESTINATION,
        field("length", 32, 16, Integer),
        field("checksum", 48, 16, Integer),
    ],
};

static UDPLITE: Protocol = Protocol {
    name: "udplite",
    base: 2,
    key: "",
    fields: &[
        SOURCE,
        DESTINATION,
        field("csumcov", 32, 16, Integer),
        field("checksum", 48, 16, Integer),
    ],
};

static SCTP: Protocol = Protocol {
    name: "sctp",
    base: 2,
    key: "",
    fields: &[
        SOURCE,
        DESTINATION,
        field("vtag", 32, 32, Integer),
        field("checksum", 64, 32, Integer),
    ],
};

static DCCP: Protocol = Protocol {
    name: "dccp",
    base: 2,
    key: "",
    fields: &[
        SOURCE,
        DESTINATION,
        field("type", 67, 4, Word(names::DCCP_TYPES)),
    ],
};

pub(super) static ICMP: Protocol = Protocol {
    name: "icmp",
    base: 2,
    key: "type",
    fields: &[
        field("type", 0, 8, Word(names::ICMP_TYPES)),
        field("code", 8, 8, Word(names::ICMP_CODES)),
        field("checksum", 16, 16, Integer),
        of_icmp("id", 32, 16, Integer, 8),
        of_icmp("sequence", 48, 16, Integer, 8),
        of_icmp("gateway", 32, 32, Integer, 5),
        of_icmp("mtu", 48, 16, Integer, 3),
    ],
};

pub(super) static ICMPV6: Protocol = Protocol {
    name: "icmpv6",
    base: 2,
    key: "type",
    fields: &[
        field("type", 0, 8, Word(names::ICMPV6_TYPES)),
        field("code", 8, 8, Word(names::ICMPV6_CODES)),
        field("checksum", 16, 16, Integer),
        of_icmp("parameter-problem", 32, 32, Integer, 4),
        of_icmp("mtu", 32, 32, Integer, 2),
        of_icmp("id", 32, 16, Integer, 128),
        of_icmp("sequence", 48, 16, Integer, 128),
        of_icmp("max-delay", 32, 16, Integer, 130),
    ],
};

static IGMP: Protocol = Protocol {
    name: "igmp",
    base: 2,
    key: "",
    fields: &[
        field("type", 0, 8, Word(names::IGMP_TYPES)),
        field("mrt", 8, 8, Integer),
        field("checksum", 16, 16, Integer),
        field("group", 32, 32, Integer),
    ],
};

static ESP: Protocol = Protocol {
    name: "esp",
    base: 2,
    key: "",
    fields: &[
        field("spi", 0, 32, Integer),
        field("sequence", 32, 32, Integer),
    ],
};

static AH: Protocol = Protocol {
    name: "ah",
    base: 2,
    key: "nexthdr",
    fields: &[
        field("nexthdr", 0, 8, Word(names::PROTOCOLS)),
        field("hdrlength", 8, 8, Integer),
        field("reserved", 16, 16, Integer),
        field("spi", 32, 32, Integer),
        field("sequence", 64, 32, Integer),
    ],
};

static COMP: Protocol = Protocol {
    name: "comp",
    base: 2,
    key: "nexthdr",
    fields: &[
        field("nexthdr", 0, 8, Word(names::PROTOCOLS)),
        field("flags", 8, 8, Kind::Hex),
        field("cpi", 16, 16, Integer),
    ],
};

/// The transport protocol of a number (IPPROTO_*).
pub(super) fn transport(number: u128) -> &'static Protocol {
    match number {
        1 => &ICMP,
        2 => &IGMP,
        6 => &TCP,
        17 => &UDP,
        33 => &DCCP,
        50 => &ESP,
        51 => &AH,
        58 => &ICMPV6,
        108 => &COMP,
        132 => &SCTP,
        136 => &UDPLITE,
        _ => &UNKNOWN_TRANSPORT,
    }
}

/// What an EtherType stands for (ETH_P_*); a VLAN tag is link layer again.
pub(super) fn of_ether_type(number: u128) -> &'static Protocol {
    match number {
        0x0800 => &IP,
        0x0806 => &ARP,
        0x86dd => &IP6,
        0x8100 | 0x88a8 => &VLAN,
        _ => &UNKNOWN_NETWORK,
    }
}

/// What follows `header` when its key field says `number`.
pub(super) fn follows(header: &'static Protocol, number: u128) -> Option<&'static Protocol> {
    match header.name {
        "ether" | "vlan" => Some(of_ether_type(number)),
        "ip" | "ip6" | "ah" | "comp" => Some(transport(number)),
        _ => None,
    }
}
