//! Does a rule use conntrack? The kernel tracks a family in a namespace while some rule refers to
//! it, reachable or not. So the rules are read, of legacy tables that are loaded and of nf_tables,
//! and nothing is sent or changed. What else can use conntrack (Open vSwitch, tc, IPVS,
//! an object or a set element of nf_tables) is not seen; then it is switched on once more, which
//! changes nothing.

use super::instrument::TABLE;
use super::nft;
use super::state::Leftover;
use crate::sys::machine;
use crate::sys::xtables;
use crate::wire::attr::Attributes;
use crate::wire::kernel::{NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6, NFTA_RULE_TABLE};
use crate::wire::nftables::{has_expression, nat_family, text_of};
use crate::wire::xtables::chains::{Hooks, Places};
use crate::wire::xtables::has_extension;

/// Which families a rule uses conntrack for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// IPv4.
    pub ipv4: bool,
    /// IPv6.
    pub ipv6: bool,
}

/// nf_tables expressions whose init takes a reference (nf_ct_netns_get in net/netfilter/nft_*.c).
const EXPRESSIONS: [&[u8]; 7] = [
    b"ct",
    b"nat",
    b"masq",
    b"redir",
    b"connlimit",
    b"synproxy",
    b"flow_offload",
];

/// xt matches and targets whose check does (nf_ct_netns_get in net/netfilter/xt_*.c, ipt_*.c). CT does
/// too, but not as `--notrack`, which is its common use.
const EXTENSIONS: [&[u8]; 17] = [
    b"conntrack",
    b"state",
    b"connbytes",
    b"connlabel",
    b"connlimit",
    b"connmark",
    b"helper",
    b"cluster",
    b"CONNMARK",
    b"CONNSECMARK",
    b"CLUSTERIP",
    b"SYNPROXY",
    b"NETMAP",
    b"REDIRECT",
    b"MASQUERADE",
    b"SNAT",
    b"DNAT",
];

/// Reads the rules. `may_load` says that nf_tables will be used anyway; else it is only asked where it
/// is there already, since asking would load it.
pub fn usage(may_load: bool) -> Usage {
    usage_besides(may_load, &[])
}

/// The same, as if what is left of an earlier run were gone.
pub fn usage_besides(may_load: bool, left: &[Leftover]) -> Usage {
    let mut usage = Usage {
        ipv4: in_legacy(false, left),
        ipv6: in_legacy(true, left),
    };
    if !(usage.ipv4 && usage.ipv6) && (may_load || machine::has_nf_tables()) {
        in_nftables(&mut usage, left);
    }
    usage
}

fn in_legacy(ipv6: bool, left: &[Leftover]) -> bool {
    let is_left = |table: &str, name: &[u8]| {
        left.iter().any(|leftover| match leftover {
            Leftover::LegacyChain(chain) => {
                (chain.ipv6, chain.table.as_str()) == (ipv6, table)
                    && chain.purpose.chain().as_bytes() == name
            }
            _ => false,
        })
    };
    let uses = |table: &String| {
        let Ok(raw) = xtables::table(ipv6, table) else {
            return false;
        };
        let wanted = |name: &[u8]| EXTENSIONS.contains(&name);
        let entries = &raw.entries;
        if left.is_empty() {
            return has_extension(entries, ipv6, wanted) == Ok(true);
        }
        let hooks = Hooks {
            valid: raw.valid_hooks,
            entry: raw.hook_entry,
            underflow: raw.underflow,
        };
        let mut places = Places::new(entries, ipv6, hooks).flatten();
        places.any(|place| {
            let (from, to) = (place.entry.offset as usize, place.entry.end as usize);
            let entry = entries.get(from..to).unwrap_or_default();
            !is_left(table, place.chain.name) && has_extension(entry, ipv6, wanted) == Ok(true)
        })
    };
    xtables::loaded_tables(ipv6).iter().any(uses)
}

/// Adds what nf_tables rules use.
fn in_nftables(usage: &mut Usage, left: &[Leftover]) {
    let is_left = |family: u8, table: Option<&[u8]>| {
        left.iter().any(|leftover| match leftover {
            Leftover::NftTable(its) => *its == family && table == Some(nft::TABLE.as_bytes()),
            Leftover::TraceTable(its) => *its == family && table == Some(TABLE.as_bytes()),
            _ => false,
        })
    };
    // What cannot be read is taken for unused: then our own rule uses it, which changes nothing.
    let _ = nft::read_rules(&mut |family, rule| {
        if is_left(family, text_of(rule, NFTA_RULE_TABLE)) {
            return true;
        }
        for (wanted, used) in [
            (NFPROTO_IPV4, &mut usage.ipv4),
            (NFPROTO_IPV6, &mut usage.ipv6),
        ] {
            let covers = family == NFPROTO_INET || family == wanted;
            let uses = |name: &[u8], data: Attributes<'_>| uses(name, data, wanted);
            *used |= covers && has_expression(rule, uses, |name| EXTENSIONS.contains(&name));
        }
        !(usage.ipv4 && usage.ipv6)
    });
}

/// Whether an expression uses conntrack for a family.
fn uses(name: &[u8], data: Attributes<'_>, wanted: u8) -> bool {
    let for_another =
        name == b"nat" && nat_family(data).is_some_and(|family| family != u32::from(wanted));
    EXPRESSIONS.contains(&name) && !for_another
}
