//! Numbers for Prometheus, in its text format (exposition format 0.0.4), as node_exporter's textfile
//! collector reads it: how many flows, events and losses, how it works, and hits by rule. No label
//! holds an address, so there are no more series than protocols and rules.

use super::Books;
use super::summary::{Summary, counted};
use crate::event::step::{Firewall, Step, StepKind};
use crate::flow::entry::Life;
use crate::flow::key::Side;
use crate::flow::table::Table;
use crate::wire::kernel::PROTOCOL_NAMES;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Writes them. `at_ns` is wall time in nanoseconds.
pub fn write(
    table: &Table,
    books: Books<'_>,
    summary: &Summary<'_>,
    resident_bytes: u64,
    at_ns: u64,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut out = Numbers(io::BufWriter::with_capacity(64 << 10, out));
    out.rungs(summary)?;
    out.flows(table)?;
    out.one(
        "flow_capacity",
        "gauge",
        "Places in the flow table.",
        u64::from(summary.capacity),
    )?;
    out.events(summary)?;
    out.lost(summary)?;
    out.one(
        "complete",
        "gauge",
        "Whether nothing was missed since the start.",
        u64::from(summary.complete()),
    )?;
    out.one(
        "uptime_seconds",
        "gauge",
        "Time since the capture began.",
        summary.duration.as_secs(),
    )?;
    out.one(
        "time_seconds",
        "gauge",
        "Wall time when these numbers were written.",
        at_ns / 1_000_000_000,
    )?;
    out.one(
        "resident_memory_bytes",
        "gauge",
        "Memory in use.",
        resident_bytes,
    )?;
    if summary.trace.is_some() {
        out.hits(books)?;
    }
    out.0.flush()
}

/// What makes a rule the same rule: its handle, or where there is none its position.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rule<'a> {
    firewall: Firewall,
    table: &'a str,
    chain: &'a str,
    kind: StepKind,
    is_handle: bool,
    number: Option<u64>,
    comment: &'a str,
}

impl<'a> Rule<'a> {
    fn of(step: &'a Step) -> Rule<'a> {
        Rule {
            firewall: step.firewall,
            table: &step.table,
            chain: &step.chain,
            kind: step.kind,
            is_handle: step.handle.is_some(),
            number: step.handle.or(step.position.map(u64::from)),
            comment: &step.comment,
        }
    }
}

struct Numbers<W: Write>(W);

impl<W: Write> Numbers<W> {
    fn head(&mut self, name: &str, kind: &str, help: &str) -> io::Result<()> {
        writeln!(self.0, "# HELP conntracker_{name} {help}")?;
        writeln!(self.0, "# TYPE conntracker_{name} {kind}")
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) -> io::Result<()> {
        self.head(name, kind, help)?;
        writeln!(self.0, "conntracker_{name} {value}")
    }

    fn rungs(&mut self, summary: &Summary<'_>) -> io::Result<()> {
        self.head("info", "gauge", "How each capability works.")?;
        let trace = summary.trace.as_ref().map_or("off", |trace| trace.rung);
        let owners = summary.owning.as_ref().map_or("off", |owning| owning.rung);
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("capture", summary.rungs.capture),
            ("activation", summary.rungs.activation),
            ("tracing", trace),
            ("owners", owners),
        ];
        self.sample("info", &labels, 1)
    }

    fn flows(&mut self, table: &Table) -> io::Result<()> {
        let mut counts = BTreeMap::new();
        for (_, flow) in table.iter() {
            let life = match flow.life() {
                Life::Live => "live",
                Life::Unconfirmed => "unconfirmed",
                Life::Ended | Life::Gone => "ended",
            };
            let tuple = flow.tuple(Side::Original);
            let key = (tuple.ipv6, tuple.proto, life);
            *counts.entry(key).or_insert(0u64) += u64::from(flow.flow_count());
        }
        self.head("flows", "gauge", "Flows in the table.")?;
        for ((ipv6, protocol, life), count) in counts {
            let family = if ipv6 { "ipv6" } else { "ipv4" };
            let number = protocol.to_string();
            let name = PROTOCOL_NAMES.iter().find(|(known, _)| *known == protocol);
            let name = name.map_or(number.as_str(), |(_, name)| name);
            let labels = [("family", family), ("protocol", name), ("state", life)];
            self.sample("flows", &labels, count)?;
        }
        Ok(())
    }

    fn events(&mut self, summary: &Summary<'_>) -> io::Result<()> {
        let counters = summary.counters;
        self.head(
            "events_total",
            "counter",
            "Messages read, by what they say.",
        )?;
        for (event, count) in [
            ("new", counters.new),
            ("update", counters.update),
            ("destroy", counters.destroy),
            ("dumped", counters.dumped),
            ("filtered", counters.filtered),
            ("forgotten", counters.forgotten),
            ("traced_packet", counters.traced),
            ("trace_message", counters.trace_messages),
            ("owner_record", counters.owner_records),
        ] {
            self.sample("events_total", &[("event", event)], count)?;
        }
        Ok(())
    }

    fn lost(&mut self, summary: &Summary<'_>) -> io::Result<()> {
        self.head("lost_total", "counter", "What was missed, by what it was.")?;
        for (count, name, _) in counted(summary.counters) {
            self.sample("lost_total", &[("what", name)], count)?;
        }
        Ok(())
    }

    fn hits(&mut self, books: Books<'_>) -> io::Result<()> {
        let mut packets_of = BTreeMap::new();
        for (step, packets) in books.ways.hits() {
            *packets_of.entry(Rule::of(step)).or_insert(0u64) += packets;
        }
        self.head(
            "rule_packets_total",
            "counter",
            "Traced packets that met a rule or a policy.",
        )?;
        for (rule, packets) in packets_of {
            let number = rule.number.map(|number| number.to_string());
            let number = number.unwrap_or_default();
            let labels = [
                ("firewall", rule.firewall.name()),
                ("table", rule.table),
                ("chain", rule.chain),
                ("kind", rule.kind.name()),
                (if rule.is_handle { "handle" } else { "position" }, &number),
                ("comment", rule.comment),
            ];
            self.sample("rule_packets_total", &labels, packets)?;
        }
        self.one(
            "gone_rule_packets_total",
            "counter",
            "The same of rules that are not listed any more.",
            books.ways.gone_hits(),
        )
    }

    /// Labels without a value are left out: to Prometheus that is the same.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) -> io::Result<()> {
        write!(self.0, "conntracker_{name}")?;
        let mut separator = '{';
        for (label, text) in labels.iter().filter(|(_, text)| !text.is_empty()) {
            write!(self.0, "{separator}{label}=\"")?;
            self.escaped(text)?;
            write!(self.0, "\"")?;
            separator = ',';
        }
        let end = if separator == '{' { "" } else { "}" };
        writeln!(self.0, "{end} {value}")
    }

    /// As the format wants it; control characters, which a comment may have, become spaces.
    fn escaped(&mut self, text: &str) -> io::Result<()> {
        for letter in text.chars() {
            match letter {
                '\\' => write!(self.0, "\\\\")?,
                '"' => write!(self.0, "\\\"")?,
                letter if letter.is_control() => write!(self.0, " ")?,
                letter => write!(self.0, "{letter}")?,
            }
        }
        Ok(())
    }
}
