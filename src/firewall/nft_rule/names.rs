//! The words that nft(8) has for numbers: each table pairs a number with its word, in ascending order.

/// Numbers and their words.
pub(super) type Table = [(u32, &'static str)];

/// The word for `number`.
pub(super) fn word(table: &Table, number: u32) -> Option<&'static str> {
    let found = table.iter().find(|(of, _)| *of == number);
    found.map(|(_, word)| *word)
}

/// `icmp type` (RFC 792).
pub(super) const ICMP_TYPES: &Table = &[
    (0, "echo-reply"),
    (3, "destination-unreachable"),
    (4, "source-quench"),
    (5, "redirect"),
    (8, "echo-request"),
    (9, "router-advertisement"),
    (10, "router-solicitation"),
    (11, "time-exceeded"),
    (12, "parameter-problem"),
    (13, "timestamp-request"),
    (14, "timestamp-reply"),
    (15, "info-request"),
    (16, "info-reply"),
    (17, "address-mask-request"),
    (18, "address-mask-reply"),
];

/// `icmp code`, those of destination-unreachable (RFC 792, 1122, 1812).
pub(super) const ICMP_CODES: &Table = &[
    (0, "net-unreachable"),
    (1, "host-unreachable"),
    (2, "prot-unreachable"),
    (3, "port-unreachable"),
    (4, "frag-needed"),
    (9, "net-prohibited"),
    (10, "host-prohibited"),
    (13, "admin-prohibited"),
];

/// `icmpv6 type` (RFC 4443, 4861, 3810).
pub(super) const ICMPV6_TYPES: &Table = &[
    (1, "destination-unreachable"),
    (2, "packet-too-big"),
    (3, "time-exceeded"),
    (4, "parameter-problem"),
    (128, "echo-request"),
    (129, "echo-reply"),
    (130, "mld-listener-query"),
    (131, "mld-listener-report"),
    (132, "mld-listener-done"),
    (133, "nd-router-solicit"),
    (134, "nd-router-advert"),
    (135, "nd-neighbor-solicit"),
    (136, "nd-neighbor-advert"),
    (137, "nd-redirect"),
    (138, "router-renumbering"),
    (141, "ind-neighbor-solicit"),
    (142, "ind-neighbor-advert"),
    (143, "mld2-listener-report"),
];

/// `icmpv6 code`, those of destination-unreachable (RFC 4443).
pub(super) const ICMPV6_CODES: &Table = &[
    (0, "no-route"),
    (1, "admin-prohibited"),
    (3, "addr-unreachable"),
    (4, "port-unreachable"),
    (5, "policy-fail"),
    (6, "reject-route"),
];

/// `igmp type` (linux/igmp.h).
pub(super) const IGMP_TYPES: &Table = &[
    (17, "membership-query"),
    (18, "membership-report-v1"),
    (22, "membership-report-v2"),
    (23, "leave-group"),
    (34, "membership-report-v3"),
];

/// `tcp flags`, bits.
pub(super) const TCP_FLAGS: &Table = &[
    (1, "fin"),
    (2, "syn"),
    (4, "rst"),
    (8, "psh"),
    (16, "ack"),
    (32, "urg"),
    (64, "ecn"),
    (128, "cwr"),
];

/// `dccp type` (RFC 4340).
pub(super) const DCCP_TYPES: &Table = &[
    (0, "request"),
    (1, "response"),
    (2, "data"),
    (3, "ack"),
    (4, "dataack"),
    (5, "closereq"),
    (6, "close"),
    (7, "reset"),
    (8, "sync"),
    (9, "syncack"),
];

/// `mh type` (RFC 6275, 5568).
pub(super) const MH_TYPES: &Table = &[
    (0, "binding-refresh-request"),
    (1, "home-test-init"),
    (2, "careof-test-init"),
    (3, "home-test"),
    (4, "careof-test"),
    (5, "binding-update"),
    (6, "binding-acknowledgement"),
    (7, "binding-error"),
    (8, "fast-binding-update"),
    (9, "fast-binding-acknowledgement"),
    (10, "fast-binding-advertisement"),
    (11, "experimental-mobility-header"),
    (12, "home-agent-switch-message"),
];

/// `ip dscp` (RFC 2474, 2597, 3246, 5865, 8622).
pub(super) const DSCP: &Table = &[
    (0, "cs0"),
    (1, "lephb"),
    (8, "cs1"),
    (10, "af11"),
    (12, "af12"),
    (14, "af13"),
    (16, "cs2"),
    (18, "af21"),
    (20, "af22"),
    (22, "af23"),
    (24, "cs3"),
    (26, "af31"),
    (28, "af32"),
    (30, "af33"),
    (32, "cs4"),
    (34, "af41"),
    (36, "af42"),
    (38, "af43"),
    (40, "cs5"),
    (44, "va"),
    (46, "ef"),
    (48, "cs6"),
    (56, "cs7"),
];

/// `ip ecn` (RFC 3168).
pub(super) const ECN: &Table = &[(0, "not-ect"), (1, "ect1"), (2, "ect0"), (3, "ce")];

/// `arp operation` (linux/if_arp.h).
pub(super) const ARP_OPERATIONS: &Table = &[
    (1, "request"),
    (2, "reply"),
    (3, "rrequest"),
    (4, "rreply"),
    (8, "inrequest"),
    (9, "inreply"),
    (10, "nak"),
];

/// `ether type` (linux/if_ether.h).
pub(super) const ETHER_TYPES: &Table = &[
    (2048, "ip"),
    (2054, "arp"),
    (33024, "8021q"),
    (34525, "ip6"),
    (34984, "8021ad"),
];

/// `meta nfproto` (linux/netfilter.h).
pub(super) const NFPROTOS: &Table = &[(2, "ipv4"), (10, "ipv6")];

/// `meta pkttype` (linux/if_packet.h).
pub(super) const PACKET_TYPES: &Table = &[
    (0, "host"),
    (1, "broadcast"),
    (2, "multicast"),
    (3, "other"),
];

/// `meta iiftype` (linux/if_arp.h).
pub(super) const LINK_TYPES: &Table = &[
    (1, "ether"),
    (512, "ppp"),
    (768, "ipip"),
    (769, "ipip6"),
    (772, "loopback"),
    (776, "sit"),
    (778, "ipgre"),
];

/// `fib ... type` (linux/rtnetlink.h).
pub(super) const ADDRESS_TYPES: &Table = &[
    (0, "unspec"),
    (1, "unicast"),
    (2, "local"),
    (3, "broadcast"),
    (4, "anycast"),
    (5, "multicast"),
    (6, "blackhole"),
    (7, "unreachable"),
    (8, "prohibit"),
];

/// `ct state`, bits (linux/netfilter/nf_conntrack_common.h).
pub(super) const CT_STATES: &Table = &[
    (1, "invalid"),
    (2, "established"),
    (4, "related"),
    (8, "new"),
    (64, "untracked"),
];

/// `ct status`, IPS_* bits.
pub(super) const CT_STATUS: &Table = &[
    (1, "expected"),
    (2, "seen-reply"),
    (4, "assured"),
    (8, "confirmed"),
    (16, "snat"),
    (32, "dnat"),
    (512, "dying"),
];

/// `ct event`, 1 << IPCT_*.
pub(super) const CT_EVENTS: &Table = &[
    (1, "new"),
    (2, "related"),
    (4, "destroy"),
    (8, "reply"),
    (16, "assured"),
    (32, "protoinfo"),
    (64, "helper"),
    (128, "mark"),
    (256, "seqadj"),
    (512, "secmark"),
    (1024, "label"),
];

/// `ct direction`.
pub(super) const CT_DIRECTIONS: &Table = &[(0, "original"), (1, "reply")];

/// `meta day`.
pub(super) const DAYS: &Table = &[
    (0, "Sunday"),
    (1, "Monday"),
    (2, "Tuesday"),
    (3, "Wednesday"),
    (4, "Thursday"),
    (5, "Friday"),
    (6, "Saturday"),
];

/// `log level` (syslog levels, and nft's own for the audit log).
pub(super) const LOG_LEVELS: &Table = &[
    (0, "emerg"),
    (1, "alert"),
    (2, "crit"),
    (3, "err"),
    (4, "warn"),
    (5, "notice"),
    (6, "info"),
    (7, "debug"),
    (8, "audit"),
];

/// Protocols by the names of Debian's /etc/protocols, which nft(8) uses.
pub(super) const PROTOCOLS: &Table = &[
    (0, "ip"),
    (1, "icmp"),
    (2, "igmp"),
    (3, "ggp"),
    (4, "ipencap"),
    (5, "st"),
    (6, "tcp"),
    (8, "egp"),
    (9, "igp"),
    (12, "pup"),
    (17, "udp"),
    (20, "hmp"),
    (22, "xns-idp"),
    (27, "rdp"),
    (29, "iso-tp4"),
    (33, "dccp"),
    (36, "xtp"),
    (37, "ddp"),
    (38, "idpr-cmtp"),
    (41, "ipv6"),
    (43, "ipv6-route"),
    (44, "ipv6-frag"),
    (45, "idrp"),
    (46, "rsvp"),
    (47, "gre"),
    (50, "esp"),
    (51, "ah"),
    (57, "skip"),
    (58, "ipv6-icmp"),
    (59, "ipv6-nonxt"),
    (60, "ipv6-opts"),
    (73, "rspf"),
    (81, "vmtp"),
    (88, "eigrp"),
    (89, "ospf"),
    (93, "ax.25"),
    (94, "ipip"),
    (97, "etherip"),
    (98, "encap"),
    (103, "pim"),
    (108, "ipcomp"),
    (112, "vrrp"),
    (115, "l2tp"),
    (124, "isis"),
    (132, "sctp"),
    (133, "fc"),
    (135, "mobility-header"),
    (136, "udplite"),
    (137, "mpls-in-ip"),
    (138, "manet"),
    (139, "hip"),
    (140, "shim6"),
    (141, "wesp"),
    (142, "rohc"),
    (143, "ethernet"),
];
