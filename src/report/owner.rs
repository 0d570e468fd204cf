//! The processes at a flow's ends: the suffix of its lines, and the JSON beside it.

use super::block::Block;
use super::json::Object;
use super::number::decimal;
use super::{Shown, escaped};
use crate::event::{Evidence, Moment, Rank, Source};
use crate::flow::key::Side;
use crate::flow::owner::{Owner, OwnerId};

/// The number of the process that a direction's line shows; 0 where none is known.
#[cfg_attr(small, optimize(speed))]
pub fn number(shown: &Shown<'_>, side: Side) -> OwnerId {
    shown.notes.owned.of_line(side)
}

/// Appends the process of a direction's line: `(command,pid:N,uid:NAME)`, or `(-)`.
#[cfg_attr(small, optimize(speed))]
pub fn suffix(out: &mut Block, shown: &Shown<'_>, side: Side) {
    let Some(owner) = shown.books.owners.get(number(shown, side)) else {
        out.put(b" (-)");
        return;
    };
    out.put(b" (");
    escaped(
        out,
        if owner.comm.is_empty() {
            "-"
        } else {
            &owner.comm
        },
    );
    out.put(b",pid:");
    number_or_dash(out, owner.pid);
    out.put(b",uid:");
    if owner.user.is_empty() {
        number_or_dash(out, owner.uid);
    } else {
        escaped(out, &owner.user);
    }
    out.push(b')');
}

fn number_or_dash(out: &mut Block, number: Option<u32>) {
    match number {
        Some(number) => decimal(out, u64::from(number)),
        None => out.push(b'-'),
    }
}

/// Appends `owner`, where a process is known.
pub fn fields(object: &mut Object<'_>, shown: &Shown<'_>) {
    let owned = &shown.notes.owned;
    let end = |side: Side| {
        let owner = shown.books.owners.get(owned.owners[side as usize])?;
        Some((owner, owned.evidence[side as usize]?))
    };
    let ends = [
        ("original", end(Side::Original)),
        ("reply", end(Side::Reply)),
    ];
    if ends.iter().all(|(_, end)| end.is_none()) {
        return;
    }
    object.object("owner", |object| {
        for (name, end) in ends {
            if let Some((owner, evidence)) = end {
                let rung = &*shown.books.owners.rung;
                object.object(name, |object| process(object, owner, evidence, rung));
            }
        }
    });
}

fn process(object: &mut Object<'_>, owner: &Owner, evidence: Evidence, rung: &str) {
    let optional = |object: &mut Object<'_>, name: &str, number: Option<u64>| {
        if let Some(number) = number {
            object.number(name, number);
        }
    };
    optional(object, "pid", owner.pid.map(u64::from));
    optional(object, "ppid", owner.parent.map(u64::from));
    optional(object, "uid", owner.uid.map(u64::from));
    let texts = [
        ("user", &owner.user),
        ("comm", &owner.comm),
        ("command_line", &owner.command_line),
        ("executable", &owner.executable),
        ("cgroup", &owner.cgroup),
    ];
    for (name, text) in texts {
        if !text.is_empty() {
            object.string(name, text);
        }
    }
    optional(object, "netns", owner.netns);
    let how = match evidence.source {
        Source::Probe => rung,
        Source::Sockets => "older",
        Source::Diag => "procfs",
        Source::Log => "log",
    };
    object.string("how", how);
    object.string("by", moment(evidence.moment));
    if evidence.rank == Rank::Inherited {
        object.boolean("shared", true);
    }
}

fn moment(moment: Moment) -> &'static str {
    match moment {
        Moment::Connect => "connect",
        Moment::Send => "send",
        Moment::Accept => "accept",
        Moment::Receive => "receive",
        Moment::PacketOut | Moment::PacketIn => "packet",
        Moment::Confirm => "conntrack",
        Moment::Socket => "socket",
        Moment::Release => "close",
    }
}
