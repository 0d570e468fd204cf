//! One object of a JSON report, as far as blame is concerned.

use super::super::json::SCHEMA_VERSION;
use super::super::json_value::Value;
use super::{Denied, Place, Rule};
use crate::wire::conntrack::{Entry, Tuple};
use std::fmt;
use std::net::IpAddr;

/// What an object of a report is.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// A flow that a rule denied.
    Denied(Box<DeniedFlow>),
    /// Any other flow.
    Flow {
        /// Its way through the rules is told.
        traced: bool,
    },
    /// The end of a report.
    Stats {
        /// Nothing was missed.
        complete: bool,
        /// Packets were traced; whether those too that conntrack never confirms.
        trace: Option<bool>,
    },
    /// A rule of a report of blame.
    Blame,
    /// Something else.
    Other,
}

/// A flow that a rule denied.
#[derive(Clone, Debug, PartialEq)]
pub struct DeniedFlow {
    /// Both its directions, for the filters.
    pub entry: Entry,
    /// The rule.
    pub rule: Rule,
    /// Where it was.
    pub place: Place,
    /// What it denied.
    pub denied: Denied,
    /// Which flow this is, in a report that may tell of it again (`--follow`).
    pub again: Option<Identity>,
}

/// What tells a flow from others of the same report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    original: Tuple,
    zone: u64,
    netns: Option<u64>,
    id: Option<u64>,
    /// Of a flow that has no id; that of a folded one is the first of ever more flows.
    first_ns: Option<u64>,
}

/// Why an object cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is no object.
    Value,
    /// Its schema is of a later version than ours.
    Newer(u64),
    /// A field is not there, or is not what it has to be.
    Field(&'static str),
}

impl fmt::Display for Unusable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unusable::Value => out.write_str("a value that is not an object"),
            Unusable::Newer(version) => write!(
                out,
                "its schema has version {version}, and this conntracker reads {SCHEMA_VERSION}"
            ),
            Unusable::Field(name) => {
                write!(out, "a flow or its end whose {name} is missing or wrong")
            }
        }
    }
}

impl Line {
    /// What a value of a report is.
    pub fn of(value: &Value) -> Result<Line, Unusable> {
        let Value::Object(_) = value else {
            return Err(Unusable::Value);
        };
        let Some(kind) = value.get("type").and_then(Value::as_str) else {
            return Ok(Line::Other);
        };
        match optional(value, "v", Value::as_u64)? {
            Some(version) if version > SCHEMA_VERSION => return Err(Unusable::Newer(version)),
            _ => {}
        }
        match kind {
            "flow" => match value.get("blame") {
                Some(step) => denied_flow(value, step),
                None => Ok(Line::Flow {
                    traced: ["path", "verdict", "attempts"]
                        .iter()
                        .any(|name| value.get(name).is_some()),
                }),
            },
            "stats" => {
                let trace = value.get("trace");
                Ok(Line::Stats {
                    complete: required(value, "complete", Value::as_bool)?,
                    trace: trace.map(|trace| {
                        let everything = trace.get("everything").and_then(Value::as_bool);
                        everything.unwrap_or(false)
                    }),
                })
            }
            "blame" => Ok(Line::Blame),
            _ => Ok(Line::Other),
        }
    }
}

fn denied_flow(flow: &Value, step: &Value) -> Result<Line, Unusable> {
    let proto = required(flow, "proto_number", number)?;
    let original = tuple(required(flow, "original", Some)?, proto)?;
    let reply = match flow.get("reply") {
        Some(reply) => tuple(reply, proto)?,
        None => original.inverse(),
    };
    let flows = optional(flow, "flows", Value::as_u64)?.unwrap_or(1);
    let attempts = optional(flow, "attempts", Value::as_u64)?.unwrap_or(1);
    let times = [
        required(flow, "first_seen", time)?,
        required(flow, "last_seen", time)?,
    ];
    let id = optional(flow, "id", Value::as_u64)?;
    let folded = flow.get("folded").is_some();
    let identity = Identity {
        original,
        zone: optional(flow, "zone", Value::as_u64)?.unwrap_or(0),
        netns: optional(flow, "netns", Value::as_u64)?,
        id,
        first_ns: (id.is_none() && !folded).then_some(times[0]),
    };
    let place = Place {
        position: optional(step, "position", number)?,
        handle: optional(step, "handle", Value::as_u64)?,
        generation: optional(step, "generation", number)?,
    };
    Ok(Line::Denied(Box::new(DeniedFlow {
        entry: Entry {
            original,
            reply,
            ..Entry::default()
        },
        rule: Rule {
            firewall: text(step, "firewall")?,
            table: text(step, "table")?,
            chain: text(step, "chain")?,
            kind: text(step, "kind")?,
            text: optional(step, "rule", owned)?.unwrap_or_default(),
            comment: optional(step, "comment", owned)?.unwrap_or_default(),
            verdict: text(flow, "verdict")?,
            reject_with: optional(flow, "reject_with", owned)?,
        },
        place,
        denied: Denied::new(&original, flows.max(1), attempts.max(1), times),
        again: flow.get("event").map(|_| identity),
    })))
}

/// One direction. A folded flow has no client port, which is zero then, as in the table.
fn tuple(side: &Value, proto: u8) -> Result<Tuple, Unusable> {
    let (ipv6, src) = required(side, "src", address)?;
    let (dst_ipv6, dst) = required(side, "dst", address)?;
    if ipv6 != dst_ipv6 {
        return Err(Unusable::Field("dst"));
    }
    let mut tuple = Tuple {
        ipv6,
        proto,
        src,
        dst,
        sport: 0,
        dport: 0,
    };
    if tuple.is_icmp() {
        let kind: u8 = required(side, "icmp_type", number)?;
        let code: u8 = required(side, "icmp_code", number)?;
        tuple.dport = u16::from_be_bytes([kind, code]);
        tuple.sport = optional(side, "icmp_id", number)?.unwrap_or(0);
    } else {
        tuple.sport = optional(side, "sport", number)?.unwrap_or(0);
        tuple.dport = optional(side, "dport", number)?.unwrap_or(0);
    }
    Ok(tuple)
}

fn optional<'a, T>(
    object: &'a Value,
    name: &'static str,
    read: impl Fn(&'a Value) -> Option<T>,
) -> Result<Option<T>, Unusable> {
    match object.get(name) {
        None => Ok(None),
        Some(value) => read(value).map(Some).ok_or(Unusable::Field(name)),
    }
}

fn required<'a, T>(
    object: &'a Value,
    name: &'static str,
    read: impl Fn(&'a Value) -> Option<T>,
) -> Result<T, Unusable> {
    optional(object, name, read)?.ok_or(Unusable::Field(name))
}

fn text(object: &Value, name: &'static str) -> Result<Box<str>, Unusable> {
    required(object, name, owned)
}

fn owned(value: &Value) -> Option<Box<str>> {
    value.as_str().map(Into::into)
}

fn number<T: TryFrom<u64>>(value: &Value) -> Option<T> {
    T::try_from(value.as_u64()?).ok()
}

fn address(value: &Value) -> Option<(bool, [u8; 16])> {
    Some(match value.as_str()?.parse().ok()? {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            (false, bytes)
        }
        IpAddr::V6(address) => (true, address.octets()),
    })
}

/// A time as reports write it (RFC 3339, UTC), in nanoseconds since 1970.
fn time(value: &Value) -> Option<u64> {
    let text = value.as_str()?.strip_suffix('Z')?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let (date, of_day) = whole.split_once('T')?;
    let [year, month, day] = parts(date, '-')?;
    let [hour, minute, second] = parts(of_day, ':')?;
    // 60: a leap second
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 || !(1..=9).contains(&fraction.len()) {
        return None;
    }
    let nanoseconds = digits(&format!("{fraction:0<9}"))?;
    let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

fn parts(text: &str, between: char) -> Option<[u64; 3]> {
    let mut parts = text.split(between).map(digits);
    let read = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(read)
}

fn digits(text: &str) -> Option<u64> {
    let only_digits = text.bytes().all(|byte| byte.is_ascii_digit()); // parse() takes a sign
    only_digits.then(|| text.parse().ok())?
}

/// Days since 1970-01-01 of a day in the Gregorian calendar. Counts in years that begin in March, so
/// that the leap day is the last of its year.
fn days(year: u64, month: u64, day: u64) -> u64 {
    const DAYS_0000_03_01_TO_1970: u64 = 719_468;
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - DAYS_0000_03_01_TO_1970
}

#[cfg(test)]
mod tests {
    use super::super::super::block::written;
    use super::super::super::time::rfc3339;
    use super::*;

    fn read(text: &str) -> Option<u64> {
        time(&Value::String(text.to_owned()))
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        for day in 0..80_000 {
            let at_ns = day * 86_400_000_000_000 + 45_296_000_000_789;
            let text = written(|out| rfc3339(out, at_ns));
            assert_eq!(read(&text), Some(at_ns), "{text}");
        }
        assert_eq!(read("1970-01-01T00:00:01Z"), Some(1_000_000_000));
        assert_eq!(read("1970-01-01T00:00:01.5Z"), Some(1_500_000_000));
        let last = "2554-07-21T23:34:33.709551615Z";
        assert_eq!(read(last), Some(u64::MAX));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "Z",
            "2026-11-22T12:00:01",
            "2026-11-22 12:00:01Z",
            "2026-13-22T12:00:01Z",
            "2026-00-22T12:00:01Z",
            "2026-11-00T12:00:01Z",
            "2026-11-22T24:00:01Z",
            "2026-11-22T12:60:01Z",
            "2026-11-22T12:00:61Z",
            "2026-11-22T12:00:01.Z",
            "2026-11-22T12:00:01.1234567890Z",
            "2026-11-22T12:00:+1Z",
            "2026-11-22T12:00:01:01Z",
            "2026-11T12:00:01Z",
            "1969-12-31T23:59:59Z",
            "2554-07-21T23:34:33.709551616Z",
            "9999-12-31T23:59:59Z",
            "99999999999999999999-12-31T23:59:59Z",
            "2026-11-22T12:00:01.éZ",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
