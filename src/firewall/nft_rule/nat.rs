//! Statements that change addresses and ports, or divert to a socket of this machine.

use std::rc::Rc;

use crate::wire::kernel::*;
use crate::wire::kernel_nft::*;

use super::nest::Nest;
use super::register::Expr;
use super::rule::Rule;
use super::value::{Kind, Type};

/// `random,persistent` with a space before it (NF_NAT_RANGE_*).
fn flags(flags: u32) -> String {
    let words = [
        (NF_NAT_RANGE_PROTO_RANDOM, "random"),
        (NF_NAT_RANGE_PROTO_RANDOM_FULLY, "fully-random"),
        (NF_NAT_RANGE_PERSISTENT, "persistent"),
    ];
    let set: Vec<_> = words.iter().filter(|(bit, _)| flags & bit != 0).collect();
    let set: Vec<_> = set.iter().map(|(_, word)| *word).collect();
    if set.is_empty() {
        return String::new();
    }
    format!(" {}", set.join(","))
}

/// The name of an address family where the table's does not say it.
fn family_word(table: u8, family: u32) -> &'static str {
    match u8::try_from(family) {
        Ok(NFPROTO_IPV4) if table == NFPROTO_INET => " ip",
        Ok(NFPROTO_IPV6) if table == NFPROTO_INET => " ip6",
        _ => "",
    }
}

fn address_type(family: u32) -> Type {
    if family == u32::from(NFPROTO_IPV6) {
        Type::network(Kind::Ipv6, 128)
    } else {
        Type::network(Kind::Ipv4, 32)
    }
}

const PORT: Type = Type {
    kind: Kind::Integer,
    host: false,
    bits: 16,
};

impl Rule<'_, '_> {
    /// `A` or `A-B` from one or two registers; `None` where they begin no expression.
    fn span(&mut self, first: Option<u32>, last: Option<u32>, of: Type) -> Option<String> {
        let from = self.registers.begins(first?)?;
        let text = self.operand(&from, of);
        let other = last.filter(|last| Some(*last) != first);
        let Some(to) = other.and_then(|last| self.registers.begins(last)) else {
            return Some(text);
        };
        if let (Expr::Data(a), Expr::Data(b)) = (from.as_ref(), to.as_ref()) {
            if a == b {
                return Some(text);
            }
        }
        Some(format!("{text}-{}", self.operand(&to, of)))
    }

    /// A map that a port comes from does not imply the protocol of its key.
    fn ports_imply_nothing(&mut self, register: Option<u32>) {
        let Some(port) = register.and_then(|register| self.registers.begins(register)) else {
            return;
        };
        if matches!(*port, Expr::Named { .. }) {
            self.show_hidden();
        }
        self.context.settle();
    }

    /// enum nft_nat_attributes.
    pub fn nat(&mut self, from: Nest<'_>) {
        let what = match from.be32(NFTA_NAT_TYPE) {
            Some(NFT_NAT_SNAT) => "snat",
            Some(NFT_NAT_DNAT) => "dnat",
            _ => "<nat>",
        };
        let family = from.be32(NFTA_NAT_FAMILY).unwrap_or(0);
        let range = from.be32(NFTA_NAT_FLAGS).unwrap_or(0);
        let (min, max) = (
            from.be32(NFTA_NAT_REG_ADDR_MIN),
            from.be32(NFTA_NAT_REG_ADDR_MAX),
        );
        let prefix = range & NF_NAT_RANGE_NETMAP != 0;
        // The last address of a map's range stands behind the first, in the same expression.
        let mapped = min.and_then(|register| self.registers.begins(register));
        let mapped = mapped.is_some_and(|expr: Rc<Expr>| matches!(*expr, Expr::Named { .. }));
        let max = max.filter(|_| !mapped);
        let address = self.span(min, max, address_type(family));
        let (min, max) = (
            from.be32(NFTA_NAT_REG_PROTO_MIN),
            from.be32(NFTA_NAT_REG_PROTO_MAX),
        );
        self.ports_imply_nothing(min);
        let ports = self.span(min, max.filter(|_| !mapped), PORT);
        let to = destination(address, ports);
        let family = family_word(self.context.family, family);
        let prefix = if prefix { " prefix" } else { "" };
        self.act(format!("{what}{family}{prefix}{to}{}", flags(range)));
    }

    /// enum nft_masq_attributes, enum nft_redir_attributes: the same numbers in another order.
    pub fn translate_port(&mut self, from: Nest<'_>, what: &str, [min, max, range]: [u16; 3]) {
        self.ports_imply_nothing(from.be32(min));
        let ports = self.span(from.be32(min), from.be32(max), PORT);
        let to = destination(None, ports);
        let range = from.be32(range).unwrap_or(0);
        self.act(format!("{what}{to}{}", flags(range)));
    }

    /// enum nft_tproxy_attributes.
    pub fn tproxy(&mut self, from: Nest<'_>) {
        let family = from.be32(NFTA_TPROXY_FAMILY).unwrap_or(0);
        let of = match family {
            0 => self.context.family.into(),
            family => family,
        };
        let address = self.span(from.be32(NFTA_TPROXY_REG_ADDR), None, address_type(of));
        self.ports_imply_nothing(from.be32(NFTA_TPROXY_REG_PORT));
        let port = self.span(from.be32(NFTA_TPROXY_REG_PORT), None, PORT);
        let to = destination(address, port);
        let family = family_word(self.context.family, family);
        self.act(format!("tproxy{family}{to}"));
    }
}

/// ` to ADDRESS:PORT`, as far as given; IPv6 addresses before a port stand in brackets.
fn destination(address: Option<String>, ports: Option<String>) -> String {
    match (address, ports) {
        (None, None) => String::new(),
        (Some(address), None) => format!(" to {address}"),
        (None, Some(ports)) => format!(" to :{ports}"),
        (Some(address), Some(ports)) => {
            if address.contains(':') && !address.contains(' ') {
                let ends: Vec<_> = address.split('-').map(|end| format!("[{end}]")).collect();
                return format!(" to {}:{ports}", ends.join("-"));
            }
            format!(" to {address}:{ports}")
        }
    }
}
