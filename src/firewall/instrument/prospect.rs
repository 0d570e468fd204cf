//! What `Instrument::start` would come to: the same ways in the same order, and nothing made, set or
//! loaded.

use super::{NO_NFT, TABLE, TOO_OLD, UNTOLD, Wishes, making, no_table, refused, ruleset};
use crate::error::Result;
use crate::firewall::legacy::Chain;
use crate::firewall::nf_log::{self, LinesProspect};
use crate::firewall::nft::{self, Table};
use crate::firewall::prospect::{Basis, Prospect};
use crate::firewall::state::{self, Leftover};
use crate::sys::machine;
use crate::sys::modules::{NF_TABLES, Presence};

/// What would come of tracing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceProspect {
    /// The rung, and what would be done.
    pub prospect: Prospect,
    /// Whether the legacy tables would be traced, or why not.
    pub legacy_lines: std::result::Result<(), String>,
}

/// What `Instrument::start` would come to; fails where that would.
pub fn prospect(wishes: &Wishes) -> Result<TraceProspect> {
    let (nft, legacy) = wishes.rung.ways();
    let mut refusals = Vec::new();
    let ways: [(bool, &dyn Fn() -> Found); 2] = [
        (!nft.is_empty(), &|| of_nft(wishes, nft)),
        (legacy, &|| of_legacy(wishes)),
    ];
    for (_, way) in ways.iter().filter(|(wanted, _)| *wanted) {
        match way() {
            Ok(mut found) => {
                refusals.append(&mut found.prospect.refused);
                found.prospect.refused = refusals;
                return Ok(found);
            }
            Err(refusal) => refusals.push(refusal),
        }
    }
    if wishes.rung != super::Rung::Auto {
        return Err(refused(&refusals));
    }
    Ok(TraceProspect {
        prospect: Prospect {
            refused: refusals,
            ..Prospect::of("none", Basis::Expected)
        },
        legacy_lines: Err("nothing is traced".to_owned()),
    })
}

type Found = std::result::Result<TraceProspect, String>;

fn of_nft(wishes: &Wishes, owned: &[bool]) -> Found {
    let lines = nf_log::prospect(wishes.ipv4, wishes.ipv6, false)?;
    let mut refusals = Vec::new();
    for owned in owned {
        match could_be_made(*owned) {
            Ok(basis) => {
                let rung = if *owned { "nft-owned" } else { "nft" };
                let mut prospect = Prospect::of(rung, basis);
                foresee_lines(&mut prospect, &lines);
                foresee_table(&mut prospect, wishes, *owned);
                prospect.refused = refusals;
                return Ok(TraceProspect {
                    prospect,
                    legacy_lines: lines.socket,
                });
            }
            Err(refusal) => refusals.push(refusal),
        }
    }
    Err(refusals.join("; "))
}

/// Whether there can be a table. What fills it is not tried: chains at a hook would see packets before
/// the kernel forgets them.
fn could_be_made(owned: bool) -> std::result::Result<Basis, String> {
    let knows_owners = machine::is_linux(5, 12);
    if !owned {
        state::could_be_written_down().map_err(|error| error.to_string())?;
    }
    match NF_TABLES.presence() {
        Presence::Absent => Err(making(owned, NO_NFT)),
        _ if owned && !knows_owners => Err(making(owned, TOO_OLD)),
        // An older one would load a module for the family of the table.
        Presence::There if knows_owners => {
            let left = Leftover::TraceTable(ruleset::FAMILY);
            match Table::could_be_made(ruleset::FAMILY, TABLE, owned) {
                Ok(()) => Ok(Basis::Tried),
                Err(_) if state::is_written_down(&left) => Ok(Basis::Expected),
                Err(error) => Err(no_table(owned, Some(&error))),
            }
        }
        _ => Ok(Basis::Expected),
    }
}

fn foresee_table(prospect: &mut Prospect, wishes: &Wishes, owned: bool) {
    let table = format!("nf_tables table inet {TABLE}");
    let who = if owned {
        "owned: the kernel removes it when this process ends, however it ends"
    } else {
        prospect
            .deeds
            .push(state::told(&Leftover::TraceTable(ruleset::FAMILY)));
        "removed at the end; after a kill -9, by the watchdog"
    };
    let what = if wishes.everything {
        "before raw, and takes it back behind conntrack,"
    } else {
        "behind conntrack"
    };
    prospect.deeds.push(format!(
        "make {table}, whose chains at prerouting and output set nftrace {what} on the first packets of each flow, \
         at most {} a second",
        wishes.rate
    ));
    prospect
        .deeds
        .push("listen to nf_tables traces and changes of rules".to_owned());
    prospect.undoing.insert(0, format!("{table}: {who}"));
}

fn foresee_lines(prospect: &mut Prospect, lines: &LinesProspect) {
    if lines.socket.is_ok() {
        let deed = "bind NFLOG group 0, which lines of the legacy tables come over";
        prospect.deeds.push(deed.to_owned());
    }
    for binding in &lines.bindings {
        let what = Leftover::LogBinding(binding.clone());
        prospect.deeds.push(state::told(&what));
        prospect
            .deeds
            .push(format!("set {binding}, which is {}", binding.old()));
        prospect.undoing.push(format!(
            "{binding}: set back to {} at the end; after a kill -9, by the watchdog",
            binding.old()
        ));
    }
}

fn of_legacy(wishes: &Wishes) -> Found {
    let wanted = [(wishes.ipv4, false), (wishes.ipv6, true)];
    let (mut chains, mut refusals) = (Vec::new(), Vec::new());
    for (_, ipv6) in wanted.into_iter().filter(|(wanted, _)| *wanted) {
        let chain = Chain::place_for_trace(ipv6);
        match chain.and_then(|chain| chain.could_be_made().map(|()| chain)) {
            Ok(chain) => chains.push(chain),
            Err(error) => refusals.push(error.to_string()),
        }
    }
    if chains.is_empty() {
        return Err(refusals.join("; "));
    }
    let lines = nf_log::prospect(wishes.ipv4, wishes.ipv6, true)?;
    lines.socket.clone()?; // nothing else tells of these packets
    let mut prospect = Prospect::of("legacy", Basis::Expected);
    foresee_lines(&mut prospect, &lines);
    for chain in chains {
        prospect.foresee_chain(
            chain,
            "removed at the end; after a kill -9, by the watchdog",
        );
    }
    if machine::has_nf_tables() && nft::any_rule() {
        refusals.push(UNTOLD.to_owned());
    }
    prospect.refused = refusals;
    Ok(TraceProspect {
        prospect,
        legacy_lines: lines.socket,
    })
}
