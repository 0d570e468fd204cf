//! IPv6 extension headers, TCP and IP options, SCTP chunks: names of their fields.

use super::names;
use super::value::{Kind, Type};

use Kind::{Integer, Word};

/// Name, offset in bits, length in bits, kind.
type Part = (&'static str, u32, u32, Kind);

/// Number, name, fields.
type Header = (u8, &'static str, &'static [Part]);

const NEXT: Part = ("nexthdr", 0, 8, Word(names::PROTOCOLS));
const LENGTH: Part = ("hdrlength", 8, 8, Integer);

/// By the number that stands in the next-header field before them.
const IPV6: &[Header] = &[
    (0, "hbh", &[NEXT, LENGTH]),
    (
        43,
        "rt",
        &[
            NEXT,
            LENGTH,
            ("type", 16, 8, Integer),
            ("seg-left", 24, 8, Integer),
        ],
    ),
    (
        44,
        "frag",
        &[
            NEXT,
            ("reserved", 8, 8, Integer),
            ("frag-off", 16, 13, Integer),
            ("reserved2", 29, 2, Integer),
            ("more-fragments", 31, 1, Integer),
            ("id", 32, 32, Integer),
        ],
    ),
    (60, "dst", &[NEXT, LENGTH]),
    (
        135,
        "mh",
        &[
            NEXT,
            LENGTH,
            ("type", 16, 8, Word(names::MH_TYPES)),
            ("reserved", 24, 8, Integer),
            ("checksum", 32, 16, Integer),
        ],
    ),
];

const OPTION_KIND: Part = ("kind", 0, 8, Integer);
const OPTION_LENGTH: Part = ("length", 8, 8, Integer);

const TCP: &[Header] = &[
    (0, "eol", &[OPTION_KIND]),
    (1, "nop", &[OPTION_KIND]),
    (
        2,
        "maxseg",
        &[OPTION_KIND, OPTION_LENGTH, ("size", 16, 16, Integer)],
    ),
    (
        3,
        "window",
        &[OPTION_KIND, OPTION_LENGTH, ("count", 16, 8, Integer)],
    ),
    (4, "sack-perm", &[OPTION_KIND, OPTION_LENGTH]),
    (
        5,
        "sack",
        &[
            OPTION_KIND,
            OPTION_LENGTH,
            ("left", 16, 32, Integer),
            ("right", 48, 32, Integer),
        ],
    ),
    (
        8,
        "timestamp",
        &[
            OPTION_KIND,
            OPTION_LENGTH,
            ("tsval", 16, 32, Integer),
            ("tsecr", 48, 32, Integer),
        ],
    ),
    (19, "md5sig", &[OPTION_KIND, OPTION_LENGTH]),
    (
        30,
        "mptcp",
        &[OPTION_KIND, OPTION_LENGTH, ("subtype", 16, 4, Integer)],
    ),
    (34, "fastopen", &[OPTION_KIND, OPTION_LENGTH]),
];

const IP_TYPE: Part = ("type", 0, 8, Integer);
const IP_ROUTE: &[Part] = &[
    IP_TYPE,
    OPTION_LENGTH,
    ("ptr", 16, 8, Integer),
    ("addr", 24, 32, Integer),
];

const IP: &[Header] = &[
    (7, "rr", IP_ROUTE),
    (131, "lsrr", IP_ROUTE),
    (137, "ssrr", IP_ROUTE),
    (
        148,
        "ra",
        &[IP_TYPE, OPTION_LENGTH, ("value", 16, 16, Integer)],
    ),
];

const CHUNK_FLAGS: Part = ("flags", 8, 8, Integer);
const CHUNK_LENGTH: Part = ("length", 16, 16, Integer);
const CHUNK: &[Part] = &[IP_TYPE, CHUNK_FLAGS, CHUNK_LENGTH];
const INIT: &[Part] = &[
    IP_TYPE,
    CHUNK_FLAGS,
    CHUNK_LENGTH,
    ("init-tag", 32, 32, Integer),
    ("a-rwnd", 64, 32, Integer),
    ("num-outbound-streams", 96, 16, Integer),
    ("num-inbound-streams", 112, 16, Integer),
    ("initial-tsn", 128, 32, Integer),
];

const SCTP: &[Header] = &[
    (0, "data", CHUNK),
    (1, "init", INIT),
    (2, "init-ack", INIT),
    (3, "sack", CHUNK),
    (4, "heartbeat", CHUNK),
    (5, "heartbeat-ack", CHUNK),
    (6, "abort", CHUNK),
    (7, "shutdown", CHUNK),
    (8, "shutdown-ack", CHUNK),
    (9, "error", CHUNK),
    (10, "cookie-echo", CHUNK),
    (11, "cookie-ack", CHUNK),
    (12, "ecne", CHUNK),
    (13, "cwr", CHUNK),
    (14, "shutdown-complete", CHUNK),
    (128, "asconf-ack", CHUNK),
    (192, "forward-tsn", CHUNK),
    (193, "asconf", CHUNK),
];

fn header(op: u32, of: u8) -> Option<&'static Header> {
    let headers = match op {
        0 => IPV6,
        1 => TCP,
        2 => IP,
        3 => SCTP,
        _ => return None,
    };
    headers.iter().find(|(number, ..)| *number == of)
}

/// What stands before the name of a header.
fn introduction(op: u32) -> &'static str {
    match op {
        1 => "tcp option ",
        2 => "ip option ",
        3 => "sctp chunk ",
        _ => "",
    }
}

/// A field, if there is one at this place: its words and its type. `op` is enum nft_exthdr_op.
pub(super) fn field(op: u32, of: u8, offset: u32, bits: u32) -> Option<(String, Type)> {
    let (_, name, parts) = header(op, of)?;
    let (part, _, _, kind) = parts
        .iter()
        .find(|part| (part.1, part.2) == (offset, bits))?;
    let text = format!("{}{name} {part}", introduction(op));
    Some((text, Type::network(*kind, bits)))
}

/// The words for some bits of a header, by numbers where there is no better.
pub(super) fn name(op: u32, of: u8, offset: u32, bits: u32) -> (String, Type) {
    if let Some(known) = field(op, of, offset, bits) {
        return known;
    }
    let text = match op {
        1 => format!("tcp option @{of},{offset},{bits}"),
        _ => format!("{}<exthdr {of}>", introduction(op)),
    };
    (text, Type::network(Kind::Hex, bits))
}

/// The words for a test whether a header is there.
pub(super) fn presence(op: u32, of: u8) -> (String, Type) {
    let before = if op == 0 { "exthdr " } else { introduction(op) };
    let text = match (header(op, of), op) {
        (Some((_, name, _)), _) => format!("{before}{name}"),
        (None, 1 | 2) => format!("{before}{of}"),
        (None, 4) => format!("dccp option {of}"),
        (None, _) => format!("{before}<exthdr {of}>"),
    };
    (text, Type::network(Kind::Boolean, 8))
}
