//! JSON Lines: one object a flow, and one `stats` object at the end. The README has the schema;
//! `"v"` changes when a field changes its meaning or goes away.

use super::number::{address, decimal};
use super::summary::{Owning, Summary, Tracing};
use super::time::rfc3339;
use super::{Shown, owner, steers, way};
use crate::counters::Counters;
use crate::flow::entry::{Flow, Life};
use crate::flow::key::Side;
use crate::flow::table::Change;
use crate::wire::conntrack::ZoneDirection;
use crate::wire::kernel::PROTOCOL_NAMES;

pub(super) const SCHEMA_VERSION: u64 = 1;

/// IPS_* bits by the names that the kernel gives them (nf_conntrack_common.h), bit 0 first.
const STATUS_NAMES: [&str; 16] = [
    "expected",
    "seen_reply",
    "assured",
    "confirmed",
    "snat",
    "dnat",
    "seq_adjust",
    "snat_done",
    "dnat_done",
    "dying",
    "fixed_timeout",
    "template",
    "nat_clash",
    "helper",
    "offload",
    "hw_offload",
];

/// enum tcp_conntrack (nf_conntrack_tcp.h), by number.
const TCP_STATES: [&str; 10] = [
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
];

/// Appends a flow; `change` says what just happened to it where that is why it is written.
pub fn flow(out: &mut Vec<u8>, shown: &Shown<'_>, change: Option<Change>) {
    let flow = shown.flow;
    let tuple = flow.tuple(Side::Original);
    Object::line(out, |object| {
        object.number("v", SCHEMA_VERSION);
        object.string("type", "flow");
        if let Some(change) = change {
            object.string("event", change_name(change));
        }
        object.string("family", if tuple.ipv6 { "ipv6" } else { "ipv4" });
        protocol(object, tuple.proto);
        object.object("original", |side| direction(side, flow, Side::Original));
        object.object("reply", |side| direction(side, flow, Side::Reply));
        if flow.is_folded() {
            object.boolean("folded", true);
            object.number("flows", u64::from(flow.flow_count()));
        }
        if let Some(id) = flow.id() {
            object.number("id", u64::from(id));
        }
        object.number("mark", u64::from(flow.mark()));
        zone_and_namespace(object, flow);
        // Every confirmed entry has IPS_CONFIRMED: none at all means that the kernel did not say.
        if flow.status() != 0 || flow.life() == Life::Unconfirmed {
            object.key("status");
            status(object.out, flow.status());
            object.number("status_bits", u64::from(flow.status()));
        }
        if let Some(state) = flow.tcp_state() {
            match TCP_STATES.get(usize::from(state)) {
                Some(name) => object.string("tcp_state", name),
                None => object.number("tcp_state", u64::from(state)),
            }
        }
        life(object, flow);
        way::fields(object, shown);
        owner::fields(object, shown);
    });
}

/// Appends the last line of a report.
pub fn stats(out: &mut Vec<u8>, summary: &Summary<'_>) {
    let counters = summary.counters;
    Object::line(out, |object| {
        object.number("v", SCHEMA_VERSION);
        object.string("type", "stats");
        object.string("version", env!("CARGO_PKG_VERSION"));
        object.boolean("complete", summary.complete());
        object.key("duration_s");
        let milliseconds = summary.duration.as_millis() as u64;
        decimal(object.out, milliseconds / 1000);
        object.out.push(b'.');
        super::number::padded(object.out, milliseconds % 1000, 3, b'0');
        object.object("events", |events| {
            events.number("new", counters.new);
            events.number("update", counters.update);
            events.number("destroy", counters.destroy);
            events.number("dumped", counters.dumped);
        });
        object.object("lost", |lost| {
            lost.number("events", counters.lost);
            lost.boolean("exact", counters.lost_unknown == 0);
            lost.number("resyncs", counters.resyncs);
            lost.number("dumps_failed", counters.dumps_failed);
            lost.number("truncated", counters.truncated);
            lost.number("rejected", counters.rejected());
            lost.number("flaws", counters.flaws);
            lost.number("unwritten", counters.unwritten);
        });
        if let Some(blind) = summary.blind {
            object.string("blind", blind);
        }
        object.object("table", |table| {
            table.number("capacity", u64::from(summary.capacity));
            table.number("flows", u64::from(summary.flows));
            table.number("evicted", counters.evicted);
            table.number("forgotten", counters.forgotten);
            table.number("folded", counters.folded);
            table.number("refused", counters.refused);
            table.number("refused_late", counters.refused_late);
        });
        object.number("allocations", summary.allocations);
        object.object("rungs", |rungs| {
            rungs.string("capture", summary.rungs.capture);
            rungs.string("activation", summary.rungs.activation);
            rungs.number("buffer_bytes", u64::from(summary.rungs.buffer_bytes));
            rungs.string("loss", summary.rungs.loss);
        });
        if let Some(owning) = &summary.owning {
            object.object("owners", |object| owner_stats(object, owning, counters));
        }
        if let Some(trace) = &summary.trace {
            object.object("trace", |object| trace_stats(object, trace, counters));
        }
        object.number("dumps", counters.dumps);
        object.number("filtered", counters.filtered);
        object.number("stale", counters.stale);
    });
}

fn owner_stats(object: &mut Object<'_>, owning: &Owning<'_>, counters: &Counters) {
    object.string("rung", owning.rung);
    if let Some(reason) = owning.reason {
        object.string("reason", reason);
    }
    object.number("ends", owning.ends);
    object.number("known", owning.known);
    object.number("records", counters.owner_records);
    object.number("lost", counters.owner_lost);
    object.number("unreadable", counters.owner_flaws);
    object.number("refused", counters.owners_refused);
    object.number("unasked", counters.unasked);
}

fn trace_stats(object: &mut Object<'_>, trace: &Tracing<'_>, counters: &Counters) {
    object.string("rung", trace.rung);
    object.string("legacy", trace.legacy);
    if let Some(reason) = trace.reason {
        object.string("reason", reason);
    }
    if let Some(ended) = trace.ended {
        object.string("ended", ended);
    }
    object.boolean("everything", trace.everything);
    object.number("packets", counters.traced);
    object.number("messages", counters.trace_messages);
    object.number("lost", counters.trace_lost);
    object.boolean("exact", counters.trace_lost_unknown == 0);
    object.number("untraced", counters.untraced);
    object.number("unresolved", counters.unresolved);
    object.number("shortened", counters.shortened);
    object.number("refused", counters.ways_refused);
    object.number("orphans", counters.orphans);
    object.number("unjoined", counters.unjoined);
    object.number("paths", trace.paths as u64);
}

fn change_name(change: Change) -> &'static str {
    match change {
        Change::Started => "new",
        Change::Existing => "existing",
        Change::Ended => "end",
        Change::Gone => "gone",
        Change::Traced => "traced",
        Change::Owned => "owned",
    }
}

fn protocol(object: &mut Object<'_>, proto: u8) {
    match PROTOCOL_NAMES.iter().find(|(number, _)| *number == proto) {
        Some((_, name)) => object.string("proto", name),
        None => {
            object.key("proto");
            object.out.push(b'"');
            decimal(object.out, u64::from(proto));
            object.out.push(b'"');
        }
    }
    object.number("proto_number", u64::from(proto));
}

fn direction(object: &mut Object<'_>, flow: &Flow, side: Side) {
    let tuple = flow.tuple(side);
    for (name, bytes) in [("src", &tuple.src), ("dst", &tuple.dst)] {
        object.key(name);
        object.out.push(b'"');
        address(object.out, &tuple, bytes);
        object.out.push(b'"');
    }
    if tuple.is_icmp() {
        let (kind, code, id) = tuple.icmp();
        object.number("icmp_type", u64::from(kind));
        object.number("icmp_code", u64::from(code));
        if !flow.is_folded() {
            object.number("icmp_id", u64::from(id));
        }
    } else if tuple.has_ports() {
        if !(flow.is_folded() && side == Side::Original) {
            object.number("sport", u64::from(tuple.sport));
        }
        if !(flow.is_folded() && side == Side::Reply) {
            object.number("dport", u64::from(tuple.dport));
        }
    }
    if let Some(traffic) = flow.traffic(side) {
        object.number("packets", traffic.packets);
        object.number("bytes", traffic.bytes);
    }
}

fn zone_and_namespace(object: &mut Object<'_>, flow: &Flow) {
    let zone = flow.zone();
    object.number("zone", u64::from(zone.id));
    match zone.direction {
        ZoneDirection::Both => {}
        ZoneDirection::Original => object.string("zone_direction", "original"),
        ZoneDirection::Reply => object.string("zone_direction", "reply"),
    }
    if let Some(netns) = flow.netns() {
        object.number("netns", u64::from(netns.unsigned_abs()));
    }
}

fn status(out: &mut Vec<u8>, bits: u32) {
    out.push(b'[');
    let mut first = true;
    for (bit, name) in STATUS_NAMES.iter().enumerate() {
        if bits & (1 << bit) != 0 {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            string(out, name);
        }
    }
    out.push(b']');
}

fn life(object: &mut Object<'_>, flow: &Flow) {
    let state = match flow.life() {
        Life::Live => "live",
        Life::Ended => "ended",
        Life::Gone => "gone",
        Life::Unconfirmed => "unconfirmed",
    };
    object.string("state", state);
    object.time("start", flow.start_ns());
    object.time("first_seen", Some(flow.first_seen_ns()));
    object.time("last_seen", Some(flow.last_seen_ns()));
    object.time("end", flow.end_ns());
}

/// An object under construction.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl Object<'_> {
    pub(super) fn line(out: &mut Vec<u8>, fill: impl FnOnce(&mut Object<'_>)) {
        Object::braced(out, fill);
        out.push(b'\n');
    }

    pub(super) fn braced(out: &mut Vec<u8>, fill: impl FnOnce(&mut Object<'_>)) {
        out.push(b'{');
        fill(&mut Object { out, first: true });
        out.push(b'}');
    }

    fn key(&mut self, name: &str) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        string(self.out, name);
        self.out.push(b':');
    }

    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.key(name);
        decimal(self.out, value);
    }

    pub(super) fn boolean(&mut self, name: &str, value: bool) {
        self.key(name);
        self.out
            .extend_from_slice(if value { b"true" } else { b"false" });
    }

    pub(super) fn string(&mut self, name: &str, value: &str) {
        self.key(name);
        string(self.out, value);
    }

    pub(super) fn array<T>(
        &mut self,
        name: &str,
        items: impl Iterator<Item = T>,
        write: impl Fn(&mut Vec<u8>, T),
    ) {
        self.key(name);
        self.out.push(b'[');
        for (at, item) in items.enumerate() {
            if at > 0 {
                self.out.push(b',');
            }
            write(self.out, item);
        }
        self.out.push(b']');
    }

    pub(super) fn time(&mut self, name: &str, at_ns: Option<u64>) {
        if let Some(at_ns) = at_ns {
            self.key(name);
            self.out.push(b'"');
            rfc3339(self.out, at_ns);
            self.out.push(b'"');
        }
    }

    pub(super) fn object(&mut self, name: &str, fill: impl FnOnce(&mut Object<'_>)) {
        self.key(name);
        Object::braced(self.out, fill);
    }
}

/// A string; what could end it or reach a terminal as a command is escaped.
pub(super) fn string(out: &mut Vec<u8>, value: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for character in value.chars() {
        match character {
            '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
            _ if steers(character) => {
                // All of them are below U+10000.
                let digit = |shift: u32| HEX[(character as usize >> shift) & 15];
                out.extend_from_slice(b"\\u");
                out.extend([12, 8, 4, 0].map(digit));
            }
            _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::json_value::Value;

    #[test]
    fn strings_cannot_end_early_or_hide_control_characters() {
        let mut out = Vec::new();
        string(&mut out, "a\"b\\c\x1b[2J\n\x7f\u{9b}2J");
        assert_eq!(out, br#""a\"b\\c\u001b[2J\u000a\u007f\u009b2J""#);
        for code in (0..0xa0).chain(0x600..0x620).chain(0x2000..0x2070) {
            let text = format!("a{}b", char::from_u32(code).unwrap());
            let mut out = Vec::new();
            string(&mut out, &text);
            assert_eq!(Value::parse(&out), Ok(Value::String(text)));
            assert!(
                !String::from_utf8(out).unwrap().contains(steers),
                "{code:x}"
            );
        }
    }

    #[test]
    fn status_bits_have_the_kernels_names() {
        let mut out = Vec::new();
        status(&mut out, 0x18e);
        assert_eq!(
            out,
            br#"["seen_reply","assured","confirmed","snat_done","dnat_done"]"#
        );
    }
}
