//! A flow's way through the rules: the lines under it, the JSON beside it, its verdict and the step
//! that is to blame.

use super::block::Block;
use super::json::Object;
use super::number::decimal;
use super::{Shown, escaped};
use crate::event::step::{Step, StepKind, Verdict};
use crate::flow::entry::Life;
use crate::flow::key::Side;

/// What the rules decided over a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// `accept`, `drop`, `reject`, `policy drop`; for an unconfirmed flow also where its way ended.
    pub verdict: &'static str,
    /// How the sender was told.
    pub reject_with: Option<&'static str>,
    /// The step that denied it.
    pub blame: Option<&'a Step>,
}

/// What the rules decided over a flow, where a trace has told of it.
#[cfg_attr(small, optimize(speed))]
pub fn decision<'a>(shown: &Shown<'a>) -> Option<Decision<'a>> {
    let blame = shown
        .notes
        .traced
        .blamed()
        .and_then(|id| shown.books.ways.step(id));
    if let Some(step) = blame {
        return Some(Decision {
            verdict: denial(step),
            reject_with: reject_with(step),
            blame,
        });
    }
    if shown.notes.traced.paths[0] == 0 {
        return None;
    }
    let verdict = if shown.flow.life() == Life::Unconfirmed {
        let last = shown.books.ways.path(shown.notes.traced.paths[0]).last()?;
        last.verdict.as_ref()?.name()
    } else {
        "accept"
    };
    Some(Decision {
        verdict,
        reject_with: None,
        blame: None,
    })
}

fn denial(step: &Step) -> &'static str {
    match (&step.verdict, step.kind) {
        (Some(Verdict::Reject(_)), _) => "reject",
        (_, StepKind::Policy) => "policy drop",
        _ => "drop",
    }
}

fn reject_with(step: &Step) -> Option<&'static str> {
    match step.verdict {
        Some(Verdict::Reject(how)) => Some(how),
        _ => None,
    }
}

/// Appends what stands behind the line of a flow that conntrack never confirmed.
#[cfg_attr(small, optimize(speed))]
pub fn suffix(out: &mut Block, shown: &Shown<'_>) {
    if shown.flow.life() != Life::Unconfirmed {
        return;
    }
    out.put(b" (verdict=");
    let decision = decision(shown);
    out.slice(
        decision
            .map_or("unknown", |decision| decision.verdict)
            .as_bytes(),
    );
    out.put(b", attempts=");
    decimal(out, u64::from(shown.notes.traced.attempts));
    out.push(b')');
}

/// Appends one line for each step of a direction, in the order of travel.
#[cfg_attr(small, optimize(speed))]
pub fn lines(out: &mut Block, shown: &Shown<'_>, side: Side) {
    for step in shown
        .books
        .ways
        .path(shown.notes.traced.paths[side as usize])
    {
        out.put(b"\t\t\t\ttable: ");
        escaped(out, &step.table);
        out.put(b", chain: ");
        escaped(out, &step.chain);
        out.put(b", type: ");
        out.slice(step.kind.name().as_bytes());
        if let Some(position) = step.position {
            out.put(b", position: ");
            decimal(out, u64::from(position));
        }
        if let Some(verdict) = &step.verdict {
            out.put(b", verdict: ");
            out.slice(verdict.name().as_bytes());
            match verdict {
                Verdict::Reject(how) => {
                    out.put(b" with ");
                    out.slice(how.as_bytes());
                }
                Verdict::Jump(chain) | Verdict::Goto(chain) => {
                    out.push(b' ');
                    escaped(out, chain);
                }
                _ => {}
            }
        }
        rule(out, step);
        out.push(b'\n');
    }
}

fn rule(out: &mut Block, step: &Step) {
    if step.rule.is_empty() && step.handle.is_none() {
        return;
    }
    out.put(b", rule:");
    if !step.rule.is_empty() {
        out.push(b' ');
        escaped(out, &step.rule);
    }
    if !step.comment.is_empty() && step.handle.is_some() {
        out.put(b" comment \"");
        escaped(out, &step.comment);
        out.push(b'"');
    }
    if let Some(handle) = step.handle {
        out.put(b" # handle ");
        decimal(out, handle);
    }
}

/// Adds the fields that tracing knows.
pub fn fields(object: &mut Object<'_>, shown: &Shown<'_>) {
    let paths = shown.notes.traced.paths;
    if paths != [0, 0] {
        object.object("path", |path| {
            for (name, id) in [("original", paths[0]), ("reply", paths[1])] {
                if id != 0 {
                    path.array(name, shown.books.ways.path(id), |out, step| {
                        Object::braced(out, |object| step_fields(object, step, true));
                    });
                }
            }
        });
    }
    if let Some(decision) = decision(shown) {
        object.string("verdict", decision.verdict);
        if let Some(how) = decision.reject_with {
            object.string("reject_with", how);
        }
        if let Some(step) = decision.blame {
            object.object("blame", |object| step_fields(object, step, false));
        }
    }
    if shown.notes.traced.attempts > 0 {
        object.number("attempts", u64::from(shown.notes.traced.attempts));
    }
}

/// The fields of a step.
pub fn step_fields(object: &mut Object<'_>, step: &Step, with_verdict: bool) {
    object.string("firewall", step.firewall.name());
    object.string("table", &step.table);
    object.string("chain", &step.chain);
    object.string("kind", step.kind.name());
    if let Some(position) = step.position {
        object.number("position", u64::from(position));
    }
    if let Some(handle) = step.handle {
        object.number("handle", handle);
    }
    if let (true, Some(verdict)) = (with_verdict, &step.verdict) {
        object.string("verdict", verdict.name());
        match verdict {
            Verdict::Reject(how) => object.string("reject_with", how),
            Verdict::Jump(chain) | Verdict::Goto(chain) => object.string("target", chain),
            _ => {}
        }
    }
    if !step.rule.is_empty() {
        object.string("rule", &step.rule);
    }
    if !step.comment.is_empty() {
        object.string("comment", &step.comment);
    }
    if let Some(generation) = step.generation {
        object.number("generation", u64::from(generation));
    }
}
