//! What a run can say of itself: what it saw, what it missed, and how it worked.

use crate::counters::Counters;
use std::fmt;
use std::time::Duration;

/// How each capability worked: the rung of its ladder that was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rungs {
    /// Where flows come from.
    pub capture: &'static str,
    /// How conntrack came to be active.
    pub activation: &'static str,
    /// Receive buffer as the kernel set it.
    pub buffer_bytes: u32,
    /// How losses are counted.
    pub loss: &'static str,
}

/// How tracing worked.
#[derive(Clone, Copy, Debug)]
pub struct Tracing<'a> {
    /// The rung of its ladder.
    pub rung: &'a str,
    /// Why not a better one, if so.
    pub reason: Option<&'a str>,
    /// `on`, or why the legacy tables' lines are off.
    pub legacy: &'a str,
    /// Whether packets that conntrack never confirms are traced too.
    pub everything: bool,
    /// How many different paths are known.
    pub paths: usize,
    /// Why packets were not traced from some moment on, if so.
    pub ended: Option<&'static str>,
}

/// How attribution worked.
#[derive(Clone, Copy, Debug)]
pub struct Owning<'a> {
    /// The rung of its ladder.
    pub rung: &'a str,
    /// How it works, and why not a better one.
    pub reason: Option<&'a str>,
    /// Ends of flows that are on this machine.
    pub ends: u64,
    /// Those whose process is known.
    pub known: u64,
}

/// Everything that the end of a report says.
#[derive(Debug)]
pub struct Summary<'a> {
    /// What was counted.
    pub counters: &'a Counters,
    /// How it worked.
    pub rungs: &'a Rungs,
    /// Places in the flow table.
    pub capacity: u32,
    /// Entries in it.
    pub flows: u32,
    /// How long the capture took.
    pub duration: Duration,
    /// Allocations made while capturing.
    pub allocations: u64,
    /// Why flows between the dumps could not be seen at all, if so.
    pub blind: Option<&'static str>,
    /// How tracing worked, where it was asked for.
    pub trace: Option<Tracing<'a>>,
    /// How attribution worked, where it was asked for.
    pub owning: Option<Owning<'a>>,
}

impl Summary<'_> {
    /// Whether nothing was missed.
    pub fn complete(&self) -> bool {
        let traces = self
            .trace
            .is_none_or(|trace| trace.rung != "none" && trace.ended.is_none());
        self.counters.complete() && self.blind.is_none() && traces
    }
}

impl fmt::Display for Summary<'_> {
    /// One line: "complete", or exactly what was missed; then what was seen.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counters = self.counters;
        if self.complete() {
            write!(
                out,
                "complete: {} flows, {} new, {} destroyed, 0 lost",
                self.flows, counters.new, counters.destroy
            )?;
        } else {
            out.write_str("incomplete: ")?;
            self.missed(out)?;
            write!(
                out,
                " ({} flows, {} new, {} destroyed)",
                self.flows, counters.new, counters.destroy
            )?;
        }
        if counters.forgotten > 0 {
            let count = counters.forgotten;
            write!(out, "; {count} finished flows were written and made room")?;
        }
        match &self.owning {
            Some(owning) => write!(
                out,
                "; {} of {} ends on this machine have their process",
                owning.known, owning.ends
            ),
            None => Ok(()),
        }
    }
}

impl Summary<'_> {
    fn missed(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counters = self.counters;
        let mut first = true;
        for (count, _, what) in counted(counters) {
            if count > 0 {
                out.write_str(if first { "" } else { ", " })?;
                write!(out, "{count} {what}")?;
                first = false;
            }
        }
        if counters.evicted + counters.folded + counters.refused + counters.refused_late > 0 {
            write!(
                out,
                ", the table holds {} flows (--capacity)",
                self.capacity
            )?;
        }
        if let Some(Tracing { rung: "none", .. }) = self.trace {
            out.write_str(if first { "" } else { ", " })?;
            out.write_str("packets could not be traced")?;
            first = false;
        }
        if let Some(ended) = self.trace.and_then(|trace| trace.ended) {
            out.write_str(if first { "" } else { ", " })?;
            out.write_str(ended)?;
            first = false;
        }
        if let Some(blind) = self.blind {
            out.write_str(if first { "" } else { ", " })?;
            out.write_str(blind)?;
        }
        Ok(())
    }
}

/// What can be missed: how often it was, its name for programs, and for people.
pub(super) fn counted(counters: &Counters) -> [(u64, &'static str, &'static str); 21] {
    [
        (counters.lost, "events", "events lost"),
        (
            counters.lost_unknown,
            "events_unknown",
            "times an unknown number of events lost",
        ),
        (
            counters.dumps_failed,
            "dumps_failed",
            "dumps of the table failed",
        ),
        (counters.truncated, "truncated", "datagrams cut short"),
        (counters.rejected(), "rejected", "messages unreadable"),
        (counters.flaws, "flaws", "attributes unreadable"),
        (counters.evicted, "evicted", "finished flows evicted"),
        (counters.folded, "folded", "flows folded"),
        (counters.refused, "refused", "flows refused"),
        (
            counters.refused_late,
            "refused_late",
            "later records refused",
        ),
        (counters.stale, "stale", "late events not kept"),
        (
            counters.unwritten,
            "unwritten",
            "lines of what is followed not written",
        ),
        (
            counters.untraced,
            "untraced",
            "packets left untraced (--trace-rate)",
        ),
        (counters.trace_lost, "trace_lost", "trace messages lost"),
        (
            counters.trace_lost_unknown,
            "trace_lost_unknown",
            "times an unknown number of trace messages lost",
        ),
        (counters.shortened, "shortened", "paths shortened"),
        (
            counters.ways_refused,
            "ways_refused",
            "steps and paths not kept",
        ),
        (
            counters.unresolved,
            "unresolved",
            "steps by rules that were gone before they were read",
        ),
        (
            counters.owner_lost,
            "owner_lost",
            "records of processes lost",
        ),
        (
            counters.owner_flaws,
            "owner_flaws",
            "records of processes unreadable",
        ),
        (
            counters.owners_refused,
            "owners_refused",
            "processes not kept",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(counters: Counters, blind: Option<&'static str>) -> String {
        let rungs = Rungs::default();
        let summary = Summary {
            counters: &counters,
            rungs: &rungs,
            capacity: 10,
            flows: 2,
            duration: Duration::ZERO,
            allocations: 0,
            blind,
            trace: None,
            owning: None,
        };
        summary.to_string()
    }

    #[test]
    fn complete_or_exactly_what_was_missed() {
        assert_eq!(
            line(
                Counters {
                    new: 2,
                    destroy: 1,
                    ..Counters::default()
                },
                None
            ),
            "complete: 2 flows, 2 new, 1 destroyed, 0 lost"
        );
        assert_eq!(
            line(
                Counters {
                    lost: 7,
                    flaws: 1,
                    ..Counters::default()
                },
                None
            ),
            "incomplete: 7 events lost, 1 attributes unreadable (2 flows, 0 new, 0 destroyed)"
        );
        assert_eq!(
            line(
                Counters {
                    refused: 3,
                    ..Counters::default()
                },
                None
            ),
            "incomplete: 3 flows refused, the table holds 10 flows (--capacity) (2 flows, 0 new, 0 destroyed)"
        );
        assert_eq!(
            line(
                Counters {
                    unresolved: 2,
                    ..Counters::default()
                },
                None
            ),
            "incomplete: 2 steps by rules that were gone before they were read (2 flows, 0 new, 0 destroyed)"
        );
        assert!(line(Counters::default(), Some("blind")).starts_with("incomplete: blind ("));
    }
}
