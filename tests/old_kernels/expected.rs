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

/// Fields under construction: none comes twice.
#[derive(Default)]
struct Under(Fields);

impl Under {
    fn put(&mut self, name: &str, value: impl ToString) {
        let before = self.0.insert(name.to_owned(), value.to_string());
        assert!(before.is_none(), "{name} twice");
    }
}

/// The fields of the entry's JSON line, flat.
pub fn fields(sender: &Sender, entry: &Entry, life: &Life) -> Fields {
    let mut under = Under::default();
    let (number, name) = proto(&entry.original);
    let is_ipv6 = entry.original.src.is_ipv6();
    under.put("v", 1);
    under.put("type", "flow");
    under.put("family", if is_ipv6 { "ipv6" } else { "ipv4" });
    under.put("proto", name);
    under.put("proto_number", number);
    let sides = [&entry.original, &entry.reply];
    for (at, (name, ends)) in ["original", "reply"].into_iter().zip(sides).enumerate() {
        side(&mut under, name, ends);
        if let Some(counters) = entry.counters {
            under.put(&format!("{name}.packets"), counters[at].0);
            under.put(&format!("{name}.bytes"), counters[at].1);
        }
    }
    under.put("id", sender.id(entry));
    under.put("mark", entry.mark);
    let (zone, direction) = match entry.zone {
        None => (0, None),
        Some(Zone::Both(id)) => (id, None),
        Some(Zone::Original(id)) => (id, Some("original")),
        Some(Zone::Reply(id)) => (id, Some("reply")),
    };
    under.put("zone", zone);
    direction
        .into_iter()
        .for_each(|direction| under.put("zone_direction", direction));
    status(&mut under, entry.status);
    if let Some(ProtoInfo::Tcp(state)) = entry.protoinfo {
        under.put("tcp_state", TCP_STATES[usize::from(state)]);
    }
    under.put("state", life.state);
    under.put("first_seen", rfc3339(life.first_ns));
    under.put("last_seen", rfc3339(life.last_ns));
    for (name, at_ns) in [("start", life.start_ns), ("end", life.end_ns)] {
        at_ns
            .into_iter()
            .for_each(|at_ns| under.put(name, rfc3339(at_ns)));
    }
    under.0
}

fn side(under: &mut Under, name: &str, ends: &Ends) {
    under.put(&format!("{name}.src"), ends.src);
    under.put(&format!("{name}.dst"), ends.dst);
    match ends.layer4 {
        Layer4::Ports(_, src, dst) => {
            under.put(&format!("{name}.sport"), src);
            under.put(&format!("{name}.dport"), dst);
        }
        Layer4::Icmp(kind, code, id) | Layer4::Icmpv6(kind, code, id) => {
            under.put(&format!("{name}.icmp_type"), kind);
            under.put(&format!("{name}.icmp_code"), code);
            under.put(&format!("{name}.icmp_id"), id);
        }
        Layer4::Nothing(_) => {}
    }
}

fn status(under: &mut Under, status: u32) {
    let known = STATUS.iter().fold(0, |bits, (bit, _)| bits | bit);
    assert_eq!(status & !known, 0, "the test names every bit that it uses");
    let names = STATUS.iter().filter(|(bit, _)| status & bit != 0);
    let names: Vec<_> = names.map(|(_, name)| *name).collect();
    under.put("status", names.join(","));
    under.put("status_bits", status);
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
