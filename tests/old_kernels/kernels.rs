//! Which of four kernels has which attribute. No such kernel could be had, so this is read off their
//! sources: what each of them puts into a message, in which order, and under which condition. Where a
//! stable tree has changed that later (4.4.y, 4.9.y: the ids), both ways are sent.
//!
//! Read were nf_conntrack_netlink.c of 3.10.y, 4.4.y, 4.9.y and a 4.18, between which 4.15 lies;
//! nfnetlink_log.c of 3.10.y and 4.4.y; nf_tables_trace.c as it was from 4.13 to 4.17.

/// A kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    pub release: &'static str,
    at: usize,
}

pub const KERNELS: [Kernel; 4] = [
    kernel("3.10", 0),
    kernel("4.4", 1),
    kernel("4.9", 2),
    kernel("4.15", 3),
];

const fn kernel(release: &'static str, at: usize) -> Kernel {
    Kernel { release, at }
}

const ALL: [bool; 4] = [true; 4];
const SINCE_4_4: [bool; 4] = [false, true, true, true];
const SINCE_4_9: [bool; 4] = [false, false, true, true];
const NONE: [bool; 4] = [false; 4];

/// An attribute as it may be sent, which kernel sends it, and where that is to be read.
type Row = (&'static str, [bool; 4], &'static str);

/// Conntrack entries: net/netfilter/nf_conntrack_netlink.c, where nothing else is said.
#[rustfmt::skip]
pub const CONNTRACK: &[Row] = &[
    ("ORIG", ALL, "ctnetlink_fill_info, ctnetlink_conntrack_event"),
    ("ORIG/IP", ALL, "ctnetlink_dump_tuples_ip"),
    ("ORIG/IP/V4_SRC", ALL, "net/ipv4/netfilter/nf_conntrack_l3proto_ipv4.c"),
    ("ORIG/IP/V4_DST", ALL, "the same"),
    ("ORIG/IP/V6_SRC", ALL, "net/ipv6/netfilter/nf_conntrack_l3proto_ipv6.c"),
    ("ORIG/IP/V6_DST", ALL, "the same"),
    ("ORIG/PROTO", ALL, "ctnetlink_dump_tuples_proto"),
    ("ORIG/PROTO/NUM", ALL, "the same"),
    ("ORIG/PROTO/SRC_PORT", ALL, "nf_conntrack_core.c, nf_ct_port_tuple_to_nlattr"),
    ("ORIG/PROTO/DST_PORT", ALL, "the same"),
    ("ORIG/PROTO/ICMP_ID", ALL, "net/ipv4/netfilter/nf_conntrack_proto_icmp.c"),
    ("ORIG/PROTO/ICMP_TYPE", ALL, "the same"),
    ("ORIG/PROTO/ICMP_CODE", ALL, "the same"),
    ("ORIG/PROTO/ICMPV6_ID", ALL, "net/ipv6/netfilter/nf_conntrack_proto_icmpv6.c"),
    ("ORIG/PROTO/ICMPV6_TYPE", ALL, "the same"),
    ("ORIG/PROTO/ICMPV6_CODE", ALL, "the same"),
    ("ORIG/ZONE", SINCE_4_4, "ctnetlink_dump_zone_id; zones of one direction came with 4.3"),
    ("REPLY/ZONE", SINCE_4_4, "the same"),
    ("ZONE", ALL, "3.10: where it is not 0; later: where it holds for both directions"),
    ("STATUS", ALL, "ctnetlink_dump_status"),
    ("TIMEOUT", ALL, "ctnetlink_dump_timeout; none in DESTROY"),
    ("COUNTERS_ORIG", ALL, "ctnetlink_dump_counters, later dump_counters; with nf_conntrack_acct"),
    ("COUNTERS_ORIG/PACKETS", ALL, "64 bits, as since 2.6.29"),
    ("COUNTERS_ORIG/BYTES", ALL, "the same"),
    ("COUNTERS_ORIG/PAD", SINCE_4_9, "nla_put_be64 with a pad, 4.7; on machines that need it"),
    ("COUNTERS_ORIG/32_PACKETS", NONE, "uapi: old 32bit counters, unused"),
    ("TIMESTAMP", ALL, "ctnetlink_dump_timestamp; dumps and DESTROY, with nf_conntrack_timestamp"),
    ("TIMESTAMP/START", ALL, "the same"),
    ("TIMESTAMP/STOP", ALL, "the same; where it is not 0"),
    ("TIMESTAMP/PAD", SINCE_4_9, "as of the counters"),
    ("PROTOINFO", ALL, "ctnetlink_dump_protoinfo; dumps, and events about it; none in DESTROY"),
    ("PROTOINFO/TCP", ALL, "nf_conntrack_proto_tcp.c, tcp_to_nlattr"),
    ("PROTOINFO/DCCP", ALL, "nf_conntrack_proto_dccp.c"),
    ("PROTOINFO/SCTP", ALL, "nf_conntrack_proto_sctp.c"),
    ("HELP", ALL, "ctnetlink_dump_helpinfo"),
    ("MARK", ALL, "dumps; events about it or where it is not 0 (CONFIG_NF_CONNTRACK_MARK)"),
    ("SECCTX", ALL, "ctnetlink_dump_secctx"),
    ("LABELS", ALL, "ctnetlink_dump_labels (3.9); where one is set; events about it"),
    ("ID", ALL, "ctnetlink_dump_id: low half of the entry's address; a hash of it in stable trees"),
    ("USE", ALL, "dumps only"),
    ("MASTER", ALL, "ctnetlink_dump_master; dumps, NEW of an expected flow"),
    ("SEQ_ADJ_ORIG", ALL, "3.10: CTA_NAT_SEQ_ADJ_*; 3.12: CTA_SEQ_ADJ_*, the same number and layout"),
    ("SEQ_ADJ_REPLY", ALL, "the same"),
    ("SYNPROXY", NONE, "4.18"),
    ("TIMESTAMP_EVENT", NONE, "6.14"),
];

/// Lines of the TRACE target: net/netfilter/nfnetlink_log.c, __build_packet_message.
#[rustfmt::skip]
pub const LOG: &[Row] = &[
    ("PACKET_HDR", ALL, "3.10 leaves its last byte as it was in memory"),
    ("PREFIX", ALL, "with its NUL: plen is strlen + 1"),
    ("IFINDEX_INDEV", ALL, "where there is one"),
    ("IFINDEX_OUTDEV", ALL, "where there is one"),
    ("HWTYPE", ALL, "where there is a link-layer header"),
    ("HWLEN", ALL, "the same"),
    ("HWHEADER", ALL, "the same"),
    ("UID", ALL, "of the socket's file, where the packet was sent here"),
    ("GID", ALL, "the same"),
    ("SEQ", ALL, "NFULNL_CFG_F_SEQ"),
    ("CT", SINCE_4_4, "4.4, NFULNL_CFG_F_CONNTRACK; 3.10 takes that flag and does nothing"),
    ("CT_INFO", SINCE_4_4, "the same"),
    ("PAYLOAD", ALL, "its padding is as it was in memory"),
];

/// Trace messages: net/netfilter/nf_tables_trace.c, which 4.4 does not have.
#[rustfmt::skip]
pub const NFT_TRACE: &[Row] = &[
    ("NFPROTO", SINCE_4_9, "nft_trace_notify"),
    ("TYPE", SINCE_4_9, "the same"),
    ("ID", SINCE_4_9, "trace_fill_id"),
    ("CHAIN", SINCE_4_9, "nft_trace_notify"),
    ("TABLE", SINCE_4_9, "the same"),
    ("RULE_HANDLE", SINCE_4_9, "nf_trace_fill_rule_info; none for the end of a chain"),
    ("VERDICT", SINCE_4_9, "of a rule and of the end of a chain, not of a policy"),
    ("POLICY", SINCE_4_9, "of a policy"),
    ("IIF", SINCE_4_9, "nf_trace_fill_dev_info; first message in a base chain"),
    ("IIFTYPE", SINCE_4_9, "the same"),
    ("OIF", SINCE_4_9, "the same"),
    ("OIFTYPE", SINCE_4_9, "the same"),
    ("NETWORK_HEADER", SINCE_4_9, "nf_trace_fill_pkt_info, likewise"),
    ("TRANSPORT_HEADER", SINCE_4_9, "the same"),
    ("CT_ID", NONE, "6.16, as are CT_DIRECTION, CT_STATUS, CT_STATE"),
];

impl Kernel {
    /// Whether the table says that this kernel sends it.
    pub fn sends(&self, rows: &[Row], name: &str) -> bool {
        let row = rows.iter().find(|(known, ..)| *known == name);
        row.unwrap_or_else(|| panic!("{name} is not in the table"))
            .1[self.at]
    }

    /// All that the table says that this kernel sends.
    pub fn all(&self, rows: &[Row]) -> Vec<&'static str> {
        let mut names: Vec<_> = rows
            .iter()
            .filter(|(_, kernels, source)| kernels[self.at] && !source.is_empty())
            .map(|(name, ..)| *name)
            .collect();
        names.sort_unstable();
        names
    }
}
