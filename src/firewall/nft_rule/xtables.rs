//! Matches and targets of x_tables within nf_tables rules, as iptables-nft makes them
//! (include/uapi/linux/netfilter/xt_*.h; numbers in host order unless said otherwise).
//!
//! nft(8) without libxtables writes `xt match NAME` and `xt target NAME`; so do we, with what the
//! match says behind its name where we can read it.

use crate::event::step::Verdict;
use crate::wire::kernel::*;
use crate::wire::kernel_nft::*;

use super::names;
use super::nest::Nest;
use super::rule::Rule;
use super::value::{self, words_of_bits};

/// Fields of a structure of the kernel's; those that are not there read as 0.
#[derive(Clone, Copy)]
struct Info<'a>(&'a [u8]);

impl Info<'_> {
    fn u8(self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    fn u16(self, at: usize) -> u16 {
        u16::from_ne_bytes([self.u8(at), self.u8(at + 1)])
    }

    fn u32(self, at: usize) -> u32 {
        u32::from_ne_bytes([0, 1, 2, 3].map(|i| self.u8(at + i)))
    }

    fn text(self, at: usize) -> String {
        value::text(self.0.get(at..).unwrap_or_default())
    }
}

fn range(low: u16, high: u16) -> String {
    if low == high {
        low.to_string()
    } else {
        format!("{low}-{high}")
    }
}

fn ports(info: Info<'_>, inverted: u8) -> String {
    let mut text = String::new();
    for (at, name, bit) in [(0, "sport", 1), (4, "dport", 2)] {
        let (low, high) = (info.u16(at), info.u16(at + 2));
        let not = if inverted & bit != 0 { "!= " } else { "" };
        if (low, high) != (0, u16::MAX) || inverted & bit != 0 {
            text.push_str(&format!(" {name} {not}{}", range(low, high)));
        }
    }
    text
}

/// struct xt_tcp.
fn tcp(info: Info<'_>) -> String {
    let inverted = info.u8(11);
    let mut text = ports(info, inverted);
    let (mask, set) = (info.u8(9), info.u8(10));
    if mask != 0 {
        let words = |bits: u8| match bits {
            0 => "none".to_owned(),
            bits => words_of_bits(names::TCP_FLAGS, bits.into(), ","),
        };
        let not = if inverted & 4 != 0 { "!= " } else { "" };
        text.push_str(&format!(" flags {not}{} / {}", words(set), words(mask)));
    }
    text
}

/// struct xt_multiport_v1.
fn multiport(info: Info<'_>) -> String {
    let name = match info.u8(0) {
        0 => "sports",
        1 => "dports",
        _ => "ports",
    };
    let mut list = Vec::new();
    let count = usize::from(info.u8(1)).min(15);
    let mut at = 0;
    while at < count {
        let low = info.u16(2 + 2 * at);
        if info.u8(32 + at) != 0 && at + 1 < count {
            list.push(range(low, info.u16(4 + 2 * at)));
            at += 1;
        } else {
            list.push(low.to_string());
        }
        at += 1;
    }
    let not = if info.u8(47) != 0 { "!= " } else { "" };
    format!(" {name} {not}{}", list.join(","))
}

/// struct xt_conntrack_mtinfo2 and 3: the states only, where nothing else is looked at.
fn conntrack(info: Info<'_>) -> String {
    let (looked_at, inverted, states) = (info.u16(146), info.u16(148), info.u16(150));
    if looked_at & 0x2001 == 0 || looked_at & !0x2001 != 0 {
        return String::new();
    }
    let words: Vec<_> = [
        (1 << 0, "invalid"),
        (1 << 1, "established"),
        (1 << 2, "related"),
        (1 << 3, "new"),
        (1 << 6, "snat"),
        (1 << 7, "dnat"),
        (1 << 8, "untracked"),
    ]
    .iter()
    .filter(|(bit, _)| states & bit != 0)
    .map(|(_, word)| *word)
    .collect();
    let not = if inverted & 0x2001 != 0 { "!= " } else { "" };
    format!(" state {not}{}", words.join(","))
}

/// struct xt_mark_mtinfo1.
fn mark(info: Info<'_>) -> String {
    let (mark, mask) = (info.u32(0), info.u32(4));
    let not = if info.u8(8) != 0 { "!= " } else { "" };
    let mask = match mask {
        u32::MAX => String::new(),
        mask => format!("/{mask:#x}"),
    };
    format!(" {not}{mark:#x}{mask}")
}

/// struct xt_rateinfo: `avg` is ten-thousandths of a second for one packet.
fn limit(info: Info<'_>) -> String {
    let average = u64::from(info.u32(0)).max(1);
    let units = [
        (10_000, "second"),
        (600_000, "minute"),
        (36_000_000, "hour"),
    ];
    let found = units.iter().find(|(unit, _)| unit / average > 0);
    let (unit, name) = found.unwrap_or(&(864_000_000, "day"));
    format!(" rate {}/{name} burst {}", unit / average, info.u32(4))
}

/// struct xt_addrtype_info_v1.
fn address_type(info: Info<'_>) -> String {
    let flags = info.u32(4);
    let mut text = String::new();
    for (at, name, bit) in [(0, "src", 1), (2, "dst", 2)] {
        let types = info.u16(at);
        if types != 0 {
            let words: Vec<_> = (0..16u32)
                .filter(|n| types >> n & 1 == 1)
                .map(|n| names::word(names::ADDRESS_TYPES, n).unwrap_or("<type>"))
                .collect();
            let not = if flags & bit != 0 { "!= " } else { "" };
            text.push_str(&format!(" {name} {not}{}", words.join(",")));
        }
    }
    text
}

/// enum ipt_reject_with, enum ip6t_reject_with, in nft's words.
fn words_of_reject(family: u8, with: u32) -> &'static str {
    let (ipv4, ipv6) = (
        [
            "icmp net-unreachable",
            "icmp host-unreachable",
            "icmp prot-unreachable",
            "icmp port-unreachable",
            "<reject>",
            "icmp net-prohibited",
            "icmp host-prohibited",
            "tcp reset",
            "icmp admin-prohibited",
        ],
        [
            "icmpv6 no-route",
            "icmpv6 admin-prohibited",
            "<reject>",
            "icmpv6 addr-unreachable",
            "icmpv6 port-unreachable",
            "<reject>",
            "tcp reset",
            "icmpv6 policy-fail",
            "icmpv6 reject-route",
        ],
    );
    let words = if family == NFPROTO_IPV6 { ipv6 } else { ipv4 };
    let found = usize::try_from(with).ok().and_then(|with| words.get(with));
    found.copied().unwrap_or("<reject>")
}

/// struct ipt_icmp, struct ip6t_icmp.
fn icmp(info: Info<'_>, table: &names::Table) -> String {
    let of = info.u8(0);
    if of == u8::MAX {
        return String::new(); // any
    }
    let not = if info.u8(3) != 0 { "!= " } else { "" };
    let word = names::word(table, of.into()).map_or(of.to_string(), str::to_owned);
    let code = match (info.u8(1), info.u8(2)) {
        (0, u8::MAX) => String::new(),
        (low, high) => format!(" code {}", range(low.into(), high.into())),
    };
    format!(" type {not}{word}{code}")
}

/// Where the fields of a structure for address translation are, in bytes.
struct Layout {
    flags: usize,
    first: usize,
    last: usize,
    ports: usize,
}

/// struct nf_nat_ipv4_multi_range_compat.
const COMPATIBLE: Layout = Layout {
    flags: 4,
    first: 8,
    last: 12,
    ports: 16,
};

/// struct nf_nat_range, struct nf_nat_range2; an IPv4 address stands in the first four bytes of 16.
const RANGE: Layout = Layout {
    flags: 0,
    first: 4,
    last: 20,
    ports: 36,
};

fn translation(info: Info<'_>, at: Layout, ipv4: bool) -> String {
    let flags = info.u32(at.flags);
    let end = |at: usize| address(info.0.get(at..)?, ipv4);
    let port = |at| u16::from_be(info.u16(at));
    let ports = (flags & 2 != 0).then(|| range(port(at.ports), port(at.ports + 2)));
    let bracketed = |text: String| match (ipv4, &ports) {
        (false, Some(_)) => format!("[{text}]"),
        _ => text,
    };
    let mut text = String::new();
    if let (Some(first), Some(last), true) = (end(at.first), end(at.last), flags & 1 != 0) {
        let single = first == last;
        text = format!(" to {}", bracketed(first));
        if !single {
            text.push_str(&format!("-{}", bracketed(last)));
        }
    }
    if let Some(ports) = &ports {
        let to = if text.is_empty() { " to " } else { "" };
        text.push_str(&format!("{to}:{ports}"));
    }
    text
}

/// The address that some bytes begin with.
fn address(bytes: &[u8], ipv4: bool) -> Option<String> {
    if ipv4 {
        let (v4, _) = bytes.split_first_chunk::<4>()?;
        return Some(std::net::Ipv4Addr::from(*v4).to_string());
    }
    let (v6, _) = bytes.split_first_chunk::<16>()?;
    Some(std::net::Ipv6Addr::from(*v6).to_string())
}

impl Rule<'_, '_> {
    /// enum nft_match_attributes.
    pub fn xt_match(&mut self, from: Nest<'_>) {
        self.xtables = true;
        let name = from.text(NFTA_MATCH_NAME).unwrap_or_default();
        let info = Info(from.get(NFTA_MATCH_INFO).unwrap_or_default());
        let revision = from.be32(NFTA_MATCH_REV).unwrap_or(0);
        if name == "comment" {
            self.comment = Some(info.text(0));
            return;
        }
        let details = match (name.as_str(), revision) {
            ("tcp", 0) => tcp(info),
            ("udp" | "udplite", 0) => ports(info, info.u8(8)),
            ("multiport", 1) => multiport(info),
            ("conntrack", 2 | 3) => conntrack(info),
            ("mark", 1) => mark(info),
            ("limit", 0) => limit(info),
            ("icmp", 0) => icmp(info, names::ICMP_TYPES),
            ("icmp6", 0) => icmp(info, names::ICMPV6_TYPES),
            ("addrtype", 1) => address_type(info),
            _ => String::new(),
        };
        self.act(format!("xt match {name}{details}"));
    }

    /// enum nft_target_attributes.
    pub fn xt_target(&mut self, from: Nest<'_>) {
        self.xtables = true;
        let name = from.text(NFTA_TARGET_NAME).unwrap_or_default();
        let info = Info(from.get(NFTA_TARGET_INFO).unwrap_or_default());
        let revision = from.be32(NFTA_TARGET_REV).unwrap_or(0);
        let ipv4 = self.context.family == NFPROTO_IPV4;
        let details = match (name.as_str(), revision) {
            ("REJECT", 0) => {
                let words = words_of_reject(self.context.family, info.u32(0));
                self.verdict = Some(Verdict::Reject(words));
                format!(" with {words}")
            }
            ("LOG", 0) => {
                let level = names::word(names::LOG_LEVELS, info.u8(0).into());
                let level = level.unwrap_or("<level>");
                format!(" prefix \"{}\" level {level}", info.text(2))
            }
            ("NFLOG", 0) => format!(" prefix \"{}\" group {}", info.text(12), info.u16(4)),
            ("MARK", 2) => format!(" set {:#x}/{:#x}", info.u32(0), info.u32(4)),
            ("SNAT" | "DNAT" | "MASQUERADE" | "REDIRECT", 0) if ipv4 => {
                translation(info, COMPATIBLE, true)
            }
            ("MASQUERADE" | "REDIRECT", 0) => translation(info, RANGE, false),
            ("SNAT" | "DNAT", 1 | 2) => translation(info, RANGE, ipv4),
            _ => String::new(),
        };
        if name == "NFQUEUE" {
            self.verdict = Some(Verdict::Queue);
        }
        self.act(format!("xt target {name}{details}"));
    }
}
