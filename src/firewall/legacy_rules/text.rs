//! A rule in words, the way iptables-legacy-save puts it. Of matches and targets other than tcp,
//! udp, comment and REJECT only the name is known here.

use super::verdict;
use crate::wire::xtables::selector::{Interface, Network, Selector};
use crate::wire::xtables::{Entry, Extension, Target, until_nul};
use std::fmt::Write as _;
use std::net::IpAddr;

/// As in /etc/protocols, whose names iptables uses.
const PROTOCOLS: [(u16, &str); 16] = [
    (1, "icmp"),
    (2, "igmp"),
    (4, "ipencap"),
    (6, "tcp"),
    (17, "udp"),
    (33, "dccp"),
    (41, "ipv6"),
    (47, "gre"),
    (50, "esp"),
    (51, "ah"),
    (58, "ipv6-icmp"),
    (89, "ospf"),
    (103, "pim"),
    (112, "vrrp"),
    (132, "sctp"),
    (136, "udplite"),
];

const TCP_FLAGS: [&str; 6] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];

/// `-A CHAIN ...`
pub fn rule(chain: &[u8], entry: &Entry<'_>, destination: Option<&[u8]>, ipv6: bool) -> String {
    let mut text = format!("-A {}", String::from_utf8_lossy(chain));
    if let Some(selector) = entry.selector() {
        add_selector(&mut text, &selector);
    }
    for found in entry.matches().flatten() {
        let _ = write!(text, " -m {}", String::from_utf8_lossy(found.name));
        match found.name {
            b"tcp" => add_tcp(&mut text, found.data),
            b"udp" => add_udp(&mut text, found.data),
            b"comment" => add_comment(&mut text, found.data),
            _ => {}
        }
    }
    if let Target::Extension(target) = entry.target {
        add_target(&mut text, target, ipv6);
    } else if let Some(verdict) = verdict::of(entry, destination, ipv6) {
        let name = verdict::target_name(&verdict);
        let goto = entry.selector().is_some_and(|selector| selector.goto);
        if !name.is_empty() {
            let _ = write!(text, " -{} {name}", if goto { 'g' } else { 'j' });
        }
    }
    text
}

fn not(inverted: bool) -> &'static str {
    if inverted { " !" } else { "" }
}

fn add_selector(text: &mut String, selector: &Selector<'_>) {
    add_network(text, "-s", &selector.source);
    add_network(text, "-d", &selector.destination);
    add_interface(text, "-i", &selector.incoming);
    add_interface(text, "-o", &selector.outgoing);
    if selector.protocol != 0 {
        let _ = write!(text, "{} -p ", not(selector.protocol_inverted));
        let known = PROTOCOLS
            .iter()
            .find(|(number, _)| *number == selector.protocol);
        let _ = match known {
            Some((_, name)) => write!(text, "{name}"),
            None => write!(text, "{}", selector.protocol),
        };
    }
    if selector.fragment {
        let _ = write!(text, "{} -f", not(selector.fragment_inverted));
    }
}

fn add_network(text: &mut String, option: &str, network: &Network) {
    let (mask, width) = match network.mask {
        IpAddr::V4(mask) => (u128::from(mask.to_bits()) << 96, 32),
        IpAddr::V6(mask) => (mask.to_bits(), 128),
    };
    if mask == 0 && network.address.is_unspecified() && !network.inverted {
        return;
    }
    let prefix_len = mask.leading_ones();
    let is_prefix = mask.count_ones() == prefix_len && prefix_len <= width;
    let _ = write!(text, "{} {option} ", not(network.inverted));
    let _ = if is_prefix {
        write!(text, "{}/{prefix_len}", network.address)
    } else {
        write!(text, "{}/{}", network.address, network.mask)
    };
}

fn add_interface(text: &mut String, option: &str, interface: &Interface<'_>) {
    if interface.name.is_empty() {
        return;
    }
    let inverted = not(interface.inverted);
    let name = String::from_utf8_lossy(interface.name);
    let more = if interface.is_prefix { "+" } else { "" };
    let _ = write!(text, "{inverted} {option} {name}{more}");
}

/// struct xt_tcp: source and destination ports from and to, option, flags asked, flags set, inverted.
fn add_tcp(text: &mut String, data: &[u8]) {
    let Some([option, asked, set, inverted]) = data.get(8..12) else {
        return;
    };
    add_ports(text, "--sport", data, inverted & 1 != 0);
    add_ports(
        text,
        "--dport",
        data.get(4..).unwrap_or_default(),
        inverted & 2 != 0,
    );
    if *option != 0 || inverted & 8 != 0 {
        let _ = write!(text, "{} --tcp-option {option}", not(inverted & 8 != 0));
    }
    if *asked != 0 || inverted & 4 != 0 {
        let (asked, set) = (tcp_flags(*asked), tcp_flags(*set));
        let _ = write!(text, "{} --tcp-flags {asked} {set}", not(inverted & 4 != 0));
    }
}

/// struct xt_udp: as struct xt_tcp, but nothing between the ports and what is inverted.
fn add_udp(text: &mut String, data: &[u8]) {
    let Some(inverted) = data.get(8) else {
        return;
    };
    add_ports(text, "--sport", data, inverted & 1 != 0);
    add_ports(
        text,
        "--dport",
        data.get(4..).unwrap_or_default(),
        inverted & 2 != 0,
    );
}

fn add_ports(text: &mut String, option: &str, data: &[u8], inverted: bool) {
    let Some([from0, from1, to0, to1]) = data.first_chunk::<4>() else {
        return;
    };
    let from = u16::from_ne_bytes([*from0, *from1]);
    let to = u16::from_ne_bytes([*to0, *to1]);
    if (from, to) == (0, u16::MAX) && !inverted {
        return;
    }
    let _ = write!(text, "{} {option} {from}", not(inverted));
    if to != from {
        let _ = write!(text, ":{to}");
    }
}

fn tcp_flags(bits: u8) -> String {
    let known = bits & 0x3f;
    let names: Vec<_> = (0..)
        .zip(TCP_FLAGS)
        .filter(|(bit, _)| known >> bit & 1 != 0)
        .map(|(_, name)| name)
        .collect();
    if names.is_empty() {
        "NONE".to_owned()
    } else {
        names.join(",")
    }
}

/// xtables_save_string() of iptables: quotes only where they are needed.
fn add_comment(text: &mut String, data: &[u8]) {
    let comment = String::from_utf8_lossy(until_nul(data));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !comment.is_empty() && comment.chars().all(is_plain) {
        let _ = write!(text, " --comment {comment}");
        return;
    }
    text.push_str(" --comment \"");
    for c in comment.chars() {
        if matches!(c, '"' | '\\' | '\'') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
}

fn add_target(text: &mut String, target: Extension<'_>, ipv6: bool) {
    let _ = write!(text, " -j {}", String::from_utf8_lossy(target.name));
    let answer = verdict::answer(target, ipv6).filter(|_| target.name == b"REJECT");
    if let Some((_, option)) = answer {
        let _ = write!(text, " --reject-with {option}");
    }
}
