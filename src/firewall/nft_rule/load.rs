//! Expressions that put something into a register.

use crate::wire::kernel::*;
use crate::wire::kernel_nft::*;

use super::extension;
use super::names;
use super::nest::Nest;
use super::register::Expr;
use super::rule::{Rule, piece, run_of};
use super::value::{self, Kind, Type};

/// The words for a meta key and its type (enum nft_meta_keys).
fn meta(key: u32) -> Option<(&'static str, Type)> {
    use Kind::{Class, Date, EtherType, Hour, Integer, Mark, Name, Word};
    let host = |kind| Type::host(kind, 32);
    let name = Type::host(Name, 128);
    Some(match key {
        NFT_META_LEN => ("meta length", host(Integer)),
        NFT_META_PROTOCOL => ("meta protocol", Type::network(EtherType, 16)),
        NFT_META_NFPROTO => ("meta nfproto", Type::host(Word(names::NFPROTOS), 8)),
        NFT_META_L4PROTO => ("meta l4proto", Type::host(Word(names::PROTOCOLS), 8)),
        NFT_META_PRIORITY => ("meta priority", host(Class)),
        NFT_META_MARK => ("meta mark", host(Mark)),
        NFT_META_IIF => ("iif", host(Integer)),
        NFT_META_OIF => ("oif", host(Integer)),
        NFT_META_IIFNAME => ("iifname", name),
        NFT_META_OIFNAME => ("oifname", name),
        NFT_META_IIFTYPE => ("meta iiftype", Type::host(Word(names::LINK_TYPES), 16)),
        NFT_META_OIFTYPE => ("meta oiftype", Type::host(Word(names::LINK_TYPES), 16)),
        NFT_META_SKUID => ("meta skuid", host(Integer)),
        NFT_META_SKGID => ("meta skgid", host(Integer)),
        NFT_META_NFTRACE => ("meta nftrace", Type::host(Integer, 1)),
        NFT_META_RTCLASSID => ("meta rtclassid", host(Integer)),
        NFT_META_SECMARK => ("meta secmark", host(Integer)),
        NFT_META_BRI_IIFNAME => ("meta ibrname", name),
        NFT_META_BRI_OIFNAME => ("meta obrname", name),
        NFT_META_PKTTYPE => ("meta pkttype", Type::host(Word(names::PACKET_TYPES), 8)),
        NFT_META_CPU => ("meta cpu", host(Integer)),
        NFT_META_IIFGROUP => ("iifgroup", host(Integer)),
        NFT_META_OIFGROUP => ("oifgroup", host(Integer)),
        NFT_META_CGROUP => ("meta cgroup", host(Integer)),
        NFT_META_PRANDOM => ("meta random", Type::network(Integer, 32)),
        NFT_META_SECPATH => ("meta ipsec", Type::host(Kind::Boolean, 8)),
        NFT_META_IIFKIND => ("meta iifkind", name),
        NFT_META_OIFKIND => ("meta oifkind", name),
        NFT_META_BRI_IIFPVID => ("meta ibrpvid", Type::host(Integer, 16)),
        NFT_META_BRI_IIFVPROTO => ("meta ibrvproto", Type::network(EtherType, 16)),
        NFT_META_TIME_NS => ("meta time", Type::host(Date, 64)),
        NFT_META_TIME_DAY => ("meta day", Type::host(Kind::Quoted(names::DAYS), 8)),
        NFT_META_TIME_HOUR => ("meta hour", host(Hour)),
        NFT_META_SDIF => ("meta sdif", host(Integer)),
        NFT_META_SDIFNAME => ("meta sdifname", name),
        NFT_META_BRI_BROUTE => ("meta broute", Type::host(Integer, 8)),
        _ => return None,
    })
}

/// The word for a conntrack key and its type (enum nft_ct_keys).
fn ct(key: u32, ipv6: bool) -> Option<(&'static str, Type)> {
    use Kind::{Bits, Integer, Ipv4, Ipv6, Mark, Word};
    let host = |kind| Type::host(kind, 32);
    let (address, source, destination) = if ipv6 {
        (Type::network(Ipv6, 128), "ip6 saddr", "ip6 daddr")
    } else {
        (Type::network(Ipv4, 32), "ip saddr", "ip daddr")
    };
    Some(match key {
        NFT_CT_STATE => ("state", host(Bits(names::CT_STATES))),
        NFT_CT_DIRECTION => ("direction", Type::host(Word(names::CT_DIRECTIONS), 8)),
        NFT_CT_STATUS => ("status", host(Bits(names::CT_STATUS))),
        NFT_CT_MARK => ("mark", host(Mark)),
        NFT_CT_SECMARK => ("secmark", host(Integer)),
        NFT_CT_EXPIRATION => ("expiration", host(Kind::Milliseconds)),
        NFT_CT_HELPER => ("helper", Type::host(Kind::Text, 128)),
        NFT_CT_L3PROTOCOL => ("l3proto", Type::host(Word(names::NFPROTOS), 8)),
        NFT_CT_SRC => (source, address),
        NFT_CT_DST => (destination, address),
        NFT_CT_PROTOCOL => ("protocol", Type::host(Word(names::PROTOCOLS), 8)),
        NFT_CT_PROTO_SRC => ("proto-src", Type::network(Integer, 16)),
        NFT_CT_PROTO_DST => ("proto-dst", Type::network(Integer, 16)),
        NFT_CT_LABELS => ("label", Type::host(Kind::Labels, 128)),
        NFT_CT_PKTS => ("packets", Type::host(Integer, 64)),
        NFT_CT_BYTES => ("bytes", Type::host(Integer, 64)),
        NFT_CT_AVGPKT => ("avgpkt", Type::host(Integer, 64)),
        NFT_CT_ZONE => ("zone", Type::host(Integer, 16)),
        NFT_CT_EVENTMASK => ("event", host(Bits(names::CT_EVENTS))),
        NFT_CT_SRC_IP => ("ip saddr", Type::network(Ipv4, 32)),
        NFT_CT_DST_IP => ("ip daddr", Type::network(Ipv4, 32)),
        NFT_CT_SRC_IP6 => ("ip6 saddr", Type::network(Ipv6, 128)),
        NFT_CT_DST_IP6 => ("ip6 daddr", Type::network(Ipv6, 128)),
        NFT_CT_ID => ("id", Type::network(Integer, 32)),
        _ => return None,
    })
}

impl Rule<'_, '_> {
    /// Puts something that has words into the register that attribute `register` names.
    pub fn load(&mut self, from: Nest<'_>, register: u16, text: String, of: Type) {
        let Some(register) = from.be32(register) else {
            self.test("<register>".to_owned());
            return;
        };
        self.registers
            .write(register, Expr::named(text, of), of.bytes());
    }

    /// enum nft_meta_attributes.
    pub fn meta(&mut self, from: Nest<'_>) {
        let key = from.be32(NFTA_META_KEY).unwrap_or(u32::MAX);
        let known = meta(key);
        let (text, of) = known.unwrap_or(("<meta>", Type::network(Kind::Hex, 32)));
        if let Some(register) = from.be32(NFTA_META_SREG) {
            let value = self.read(Some(register), Some(of.bytes()));
            let value = self.operand(&value, of);
            self.act(format!("{text} set {value}"));
        } else if let Some(register) = from.be32(NFTA_META_DREG) {
            let expr = Expr::Named {
                text: text.to_owned(),
                of,
                meta: known.map(|_| key),
            };
            self.registers.write(register, expr, of.bytes());
        }
    }

    /// enum nft_ct_attributes.
    pub fn ct(&mut self, from: Nest<'_>) {
        let key = from.be32(NFTA_CT_KEY).unwrap_or(u32::MAX);
        let direction = match from.u8(NFTA_CT_DIRECTION) {
            Some(0) => "original ",
            Some(1) => "reply ",
            _ => "",
        };
        let network = self.context.network();
        let ipv6 = network.is_some_and(|header| header.name == "ip6");
        let (word, of) = match ct(key, ipv6) {
            Some(known) => known,
            None => ("<key>", Type::network(Kind::Hex, 32)),
        };
        let text = format!("ct {direction}{word}");
        let Some(register) = from.be32(NFTA_CT_SREG) else {
            return self.load(from, NFTA_CT_DREG, text, of);
        };
        let value = self.read(Some(register), Some(of.bytes()));
        let value = self.operand(&value, of);
        self.act(format!("{text} set {value}"));
    }

    /// enum nft_payload_attributes.
    pub fn load_payload(&mut self, from: Nest<'_>) {
        let number = |kind| from.be32(kind).unwrap_or(0);
        let len = number(NFTA_PAYLOAD_LEN).min(64);
        let (base, offset) = (number(NFTA_PAYLOAD_BASE), number(NFTA_PAYLOAD_OFFSET));
        let (offset, bits) = (offset.saturating_mul(8), len * 8);
        let bytes = usize::try_from(len).unwrap_or(0);
        if let Some(register) = from.be32(NFTA_PAYLOAD_SREG) {
            return self.store_payload((base, offset, bits), register, bytes);
        }
        if let Some(register) = from.be32(NFTA_PAYLOAD_DREG) {
            let expr = Expr::Payload { base, offset, bits };
            self.registers.write(register, expr, bytes);
        }
    }

    /// `ip ttl set 64`: what stands around the field in the same word is read and written back.
    fn store_payload(&mut self, place: (u32, u32, u32), register: u32, bytes: usize) {
        let (base, offset, bits) = place;
        let whole = Expr::Payload { base, offset, bits };
        let source = self.read(Some(register), Some(bytes));
        if let Expr::Bitwise { of, mask, xor } = source.as_ref() {
            let kept: Vec<u8> = mask.iter().map(|b| !b).collect();
            let same = matches!(of.as_ref(), Expr::Payload { base: b, offset: o, .. }
                if (*b, *o) == (base, offset));
            let run = run_of(&kept).filter(|_| same);
            let found = run.and_then(|run| Some((run, self.narrowed(&whole, run)?)));
            if let Some(((lead, run), (text, of))) = found {
                let value = value::write(of, &piece(xor, lead, run), false);
                return self.act(format!("{text} set {value}"));
            }
        }
        let (text, of) = self.name(&whole);
        let value = self.operand(&source, of);
        self.act(format!("{text} set {value}"));
    }

    /// enum nft_exthdr_attributes.
    pub fn extension(&mut self, from: Nest<'_>) {
        let number = |kind| from.be32(kind).unwrap_or(0);
        let of = from.u8(NFTA_EXTHDR_TYPE).unwrap_or(0);
        let op = number(NFTA_EXTHDR_OP);
        let offset = number(NFTA_EXTHDR_OFFSET).saturating_mul(8);
        let len = number(NFTA_EXTHDR_LEN).min(64);
        let bytes = usize::try_from(len).unwrap_or(0);
        let expr = Expr::Extension {
            op,
            of,
            offset,
            bits: len * 8,
        };
        let Some(register) = from.be32(NFTA_EXTHDR_DREG) else {
            let Some(register) = from.be32(NFTA_EXTHDR_SREG) else {
                let (text, _) = extension::presence(op, of);
                return self.act(format!("reset {text}"));
            };
            let source = self.read(Some(register), Some(bytes));
            let (text, of) = self.name(&expr);
            let value = self.operand(&source, of);
            return self.act(format!("{text} set {value}"));
        };
        if number(NFTA_EXTHDR_FLAGS) & NFT_EXTHDR_F_PRESENT == 0 {
            return self.registers.write(register, expr, bytes);
        }
        self.name(&expr); // implies what a field of it would
        let (text, of) = extension::presence(op, of);
        self.registers.write(register, Expr::named(text, of), 1);
    }

    /// enum nft_bitwise_attributes.
    pub fn bitwise(&mut self, from: Nest<'_>) {
        let len = from.be32(NFTA_BITWISE_LEN).unwrap_or(0).min(64);
        let bytes = usize::try_from(len).unwrap_or(0);
        let of = self.read(from.be32(NFTA_BITWISE_SREG), Some(bytes));
        let value = |kind| {
            let data = from.nest(kind).and_then(|data| data.get(NFTA_DATA_VALUE));
            data.map(|data| data.get(..bytes).unwrap_or(data).to_vec())
        };
        let by = |data: Vec<u8>| value::number(&data, true).and_then(|n| u32::try_from(n).ok());
        let op = from.be32(NFTA_BITWISE_OP).unwrap_or(NFT_BITWISE_BOOL);
        let expr = match (op, of.as_ref()) {
            (_, Expr::Concat(_)) => None,
            (_, deep) if deep.is_deep() => None,
            (NFT_BITWISE_BOOL, _) => {
                let pair = (value(NFTA_BITWISE_MASK), value(NFTA_BITWISE_XOR));
                match pair {
                    (Some(mask), Some(xor)) => Some(Expr::Bitwise { of, mask, xor }),
                    _ => None,
                }
            }
            (NFT_BITWISE_LSHIFT | NFT_BITWISE_RSHIFT, _) => {
                let left = op == NFT_BITWISE_LSHIFT;
                let by = value(NFTA_BITWISE_DATA).and_then(by);
                by.map(|by| Expr::Shift { of, left, by })
            }
            _ => None,
        };
        let expr = expr.unwrap_or(Expr::Unknown("bitwise".to_owned()));
        if let Some(register) = from.be32(NFTA_BITWISE_DREG) {
            self.registers.write(register, expr, bytes);
        }
    }

    /// enum nft_byteorder_attributes.
    pub fn byteorder(&mut self, from: Nest<'_>) {
        let len = from.be32(NFTA_BYTEORDER_LEN).unwrap_or(0).min(64);
        let bytes = usize::try_from(len).unwrap_or(0);
        let of = self.read(from.be32(NFTA_BYTEORDER_SREG), Some(bytes));
        let expr = match of.as_ref() {
            Expr::Concat(_) => Expr::Unknown("byteorder".to_owned()),
            deep if deep.is_deep() => Expr::Unknown("byteorder".to_owned()),
            _ => Expr::Swapped(of),
        };
        if let Some(register) = from.be32(NFTA_BYTEORDER_DREG) {
            self.registers.write(register, expr, bytes);
        }
    }

    /// enum nft_immediate_attributes, for a value; verdicts are statements.
    pub fn constant(&mut self, register: u32, data: &[u8]) {
        let bytes = data.get(..64).unwrap_or(data).to_vec();
        let len = bytes.len();
        self.registers.write(register, Expr::Data(bytes), len);
    }

    /// enum nft_socket_attributes.
    pub fn socket(&mut self, from: Nest<'_>) {
        let (text, of) = match from.be32(NFTA_SOCKET_KEY) {
            Some(NFT_SOCKET_TRANSPARENT) => ("socket transparent", Type::host(Kind::Integer, 8)),
            Some(NFT_SOCKET_MARK) => ("socket mark", Type::host(Kind::Mark, 32)),
            Some(NFT_SOCKET_WILDCARD) => ("socket wildcard", Type::host(Kind::Integer, 8)),
            Some(NFT_SOCKET_CGROUPV2) => ("socket cgroupv2", Type::host(Kind::Integer, 64)),
            _ => ("<socket>", Type::network(Kind::Hex, 32)),
        };
        let level = match (text, from.be32(NFTA_SOCKET_LEVEL)) {
            ("socket cgroupv2", Some(level)) => format!(" level {level}"),
            _ => String::new(),
        };
        self.load(from, NFTA_SOCKET_DREG, format!("{text}{level}"), of);
    }

    /// enum nft_rt_attributes.
    pub fn route(&mut self, from: Nest<'_>) {
        let (text, of) = match from.be32(NFTA_RT_KEY) {
            Some(NFT_RT_CLASSID) => ("rt classid", Type::host(Kind::Integer, 32)),
            Some(NFT_RT_NEXTHOP4) => ("rt ip nexthop", Type::network(Kind::Ipv4, 32)),
            Some(NFT_RT_NEXTHOP6) => ("rt ip6 nexthop", Type::network(Kind::Ipv6, 128)),
            Some(NFT_RT_TCPMSS) => ("rt mtu", Type::host(Kind::Integer, 16)),
            Some(NFT_RT_XFRM) => ("rt ipsec", Type::host(Kind::Boolean, 8)),
            _ => ("<rt>", Type::network(Kind::Hex, 32)),
        };
        self.load(from, NFTA_RT_DREG, text.to_owned(), of);
    }

    /// enum nft_fib_attributes.
    pub fn fib(&mut self, from: Nest<'_>) {
        let flags = from.be32(NFTA_FIB_FLAGS).unwrap_or(0);
        let parts = [
            (NFTA_FIB_F_SADDR, "saddr"),
            (NFTA_FIB_F_DADDR, "daddr"),
            (NFTA_FIB_F_MARK, "mark"),
            (NFTA_FIB_F_IIF, "iif"),
            (NFTA_FIB_F_OIF, "oif"),
        ];
        let key: Vec<_> = parts.iter().filter(|(bit, _)| flags & bit != 0).collect();
        let key: Vec<_> = key.iter().map(|(_, word)| *word).collect();
        let (result, of) = match from.be32(NFTA_FIB_RESULT) {
            Some(NFT_FIB_RESULT_OIF) => ("oif", Type::host(Kind::Integer, 32)),
            Some(NFT_FIB_RESULT_OIFNAME) => ("oifname", Type::host(Kind::Name, 128)),
            Some(NFT_FIB_RESULT_ADDRTYPE) => {
                let of = Kind::Word(names::ADDRESS_TYPES);
                ("type", Type::host(of, 32))
            }
            _ => ("<fib>", Type::network(Kind::Hex, 32)),
        };
        let of = if flags & NFTA_FIB_F_PRESENT != 0 {
            Type::host(Kind::Boolean, 8)
        } else {
            of
        };
        let text = format!("fib {} {result}", key.join(" . "));
        self.load(from, NFTA_FIB_DREG, text, of);
    }

    /// enum nft_ng_attributes.
    pub fn numgen(&mut self, from: Nest<'_>) {
        let way = match from.be32(NFTA_NG_TYPE) {
            Some(NFT_NG_INCREMENTAL) => "inc",
            Some(NFT_NG_RANDOM) => "random",
            _ => "<numgen>",
        };
        let text = format!(
            "numgen {way} {}",
            modulus(from, NFTA_NG_MODULUS, NFTA_NG_OFFSET, None)
        );
        self.load(from, NFTA_NG_DREG, text, Type::host(Kind::Integer, 32));
    }

    /// enum nft_hash_attributes.
    pub fn hash(&mut self, from: Nest<'_>) {
        let symmetric = from.be32(NFTA_HASH_TYPE) == Some(NFT_HASH_SYM);
        let seed = from.be32(NFTA_HASH_SEED).filter(|_| !symmetric);
        let of = if symmetric {
            "symhash".to_owned()
        } else {
            let len = from
                .be32(NFTA_HASH_LEN)
                .and_then(|l| usize::try_from(l).ok());
            let source = self.read(from.be32(NFTA_HASH_SREG), len);
            format!("jhash {}", self.name(&source).0)
        };
        let text = format!(
            "{of} {}",
            modulus(from, NFTA_HASH_MODULUS, NFTA_HASH_OFFSET, seed)
        );
        self.load(from, NFTA_HASH_DREG, text, Type::host(Kind::Integer, 32));
    }

    /// enum nft_osf_attributes.
    pub fn osf(&mut self, from: Nest<'_>) {
        let ttl = match from.u8(NFTA_OSF_TTL) {
            Some(1) => "ttl loose ",
            Some(2) => "ttl skip ",
            _ => "",
        };
        let version = from.be32(NFTA_OSF_FLAGS).unwrap_or(0) & NFT_OSF_F_VERSION != 0;
        let what = if version { "version" } else { "name" };
        let text = format!("osf {ttl}{what}");
        self.load(from, NFTA_OSF_DREG, text, Type::host(Kind::Text, 128));
    }

    /// enum nft_xfrm_attributes.
    pub fn xfrm(&mut self, from: Nest<'_>) {
        let direction = match from.u8(NFTA_XFRM_DIR) {
            Some(0) => "in",
            Some(1) => "out",
            _ => "<xfrm>",
        };
        let (key, of) = match from.be32(NFTA_XFRM_KEY) {
            Some(NFT_XFRM_KEY_DADDR_IP4) => ("ip daddr", Type::network(Kind::Ipv4, 32)),
            Some(NFT_XFRM_KEY_DADDR_IP6) => ("ip6 daddr", Type::network(Kind::Ipv6, 128)),
            Some(NFT_XFRM_KEY_SADDR_IP4) => ("ip saddr", Type::network(Kind::Ipv4, 32)),
            Some(NFT_XFRM_KEY_SADDR_IP6) => ("ip6 saddr", Type::network(Kind::Ipv6, 128)),
            Some(NFT_XFRM_KEY_REQID) => ("reqid", Type::host(Kind::Integer, 32)),
            Some(NFT_XFRM_KEY_SPI) => ("spi", Type::network(Kind::Integer, 32)),
            _ => ("<key>", Type::network(Kind::Hex, 32)),
        };
        let number = match from.be32(NFTA_XFRM_SPNUM).unwrap_or(0) {
            0 => String::new(),
            n => format!("spnum {n} "),
        };
        self.load(
            from,
            NFTA_XFRM_DREG,
            format!("ipsec {direction} {number}{key}"),
            of,
        );
    }
}

/// `mod 16 seed 0x1 offset 2`.
fn modulus(from: Nest<'_>, modulus: u16, offset: u16, seed: Option<u32>) -> String {
    let mut text = format!("mod {}", from.be32(modulus).unwrap_or(0));
    if let Some(seed) = seed {
        text.push_str(&format!(" seed {seed:#x}"));
    }
    match from.be32(offset) {
        Some(offset) if offset != 0 => text.push_str(&format!(" offset {offset}")),
        _ => {}
    }
    text
}
