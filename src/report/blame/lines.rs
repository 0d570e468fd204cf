//! Guilty rules as lines for people and as JSON.

use super::super::block::Block;
use super::super::json::{self, Object};
use super::super::number::{decimal, ipv4, ipv6};
use super::super::summary::Summary;
use super::super::time::rfc3339;
use super::super::{BLOCK_LEN, Format, escaped, hand_on};
use super::{Blame, Guilt, Kept, Port, PortNumber};
use crate::wire::kernel::PROTOCOL_NAMES;
use std::io::{self, Write};
use std::net::IpAddr;

/// Sources, destinations or ports in a line: as many as a person reads.
const SHOWN_MAX: usize = 8;

/// And in a JSON object.
const LISTED_MAX: usize = 64;

/// Writes one line for each guilty rule: the one that denied most first.
pub fn write(
    blame: &Blame,
    summary: Option<&Summary<'_>>,
    format: Format,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut block = Block::new(BLOCK_LEN + 4096);
    for (guilt, who) in &sorted(blame) {
        match format {
            Format::Text => text(&mut block, guilt, who.bytes()),
            Format::Json => object(&mut block, guilt),
        }
        hand_on(&mut block, BLOCK_LEN, out)?;
    }
    match (format, summary) {
        (Format::Text, _) if blame.is_empty() => {
            block.slice(b"no flow was denied\n");
        }
        (Format::Json, Some(summary)) => json::stats(&mut block, summary),
        _ => {}
    }
    hand_on(&mut block, 0, out)
}

/// The rules in the order of the report, each with who it is as text.
fn sorted(blame: &Blame) -> Vec<(&Guilt, Block)> {
    let mut guilts: Vec<_> = blame
        .guilts
        .iter()
        .map(|guilt| (guilt, who(guilt)))
        .collect();
    guilts.sort_by(|(a, a_who), (b, b_who)| {
        let by_weight = (b.flows, b.attempts).cmp(&(a.flows, a.attempts));
        by_weight.then_with(|| a_who.bytes().cmp(b_who.bytes()))
    });
    guilts
}

fn text(out: &mut Block, guilt: &Guilt, who: &[u8]) {
    counted(out, guilt.flows, b"flow");
    out.slice(b", ");
    counted(out, guilt.attempts, b"attempt");
    out.slice(b", from ");
    list(out, &guilt.sources, address);
    out.slice(b" to ");
    list(out, &guilt.destinations, address);
    out.slice(b" port ");
    list(out, &guilt.ports, port);
    out.slice(b", ");
    second(out, guilt.first_ns);
    out.slice(b" to ");
    second(out, guilt.last_ns);
    out.slice(b": ");
    out.slice(who);
    out.push(b'\n');
}

/// What was decided, and by whom.
fn who(guilt: &Guilt) -> Block {
    let (rule, place) = (&guilt.rule, &guilt.place);
    let mut line = Block::default();
    let out = &mut line;
    escaped(out, &rule.verdict);
    if let Some(how) = &rule.reject_with {
        out.slice(b" (");
        escaped(out, how);
        out.push(b')');
    }
    out.slice(b" by");
    for word in [&rule.firewall, &rule.table, &rule.chain, &rule.kind] {
        out.push(b' ');
        escaped(out, word);
    }
    if let Some(position) = place.position {
        out.push(b' ');
        decimal(out, u64::from(position));
    }
    if let Some(handle) = place.handle {
        out.slice(b" (handle ");
        decimal(out, handle);
        out.push(b')');
    }
    // The text of a legacy rule has its comment already.
    let comment = !rule.comment.is_empty() && place.handle.is_some();
    if comment || !rule.text.is_empty() {
        out.push(b':');
    }
    if !rule.text.is_empty() {
        out.push(b' ');
        escaped(out, &rule.text);
    }
    if comment {
        out.slice(b" comment \"");
        escaped(out, &rule.comment);
        out.push(b'"');
    }
    line
}

fn counted(out: &mut Block, count: u64, what: &[u8]) {
    decimal(out, count);
    out.push(b' ');
    out.slice(what);
    if count != 1 {
        out.push(b's');
    }
}

fn list<T>(out: &mut Block, kept: &Kept<T>, write: impl Fn(&mut Block, &T)) {
    for (at, value) in kept.values.iter().take(SHOWN_MAX).enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(out, value);
    }
    let left = left_out(kept, SHOWN_MAX);
    if left > 0 {
        out.slice(if kept.more {
            b",... (at least "
        } else {
            b",... ("
        });
        decimal(out, left);
        out.slice(b" more)");
    }
}

/// How many different values are not among the first ones; what was not kept is one at least.
fn left_out<T>(kept: &Kept<T>, shown: usize) -> u64 {
    kept.values.len().saturating_sub(shown) as u64 + u64::from(kept.more)
}

fn address(out: &mut Block, address: &IpAddr) {
    match address {
        IpAddr::V4(address) => ipv4(out, address.octets()),
        IpAddr::V6(address) => ipv6(out, &address.octets()),
    }
}

fn port(out: &mut Block, port: &Port) {
    let name = PROTOCOL_NAMES
        .iter()
        .find(|(number, _)| *number == port.proto);
    match name {
        Some((_, name)) => out.slice(name.as_bytes()),
        None => decimal(out, u64::from(port.proto)),
    }
    match port.number {
        PortNumber::None => {}
        PortNumber::Port(number) => {
            out.push(b'/');
            decimal(out, u64::from(number));
        }
        PortNumber::Icmp(kind, code) => {
            out.push(b'/');
            decimal(out, u64::from(kind));
            out.push(b'/');
            decimal(out, u64::from(code));
        }
    }
}

/// A time to the second; its line is for people.
fn second(out: &mut Block, at_ns: u64) {
    const SECONDS_END: usize = "2026-11-22T12:00:01".len();
    let start = out.len();
    rfc3339(out, at_ns);
    out.truncate(start + SECONDS_END);
    out.push(b'Z');
}

fn object(out: &mut Block, guilt: &Guilt) {
    Object::line(out, |object| {
        object.number("v", json::SCHEMA_VERSION);
        object.string("type", "blame");
        object.number("flows", guilt.flows);
        object.number("attempts", guilt.attempts);
        listed(object, ["sources", "more_sources"], &guilt.sources, address);
        listed(
            object,
            ["destinations", "more_destinations"],
            &guilt.destinations,
            address,
        );
        listed(object, ["ports", "more_ports"], &guilt.ports, port);
        object.time("first", Some(guilt.first_ns));
        object.time("last", Some(guilt.last_ns));
        object.string("verdict", &guilt.rule.verdict);
        if let Some(how) = &guilt.rule.reject_with {
            object.string("reject_with", how);
        }
        object.object("blame", |step| rule(step, guilt));
    });
}

/// A list, and how many there are at least beyond it, where there are.
fn listed<T>(
    object: &mut Object<'_>,
    [name, more]: [&str; 2],
    kept: &Kept<T>,
    write: impl Fn(&mut Block, &T),
) {
    object.array(name, kept.values.iter().take(LISTED_MAX), |out, value| {
        out.push(b'"');
        write(out, value); // letters, digits, and nothing that a string would have to escape
        out.push(b'"');
    });
    let left = left_out(kept, LISTED_MAX);
    if left > 0 {
        object.number(more, left);
    }
}

/// The fields that the blamed step has in a report of flows.
fn rule(object: &mut Object<'_>, guilt: &Guilt) {
    let (rule, place) = (&guilt.rule, &guilt.place);
    object.string("firewall", &rule.firewall);
    object.string("table", &rule.table);
    object.string("chain", &rule.chain);
    object.string("kind", &rule.kind);
    if let Some(position) = place.position {
        object.number("position", u64::from(position));
    }
    if let Some(handle) = place.handle {
        object.number("handle", handle);
    }
    if !rule.text.is_empty() {
        object.string("rule", &rule.text);
    }
    if !rule.comment.is_empty() {
        object.string("comment", &rule.comment);
    }
    if let Some(generation) = place.generation {
        object.number("generation", u64::from(generation));
    }
}
