//! Conntrack is switched on where no rule uses it, and only there; what was switched on is given
//! back at the end.
//!
//! The ladder: a table owned by our socket, which the kernel removes even after a `kill -9`; a plain
//! table; a chain in a legacy table. The last two are written down under /run first, and swept by
//! the next start.

use super::legacy::Chain;
use super::nft::{self, Table};
use super::probe;
use super::state::{Leftover, StateFile};
use crate::error::{Error, Result};
use crate::wire::kernel::{NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6};

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
    undo: Vec<Undo>,
    state: Option<StateFile>,
}

#[derive(Debug)]
enum Undo {
    Table(Table),
    Chain(Chain),
}

/// Which families nothing uses conntrack for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    ipv4: bool,
    ipv6: bool,
}

/// Removes what an earlier run left behind. Returns how many things that were.
pub fn sweep() -> Result<usize> {
    let state = StateFile::of_this_namespace().map_err(|error| {
        Error::failed("looking at /proc/self/ns/net", error, "is /proc mounted?")
    })?;
    let leftovers = state
        .read()
        .map_err(|error| Error::failed("reading what an earlier run left under /run", error, ""))?;
    for leftover in &leftovers {
        match leftover {
            Leftover::NftTable(family) => nft::remove_leftover(*family).map_err(|error| {
                Error::failed("removing the table of an earlier run", error, "")
            })?,
            Leftover::LegacyChain(chain) => chain.remove()?,
        }
    }
    state.clear().map_err(|error| {
        Error::failed("clearing what an earlier run left under /run", error, "")
    })?;
    Ok(leftovers.len())
}

/// Asks which families conntrack is idle for. `ipv6` limits the question to one family.
pub fn idle(ipv6: Option<bool>) -> Idle {
    let idle = |family: bool| {
        ipv6.is_none_or(|wanted| wanted == family) && !probe::is_active(family).unwrap_or(false)
    };
    Idle {
        ipv4: idle(false),
        ipv6: idle(true),
    }
}

/// Switches conntrack on where it is idle.
pub fn activate(how: Activation, idle: Idle) -> Result<Activated> {
    let Some(families) = idle.name() else {
        return Ok(untouched(
            "active",
            "conntrack is active; left as it is".to_owned(),
        ));
    };
    if how == Activation::Off {
        let line = format!(
            "conntrack is not active for {families} in this namespace, and --activate off leaves it so"
        );
        return Ok(untouched("off", line));
    }
    let mut refusals = Vec::new();
    if matches!(how, Activation::Auto | Activation::Nft) {
        match with_nft(idle, families) {
            Ok(activated) => return Ok(activated),
            Err(error) => refusals.push(error.to_string()),
        }
    }
    if matches!(how, Activation::Auto | Activation::Legacy) {
        match with_legacy(idle, families) {
            Ok(activated) => return Ok(activated),
            Err(error) => refusals.push(error.to_string()),
        }
    }
    let advice =
        "--activate off captures without; then nothing is tracked until a rule uses conntrack";
    Err(Error::failed(
        format_args!("switching conntrack on for {families}"),
        refusals.join("; "),
        advice,
    ))
}

impl Idle {
    fn name(self) -> Option<&'static str> {
        match (self.ipv4, self.ipv6) {
            (true, true) => Some("IPv4 and IPv6"),
            (true, false) => Some("IPv4"),
            (false, true) => Some("IPv6"),
            (false, false) => None,
        }
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

fn untouched(rung: &'static str, log_line: String) -> Activated {
    Activated {
        rung,
        log_line,
        undo: Vec::new(),
        state: None,
    }
}

fn with_nft(idle: Idle, families: &str) -> Result<Activated> {
    let (family, family_name) = idle.nft_family();
    let begin = format!(
        "conntrack was not active for {families} in this namespace: switched on by nf_tables table {family_name} {}",
        nft::TABLE
    );
    let doing = || format!("creating nf_tables table {family_name} {}", nft::TABLE);
    match Table::create(family, true) {
        Ok(table) => Ok(Activated {
            rung: "nft-owned",
            log_line: format!("{begin} (owned: the kernel removes it when this process ends)"),
            undo: vec![Undo::Table(table)],
            state: None,
        }),
        // A kernel before 5.12 does not know the owner flag.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
            let state = write_down(&[Leftover::NftTable(family)])?;
            match Table::create(family, false) {
                Ok(table) => Ok(Activated {
                    rung: "nft",
                    log_line: format!(
                        "{begin} (removed at the end; after a kill -9, by the next start)"
                    ),
                    undo: vec![Undo::Table(table)],
                    state: Some(state),
                }),
                Err(error) => {
                    let _ = state.clear(); // nothing was made
                    Err(Error::failed(doing(), error, ""))
                }
            }
        }
        Err(error) => Err(Error::failed(doing(), error, "")),
    }
}

fn with_legacy(idle: Idle, families: &str) -> Result<Activated> {
    let wanted = [(idle.ipv4, false), (idle.ipv6, true)]
        .into_iter()
        .filter(|(idle, _)| *idle);
    let chains = wanted
        .map(|(_, ipv6)| Chain::place(ipv6))
        .collect::<Result<Vec<Chain>>>()?;
    let leftovers: Vec<Leftover> = chains.iter().cloned().map(Leftover::LegacyChain).collect();
    let mut activated = Activated {
        rung: "legacy",
        log_line: format!(
            "conntrack was not active for {families} in this namespace: switched on by chain {} in legacy table {} \
             (removed at the end; after a kill -9, by the next start)",
            super::legacy::CHAIN,
            chains
                .iter()
                .map(|chain| chain.table.as_str())
                .collect::<Vec<_>>()
                .join(" and ")
        ),
        undo: Vec::new(),
        state: Some(write_down(&leftovers)?),
    };
    for chain in chains {
        match chain.create() {
            Ok(()) => activated.undo.push(Undo::Chain(chain)),
            Err(error) => {
                activated.release()?;
                return Err(error);
            }
        }
    }
    Ok(activated)
}

fn write_down(leftovers: &[Leftover]) -> Result<StateFile> {
    let doing = "writing down under /run what a kill -9 would leave behind";
    let state = StateFile::of_this_namespace().map_err(|error| Error::failed(doing, error, ""))?;
    state
        .write(leftovers)
        .map_err(|error| Error::failed(doing, error, ""))?;
    Ok(state)
}

impl Activated {
    /// Gives back what was switched on. Called at the end; what fails is tried by the next start.
    pub fn release(&mut self) -> Result<()> {
        let mut first_error = None;
        for undo in self.undo.drain(..) {
            let result = match undo {
                Undo::Table(table) if table.is_owned() => Ok(()), // goes with its socket, here
                Undo::Table(table) => table
                    .remove()
                    .map_err(|error| Error::failed("removing our nf_tables table", error, "")),
                Undo::Chain(chain) => chain.remove(),
            };
            first_error = first_error.or(result.err());
        }
        match (first_error, self.state.take()) {
            (Some(error), _) => Err(error),
            (None, Some(state)) => state
                .clear()
                .map_err(|error| Error::failed("clearing our file under /run", error, "")),
            (None, None) => Ok(()),
        }
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.release(); // on the way out of an error, which is the one to tell
    }
}
