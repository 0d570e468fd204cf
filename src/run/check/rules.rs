//! The firewalls that are here, and what passes them by.

use super::foreseen::Foreseen;
use crate::firewall::legacy::Chain;
use crate::firewall::nft;
use crate::report::checkup::{Line, State};
use crate::sys::machine;
use crate::sys::modules::{IP_TABLES, IP6_TABLES, NF_TABLES, Presence};
use crate::sys::rights::Right;
use crate::sys::xtables;

pub(super) fn lines(foreseen: &Foreseen) -> Vec<Line> {
    vec![
        nf_tables(),
        owned_table(foreseen),
        legacy("legacy_ipv4", false),
        legacy("legacy_ipv6", true),
        program("iptables", false),
        program("ip6tables", true),
        flowtables(),
    ]
}

fn nf_tables() -> Line {
    let line = |state, detail: &str| Line::new("nf_tables", state, detail);
    match NF_TABLES.presence() {
        Presence::There if !Right::NetAdmin.is_ours() => line(
            State::Ok,
            "in the kernel; its rules can be seen with CAP_NET_ADMIN only",
        ),
        Presence::There if nft::any_rule() => {
            line(State::Ok, "in the kernel, with rules in this namespace")
        }
        Presence::There => line(State::Ok, "in the kernel, without a rule in this namespace"),
        Presence::OnDemand => line(
            State::Ok,
            "not loaded: the kernel would load it for what is switched on or traced",
        ),
        Presence::Absent => line(
            State::Missing,
            "this kernel has none: tracing and switching on need the legacy tables",
        ),
        Presence::Unknown => line(State::Unknown, "whether this kernel has it cannot be seen"),
    }
}

/// A table that the kernel removes when its owner ends.
fn owned_table(foreseen: &Foreseen) -> Line {
    let line = |state, detail: String| Line::new("owned_table", state, detail);
    let why = |refused: &str| refused.to_owned();
    match &foreseen.owned_table {
        Ok(basis) => line(State::Ok, format!("{basis}: the kernel removes our tables when a capture ends, however it ends")),
        Err(refused) if !Right::NetAdmin.is_ours() => line(State::Unknown, why(refused)),
        Err(refused) if machine::is_linux(5, 12) => line(State::Missing, why(refused)),
        Err(refused) => line(State::Missing, why(refused))
            .advise("Linux 5.12; until then a capture that is killed leaves its tables to its watchdog, or to the next start"),
    }
}

fn legacy(name: &'static str, ipv6: bool) -> Line {
    let tables = xtables::loaded_tables(ipv6);
    let tables = tables.join(", ");
    let part = [IP_TABLES, IP6_TABLES][usize::from(ipv6)];
    if !tables.is_empty() {
        return Line::new(
            name,
            State::Ok,
            format!("loaded in this namespace: {tables}"),
        );
    }
    match part.presence() {
        Presence::There if !machine::is_root() => Line::new(
            name,
            State::Unknown,
            "in the kernel; which tables are loaded can be seen by root only",
        ),
        Presence::There => Line::new(
            name,
            State::Ok,
            "in the kernel, no table loaded in this namespace",
        ),
        Presence::OnDemand => Line::new(
            name,
            State::Ok,
            format!(
                "not loaded; {} is loaded by the kernel once somebody asks for a table",
                part.module
            ),
        ),
        Presence::Absent => Line::new(
            name,
            State::Ok,
            "this kernel has none, so no rule can be in them",
        ),
        Presence::Unknown => Line::new(
            name,
            State::Unknown,
            "whether this kernel has them cannot be seen",
        ),
    }
}

/// What makes chains in the legacy tables.
fn program(name: &'static str, ipv6: bool) -> Line {
    match Chain::place_for_trace(ipv6) {
        Ok(chain) => Line::new(
            name,
            State::Ok,
            format!("{} speaks to the legacy tables", chain.program.display()),
        ),
        Err(error) => {
            let line = Line::new(name, State::Missing, error.to_string());
            if NF_TABLES.presence() == Presence::Absent {
                line.advise("without it nothing can be switched on or traced here")
            } else {
                line.advise("nothing has to be done where nf_tables works; rules of legacy tables are shown without some of their words")
            }
        }
    }
}

/// Packets of offloaded flows pass no chain, and devices may not even tell of them.
fn flowtables() -> Line {
    let line = |state, detail: String| Line::new("flowtables", state, detail);
    if !NF_TABLES.is_there() {
        return line(State::Ok, "none: nf_tables is not loaded".to_owned());
    }
    match nft::flowtables() {
        Ok(found) if found.is_empty() => line(State::Ok, "none in this namespace".to_owned()),
        Ok(found) => {
            let names: Vec<String> = found
                .iter()
                .map(|(name, in_hardware)| match in_hardware {
                    true => format!("{name} (in hardware)"),
                    false => name.clone(),
                })
                .collect();
            let detail = format!(
                "{}: packets of flows that are in it pass no chain, so that tracing ends there, and their counts may lag",
                names.join(", ")
            );
            line(State::Degraded, detail).advise("nothing has to be done for flows as such; for tracing take `flow add` out of the rules")
        }
        Err(error) => line(State::Unknown, error.to_string()),
    }
}
