//! Statements: what a rule does with a packet, other than address translation.

use crate::event::step::Verdict;
use crate::wire::kernel::*;
use crate::wire::kernel_nft::*;

use super::names::{self, word};
use super::nest::Nest;
use super::rule::Rule;
use super::value::{self, Kind, Type};
use super::{set, verdict};

/// A number of bytes in the largest unit that fits.
fn bytes(number: u64) -> String {
    match number {
        0 => "0 bytes".to_owned(),
        n if n % (1 << 20) == 0 => format!("{} mbytes", n >> 20),
        n if n % (1 << 10) == 0 => format!("{} kbytes", n >> 10),
        n => format!("{n} bytes"),
    }
}

/// enum nft_limit_attributes.
fn limit(from: Nest<'_>) -> String {
    let rate = from.be64(NFTA_LIMIT_RATE).unwrap_or(0);
    let burst = from.be32(NFTA_LIMIT_BURST).unwrap_or(0);
    let over = if from.be32(NFTA_LIMIT_FLAGS).unwrap_or(0) & NFT_LIMIT_F_INV != 0 {
        "over "
    } else {
        ""
    };
    let unit = match from.be64(NFTA_LIMIT_UNIT) {
        Some(1) => "second",
        Some(60) => "minute",
        Some(3600) => "hour",
        Some(86_400) => "day",
        Some(604_800) => "week",
        _ => "<unit>",
    };
    let by_bytes = from.be32(NFTA_LIMIT_TYPE) == Some(NFT_LIMIT_PKT_BYTES);
    match (by_bytes, burst) {
        (true, 0) => format!("limit rate {over}{}/{unit}", bytes(rate)),
        (true, _) => {
            let burst = bytes(u64::from(burst));
            format!("limit rate {over}{}/{unit} burst {burst}", bytes(rate))
        }
        (false, 0 | 5) => format!("limit rate {over}{rate}/{unit}"),
        (false, _) => format!("limit rate {over}{rate}/{unit} burst {burst} packets"),
    }
}

/// enum nft_quota_attributes; what is used up changes and is not shown.
fn quota(from: Nest<'_>) -> String {
    let over = if from.be32(NFTA_QUOTA_FLAGS).unwrap_or(0) & NFT_QUOTA_F_INV != 0 {
        "over "
    } else {
        ""
    };
    format!(
        "quota {over}{}",
        bytes(from.be64(NFTA_QUOTA_BYTES).unwrap_or(0))
    )
}

/// enum nft_connlimit_attributes.
fn connection_limit(from: Nest<'_>) -> String {
    let over = if from.be32(NFTA_CONNLIMIT_FLAGS).unwrap_or(0) & NFT_CONNLIMIT_F_INV != 0 {
        "over "
    } else {
        ""
    };
    let count = from.be32(NFTA_CONNLIMIT_COUNT).unwrap_or(0);
    format!("ct count {over}{count}")
}

/// enum nft_log_attributes.
fn log(from: Nest<'_>) -> String {
    let mut text = "log".to_owned();
    if let Some(prefix) = from.text(NFTA_LOG_PREFIX) {
        text.push_str(&format!(" prefix \"{prefix}\""));
    }
    if let Some(group) = from.be16(NFTA_LOG_GROUP) {
        text.push_str(&format!(" group {group}"));
    }
    if let Some(length) = from.be32(NFTA_LOG_SNAPLEN) {
        text.push_str(&format!(" snaplen {length}"));
    }
    if let Some(threshold) = from.be16(NFTA_LOG_QTHRESHOLD) {
        text.push_str(&format!(" queue-threshold {threshold}"));
    }
    let warning = 4; // which goes without saying
    if let Some(level) = from.be32(NFTA_LOG_LEVEL).filter(|level| *level != warning) {
        let name = word(names::LOG_LEVELS, level).unwrap_or("<level>");
        text.push_str(&format!(" level {name}"));
    }
    let flags = from.be32(NFTA_LOG_FLAGS).unwrap_or(0);
    if flags & NF_LOG_MASK == NF_LOG_MASK {
        text.push_str(" flags all");
        return text;
    }
    text.push_str(match flags & (NF_LOG_TCPSEQ | NF_LOG_TCPOPT) {
        NF_LOG_TCPSEQ => " flags tcp sequence",
        NF_LOG_TCPOPT => " flags tcp options",
        0 => "",
        _ => " flags tcp sequence,options",
    });
    for (bit, words) in [
        (NF_LOG_IPOPT, " flags ip options"),
        (NF_LOG_UID, " flags skuid"),
        (NF_LOG_MACDECODE, " flags ether"),
    ] {
        text.push_str(if flags & bit != 0 { words } else { "" });
    }
    text
}

/// enum nft_synproxy_attributes.
fn synproxy(from: Nest<'_>) -> String {
    let flags = from.be32(NFTA_SYNPROXY_FLAGS).unwrap_or(0);
    let mut text = "synproxy".to_owned();
    if let Some(mss) = from.be16(NFTA_SYNPROXY_MSS).filter(|_| flags & 1 != 0) {
        text.push_str(&format!(" mss {mss}"));
    }
    if let Some(scale) = from.u8(NFTA_SYNPROXY_WSCALE).filter(|_| flags & 2 != 0) {
        text.push_str(&format!(" wscale {scale}"));
    }
    text.push_str(if flags & 8 != 0 { " timestamp" } else { "" });
    text.push_str(if flags & 4 != 0 { " sack-perm" } else { "" });
    text
}

/// What stands before the name of an object of a type (NFT_OBJECT_*).
fn object(of: u32) -> &'static str {
    match of {
        NFT_OBJECT_COUNTER => "counter name",
        NFT_OBJECT_QUOTA => "quota name",
        NFT_OBJECT_CT_HELPER => "ct helper set",
        NFT_OBJECT_LIMIT => "limit name",
        NFT_OBJECT_CONNLIMIT => "ct count name",
        NFT_OBJECT_TUNNEL => "tunnel name",
        NFT_OBJECT_CT_TIMEOUT => "ct timeout set",
        NFT_OBJECT_SECMARK => "meta secmark set",
        NFT_OBJECT_CT_EXPECT => "ct expectation set",
        NFT_OBJECT_SYNPROXY => "synproxy name",
        _ => "<objref>",
    }
}

/// The words for how a packet is refused; `Verdict::Reject` has them without `with`.
fn words_of_reject(of: u32, code: u32, network: Option<&str>) -> &'static str {
    let find = |table: &[(u32, &'static str)]| {
        let found = table.iter().find(|(number, _)| *number == code);
        found.map(|(_, words)| *words)
    };
    let words = match (of, network) {
        (NFT_REJECT_TCP_RST, _) => Some("tcp reset"),
        (NFT_REJECT_ICMPX_UNREACH, _) => find(&[
            (0, "icmpx no-route"),
            (1, "icmpx port-unreachable"),
            (2, "icmpx host-unreachable"),
            (3, "icmpx admin-prohibited"),
        ]),
        (NFT_REJECT_ICMP_UNREACH, Some("ip")) => find(&[
            (0, "icmp net-unreachable"),
            (1, "icmp host-unreachable"),
            (2, "icmp prot-unreachable"),
            (3, "icmp port-unreachable"),
            (4, "icmp frag-needed"),
            (9, "icmp net-prohibited"),
            (10, "icmp host-prohibited"),
            (13, "icmp admin-prohibited"),
        ]),
        (NFT_REJECT_ICMP_UNREACH, Some("ip6")) => find(&[
            (0, "icmpv6 no-route"),
            (1, "icmpv6 admin-prohibited"),
            (3, "icmpv6 addr-unreachable"),
            (4, "icmpv6 port-unreachable"),
            (5, "icmpv6 policy-fail"),
            (6, "icmpv6 reject-route"),
        ]),
        _ => None,
    };
    words.unwrap_or("<reject>")
}

impl Rule<'_, '_> {
    /// enum nft_immediate_attributes: a verdict, or a constant for a register.
    pub fn immediate(&mut self, from: Nest<'_>) {
        let data = from.nest(NFTA_IMMEDIATE_DATA);
        if let Some(bytes) = data.and_then(|data| data.get(NFTA_DATA_VALUE)) {
            if let Some(register) = from.be32(NFTA_IMMEDIATE_DREG) {
                self.constant(register, bytes);
            }
            return;
        }
        let read = data.and_then(|data| data.nest(NFTA_DATA_VERDICT));
        match read.and_then(verdict::read) {
            Some(read) => {
                self.act(verdict::text(&read));
                self.verdict = Some(read);
            }
            None => self.act("<verdict>".to_owned()),
        }
    }

    /// enum nft_reject_attributes.
    pub fn reject(&mut self, from: Nest<'_>) {
        let of = from.be32(NFTA_REJECT_TYPE).unwrap_or(u32::MAX);
        let code = from.u8(NFTA_REJECT_ICMP_CODE).map_or(0, u32::from);
        let network = self.context.network().map(|header| header.name);
        let words = words_of_reject(of, code, network);
        let single = matches!(self.context.family, NFPROTO_IPV4 | NFPROTO_IPV6);
        // The way of refusing implies the protocol that it is for.
        let implied = match of {
            NFT_REJECT_ICMPX_UNREACH => None,
            NFT_REJECT_TCP_RST if single => self.context.release(2),
            _ if single => None,
            _ => self.context.release(1),
        };
        self.drop_statement(implied);
        let plain = words == "icmpx port-unreachable"
            || single && matches!(words, "icmp port-unreachable" | "icmpv6 port-unreachable");
        self.act(if plain {
            "reject".to_owned()
        } else {
            format!("reject with {words}")
        });
        self.verdict = Some(Verdict::Reject(words));
    }

    /// enum nft_queue_attributes.
    pub fn queue(&mut self, from: Nest<'_>) {
        let flags = from.be16(NFTA_QUEUE_FLAGS).unwrap_or(0);
        let flags = match (flags & 1 != 0, flags & 2 != 0) {
            (true, true) => " flags bypass,fanout",
            (true, false) => " flags bypass",
            (false, true) => " flags fanout",
            (false, false) => "",
        };
        let first = from.be16(NFTA_QUEUE_NUM).unwrap_or(0);
        let total = from.be16(NFTA_QUEUE_TOTAL).unwrap_or(1);
        let to = if let Some(register) = from.be32(NFTA_QUEUE_SREG_QNUM) {
            let number = self.read(Some(register), Some(2));
            self.operand(&number, Type::host(Kind::Integer, 16))
        } else if total > 1 {
            format!("{first}-{}", u32::from(first) + u32::from(total) - 1)
        } else {
            first.to_string()
        };
        self.act(format!("queue{flags} to {to}"));
        self.verdict = Some(Verdict::Queue);
    }

    /// enum nft_dup_attributes.
    pub fn dup(&mut self, from: Nest<'_>) {
        let device = from
            .be32(NFTA_DUP_SREG_DEV)
            .map(|register| self.device(register));
        let address = from
            .be32(NFTA_DUP_SREG_ADDR)
            .map(|register| self.address(register));
        self.act(match (address, device) {
            (Some(address), Some(device)) => format!("dup to {address} device {device}"),
            (Some(to), None) | (None, Some(to)) => format!("dup to {to}"),
            (None, None) => "dup".to_owned(),
        });
    }

    /// enum nft_fwd_attributes.
    pub fn forward(&mut self, from: Nest<'_>) {
        let device = from
            .be32(NFTA_FWD_SREG_DEV)
            .map(|register| self.device(register));
        let address = from
            .be32(NFTA_FWD_SREG_ADDR)
            .map(|register| self.address(register));
        let family = match from.be32(NFTA_FWD_NFPROTO) {
            Some(n) if n == u32::from(NFPROTO_IPV6) => "ip6",
            _ => "ip",
        };
        let device = device.unwrap_or("<fwd>".to_owned());
        self.act(match address {
            Some(address) => format!("fwd {family} to {address} device {device}"),
            None => format!("fwd to {device}"),
        });
    }

    fn device(&mut self, register: u32) -> String {
        let device = self.read(Some(register), Some(4));
        self.operand(&device, Type::host(Kind::Integer, 32))
    }

    /// An address whose family its length tells.
    fn address(&mut self, register: u32) -> String {
        let Some(expr) = self.registers.begins(register) else {
            return "<register>".to_owned();
        };
        self.operand(&expr, Type::network(Kind::Ipv4, 32))
    }

    /// enum nft_objref_attributes.
    pub fn object(&mut self, from: Nest<'_>) {
        if let Some(name) = from.text(NFTA_OBJREF_IMM_NAME) {
            let of = from.be32(NFTA_OBJREF_IMM_TYPE).unwrap_or(0);
            return self.act(format!("{} \"{name}\"", object(of)));
        }
        let Some(name) = from.text(NFTA_OBJREF_SET_NAME) else {
            return self.act("<objref>".to_owned());
        };
        let found = (self.find)(&name);
        let register = from.be32(NFTA_OBJREF_SET_SREG);
        let key = self.read(register, found.map(|set| set.key_bytes()));
        let (text, parts) = self.key(&key);
        let elements = set::reference(found, &name, &parts);
        let of = object(found.map_or(0, |set| set.object()));
        self.act(format!("{of} {text} map {elements}"));
    }

    /// enum nft_dynset_attributes.
    pub fn dynamic_set(&mut self, from: Nest<'_>) {
        let name = from.text(NFTA_DYNSET_SET_NAME).unwrap_or_default();
        let found = (self.find)(&name);
        let op = match from.be32(NFTA_DYNSET_OP) {
            Some(NFT_DYNSET_OP_ADD) => "add",
            Some(NFT_DYNSET_OP_UPDATE) => "update",
            Some(NFT_DYNSET_OP_DELETE) => "delete",
            _ => "<dynset>",
        };
        let register = from.be32(NFTA_DYNSET_SREG_KEY);
        let key = self.read(register, found.map(|set| set.key_bytes()));
        let key = self.key(&key).0;
        let mut text = match found.filter(|set| set.is_anonymous()) {
            Some(set) => {
                let size = set
                    .size()
                    .map_or(String::new(), |size| format!(" size {size}"));
                format!("meter {name}{size} {{ {key}")
            }
            None => format!("{op} @{name} {{ {key}"),
        };
        if let Some(timeout) = from.be64(NFTA_DYNSET_TIMEOUT).filter(|t| *t != 0) {
            text.push_str(&format!(" timeout {}", value::duration(timeout)));
        }
        let several = from.nest(NFTA_DYNSET_EXPRESSIONS);
        let inner: Vec<String> = match (from.nest(NFTA_DYNSET_EXPR), several) {
            (_, Some(list)) => list.all().map(|(_, e)| self.inner(Nest::new(e))).collect(),
            (Some(one), None) => vec![self.inner(one)],
            (None, None) => Vec::new(),
        };
        for statement in inner {
            text.push_str(&format!(" {statement}"));
        }
        if let Some(register) = from.be32(NFTA_DYNSET_SREG_DATA) {
            let data = found.map(|set| set.data());
            let value = self.read(Some(register), data.as_ref().map(|data| data.bytes));
            let of = data.map_or(Type::network(Kind::Hex, 32), |data| data.first_type());
            text.push_str(&format!(" : {}", self.operand(&value, of)));
        }
        self.act(format!("{text} }}"));
    }

    /// A statement that each element of a set has for itself.
    fn inner(&mut self, expression: Nest<'_>) -> String {
        let name = expression.text(NFTA_EXPR_NAME).unwrap_or_default();
        let data = expression.nest(NFTA_EXPR_DATA).unwrap_or(Nest::new(&[]));
        plain(&name, data).unwrap_or(format!("<{name}>"))
    }
}

/// The statements that neither read nor write registers.
pub(super) fn plain(name: &str, from: Nest<'_>) -> Option<String> {
    Some(match name {
        "counter" => "counter".to_owned(),
        "last" => "last".to_owned(),
        "limit" => limit(from),
        "quota" => quota(from),
        "connlimit" => connection_limit(from),
        "log" => log(from),
        "notrack" => "notrack".to_owned(),
        "synproxy" => synproxy(from),
        "flow_offload" => format!("flow add @{}", from.text(NFTA_FLOW_TABLE_NAME)?),
        _ => return None,
    })
}
