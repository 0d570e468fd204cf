//! Which headers a rule has established so far, and which of its statements only did that: nft(8)
//! does not show those, since what follows implies them (`tcp dport 22` implies `meta l4proto tcp`).

use crate::wire::kernel::*;
use crate::wire::kernel_nft::*;

use super::protocol::{self, Field, Protocol};

/// What a dependency tests.
#[derive(Clone, Copy)]
pub(super) enum Tested {
    /// The key field of a header.
    Header(&'static Protocol),
    /// A meta key (enum nft_meta_keys).
    Meta(u32),
}

/// A statement that later ones may imply.
#[derive(Clone, Copy)]
pub(super) struct Dependency {
    /// Its index in the rule.
    pub statement: usize,
    pub tested: Tested,
    pub value: u128,
}

/// The state of the analysis after some of a rule's statements.
pub(super) struct Context {
    /// The table's family.
    pub family: u8,
    /// Link layer, network, transport, as far as known.
    headers: [Option<&'static Protocol>; 3],
    /// By the layer whose expressions imply it; the last is for fields behind an ICMP type.
    dependencies: [Option<Dependency>; 4],
    icmp: Option<u8>,
}

const LINK: usize = 0;
const NETWORK: usize = 1;
const TRANSPORT: usize = 2;
const BEHIND_KEY: usize = 3;

/// The type that an ICMP field's question and answer share.
fn question(header: &Protocol, icmp_type: u8) -> u8 {
    match (header.name, icmp_type) {
        ("icmp", 0) => 8,
        ("icmpv6", 129) => 128,
        (_, other) => other,
    }
}

impl Context {
    /// What the family of a table establishes by itself.
    pub fn new(family: u8) -> Self {
        let headers = match family {
            NFPROTO_IPV4 => [None, Some(&protocol::IP), None],
            NFPROTO_IPV6 => [None, Some(&protocol::IP6), None],
            NFPROTO_ARP => [None, Some(&protocol::ARP), None],
            NFPROTO_INET => [Some(&protocol::INET), None, None],
            NFPROTO_BRIDGE => [Some(&protocol::ETHER), None, None],
            NFPROTO_NETDEV => [Some(&protocol::NETDEV), None, None],
            _ => [None; 3],
        };
        Context {
            family,
            headers,
            dependencies: [None; 4],
            icmp: None,
        }
    }

    /// The network header, where known.
    pub fn network(&self) -> Option<&'static Protocol> {
        self.headers[NETWORK]
    }

    /// The header that bit `offset` from `base` on lies in.
    pub fn header(&self, base: u32, offset: u32) -> Option<&'static Protocol> {
        let base = usize::try_from(base).ok()?;
        let header = (*self.headers.get(base)?)?;
        if header.name == "vlan" && offset < 112 {
            return Some(&protocol::ETHER);
        }
        Some(header)
    }

    /// The first field that begins at a place and that `fits` (given its length in bits).
    pub fn field(
        &self,
        base: u32,
        offset: u32,
        fits: impl Fn(u32) -> bool,
    ) -> Option<(&'static Protocol, &'static Field)> {
        let header = self.header(base, offset)?;
        let icmp_fits = |of: Option<u8>| of.is_none() || self.icmp.is_none() || of == self.icmp;
        let found = header
            .fields
            .iter()
            .find(|field| field.offset == offset && fits(field.bits) && icmp_fits(field.icmp));
        found.map(|field| (header, field))
    }

    /// Notes the ICMP type that the first element of a set, or a comparison, gives.
    pub fn note_icmp(&mut self, header: &'static Protocol, field: &Field, value: u128) {
        if field.name == header.key && header.name.starts_with("icmp") && self.icmp.is_none() {
            let icmp_type = u8::try_from(value).unwrap_or(0);
            self.icmp = Some(question(header, icmp_type));
        }
    }

    /// The rule tests that the key field of `header` is `value`: what follows is known from here on.
    pub fn learn_field(&mut self, header: &'static Protocol, value: u128) -> bool {
        let Some(next) = protocol::follows(header, value) else {
            return false;
        };
        if let Some(slot) = self.headers.get_mut(next.base) {
            *slot = Some(next);
        }
        next.base == header.base
    }

    /// The rule tests that a meta key is `value`.
    pub fn learn_meta(&mut self, key: u32, value: u128) {
        match key {
            NFT_META_NFPROTO => {
                self.headers[NETWORK] = match u8::try_from(value) {
                    Ok(NFPROTO_IPV4) => Some(&protocol::IP),
                    Ok(NFPROTO_IPV6) => Some(&protocol::IP6),
                    _ => None,
                }
            }
            NFT_META_L4PROTO => self.headers[TRANSPORT] = Some(protocol::transport(value)),
            NFT_META_PROTOCOL => {
                let next = protocol::of_ether_type(value);
                if let Some(slot) = self.headers.get_mut(next.base) {
                    *slot = Some(next);
                }
            }
            NFT_META_IIFTYPE if value == 1 => self.headers[LINK] = Some(&protocol::ETHER),
            _ => {}
        }
    }

    /// Forgets what could still be implied: a statement that is no test was reached.
    pub fn settle(&mut self) {
        self.dependencies = [None; 4];
    }

    fn place(&self, base: usize) -> Option<usize> {
        if self.dependencies.get(base)?.is_some() {
            return Some(base);
        }
        let behind = base == TRANSPORT && self.dependencies[BEHIND_KEY].is_some();
        behind.then_some(BEHIND_KEY)
    }

    fn get(&self, base: usize) -> Option<Dependency> {
        *self.dependencies.get(self.place(base)?)?
    }

    /// Takes the dependency of a layer: its statement is implied.
    pub fn release(&mut self, base: usize) -> Option<usize> {
        let place = self.place(base)?;
        let taken = self.dependencies.get_mut(place)?.take()?;
        Some(taken.statement)
    }

    fn several_families(&self) -> bool {
        matches!(self.family, NFPROTO_INET | NFPROTO_BRIDGE | NFPROTO_NETDEV)
    }

    /// A field is looked at: the statement that it implies, if any. `key`: it is itself a test of
    /// the header's key field.
    pub fn imply_by_field(
        &mut self,
        header: &'static Protocol,
        field: &Field,
        key: bool,
    ) -> Option<usize> {
        let dependency = self.get(header.base)?;
        self.field_implies(dependency, header, field, key)
            .then(|| self.release(header.base))?
    }

    fn field_implies(
        &self,
        dependency: Dependency,
        header: &'static Protocol,
        field: &Field,
        key: bool,
    ) -> bool {
        let Tested::Header(tested) = dependency.tested else {
            return true;
        };
        if self.several_families() {
            if tested.base == NETWORK && header.base == TRANSPORT {
                return !matches!(tested.name, "ip" | "ip6");
            }
            if tested.base == header.base {
                if key {
                    return false;
                }
                if header.base == LINK {
                    return match tested.name {
                        "vlan" => false,
                        "ether" => dependency.value == 0x8100,
                        _ => true,
                    };
                }
            }
        }
        if header.base != TRANSPORT || tested.base != TRANSPORT {
            return true;
        }
        if tested.name.starts_with("icmp") {
            return field.icmp.is_some() && tested.name == header.name && field.icmp == self.icmp;
        }
        true
    }

    /// Remembers that statement `statement` tests the key field of a header. `stacked`: the next
    /// header is of the same layer.
    pub fn note_field(&mut self, dependency: Dependency, header: &'static Protocol, stacked: bool) {
        let echo = header.name.starts_with("icmp") && matches!(self.icmp, Some(8 | 128));
        if header.base == TRANSPORT && echo {
            return;
        }
        let place = if stacked {
            header.base
        } else {
            header.base + 1
        };
        if let Some(slot) = self.dependencies.get_mut(place) {
            *slot = Some(dependency);
        }
    }

    /// A meta key is tested for equality: the statement that this implies, if any. Remembers the
    /// test if others may imply it.
    pub fn imply_by_meta(&mut self, key: u32, dependency: Dependency) -> Option<usize> {
        let base = match key {
            NFT_META_NFPROTO | NFT_META_PROTOCOL => Some(LINK),
            NFT_META_L4PROTO => Some(NETWORK),
            _ => None,
        };
        let implied = base.filter(|_| self.meta_implies(key, dependency.value));
        let implied = implied.and_then(|base| self.release(base));
        let place = match (key, base) {
            (_, Some(base)) => base + 1,
            (NFT_META_IIFTYPE, None) => LINK,
            _ => return implied,
        };
        if let Some(slot) = self.dependencies.get_mut(place) {
            *slot = Some(dependency);
        }
        implied
    }

    /// The network protocol that a dependency establishes; `None` where it does not do that.
    fn network_of(dependency: Dependency) -> Option<u8> {
        let of_ether_type = || match dependency.value {
            0x0800 => NFPROTO_IPV4,
            0x86dd => NFPROTO_IPV6,
            _ => 0,
        };
        match dependency.tested {
            Tested::Meta(NFT_META_NFPROTO) => Some(u8::try_from(dependency.value).unwrap_or(0)),
            Tested::Meta(NFT_META_PROTOCOL) => Some(of_ether_type()),
            Tested::Header(header) if header.base == LINK => Some(of_ether_type()),
            _ => None,
        }
    }

    fn meta_implies(&self, key: u32, value: u128) -> bool {
        let Some(network) = self.get(NETWORK).and_then(Self::network_of) else {
            return true;
        };
        if matches!(self.family, NFPROTO_IPV4 | NFPROTO_IPV6) {
            return self.family == network;
        }
        if !self.several_families() || key != NFT_META_L4PROTO {
            return true;
        }
        let (icmp, icmpv6) = (
            u128::from(IPPROTO_ICMP) == value,
            u128::from(IPPROTO_ICMPV6) == value,
        );
        (icmp && network != NFPROTO_IPV6) || (icmpv6 && network != NFPROTO_IPV4)
    }
}
