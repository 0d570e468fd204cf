//! A second reader of the same bytes, written from the headers' rules alone: which attributes a datagram
//! has, by name, in their order. It is strict where the product must be lenient.

const CTA: [&str; 28] = [
    "",
    "ORIG",
    "REPLY",
    "STATUS",
    "PROTOINFO",
    "HELP",
    "NAT_SRC",
    "TIMEOUT",
    "MARK",
    "COUNTERS_ORIG",
    "COUNTERS_REPLY",
    "USE",
    "ID",
    "NAT_DST",
    "MASTER",
    "SEQ_ADJ_ORIG",
    "SEQ_ADJ_REPLY",
    "SECMARK",
    "ZONE",
    "SECCTX",
    "TIMESTAMP",
    "MARK_MASK",
    "LABELS",
    "LABELS_MASK",
    "SYNPROXY",
    "FILTER",
    "STATUS_MASK",
    "TIMESTAMP_EVENT",
];
const TUPLE: [&str; 4] = ["", "IP", "PROTO", "ZONE"];
const IP: [&str; 5] = ["", "V4_SRC", "V4_DST", "V6_SRC", "V6_DST"];
const PROTO: [&str; 10] = [
    "",
    "NUM",
    "SRC_PORT",
    "DST_PORT",
    "ICMP_ID",
    "ICMP_TYPE",
    "ICMP_CODE",
    "ICMPV6_ID",
    "ICMPV6_TYPE",
    "ICMPV6_CODE",
];
const PROTOINFO: [&str; 4] = ["", "TCP", "DCCP", "SCTP"];
const COUNTERS: [&str; 6] = ["", "PACKETS", "BYTES", "32_PACKETS", "32_BYTES", "PAD"];
const TIMESTAMP: [&str; 4] = ["", "START", "STOP", "PAD"];
const NFULA: [&str; 20] = [
    "",
    "PACKET_HDR",
    "MARK",
    "TIMESTAMP",
    "IFINDEX_INDEV",
    "IFINDEX_OUTDEV",
    "IFINDEX_PHYSINDEV",
    "IFINDEX_PHYSOUTDEV",
    "HWADDR",
    "PAYLOAD",
    "PREFIX",
    "UID",
    "SEQ",
    "SEQ_GLOBAL",
    "GID",
    "HWTYPE",
    "HWHEADER",
    "HWLEN",
    "CT",
    "CT_INFO",
];
const TRACE: [&str; 22] = [
    "",
    "TABLE",
    "CHAIN",
    "RULE_HANDLE",
    "TYPE",
    "VERDICT",
    "ID",
    "LL_HEADER",
    "NETWORK_HEADER",
    "TRANSPORT_HEADER",
    "IIF",
    "IIFTYPE",
    "OIF",
    "OIFTYPE",
    "MARK",
    "NFPROTO",
    "POLICY",
    "PAD",
    "CT_ID",
    "CT_DIRECTION",
    "CT_STATUS",
    "CT_STATE",
];

/// A message: its type, its flags, and the names of its attributes with their payloads.
#[derive(Debug)]
pub struct Decoded {
    pub kind: u16,
    pub flags: u16,
    pub attributes: Vec<(String, Vec<u8>)>,
}

impl Decoded {
    pub fn names(&self) -> Vec<&str> {
        self.attributes
            .iter()
            .map(|(name, _)| name.as_str())
            .collect()
    }
}

/// All messages of a datagram.
pub fn decode(mut datagram: &[u8]) -> Vec<Decoded> {
    let mut messages = Vec::new();
    while !datagram.is_empty() {
        let len = u32::from_ne_bytes(datagram[..4].try_into().unwrap()) as usize;
        let kind = u16::from_ne_bytes(datagram[4..6].try_into().unwrap());
        let flags = u16::from_ne_bytes(datagram[6..8].try_into().unwrap());
        assert!(len >= 16 && datagram.len() >= len, "a message is whole");
        let mut attributes = Vec::new();
        let names: &[&str] = match kind >> 8 {
            1 => &CTA,
            4 => &NFULA,
            10 => &TRACE,
            _ => &[],
        };
        if !names.is_empty() {
            walk("", names, &datagram[20..len], &mut attributes);
        }
        messages.push(Decoded {
            kind,
            flags,
            attributes,
        });
        datagram = &datagram[len.next_multiple_of(4)..];
    }
    messages
}

/// What the attributes in an attribute are called; nothing where they are not looked into.
fn names_in(path: &str) -> &'static [&'static str] {
    match path.trim_start_matches("CT/") {
        "CT" => &CTA,
        "ORIG" | "REPLY" | "MASTER" => &TUPLE,
        path if path.ends_with("/IP") => &IP,
        path if path.ends_with("/PROTO") => &PROTO,
        "PROTOINFO" => &PROTOINFO,
        "COUNTERS_ORIG" | "COUNTERS_REPLY" => &COUNTERS,
        "TIMESTAMP" => &TIMESTAMP,
        _ => &[],
    }
}

fn walk(path: &str, names: &[&str], mut bytes: &[u8], found: &mut Vec<(String, Vec<u8>)>) {
    while !bytes.is_empty() {
        let len = usize::from(u16::from_ne_bytes(bytes[..2].try_into().unwrap()));
        let kind = u16::from_ne_bytes(bytes[2..4].try_into().unwrap());
        assert!(
            len >= 4 && bytes.len() >= len.next_multiple_of(4),
            "an attribute is whole"
        );
        let name = names[usize::from(kind & 0x3fff)];
        let path = if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}/{name}")
        };
        // Of the log, NFULA_TIMESTAMP is no nest.
        let is_log = names == NFULA;
        let inner = if is_log && name != "CT" {
            &[][..]
        } else {
            names_in(&path)
        };
        assert!(
            !inner.is_empty() || kind & 0x8000 == 0 || name.len() > 2,
            "{path}"
        );
        found.push((path.clone(), bytes[4..len].to_vec()));
        if !inner.is_empty() {
            assert!(
                kind & 0x8000 != 0,
                "ctnetlink marks what holds others: {path}"
            );
            walk(&path, inner, &bytes[4..len], found);
        }
        bytes = &bytes[len.next_multiple_of(4)..];
    }
}
