//! What makes the kernel trace packets for us: a table of our own in nf_tables that sets the trace bit
//! on the first packets of each flow, or, where there is no nf_tables, a chain in the legacy tables
//! that does. The bit is one for both: legacy tables write their lines for our table's packets too.
//!
//! Nothing of anybody else's is changed but where these lines go, and that comes back. Order at the
//! start: where the lines go, then what makes packets traced, then the ears; at the end the other way
//! round, so that no line ever falls into somebody's log.

mod prospect;
pub mod ruleset;

pub use prospect::{TraceProspect, prospect};

use super::Removal;
use super::legacy::{self, Chain};
use super::nf_log::{self, LogBinding};
use super::nft::{self, Table};
use super::state::{self, Leftover};
use crate::error::{Error, Result};
use crate::limits::{TRACE_RECEIVE_BUFFER, TRACE_RECEIVE_BUFFER_MEMORY_SHARE};
use crate::sys::machine;
use crate::sys::netlink::Socket;
use crate::wire::attr::Attributes;
use crate::wire::kernel::NFTA_RULE_TABLE;
use crate::wire::kernel_trace::{NFNLGRP_NFTABLES, NFNLGRP_NFTRACE};
use crate::wire::nftables::{Batch, chain_rules_request, counted_packets, handle_of, text_of};
use ruleset::Ruleset;
use std::io;

/// The name of our table.
pub const TABLE: &str = "conntracker_trace";
/// The name of our chain in the legacy tables.
pub const LEGACY_CHAIN: &str = legacy::TRACE_CHAIN;

/// Whether a step of a packet's way is one through what is ours.
pub fn is_own(table: &str, chain: &str) -> bool {
    table == TABLE || chain == LEGACY_CHAIN
}

/// How packets are to be traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// The best way that works.
    Auto,
    /// A table in nf_tables that the kernel removes when this process ends.
    NftOwned,
    /// A plain table in nf_tables.
    Nft,
    /// A chain in the legacy tables, through the iptables program.
    Legacy,
}

/// What is to be traced.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// How.
    pub rung: Rung,
    /// From the first chain on, and packets without a flow too.
    pub everything: bool,
    /// Packets in a second, at most.
    pub rate: u32,
    /// Rules may refer to conntrack, which switches it on where it is idle.
    pub conntrack: bool,
    /// IPv4.
    pub ipv4: bool,
    /// IPv6.
    pub ipv6: bool,
}

/// Holds what makes packets traced, and hears of them.
#[derive(Debug)]
pub struct Instrument {
    /// How it works, for the report: `nft-owned`, `nft`, `legacy` or `none`.
    pub rung: &'static str,
    /// What was refused on the way there.
    pub why_not: Option<String>,
    /// Where nf_tables tells of traced packets (NFT_MSG_TRACE), and of changes of its rules.
    pub nft: Option<Socket>,
    /// Where the legacy tables do (NFLOG).
    pub log: Option<Socket>,
    /// Why the legacy tables do not, if so.
    pub legacy_lines: std::result::Result<(), String>,
    table: Option<Table>,
    chains: Vec<Chain>,
    bindings: Vec<LogBinding>,
    untraced: Option<u64>,
    /// Something could not be removed that may have packets traced.
    still_traces: bool,
}

impl Rung {
    /// What is tried, the best first: tables of nf_tables, owned or not, and whether a legacy chain is.
    fn ways(self) -> (&'static [bool], bool) {
        match self {
            Rung::Auto => (&[true, false], true),
            Rung::NftOwned => (&[true], false),
            Rung::Nft => (&[false], false),
            Rung::Legacy => (&[], true),
        }
    }
}

impl Instrument {
    /// Begins to trace. Fails only where one way was asked for, and does not work; else the worst is
    /// the rung `none`.
    pub fn start(wishes: &Wishes) -> Result<Instrument> {
        let (nft, legacy) = wishes.rung.ways();
        let mut refusals = Vec::new();
        if !nft.is_empty() {
            match Instrument::with_nft(wishes, nft) {
                Ok(instrument) => return Ok(instrument),
                Err(refusal) => refusals.push(refusal),
            }
        }
        if legacy {
            match Instrument::with_legacy(wishes) {
                Ok(mut instrument) => {
                    refusals.extend(instrument.why_not.take());
                    instrument.why_not = joined(refusals);
                    return Ok(instrument);
                }
                Err(refusal) => refusals.push(refusal),
            }
        }
        if wishes.rung != Rung::Auto {
            return Err(refused(&refusals));
        }
        let mut none = Instrument::silent("none");
        none.why_not = joined(refusals);
        Ok(none)
    }

    fn silent(rung: &'static str) -> Instrument {
        Instrument {
            rung,
            why_not: None,
            nft: None,
            log: None,
            legacy_lines: Err("nothing is traced".to_owned()),
            table: None,
            chains: Vec::new(),
            bindings: Vec::new(),
            untraced: None,
            still_traces: false,
        }
    }

    /// Tries a table that is owned or not, in the order given.
    fn with_nft(wishes: &Wishes, owned: &[bool]) -> std::result::Result<Instrument, String> {
        let mut instrument = Instrument::silent("nft");
        instrument.hear_legacy_tables(wishes)?;
        let mut refusals = Vec::new();
        for owned in owned {
            match table(wishes, *owned) {
                Ok(table) => {
                    instrument.rung = if *owned { "nft-owned" } else { "nft" };
                    instrument.table = Some(table);
                    let ears = nft_ears();
                    instrument.nft = Some(
                        ears.map_err(|error| format!("listening to nf_tables traces: {error}"))?,
                    );
                    instrument.why_not = joined(refusals);
                    return Ok(instrument);
                }
                Err(refusal) => refusals.push(refusal),
            }
        }
        Err(refusals.join("; "))
    }

    fn with_legacy(wishes: &Wishes) -> std::result::Result<Instrument, String> {
        let wanted = [(wishes.ipv4, false), (wishes.ipv6, true)];
        let (mut chains, mut refusals) = (Vec::new(), Vec::new());
        for (_, ipv6) in wanted.into_iter().filter(|(wanted, _)| *wanted) {
            match place(ipv6) {
                Ok(chain) => chains.push(chain),
                Err(error) => refusals.push(error.to_string()),
            }
        }
        if chains.is_empty() {
            return Err(refusals.join("; "));
        }
        let mut instrument = Instrument::silent("legacy");
        instrument.hear_legacy_tables(wishes)?;
        instrument.legacy_lines.clone()?; // nothing else tells of these packets
        for chain in chains {
            let written_down = [Leftover::LegacyChain(chain.clone())];
            state::write_down(&written_down).map_err(|error| error.to_string())?;
            // From here on it is ours, also when its creation fails half-way.
            instrument.chains.push(chain.clone());
            if let Err(error) = chain.create_trace(wishes.rate, wishes.everything) {
                refusals.push(error.to_string());
                instrument.chains.pop();
                let removed = instrument.remove_chain(&chain);
                removed.map_err(|error| error.to_string())?;
            }
        }
        if instrument.chains.is_empty() {
            return Err(refusals.join("; "));
        }
        // With rules of both kinds, those of nf_tables may tell of the packet as well.
        if machine::has_nf_tables() {
            instrument.nft = nft_ears().ok();
            if nft::any_rule() {
                refusals.push(UNTOLD.to_owned());
            }
        }
        instrument.why_not = joined(refusals);
        Ok(instrument)
    }

    fn hear_legacy_tables(&mut self, wishes: &Wishes) -> std::result::Result<(), String> {
        let lines = nf_log::listen(wishes.ipv4, wishes.ipv6)?;
        self.bindings = lines.bindings;
        self.legacy_lines = lines.socket.map(|socket| {
            let _ = socket.set_receive_buffer(buffer_bytes()); // a smaller one works too
            self.log = Some(socket);
        });
        Ok(())
    }

    /// The legacy table whose rules change when nothing new is traced any more: ours are in it.
    pub fn legacy_table(&self) -> Option<&'static str> {
        (!self.chains.is_empty()).then_some(legacy::TRACE_TABLE)
    }

    /// Has nothing new traced; what is queued can be read, and `untraced` asked.
    pub fn stop_tracing(&mut self) -> Result<()> {
        let mut first_error = None;
        if let Some(table) = &self.table {
            let rules = own_rules(table.family(), ruleset::entry_of);
            let stopped = rules.and_then(|rules| table.change(|batch| delete(&rules, batch)));
            first_error = stopped
                .err()
                .filter(|error| error.raw_os_error() != Some(libc::ENOENT)) // somebody removed it
                .map(|error| Error::failed("emptying our nf_tables chains", error, ""));
        }
        for chain in &self.chains {
            first_error = first_error.or(chain.detach().err());
        }
        first_error.map_or(Ok(()), Err)
    }

    /// The packets that were left untraced since more came than the rate allows; `None` where that is
    /// not known.
    pub fn untraced(&mut self) -> Option<u64> {
        let Some(table) = &self.table else {
            return self.untraced; // what it was when last asked
        };
        let family = table.family();
        let request = chain_rules_request(1, family, TABLE, ruleset::TRACE);
        let _ = nft::read_rules_of(&request, &mut |rule_family, rule| {
            if rule_family == family && is_our_rule(rule) {
                self.untraced = counted_packets(rule).or(self.untraced);
            }
            true
        }); // else it stays what it was when last asked
        self.untraced
    }

    /// Gives everything back. What fails is tried again by the next start; where the lines of traced
    /// packets go comes back only when no packet is traced any more.
    pub fn release(&mut self) -> Result<()> {
        let mut first_error = None;
        if let Some(table) = self.table.take() {
            first_error = self.remove_table(table).err();
        }
        for chain in std::mem::take(&mut self.chains) {
            first_error = first_error.or(self.remove_chain(&chain).err());
        }
        let bindings = std::mem::take(&mut self.bindings);
        if !self.still_traces {
            first_error = first_error.or(nf_log::give_back(&bindings).err());
        }
        (self.nft, self.log) = (None, None);
        first_error.map_or(Ok(()), Err)
    }

    fn remove_table(&mut self, table: Table) -> Result<()> {
        let family = table.family();
        let owned = table.is_owned();
        drop(table); // an owned one goes here
        if owned {
            return Ok(());
        }
        let what = Leftover::TraceTable(family);
        let doing = format!("removing {what}");
        match remove_leftover(family) {
            Ok(Removal::NotOurs) => Err(Error::failed(
                doing,
                "somebody changed it",
                "it is left, without our rules",
            )),
            Ok(_) => state::cross_out(&[what]),
            Err(error) => {
                self.still_traces = true;
                Err(Error::failed(doing, error, ""))
            }
        }
    }

    fn remove_chain(&mut self, chain: &Chain) -> Result<()> {
        let what = Leftover::LegacyChain(chain.clone());
        match chain.remove() {
            Ok(Removal::NotOurs) => Err(Error::failed(
                format_args!("removing {what}"),
                "somebody changed it",
                "it is left as it is, and nothing leads to it",
            )),
            Ok(_) => state::cross_out(&[what]),
            Err(error) => {
                self.still_traces = true;
                Err(error)
            }
        }
    }
}

impl Drop for Instrument {
    fn drop(&mut self) {
        let _ = self.release(); // on the way out of an error, which is the one to tell
    }
}

fn joined(refusals: Vec<String>) -> Option<String> {
    (!refusals.is_empty()).then(|| refusals.join("; "))
}

/// The table, in the fullest form that the kernel takes.
fn table(wishes: &Wishes, owned: bool) -> std::result::Result<Table, String> {
    let wanted = Ruleset::of(wishes);
    let family = ruleset::FAMILY;
    let written_down = [Leftover::TraceTable(family)];
    if !owned {
        state::write_down(&written_down).map_err(|error| error.to_string())?;
    }
    let mut refusal = None;
    for form in wanted.forms() {
        match Table::create_with(family, TABLE, owned, |batch| form.fill(batch)) {
            Ok(table) => return Ok(table),
            Err(error) => {
                let unknown = [
                    libc::EOPNOTSUPP,
                    libc::EINVAL,
                    libc::ENOENT,
                    libc::EAFNOSUPPORT,
                ];
                let simpler_may_do = error
                    .raw_os_error()
                    .is_some_and(|errno| unknown.contains(&errno));
                refusal = refusal.or(Some(error)); // what the fullest form met
                if !simpler_may_do {
                    break;
                }
            }
        }
    }
    if !owned {
        let _ = state::cross_out(&written_down); // nothing was made
    }
    Err(no_table(owned, refusal.as_ref()))
}

const NO_NFT: &str = "this kernel has no nf_tables, or not all of it";
const UNTOLD: &str = "nf_tables tells of its rules only while one of them sets nftrace";

/// Why there is no table, for people.
fn no_table(owned: bool, refusal: Option<&io::Error>) -> String {
    let why = match refusal {
        Some(error) => match error.raw_os_error() {
            Some(libc::EEXIST) => "there is one already, which is not ours".to_owned(),
            Some(libc::EINVAL) if owned => TOO_OLD.to_owned(),
            Some(libc::EOPNOTSUPP) => NO_NFT.to_owned(),
            _ => error.to_string(),
        },
        None => "no form of it".to_owned(),
    };
    making(owned, &why)
}

const TOO_OLD: &str = "this kernel cannot (Linux 5.12 can)";

fn making(owned: bool, why: &str) -> String {
    let kind = if owned { "an owned" } else { "a plain" };
    format!("making {kind} nf_tables table {TABLE}: {why}")
}

fn refused(refusals: &[String]) -> Error {
    let advice = "--trace-rung auto takes what works";
    Error::failed("making packets traced", refusals.join("; "), advice)
}

/// Hears of traced packets and of changes of rules: only now, after our own.
fn nft_ears() -> io::Result<Socket> {
    let socket = Socket::open()?;
    socket.set_receive_buffer(buffer_bytes())?;
    socket.join(NFNLGRP_NFTRACE)?;
    socket.join(NFNLGRP_NFTABLES)?;
    Ok(socket)
}

fn buffer_bytes() -> u32 {
    let share = machine::memory_bytes() / TRACE_RECEIVE_BUFFER_MEMORY_SHARE;
    u32::try_from(share)
        .unwrap_or(u32::MAX)
        .min(TRACE_RECEIVE_BUFFER)
}

/// The place of a legacy chain that is not there yet. Looking loads the table.
fn place(ipv6: bool) -> Result<Chain> {
    let chain = Chain::place_for_trace(ipv6)?;
    if chain.exists()? {
        let what = format!("making {}", Leftover::LegacyChain(chain));
        return Err(Error::failed(
            what,
            "there is one already, which is not ours",
            "",
        ));
    }
    Ok(chain)
}

/// Our rules in chains that `chain_of` names, by chain and handle.
fn own_rules(
    family: u8,
    chain_of: fn(Attributes<'_>) -> Option<&'static str>,
) -> io::Result<Vec<(&'static str, u64)>> {
    nft::patiently(|| {
        let mut rules = Vec::new();
        nft::read_rules(&mut |rule_family, rule| {
            if rule_family == family && is_our_rule(rule) {
                rules.extend(chain_of(rule).zip(handle_of(rule)));
            }
            true
        })?;
        Ok(rules)
    })
}

/// Removes a plain table that an earlier run left, where it is as we made it; where it is not, only
/// our rules in it go, so that nothing is traced any more.
pub fn remove_leftover(family: u8) -> io::Result<Removal> {
    let removal = nft::remove_if(family, TABLE, is_our_rule)?;
    if removal == Removal::NotOurs {
        let rules = own_rules(family, ruleset::chain_of)?;
        nft::change(family, TABLE, |batch| delete(&rules, batch))?;
    }
    Ok(removal)
}

fn delete(rules: &[(&str, u64)], batch: &mut Batch<'_>) {
    for (chain, handle) in rules {
        batch.delete_rule(chain, *handle);
    }
}

fn is_our_rule(rule: Attributes<'_>) -> bool {
    ruleset::is_ours(rule) && text_of(rule, NFTA_RULE_TABLE) == Some(TABLE.as_bytes())
}
