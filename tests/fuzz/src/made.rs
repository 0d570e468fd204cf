//! Well-formed conntrack and trace messages out of a few bytes, with few values of everything: so that the
//! fuzzer gets at the table without having to invent netlink, and flows meet each other there.

use conntracker::wire::kernel::*;

/// Netlink as it is written, apart from the program's own writer, which this does not test.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16) -> Message {
        let mut bytes = Vec::with_capacity(512);
        bytes.extend([0; 4]); // the length
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8 + 4]); // sequence, port, struct nfgenmsg
        Message(bytes)
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Message)) {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        fill(self);
        let len = (self.0.len() - start) as u16;
        self.0[start..][..2].copy_from_slice(&len.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn put(&mut self, kind: u16, payload: &[u8]) {
        self.nest(kind, |message| message.0.extend(payload));
    }

    /// nfgen_family.
    fn family(&mut self, family: u8) {
        self.0[16] = family;
    }

    fn finish(mut self) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }
}

/// How many bytes make a message.
pub const RECIPE_LEN: usize = 8;

/// A message of a kind of entry.
pub mod kind {
    /// NEW event.
    pub const NEW: u8 = 0;
    /// UPDATE event.
    pub const UPDATE: u8 = 1;
    /// DESTROY event.
    pub const DESTROY: u8 = 2;
    /// Entry of a dump.
    pub const DUMPED: u8 = 3;
}

const PROTOCOLS: [u8; 4] = [IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, 50];
const IPV6: u8 = 1 << 4;
const TRANSLATED: u8 = 1 << 5;
const COUNTED: u8 = 1 << 6;
const NO_REPLY: u8 = 1 << 7;

/// What makes a tuple.
struct Ends {
    ipv6: bool,
    proto: u8,
    src: u8,
    dst: u8,
    sport: u8,
    dport: u8,
}

/// The datagram of a recipe, and whether it belongs to a dump. The bytes: kind, protocol and four
/// flags; both hosts; source port; destination port; id; status; times; zone.
pub fn datagram(recipe: &[u8; RECIPE_LEN]) -> (Vec<u8>, bool) {
    let [what, hosts, sport, dport, id, status, times, zone] = *recipe;
    let (number, flags) = match what & 3 {
        kind::NEW => (IPCTNL_MSG_CT_NEW, NLM_F_CREATE | NLM_F_EXCL),
        kind::DESTROY => (IPCTNL_MSG_CT_DELETE, 0),
        _ => (IPCTNL_MSG_CT_NEW, 0),
    };
    let mut message = Message::new(NFNL_SUBSYS_CTNETLINK << 8 | number, flags);
    let original = Ends {
        ipv6: what & IPV6 != 0,
        proto: PROTOCOLS[usize::from(what >> 2 & 3)],
        src: hosts & 7,
        dst: hosts >> 3 & 7,
        sport,
        dport: dport & 3,
    };
    let reply = Ends {
        src: if what & TRANSLATED != 0 {
            hosts >> 6
        } else {
            original.dst
        },
        dst: original.src,
        sport: original.dport,
        dport: sport.wrapping_add(dport >> 6),
        ..original
    };
    put_tuple(&mut message, CTA_TUPLE_ORIG, &original, zone & 3);
    if what & NO_REPLY == 0 {
        put_tuple(&mut message, CTA_TUPLE_REPLY, &reply, zone >> 2 & 3);
    }
    message.put(CTA_ID, &[0, 0, 0, id]);
    message.put(CTA_STATUS, &[0, 0, 0, status]);
    if zone >> 4 & 3 != 0 {
        message.put(CTA_ZONE, &[0, zone >> 4 & 3]);
    }
    if what & COUNTED != 0 {
        for kind in [CTA_COUNTERS_ORIG, CTA_COUNTERS_REPLY] {
            message.nest(kind, |counters| {
                let packets = u64::MAX >> (id & 63);
                counters.put(CTA_COUNTERS_PACKETS, &packets.to_be_bytes());
                counters.put(CTA_COUNTERS_BYTES, &packets.to_be_bytes());
            });
        }
    }
    put_times(&mut message, times);
    (message.finish(), what & 3 == kind::DUMPED)
}

fn put_tuple(message: &mut Message, kind: u16, ends: &Ends, zone: u8) {
    message.nest(kind, |tuple| {
        tuple.nest(CTA_TUPLE_IP, |ip| {
            for (host, v4, v6) in [
                (ends.src, CTA_IP_V4_SRC, CTA_IP_V6_SRC),
                (ends.dst, CTA_IP_V4_DST, CTA_IP_V6_DST),
            ] {
                let mut address = [0; 16];
                (address[0], address[15]) = (0xfd, host);
                if ends.ipv6 {
                    ip.put(v6, &address);
                } else {
                    ip.put(v4, &[10, 0, 0, host]);
                }
            }
        });
        tuple.nest(CTA_TUPLE_PROTO, |proto| {
            proto.put(CTA_PROTO_NUM, &[ends.proto]);
            match ends.proto {
                IPPROTO_ICMP => {
                    proto.put(CTA_PROTO_ICMP_ID, &[0, ends.sport]);
                    proto.put(CTA_PROTO_ICMP_TYPE, &[ends.dport]);
                    proto.put(CTA_PROTO_ICMP_CODE, &[0]);
                }
                IPPROTO_TCP | IPPROTO_UDP => {
                    proto.put(CTA_PROTO_SRC_PORT, &[0, ends.sport]);
                    proto.put(CTA_PROTO_DST_PORT, &[0, ends.dport]);
                }
                _ => {}
            }
        });
        if zone != 0 {
            tuple.put(CTA_TUPLE_ZONE, &[0, zone]);
        }
    });
}

/// Start, stop and event, each there or not, anywhere in time.
fn put_times(message: &mut Message, times: u8) {
    let at_ns = [0, 1, 1_795_305_600_100_000_000, u64::MAX][usize::from(times >> 6)];
    if times & 3 != 0 {
        message.nest(CTA_TIMESTAMP, |stamps| {
            if times & 1 != 0 {
                stamps.put(CTA_TIMESTAMP_START, &at_ns.to_be_bytes());
            }
            if times & 2 != 0 {
                stamps.put(
                    CTA_TIMESTAMP_STOP,
                    &(at_ns ^ u64::from(times)).to_be_bytes(),
                );
            }
        });
    }
    if times & 4 != 0 {
        message.put(CTA_TIMESTAMP_EVENT, &at_ns.to_be_bytes());
    }
}

/// Bits of the first byte of a hit.
pub mod hit_of {
    /// Of the legacy tables rather than of nf_tables.
    pub const LEGACY: u8 = 1;
    /// In the reply direction.
    pub const REPLY: u8 = 1 << 1;
    /// It has the packet.
    pub const HEAD: u8 = 1 << 6;
    /// It has conntrack's id.
    pub const CONFIRMED: u8 = 1 << 7;
}

/// Chains of tests/fixtures/traced.ctrecord, ours and one that is unknown; all `inet`.
const NFT_CHAINS: [(&[u8], &[u8]); 8] = [
    (b"conntracker_trace", b"pre"),
    (b"conntracker_trace", b"out"),
    (b"guard", b"forward"),
    (b"guard", b"later"),
    (b"guard", b"cleartext"),
    (b"firewall", b"zones"),
    (b"firewall", b"marks"),
    (b"nobody", b"knows"),
];
const LEGACY_CHAINS: [(&str, u8); 4] = [
    ("raw:PREROUTING", NF_INET_PRE_ROUTING),
    ("filter:FORWARD", NF_INET_FORWARD),
    ("filter:deny", NF_INET_FORWARD),
    ("filter:OUTPUT", NF_INET_LOCAL_OUT),
];
const LEGACY_KINDS: [&str; 4] = ["rule", "policy", "return", "rule"];
const VERDICTS: [i32; 8] = [
    NF_ACCEPT, NF_DROP, NFT_JUMP, NFT_GOTO, NFT_RETURN, -1, NF_STOLEN, NF_QUEUE,
];

/// The datagram of a hit, and whether it is one of the legacy tables. Flows are as `datagram` makes
/// them. The bytes: what it is (`hit_of`, protocol, family); both hosts; source port; destination
/// port; id of the packet; chain and verdict; rule and kind; what tells the packet from others.
pub fn hit(recipe: &[u8; RECIPE_LEN]) -> (Vec<u8>, bool) {
    let [what, hosts, sport, dport, id, place, rule, unlike] = *recipe;
    let is_legacy = what & hit_of::LEGACY != 0;
    let mut ends = Ends {
        ipv6: what & IPV6 != 0,
        proto: PROTOCOLS[usize::from(what >> 2 & 3)],
        src: hosts & 7,
        dst: hosts >> 3 & 7,
        sport,
        dport: dport & 3,
    };
    let is_reply = what & hit_of::REPLY != 0;
    if is_reply {
        (ends.src, ends.dst) = (ends.dst, ends.src);
        (ends.sport, ends.dport) = (ends.dport, ends.sport);
    }
    let mut message = if is_legacy {
        Message::new(NFNL_SUBSYS_ULOG << 8, 0)
    } else {
        Message::new(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_TRACE, 0)
    };
    let (network, transport) = packet(&ends, unlike);
    let has_head = what & hit_of::HEAD != 0;
    let is_confirmed = what & hit_of::CONFIRMED != 0;
    if is_legacy {
        message.family(if ends.ipv6 { AF_INET6 } else { AF_INET });
        let (chain, hook) = LEGACY_CHAINS[usize::from(place & 3)];
        let kind = LEGACY_KINDS[usize::from(rule >> 6)];
        message.put(NFULA_PACKET_HDR, &[8, 0, hook, 0]);
        let number = rule & 7;
        let said = format!("TRACE: {chain}:{kind}:{number} \0");
        message.put(NFULA_PREFIX, said.as_bytes());
        if has_head {
            message.put(NFULA_PAYLOAD, &[network, transport].concat());
        }
        if is_confirmed {
            message.nest(NFULA_CT, |entry| {
                put_tuple(entry, CTA_TUPLE_ORIG, &ends, 0);
                entry.put(CTA_ID, &[0, 0, 0, id]);
            });
            message.put(NFULA_CT_INFO, &[0, 0, 0, 3 * u8::from(is_reply)]);
        }
        return (message.finish(), true);
    }
    message.family(NFPROTO_INET);
    let (table, chain) = NFT_CHAINS[usize::from(place & 7)];
    let verdict = VERDICTS[usize::from(place >> 3 & 7)];
    message.put(NFTA_TRACE_TABLE, table);
    message.put(NFTA_TRACE_CHAIN, chain);
    message.put(NFTA_TRACE_ID, &[0, 0, 0, id & 3]);
    let kind = [NFT_TRACETYPE_RULE, NFT_TRACETYPE_POLICY][usize::from(rule >> 7)];
    message.put(NFTA_TRACE_TYPE, &kind.to_be_bytes());
    if rule & 0x40 == 0 {
        message.put(NFTA_TRACE_RULE_HANDLE, &u64::from(rule & 63).to_be_bytes());
    }
    message.nest(NFTA_TRACE_VERDICT, |nest| {
        nest.put(NFTA_VERDICT_CODE, &verdict.to_be_bytes());
        if matches!(verdict, NFT_JUMP | NFT_GOTO) {
            nest.put(NFTA_VERDICT_CHAIN, NFT_CHAINS[4].1);
        }
    });
    message.put(NFTA_TRACE_POLICY, &verdict.to_be_bytes());
    if has_head {
        message.put(NFTA_TRACE_NETWORK_HEADER, &network);
        message.put(NFTA_TRACE_TRANSPORT_HEADER, &transport);
    }
    if place & 0x40 != 0 {
        message.put(NFTA_TRACE_OIF, &[0, 0, 0, 2]);
    } else {
        message.put(NFTA_TRACE_IIF, &[0, 0, 0, 1]);
    }
    if is_confirmed {
        message.put(NFTA_TRACE_CT_ID, &[0, 0, 0, id >> 2]);
        message.put(NFTA_TRACE_CT_DIRECTION, &[u8::from(is_reply)]);
    }
    (message.finish(), false)
}

/// The headers of a packet; `unlike` stands where translation changes nothing.
fn packet(ends: &Ends, unlike: u8) -> (Vec<u8>, Vec<u8>) {
    let network = if ends.ipv6 {
        let mut header = vec![0x60, 0, 0, unlike, 0, 20, ends.proto, 64];
        for host in [ends.src, ends.dst] {
            let mut address = [0; 16];
            (address[0], address[15]) = (0xfd, host);
            header.extend(address);
        }
        header
    } else {
        let mut header = vec![0x45, 0, 0, 40, 0, unlike, 0, 0, 64, ends.proto, 0, 0];
        header.extend([10, 0, 0, ends.src, 10, 0, 0, ends.dst]);
        header
    };
    let mut transport = vec![0, ends.sport, 0, ends.dport];
    if ends.proto == IPPROTO_ICMP {
        transport = vec![ends.dport, 0, 0, 0, 0, ends.sport];
    }
    transport.resize(20, 0);
    (network, transport)
}
