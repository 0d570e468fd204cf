//! Conntrack is switched on where no rule uses it, and only there; what was switched on is given
//! back at the end.
//!
//! The ladder: a table owned by our socket, which the kernel removes even after a `kill -9`; a plain
//! table; a chain in a legacy table. The last two are written down under /run first, and swept by
//! the next start.

use super::Removal;
use super::instrument;
use super::legacy::Chain;
use super::nft::{self, Table};
use super::prospect::{Basis, Prospect};
use super::state::{self, Leftover, StateFile};
use super::usage::{Usage, usage, usage_besides};
use super::watchdog::Watchdog;
use crate::error::{Error, Result};
use crate::sys::machine;
use crate::sys::modules::{NF_TABLES, Presence};
use crate::wire::kernel::{NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6};
use std::{fmt, io};

/// How conntrack is switched on where no rule uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// The best way that works.
    Auto,
    /// A table in nf_tables.
    Nft,
    /// A chain in a legacy table, through the iptables program.
    Legacy,
    /// Not at all.
    Off,
}

/// Holds what was switched on.
#[derive(Debug)]
pub struct Activated {
    /// The rung, for the report.
    pub rung: &'static str,
    /// One line for the log.
    pub log_line: String,
    /// The families that conntrack stays idle for.
    pub left_idle: Idle,
    /// Why flows may exist that nobody tracks, if so.
    pub blind: Option<&'static str>,
    undo: Vec<Undo>,
    written_down: Vec<Leftover>,
    /// What removes a chain when this process may run no program any more, if nothing else does.
    watchdog: Option<Watchdog>,
}

#[derive(Debug)]
enum Undo {
    Table(Table),
    Chain(Chain),
}

/// Which families no rule uses conntrack for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Idle {
    ipv4: bool,
    ipv6: bool,
}

/// Removes what an earlier run left behind; returns what there is to say of it. What is somebody
/// else's by now is named once and let go; what could not be removed is tried again by the next start.
pub fn sweep() -> Vec<String> {
    let state = match StateFile::of_this_namespace() {
        Ok(state) => state,
        Err(error) => {
            return vec![format!(
                "looking for what an earlier run left behind: {error}"
            )];
        }
    };
    let leftovers = match state.read() {
        Ok(leftovers) if leftovers.is_empty() => return Vec::new(),
        Ok(leftovers) => leftovers,
        Err(error) => return vec![format!("reading what an earlier run left behind: {error}")],
    };
    let (mut lines, mut again) = (Vec::new(), Vec::new());
    // The last one made goes first, as it may rest on those before it.
    for leftover in leftovers.into_iter().rev() {
        let goes_on = again.iter().any(Leftover::traces);
        if matches!(leftover, Leftover::LogBinding(_)) && goes_on {
            again.insert(0, leftover); // else lines of traced packets fall into somebody's log
            continue;
        }
        match remove(&leftover) {
            Ok(Removal::Removed) => lines.push(format!(
                "removed what an earlier run left behind: {leftover}"
            )),
            Ok(Removal::NotThere) => {}
            Ok(Removal::NotOurs) => lines.push(format!(
                "{leftover} was changed by somebody: what is theirs is left as it is"
            )),
            Err(error) => {
                lines.push(error.to_string());
                again.insert(0, leftover);
            }
        }
    }
    if let Err(error) = state.replace(&again) {
        lines.push(format!("clearing the note of it under /run: {error}"));
    }
    lines
}

/// Whether something is written down that is not removed, or that cannot be known.
pub fn is_anything_left() -> bool {
    let left = StateFile::of_this_namespace().and_then(|state| state.read());
    left.map_or(true, |leftovers| !leftovers.is_empty())
}

fn remove(leftover: &Leftover) -> Result<Removal> {
    let failed = |error| Error::failed(format_args!("removing {leftover}"), error, "");
    match leftover {
        Leftover::NftTable(family) => nft::remove_leftover(*family).map_err(failed),
        Leftover::TraceTable(family) => instrument::remove_leftover(*family).map_err(failed),
        Leftover::LegacyChain(chain) => chain.remove(),
        Leftover::LogBinding(binding) => binding.restore().map_err(failed),
    }
}

/// Which families no rule uses conntrack for. `ipv6` limits the question to one family; `how` says
/// whether nf_tables may come into play.
pub fn idle(how: Activation, ipv6: Option<bool>) -> Idle {
    Idle::of(usage(how.asks_nft()), ipv6)
}

/// What it will be once the next start has removed what an earlier run left; the question loads nothing.
pub fn idle_after_sweep(ipv6: Option<bool>) -> Idle {
    let left = StateFile::of_this_namespace().and_then(|state| state.read());
    Idle::of(usage_besides(false, &left.unwrap_or_default()), ipv6)
}

impl Idle {
    fn of(usage: Usage, ipv6: Option<bool>) -> Idle {
        Idle {
            ipv4: !usage.ipv4 && ipv6 != Some(true),
            ipv6: !usage.ipv6 && ipv6 != Some(false),
        }
    }
}

/// Switches conntrack on where it is idle.
pub fn activate(how: Activation, idle: Idle) -> Result<Activated> {
    let Some(families) = idle.name() else {
        return Ok(Activated::new(
            "active",
            "conntrack is active; left as it is".to_owned(),
            Vec::new(),
            Vec::new(),
        ));
    };
    if how == Activation::Off {
        let line = format!("{}, and --activate off leaves it so", idle.is_told());
        let mut off = Activated::new("off", line, Vec::new(), Vec::new());
        off.left_idle = idle;
        return Ok(off);
    }
    let mut refusals = Vec::new();
    for way in how.ways() {
        let activated = match way {
            Way::Nft => with_nft(idle),
            Way::Legacy => with_legacy(idle),
        };
        match activated {
            Ok(activated) => return Ok(activated),
            Err(error) => refusals.push(error.to_string()),
        }
    }
    if how != Activation::Auto {
        return Err(refused(families, &refusals));
    }
    let refusals = refusals.join("; ");
    // What is not a rule may use conntrack: a capture that might see something beats none.
    let line = format!(
        "conntrack may not be active for {families}, and could not be switched on: {refusals}"
    );
    let mut none = Activated::new("none", line, Vec::new(), Vec::new());
    none.left_idle = idle;
    none.blind = Some(
        "conntrack could not be switched on: flows are seen only where something else uses it",
    );
    Ok(none)
}

/// What `activate` would come to; fails where that would. Loads nothing and changes nothing.
pub fn prospect(how: Activation, idle: Idle) -> Result<Prospect> {
    let Some(families) = idle.name() else {
        return Ok(Prospect::of("active", Basis::Given));
    };
    if how == Activation::Off {
        return Ok(Prospect::of("off", Basis::Given));
    }
    let mut refusals = Vec::new();
    for way in how.ways() {
        let prospect = match way {
            Way::Nft => prospect_of_nft(idle),
            Way::Legacy => prospect_of_legacy(idle),
        };
        match prospect {
            Ok(prospect) => {
                return Ok(Prospect {
                    refused: refusals,
                    ..prospect
                });
            }
            Err(error) => refusals.push(error.to_string()),
        }
    }
    if how != Activation::Auto {
        return Err(refused(families, &refusals));
    }
    Ok(Prospect {
        refused: refusals,
        ..Prospect::of("none", Basis::Expected)
    })
}

fn refused(families: &str, refusals: &[String]) -> Error {
    let doing = format!("switching conntrack on for {families}");
    let advice = "--activate off captures without";
    Error::failed(doing, refusals.join("; "), advice)
}

/// A rung that something has to be made for.
#[derive(Clone, Copy)]
enum Way {
    /// A table, owned where the kernel can do that.
    Nft,
    Legacy,
}

impl Activation {
    /// What is tried, the best first.
    fn ways(self) -> &'static [Way] {
        match self {
            Activation::Auto => &[Way::Nft, Way::Legacy],
            Activation::Nft => &[Way::Nft],
            Activation::Legacy => &[Way::Legacy],
            Activation::Off => &[],
        }
    }

    /// Whether nf_tables would be asked, which loads it.
    pub fn asks_nft(self) -> bool {
        matches!(self, Activation::Auto | Activation::Nft)
    }
}

impl Idle {
    /// As a sentence.
    pub fn is_told(self) -> String {
        match self.name() {
            Some(families) => format!(
                "conntrack is not active for {families} in this namespace (no rule uses it)"
            ),
            None => "conntrack is active".to_owned(),
        }
    }

    /// Whether a family is idle that was not before.
    pub fn is_beyond(self, before: Idle) -> bool {
        (self.ipv4 && !before.ipv4) || (self.ipv6 && !before.ipv6)
    }

    fn name(self) -> Option<&'static str> {
        match (self.ipv4, self.ipv6) {
            (true, true) => Some("IPv4 and IPv6"),
            (true, false) => Some("IPv4"),
            (false, true) => Some("IPv6"),
            (false, false) => None,
        }
    }

    fn switched_on(self, by: &str) -> String {
        let families = self.name().unwrap_or("nothing");
        format!(
            "conntrack was not active for {families} in this namespace (no rule uses it): switched on by {by}"
        )
    }

    fn nft_table(self) -> String {
        format!("{} {}", self.nft_family().1, nft::TABLE)
    }

    /// The table family that covers it, and what nft calls that.
    fn nft_family(self) -> (u8, &'static str) {
        match (self.ipv4, self.ipv6) {
            (true, false) => (NFPROTO_IPV4, "ip"),
            (false, true) => (NFPROTO_IPV6, "ip6"),
            _ => (NFPROTO_INET, "inet"),
        }
    }
}

/// A kernel before 5.12 does not know the owner flag.
fn knows_no_owner(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL))
}

fn with_nft(idle: Idle) -> Result<Activated> {
    let (family, _) = idle.nft_family();
    let table = idle.nft_table();
    let log_line = |who: &str| idle.switched_on(&format!("nf_tables table {table} ({who})"));
    let failed = |error| Error::failed(format_args!("creating nf_tables table {table}"), error, "");
    match Table::create(family, true) {
        Ok(table) => {
            return Ok(Activated::new(
                "nft-owned",
                log_line(OWNED),
                vec![Undo::Table(table)],
                Vec::new(),
            ));
        }
        Err(error) if knows_no_owner(&error) => {}
        Err(error) => return Err(failed(error)),
    }
    let written_down = vec![Leftover::NftTable(family)];
    state::write_down(&written_down)?;
    match Table::create(family, false) {
        Ok(table) => Ok(Activated::new(
            "nft",
            log_line(LATER),
            vec![Undo::Table(table)],
            written_down,
        )),
        Err(error) => {
            let _ = state::cross_out(&written_down); // nothing was made
            Err(failed(error))
        }
    }
}

/// The same as `with_nft` without making a table. Where nf_tables is no part of the kernel yet, asking
/// would load it, so that its version must do.
fn prospect_of_nft(idle: Idle) -> Result<Prospect> {
    let (family, _) = idle.nft_family();
    let table = idle.nft_table();
    let doing = format!("creating nf_tables table {table}");
    let failed = |cause: &dyn fmt::Display| Error::failed(&doing, cause, "");
    let knows_owners = machine::is_linux(5, 12);
    let (owned, basis) = match NF_TABLES.presence() {
        Presence::Absent => return Err(failed(&"this kernel has no nf_tables")),
        Presence::There if knows_owners => match Table::could_be_made(family, nft::TABLE, true) {
            Ok(()) => (true, Basis::Tried),
            Err(error) if knows_no_owner(&error) => (false, Basis::Expected),
            Err(_) if state::is_written_down(&Leftover::NftTable(family)) => {
                (true, Basis::Expected)
            }
            Err(error) => return Err(failed(&error)),
        },
        _ => (knows_owners, Basis::Expected),
    };
    let (rung, who) = if owned {
        ("nft-owned", OWNED)
    } else {
        ("nft", LATER)
    };
    let mut prospect = Prospect::of(rung, basis);
    if !owned {
        state::could_be_written_down()?;
        prospect
            .deeds
            .push(state::told(&Leftover::NftTable(family)));
    }
    let contents = "a chain that no packet passes, with one rule that refers to conntrack";
    let deed = format!("switch conntrack on by nf_tables table {table}: {contents}");
    prospect.deeds.push(deed);
    prospect
        .undoing
        .push(format!("nf_tables table {table}: {who}"));
    Ok(prospect)
}

/// The places for our chains in the legacy tables.
fn places(idle: Idle) -> Result<Vec<Chain>> {
    let wanted = [(idle.ipv4, false), (idle.ipv6, true)]
        .into_iter()
        .filter(|(idle, _)| *idle);
    wanted.map(|(_, ipv6)| Chain::place(ipv6)).collect()
}

fn prospect_of_legacy(idle: Idle) -> Result<Prospect> {
    let mut prospect = Prospect::of("legacy", Basis::Expected);
    for chain in places(idle)? {
        chain.could_be_made()?;
        prospect.foresee_chain(chain, LATER);
    }
    Ok(prospect)
}

fn with_legacy(idle: Idle) -> Result<Activated> {
    let chains = places(idle)?;
    let leftovers: Vec<Leftover> = chains.iter().cloned().map(Leftover::LegacyChain).collect();
    let family = |chain: &Chain| if chain.ipv6 { "IPv6" } else { "IPv4" };
    let tables: Vec<String> = chains
        .iter()
        .map(|chain| format!("{} {}", family(chain), chain.table))
        .collect();
    let log_line = idle.switched_on(&format!(
        "chain {} in legacy table {} ({LATER})",
        super::legacy::CHAIN,
        tables.join(" and ")
    ));
    state::write_down(&leftovers)?;
    let mut activated = Activated::new("legacy", log_line, Vec::new(), leftovers);
    for chain in chains {
        if chain.exists()? {
            let what = format!("making {}", Leftover::LegacyChain(chain));
            return Err(Error::failed(
                what,
                "there is one already, which is not ours",
                "",
            ));
        }
        // From here on it is ours, also when its creation fails half-way.
        activated.undo.push(Undo::Chain(chain.clone()));
        chain.create()?;
    }
    activated.watchdog = Watchdog::start_for_programs();
    Ok(activated)
}

/// What the log says of a rung that the kernel undoes by itself,
const OWNED: &str = "owned: the kernel removes it when this process ends";
/// and of one that it does not.
const LATER: &str = "removed at the end; after a kill -9, by the next start";

impl Activated {
    fn new(
        rung: &'static str,
        log_line: String,
        undo: Vec<Undo>,
        written_down: Vec<Leftover>,
    ) -> Self {
        Activated {
            rung,
            log_line,
            left_idle: Idle::default(),
            blind: None,
            undo,
            written_down,
            watchdog: None,
        }
    }

    /// Gives back what was switched on. Called at the end; what fails is tried by the next start.
    pub fn release(&mut self) -> Result<()> {
        let mut first_error = None;
        for undo in self.undo.drain(..) {
            let result = match undo {
                Undo::Table(table) if table.is_owned() => Ok(()), // goes with its socket, here
                Undo::Table(table) => table
                    .remove()
                    .map_err(|error| Error::failed("removing our nf_tables table", error, "")),
                Undo::Chain(chain) => match chain.remove() {
                    Ok(Removal::NotOurs) => Err(Error::failed(
                        format_args!("removing {}", Leftover::LegacyChain(chain)),
                        "somebody changed it",
                        "it is left as it is",
                    )),
                    removal => removal.map(drop),
                },
            };
            first_error = first_error.or(result.err());
        }
        if let Some(watchdog) = self.watchdog.take() {
            let _ = watchdog.dismiss(); // it has nothing to do any more, also where that fails
        }
        let written_down = std::mem::take(&mut self.written_down);
        match first_error {
            Some(error) => Err(error),
            None if written_down.is_empty() => Ok(()),
            None => state::cross_out(&written_down),
        }
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.release(); // on the way out of an error, which is the one to tell
    }
}
