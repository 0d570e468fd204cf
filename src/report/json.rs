//! JSON Lines: one object a flow, and one `stats` object at the end. The README has the schema;
//! `"v"` changes when a field changes its meaning or goes away.

use super::block::{Block, Word};
use super::number::{address, decimal};
use super::summary::{Owning, Summary, Tracing};
use super::time::rfc3339;
use super::{Shown, as_it_is, owner, steers, way};
use crate::counters::Counters;
use crate::flow::entry::{Flow, Life};
use crate::flow::key::Side;
use crate::flow::table::Change;
use crate::wire::conntrack::ZoneDirection;
use crate::wire::kernel::{IPPROTO_TCP, IPPROTO_UDP, PROTOCOL_NAMES};

pub(super) const SCHEMA_VERSION: u64 = 1;

/// IPS_* bits by the names that the kernel gives them (nf_conntrack_common.h), bit 0 first.
const STATUS_NAMES: [Word; 16] = [
    listed("expected"),
    listed("seen_reply"),
    listed("assured"),
    listed("confirmed"),
    listed("snat"),
    listed("dnat"),
    listed("seq_adjust"),
    listed("snat_done"),
    listed("dnat_done"),
    listed("dying"),
    listed("fixed_timeout"),
    listed("template"),
    listed("nat_clash"),
    listed("helper"),
    listed("offload"),
    listed("hw_offload"),
];

/// enum tcp_conntrack (nf_conntrack_tcp.h), by number.
const TCP_STATES: [Word; 10] = [
    quoted("NONE"),
    quoted("SYN_SENT"),
    quoted("SYN_RECV"),
    quoted("ESTABLISHED"),
    quoted("FIN_WAIT"),
    quoted("CLOSE_WAIT"),
    quoted("LAST_ACK"),
    quoted("TIME_WAIT"),
    quoted("CLOSE"),
    quoted("SYN_SENT2"),
];

const fn quoted(name: &str) -> Word {
    Word::new(["\"", name, "\""])
}

/// A name in a list that goes on.
const fn listed(name: &str) -> Word {
    Word::new(["\"", name, "\","])
}

/// Appends a flow; `change` says what just happened to it where that is why it is written.
#[cfg_attr(small, optimize(speed))]
pub fn flow(out: &mut Block, shown: &Shown<'_>, change: Option<Change>) {
    let flow = shown.flow;
    let tuple = flow.tuple(Side::Original);
    field(out, b"{\"v\":", SCHEMA_VERSION);
    out.put(b",\"type\":\"flow\",");
    if let Some(change) = change {
        out.put(b"\"event\":");
        out.word(change_name(change));
    }
    out.put(match tuple.ipv6 {
        false => b"\"family\":\"ipv4\",\"proto\":\"",
        true => b"\"family\":\"ipv6\",\"proto\":\"",
    });
    protocol(out, tuple.proto);
    out.put(b",\"original\":{");
    direction(out, flow, Side::Original);
    out.put(b",\"reply\":{");
    direction(out, flow, Side::Reply);
    if flow.is_folded() {
        field(out, b",\"folded\":true,\"flows\":", flow.flow_count());
    }
    if let Some(id) = flow.id() {
        field(out, b",\"id\":", id);
    }
    field(out, b",\"mark\":", flow.mark());
    zone_and_namespace(out, flow);
    // Every confirmed entry has IPS_CONFIRMED: none at all means that the kernel did not say.
    if flow.status() != 0 || flow.life() == Life::Unconfirmed {
        out.put(b",\"status\":");
        status(out, flow.status());
        field(out, b",\"status_bits\":", flow.status());
    }
    if let Some(state) = flow.tcp_state() {
        out.put(b",\"tcp_state\":");
        match TCP_STATES.get(usize::from(state)) {
            Some(name) => out.word(name),
            None => decimal(out, u64::from(state)),
        }
    }
    life(out, flow);
    let mut object = Object { out, first: false };
    way::fields(&mut object, shown);
    owner::fields(&mut object, shown);
    out.put(b"}\n");
}

/// A key, with what stands before it, and a number.
#[inline(always)]
fn field<const N: usize>(out: &mut Block, key: &[u8; N], value: impl Into<u64>) {
    out.put(key);
    decimal(out, value.into());
}

/// Appends the last line of a report.
pub fn stats(out: &mut Block, summary: &Summary<'_>) {
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

fn change_name(change: Change) -> &'static Word {
    const NAMES: [Word; 6] = [
        listed("new"),
        listed("existing"),
        listed("end"),
        listed("gone"),
        listed("traced"),
        listed("owned"),
    ];
    &NAMES[match change {
        Change::Started => 0,
        Change::Existing => 1,
        Change::Ended => 2,
        Change::Gone => 3,
        Change::Traced => 4,
        Change::Owned => 5,
    }]
}

fn protocol(out: &mut Block, proto: u8) {
    let known = || PROTOCOL_NAMES.iter().find(|(number, _)| *number == proto);
    match proto {
        IPPROTO_TCP => out.put(b"tcp"), // most flows are of these two
        IPPROTO_UDP => out.put(b"udp"),
        _ => match known() {
            Some((_, name)) => out.slice(name.as_bytes()),
            None => decimal(out, u64::from(proto)),
        },
    }
    field(out, b"\",\"proto_number\":", proto);
}

#[cfg_attr(small, optimize(speed))]
fn direction(out: &mut Block, flow: &Flow, side: Side) {
    let tuple = flow.tuple(side);
    out.put(b"\"src\":\"");
    address(out, &tuple, &tuple.src);
    out.put(b"\",\"dst\":\"");
    address(out, &tuple, &tuple.dst);
    out.push(b'"');
    if tuple.is_icmp() {
        let (kind, code, id) = tuple.icmp();
        field(out, b",\"icmp_type\":", kind);
        field(out, b",\"icmp_code\":", code);
        if !flow.is_folded() {
            field(out, b",\"icmp_id\":", id);
        }
    } else if tuple.has_ports() {
        if !(flow.is_folded() && side == Side::Original) {
            field(out, b",\"sport\":", tuple.sport);
        }
        if !(flow.is_folded() && side == Side::Reply) {
            field(out, b",\"dport\":", tuple.dport);
        }
    }
    if let Some(traffic) = flow.traffic(side) {
        field(out, b",\"packets\":", traffic.packets);
        field(out, b",\"bytes\":", traffic.bytes);
    }
    out.push(b'}');
}

fn zone_and_namespace(out: &mut Block, flow: &Flow) {
    let zone = flow.zone();
    field(out, b",\"zone\":", zone.id);
    match zone.direction {
        ZoneDirection::Both => {}
        ZoneDirection::Original => out.put(b",\"zone_direction\":\"original\""),
        ZoneDirection::Reply => out.put(b",\"zone_direction\":\"reply\""),
    }
    if let Some(netns) = flow.netns() {
        field(out, b",\"netns\":", netns.unsigned_abs());
    }
}

fn status(out: &mut Block, bits: u32) {
    out.push(b'[');
    let mut rest = bits;
    while let Some(name) = STATUS_NAMES.get(rest.trailing_zeros() as usize) {
        out.word(name);
        rest &= rest - 1;
    }
    if rest != bits {
        out.truncate(out.len() - 1); // the last comma
    }
    out.push(b']');
}

fn life(out: &mut Block, flow: &Flow) {
    const STATES: [Word; 4] = [
        quoted("live"),
        quoted("ended"),
        quoted("gone"),
        quoted("unconfirmed"),
    ];
    out.put(b",\"state\":");
    out.word(match flow.life() {
        Life::Live => &STATES[0],
        Life::Ended => &STATES[1],
        Life::Gone => &STATES[2],
        Life::Unconfirmed => &STATES[3],
    });
    time(out, b",\"start\":\"", flow.start_ns());
    time(out, b",\"first_seen\":\"", Some(flow.first_seen_ns()));
    time(out, b",\"last_seen\":\"", Some(flow.last_seen_ns()));
    time(out, b",\"end\":\"", flow.end_ns());
}

#[inline(always)]
#[cfg_attr(small, optimize(speed))]
fn time<const N: usize>(out: &mut Block, key: &[u8; N], at_ns: Option<u64>) {
    if let Some(at_ns) = at_ns {
        out.put(key);
        rfc3339(out, at_ns);
        out.push(b'"');
    }
}

/// An object under construction.
pub(super) struct Object<'a> {
    out: &'a mut Block,
    first: bool,
}

impl Object<'_> {
    #[cfg_attr(small, optimize(speed))]
    pub(super) fn line(out: &mut Block, fill: impl FnOnce(&mut Object<'_>)) {
        Object::braced(out, fill);
        out.push(b'\n');
    }

    pub(super) fn braced(out: &mut Block, fill: impl FnOnce(&mut Object<'_>)) {
        out.push(b'{');
        fill(&mut Object { out, first: true });
        out.push(b'}');
    }

    #[cfg_attr(small, optimize(speed))]
    fn key(&mut self, name: &str) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.slice(name.as_bytes());
        self.out.put(b"\":");
    }

    #[cfg_attr(small, optimize(speed))]
    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.key(name);
        decimal(self.out, value);
    }

    pub(super) fn boolean(&mut self, name: &str, value: bool) {
        self.key(name);
        self.out.slice(if value { b"true" } else { b"false" });
    }

    #[cfg_attr(small, optimize(speed))]
    pub(super) fn string(&mut self, name: &str, value: &str) {
        self.key(name);
        string(self.out, value);
    }

    pub(super) fn array<T>(
        &mut self,
        name: &str,
        items: impl Iterator<Item = T>,
        write: impl Fn(&mut Block, T),
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

    #[cfg_attr(small, optimize(speed))]
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
#[cfg_attr(small, optimize(speed))]
pub(super) fn string(out: &mut Block, value: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    as_it_is(out, value, |out, character| match character {
        '"' | '\\' => out.put(&[b'\\', character as u8]),
        _ if steers(character) => {
            // All of them are below U+10000.
            let digit = |shift: u32| HEX[(character as usize >> shift) & 15];
            out.put(b"\\u");
            out.put(&[12, 8, 4, 0].map(digit));
        }
        _ => out.slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
    });
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::super::block::written;
    use super::*;
    use crate::report::json_value::Value;

    #[test]
    fn strings_cannot_end_early_or_hide_control_characters() {
        let out = written(|out| string(out, "a\"b\\c\x1b[2J\n\x7f\u{9b}2J"));
        assert_eq!(out, r#""a\"b\\c\u001b[2J\u000a\u007f\u009b2J""#);
        for code in (0..0xa0).chain(0x600..0x620).chain(0x2000..0x2070) {
            let text = format!("a{}b", char::from_u32(code).unwrap());
            let out = written(|out| string(out, &text));
            assert_eq!(Value::parse(out.as_bytes()), Ok(Value::String(text)));
            assert!(!out.contains(steers), "{code:x}");
        }
    }

    #[test]
    fn status_bits_have_the_kernels_names() {
        assert_eq!(
            written(|out| status(out, 0x18e)),
            r#"["seen_reply","assured","confirmed","snat_done","dnat_done"]"#
        );
        assert_eq!(written(|out| status(out, 0)), "[]");
        let all = written(|out| status(out, 0xffff));
        assert!(
            all.starts_with(r#"["expected","#) && all.ends_with(r#","hw_offload"]"#),
            "{all}"
        );
    }
}
