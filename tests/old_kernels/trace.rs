//! What these kernels send of packets that are traced: lines of the TRACE target through nfnetlink_log,
//! and nf_tables' own messages; and the rules that both speak of, as the kernels hand them out.

use super::bytes::*;
use super::conntrack::{Entry, Sender};
use super::kernels::{LOG, NFT_TRACE};
use conntracker::sys::xtables::RawTable;

/// NF_INET_FORWARD.
pub const FORWARD: u8 = 2;

/// An IPv4 packet's header for what is behind it (RFC 791).
pub fn ipv4(proto: u8, src: [u8; 4], dst: [u8; 4], identification: u16, behind: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + behind.len()).unwrap();
    let mut packet = vec![0x45, 0]; //               version and header length, tos
    packet.extend(len.to_be_bytes()); //             total length
    packet.extend(identification.to_be_bytes()); //  identification
    packet.extend([0x40, 0, 63, proto, 0, 0]); //    don't fragment, ttl, protocol, checksum
    packet.extend(src);
    packet.extend(dst);
    packet.extend(behind);
    packet
}

/// A TCP SYN's header (RFC 9293).
pub fn syn(src: u16, dst: u16) -> Vec<u8> {
    let mut header = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    header.extend([0, 0, 0x30, 0x39, 0, 0, 0, 0]); //       sequence and acknowledgement number
    header.extend([0x50, 0x02, 0x72, 0x10, 0, 0, 0, 0]); // offset, flags, window, checksum, urgent
    header
}

/// A UDP header and eight bytes.
pub fn datagram(src: u16, dst: u16) -> Vec<u8> {
    let mut bytes = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    bytes.extend([0, 16, 0, 0]); // length, checksum
    bytes.extend(*b"question");
    bytes
}

/// An SCTP INIT's common header (RFC 9260).
pub fn init(src: u16, dst: u16) -> Vec<u8> {
    let mut bytes = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    bytes.extend([0, 0, 0, 0, 1, 2, 3, 4]); // verification tag, checksum
    bytes.extend([1, 0, 0, 20]); //            chunk: INIT, flags, length
    bytes
}

/// A line of the TRACE target: group 0, one message a datagram. `entry` is the packet's, which kernels
/// from 4.4 on add, with whether the packet goes in its reply direction (enum ip_conntrack_info).
pub fn line(sender: &Sender, prefix: &str, packet: &[u8], entry: Option<(&Entry, u32)>) -> Vec<u8> {
    let mut parts = vec![
        attribute(1, &[8, 0, FORWARD, 0xa5]), // NFULA_PACKET_HDR: hw_protocol, hook, what lay there
        string(10, prefix),                   // NFULA_PREFIX
        be32(4, 2),                           // NFULA_IFINDEX_INDEV
        be32(5, 3),                           // NFULA_IFINDEX_OUTDEV
        be16(15, 1),                          // NFULA_HWTYPE: ARPHRD_ETHER
        be16(17, 14),                         // NFULA_HWLEN
        attribute(16, &[2; 14]),              // NFULA_HWHEADER
        be32(11, 1000),                       // NFULA_UID
        be32(14, 100),                        // NFULA_GID
        be32(12, 1),                          // NFULA_SEQ
    ];
    if let Some((entry, info)) = entry.filter(|_| sender.kernel.sends(LOG, "CT")) {
        parts.push(sender.glued(entry));
        parts.push(be32(19, info)); // NFULA_CT_INFO
    }
    let mut payload = attribute(9, packet); // NFULA_PAYLOAD
    let padding = 4 + packet.len()..payload.len();
    payload[padding].fill(0x5a); // the kernel does not clear it
    parts.push(payload);
    let head = Head {
        subsystem: 4, // NFNL_SUBSYS_ULOG
        message: 0,   // NFULNL_MSG_PACKET
        flags: 0,
        sequence: 0,
        port: 0,
        family: 2, // NFPROTO_IPV4
        resource: 0,
    };
    netfilter(head, &parts)
}

/// A rule of a legacy table for one protocol (0: all), which ends in a verdict: struct ipt_entry and
/// xt_standard_target of 64 bits, the same from 3.10 on.
fn rule(proto: u8, verdict: i32) -> Vec<u8> {
    let mut bytes = vec![0; 16]; //                ipt_ip: src, dst, smsk, dmsk
    bytes.extend([0; 64]); //                      iniface, outiface and their masks
    bytes.extend(u16::from(proto).to_ne_bytes()); // proto
    bytes.extend([0, 0]); //                       flags, invflags
    bytes.extend(0u32.to_ne_bytes()); //           nfcache
    bytes.extend(112u16.to_ne_bytes()); //         target_offset
    bytes.extend(152u16.to_ne_bytes()); //         next_offset
    bytes.extend([0; 20]); //                      comefrom, counters
    bytes.extend(40u16.to_ne_bytes()); //          target_size
    bytes.extend([0; 30]); //                      name (none: a verdict), revision
    bytes.extend(verdict.to_ne_bytes());
    bytes.extend([0; 4]); //                       padding
    assert_eq!(bytes.len(), 152);
    bytes
}

/// What ends a legacy table: struct ipt_error.
fn end_of_table() -> Vec<u8> {
    let mut bytes = rule(0, 0);
    bytes.truncate(112);
    bytes[90..92].copy_from_slice(&176u16.to_ne_bytes()); // next_offset
    bytes.extend(64u16.to_ne_bytes()); //                    target_size
    bytes.extend(*b"ERROR");
    bytes.resize(112 + 32, 0);
    bytes.extend(*b"ERROR");
    bytes.resize(176, 0);
    bytes
}

const DROP: i32 = -1; // -NF_DROP - 1
const ACCEPT: i32 = -2;

/// filter: FORWARD lets UDP and SCTP pass, drops TCP, and accepts.
pub fn filter_table() -> Vec<u8> {
    let entries = [
        rule(0, ACCEPT),   //    0: INPUT's policy
        rule(17, ACCEPT),  //  152: FORWARD 1
        rule(6, DROP),     //  304: FORWARD 2
        rule(132, ACCEPT), //  456: FORWARD 3
        rule(0, ACCEPT),   //  608: FORWARD's policy
        rule(0, ACCEPT),   //  760: OUTPUT's policy
        end_of_table(),
    ];
    let table = RawTable {
        valid_hooks: 0b0_1110,
        hook_entry: [0, 0, 152, 760, 0],
        underflow: [0, 0, 608, 760, 0],
        entry_count: 7,
        entries: entries.concat(),
    };
    table.to_bytes()
}

/// One message of nf_tables.
fn nft(message: u16, flags: u16, family: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
    let head = Head {
        subsystem: 10, // NFNL_SUBSYS_NFTABLES
        message,
        flags,
        sequence: 0,
        port: 0,
        family,
        resource: 0,
    };
    netfilter(head, attributes)
}

const INET: u8 = 1; // NFPROTO_INET

/// A dump of `table inet fw`: chain forward at its hook with policy accept, and in it the rules
/// `meta l4proto tcp drop` (handle 3) and `meta l4proto udp accept` (handle 2), as nf_tables_api.c of 4.9
/// and 4.15 fills them in: nests are not marked, only a rule behind another has NFTA_RULE_POSITION.
pub fn ruleset() -> Vec<u8> {
    let (table, chain) = (string(1, "fw"), string(3, "forward"));
    let hook = unmarked(4, &[be32(1, u32::from(FORWARD)), be32(2, 0)]); // NFTA_HOOK_HOOKNUM, _PRIORITY
    let new_chain = [
        table.clone(),
        be64(2, 1, None), // NFTA_CHAIN_HANDLE
        chain,
        hook,
        be32(5, 1),          // NFTA_CHAIN_POLICY: NF_ACCEPT
        string(7, "filter"), // NFTA_CHAIN_TYPE
        be32(6, 2),          // NFTA_CHAIN_USE
    ];
    let rule = |handle, position: Option<u64>, proto, verdict| {
        let mut parts = vec![
            table.clone(),         // NFTA_RULE_TABLE
            string(2, "forward"),  // NFTA_RULE_CHAIN
            be64(3, handle, None), // NFTA_RULE_HANDLE
        ];
        parts.extend(position.map(|position| be64(6, position, None))); // NFTA_RULE_POSITION
        parts.push(unmarked(4, &expressions(proto, verdict))); // NFTA_RULE_EXPRESSIONS
        nft(6, MULTI, INET, &parts) // NFT_MSG_NEWRULE
    };
    [
        nft(3, MULTI, INET, &new_chain), // NFT_MSG_NEWCHAIN
        rule(3, None, 6, 0),
        rule(2, Some(3), 17, 1),
    ]
    .concat()
}

/// meta load l4proto, cmp eq, immediate verdict: NFTA_LIST_ELEM of NFTA_EXPR_NAME and NFTA_EXPR_DATA.
fn expressions(proto: u8, verdict: u32) -> [Vec<u8>; 3] {
    let expression = |name, data: &[Vec<u8>]| unmarked(1, &[string(1, name), unmarked(2, data)]);
    let value = unmarked(3, &[u8_of(1, proto)]); // NFTA_CMP_DATA: NFTA_DATA_VALUE
    let verdict = unmarked(2, &[unmarked(2, &[be32(1, verdict)])]); // NFTA_IMMEDIATE_DATA: _VERDICT: _CODE
    [
        expression("meta", &[be32(2, 16), be32(1, 1)]), // NFTA_META_KEY: NFT_META_L4PROTO, _DREG
        expression("cmp", &[be32(1, 1), be32(2, 0), value]), // NFTA_CMP_SREG, _OP: NFT_CMP_EQ
        expression("immediate", &[be32(1, 0), verdict]), // NFTA_IMMEDIATE_DREG: the verdict
    ]
}

/// What a trace message of nf_tables is about.
pub enum Met {
    /// A rule by its handle, and the verdict.
    Rule(u64, u32),
    /// The policy.
    Policy(u32),
}

/// A packet's first message in a base chain: nft_trace_notify.
pub fn nft_trace(sender: &Sender, id: u32, met: &Met, packet: &[u8]) -> Vec<u8> {
    assert!(sender.kernel.sends(NFT_TRACE, "ID") && !sender.kernel.sends(NFT_TRACE, "CT_ID"));
    let kind = match met {
        Met::Policy(_) => 1, // NFT_TRACETYPE_POLICY
        Met::Rule(..) => 3,  // NFT_TRACETYPE_RULE
    };
    let mut parts = vec![
        be32(15, 2),          // NFTA_TRACE_NFPROTO: NFPROTO_IPV4
        be32(4, kind),        // NFTA_TRACE_TYPE
        be32(6, id),          // NFTA_TRACE_ID
        string(2, "forward"), // NFTA_TRACE_CHAIN
        string(1, "fw"),      // NFTA_TRACE_TABLE
    ];
    match met {
        Met::Rule(handle, verdict) => {
            let pad = sender.aligns.then_some(17); // NFTA_TRACE_PAD
            parts.push(be64(3, *handle, pad)); //     NFTA_TRACE_RULE_HANDLE
            parts.push(unmarked(5, &[be32(1, *verdict)])); // NFTA_TRACE_VERDICT: NFTA_VERDICT_CODE
        }
        Met::Policy(policy) => parts.push(be32(16, *policy)), // NFTA_TRACE_POLICY
    }
    let (network, transport) = packet.split_at(20);
    parts.extend([
        be32(10, 2),                                         // NFTA_TRACE_IIF
        be16(11, 1),                                         // NFTA_TRACE_IIFTYPE
        be32(12, 3),                                         // NFTA_TRACE_OIF
        be16(13, 1),                                         // NFTA_TRACE_OIFTYPE
        attribute(8, network),                               // NFTA_TRACE_NETWORK_HEADER
        attribute(9, &transport[..transport.len().min(20)]), // NFTA_TRACE_TRANSPORT_HEADER
    ]);
    nft(17, 0, INET, &parts) // NFT_MSG_TRACE
}
