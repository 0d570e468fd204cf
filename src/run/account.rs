//! What a capture says of itself: how tracing and attribution worked, and what it could not see.

use super::owner_source::OwnerSource;
use super::pipeline::Pipeline;
use crate::cli::Options;
use crate::firewall::instrument::Instrument;
use crate::flow::key::Side;
use crate::flow::table::Table;
use crate::report::summary::{Owning, Tracing};
use crate::sys::{machine, xtables};

/// How tracing worked, for the report.
pub(super) fn tracing<'a>(
    instrument: &'a Instrument,
    options: &Options,
    pipeline: &Pipeline<'_>,
) -> Tracing<'a> {
    Tracing {
        rung: instrument.rung,
        reason: instrument.why_not.as_deref(),
        legacy: instrument
            .legacy_lines
            .as_ref()
            .map_or_else(String::as_str, |()| "on"),
        everything: options.everything,
        paths: pipeline.ways.path_count(),
        ended: pipeline.trace_ended().or(unheard(instrument, pipeline)),
    }
}

/// Which firewall's rules are there and not told of, if so.
fn unheard(instrument: &Instrument, pipeline: &Pipeline<'_>) -> Option<&'static str> {
    let legacy = [false, true].map(|ipv6| !xtables::loaded_tables(ipv6).is_empty());
    let nft_rules = || {
        pipeline
            .tracer
            .as_ref()
            .is_some_and(|tracer| tracer.book.rule_count() > 0)
    };
    if instrument.rung == "legacy" && nft_rules() {
        Some("rules of nf_tables may not be told of on this rung")
    } else if instrument.rung != "none" && instrument.legacy_lines.is_err() && legacy != [false; 2]
    {
        Some("what the legacy tables decide is not told of")
    } else {
        None
    }
}

/// Why flows between the dumps cannot be seen, if so.
pub(super) fn events_are_off() -> Option<&'static str> {
    let off =
        machine::sysctl("net.netfilter.nf_conntrack_events").is_some_and(|value| value == "0");
    off.then_some("conntrack events are off (net.netfilter.nf_conntrack_events=0): only flows that a dump found are seen")
}

/// How attribution worked, for the report.
pub(super) fn owning<'a>(source: &OwnerSource, reason: &'a str, table: &Table) -> Owning<'a> {
    let (ends, known) = owned_ends(table);
    Owning {
        rung: source.rung(),
        reason: Some(reason).filter(|reason| !reason.is_empty()),
        ends,
        known,
    }
}

/// How many ends of flows are on this machine, and of how many the process is known.
pub(super) fn owned_ends(table: &Table) -> (u64, u64) {
    let (mut ends, mut known) = (0, 0);
    for (place, flow) in table.iter() {
        for side in [Side::Original, Side::Reply] {
            let has_process = table.owned(place).owners[side as usize] != 0;
            let is_end = has_process || (!flow.is_folded() && table.is_process_end(place, side));
            ends += u64::from(is_end);
            known += u64::from(has_process);
        }
    }
    (ends, known)
}
