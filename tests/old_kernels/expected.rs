//! What the report must say of an entry: made of what was put in, with nothing of the product's.

use super::conntrack::{Ends, Entry, Layer4, ProtoInfo, Sender, Zone};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// 2023-11-14T22:13:20Z: all times are within the seconds behind it.
pub const BASE_NS: u64 = 1_700_000_000_000_000_000;

pub type Fields = BTreeMap<String, String>;

/// What is known of a flow's life beside the kernel's entry.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    pub state: &'static str,
    pub start_ns: Option<u64>,
    pub first_ns: u64,
    pub last_ns: u64,
    pub end_ns: Option<u64>,
}

const STATUS: [(u32, &str); 8] = [
    (1, "expected"),
    (1 << 1, "seen_reply"),
    (1 << 2, "assured"),
    (1 << 3, "confirmed"),
    (1 << 4, "snat"),
    (1 << 6, "seq_adjust"),
    (1 << 7, "snat_done"),
    (1 << 9, "dying"),
];

const TCP_STATES: [&str; 9] = [
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
];

fn proto(ends: &Ends) -> (u8, String) {
    let number = match ends.layer4 {
        Layer4::Ports(number, ..) | Layer4::Nothing(number) => number,
        Layer4::Icmp(..) => 1,
        Layer4::Icmpv6(..) => 58,
    };
    let names = [
        (1, "icmp"),
        (6, "tcp"),
        (17, "udp"),
        (33, "dccp"),
        (47, "gre"),
        (50, "esp"),
        (58, "icmpv6"),
        (132, "sctp"),
        (136, "udplite"),
    ];
    let name = names.iter().find(|(known, _)| *known == number);
    (
        number,
        name.map_or(number.to_string(), |(_, name)| (*name).to_owned()),
    )
}

pub fn rfc3339(at_ns: u64) -> String {
    let after = at_ns - BASE_NS;
    let (seconds, ns) = (20 + after / 1_000_000_000, after % 1_000_000_000);
    assert!(seconds < 60);
    format!("2023-11-14T22:13:{seconds:02}.{ns:09}Z")
}

/// The fields of the entry's JSON line, flat.
pub fn fields(sender: &Sender, entry: &Entry, life: &Life) -> Fields {
    let mut fields = Fields::new();
    let mut put = |name: &str, value: String| {
        assert!(
            fields.insert(name.to_owned(), value).is_none(),
            "{name} twice"
        );
    };
    let (number, name) = proto(&entry.original);
    put("v", "1".into());
    put("type", "flow".into());
    let family = if entry.original.src.is_ipv6() {
        "ipv6"
    } else {
        "ipv4"
    };
    put("family", family.into());
    put("proto", name);
    put("proto_number", number.to_string());
    for (side, at, ends) in [("original", 0, &entry.original), ("reply", 1, &entry.reply)] {
        put(&format!("{side}.src"), ends.src.to_string());
        put(&format!("{side}.dst"), ends.dst.to_string());
        match ends.layer4 {
            Layer4::Ports(_, src, dst) => {
                put(&format!("{side}.sport"), src.to_string());
                put(&format!("{side}.dport"), dst.to_string());
            }
            Layer4::Icmp(kind, code, id) | Layer4::Icmpv6(kind, code, id) => {
                put(&format!("{side}.icmp_type"), kind.to_string());
                put(&format!("{side}.icmp_code"), code.to_string());
                put(&format!("{side}.icmp_id"), id.to_string());
            }
            Layer4::Nothing(_) => {}
        }
        if let Some(counters) = entry.counters {
            put(&format!("{side}.packets"), counters[at].0.to_string());
            put(&format!("{side}.bytes"), counters[at].1.to_string());
        }
    }
    put("id", sender.id(entry).to_string());
    put("mark", entry.mark.to_string());
    match entry.zone {
        None => put("zone", "0".into()),
        Some(Zone::Both(id)) => put("zone", id.to_string()),
        Some(Zone::Original(id)) => {
            put("zone", id.to_string());
            put("zone_direction", "original".into());
        }
        Some(Zone::Reply(id)) => {
            put("zone", id.to_string());
            put("zone_direction", "reply".into());
        }
    }
    let known = STATUS.iter().fold(0, |bits, (bit, _)| bits | bit);
    assert_eq!(
        entry.status & !known,
        0,
        "the test names every bit that it uses"
    );
    let names = STATUS.iter().filter(|(bit, _)| entry.status & bit != 0);
    put(
        "status",
        names.map(|(_, name)| *name).collect::<Vec<_>>().join(","),
    );
    put("status_bits", entry.status.to_string());
    if let Some(ProtoInfo::Tcp(state)) = entry.protoinfo {
        put("tcp_state", TCP_STATES[usize::from(state)].into());
    }
    put("state", life.state.into());
    put("first_seen", rfc3339(life.first_ns));
    put("last_seen", rfc3339(life.last_ns));
    for (name, at_ns) in [("start", life.start_ns), ("end", life.end_ns)] {
        if let Some(at_ns) = at_ns {
            put(name, rfc3339(at_ns));
        }
    }
    fields
}

/// The entry's lines of the text report, without their numbers.
pub fn lines(entry: &Entry) -> Vec<String> {
    let answered = entry.status & 2 != 0;
    let is_icmp = matches!(entry.original.layer4, Layer4::Icmp(..) | Layer4::Icmpv6(..));
    let mut lines = vec![line(&entry.original)];
    if answered && !is_icmp {
        lines.push(line(&entry.reply));
    }
    lines
}

fn line(ends: &Ends) -> String {
    let (number, name) = proto(ends);
    let family = if ends.src.is_ipv6() { "v6" } else { "v4" };
    let name = if number == 58 {
        "ICMP".to_owned()
    } else {
        name.to_uppercase()
    };
    let label = format!("{:>6}", name + family);
    let end = |address: IpAddr, port: Option<u16>| match port {
        Some(port) => format!("{address} (port={port})"),
        None => address.to_string(),
    };
    let (src, dst, rest) = match ends.layer4 {
        Layer4::Ports(_, src, dst) => (Some(src), Some(dst), "(-)".to_owned()),
        Layer4::Icmp(kind, code, _) | Layer4::Icmpv6(kind, code, _) => {
            (None, None, format!("(type={kind} | code={code})"))
        }
        Layer4::Nothing(_) => (None, None, "(-)".to_owned()),
    };
    format!(
        "{label} src = {} to dst = {} {rest}",
        end(ends.src, src),
        end(ends.dst, dst)
    )
}
