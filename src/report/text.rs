//! The seed's lines, byte for byte.

use super::number::{address, decimal, padded};
use super::order::{Section, compare};
use super::{Shown, owner, way};
use crate::flow::entry::{Flow, Life};
use crate::flow::key::Side;
use crate::flow::owner::OwnerId;
use crate::flow::path::PathId;
use crate::flow::table::Change;
use crate::wire::conntrack::Tuple;
use crate::wire::kernel::PROTOCOL_NAMES;

const LABEL_WIDTH: usize = 6;
const INDEX_WIDTH: usize = 12;

/// Numbers the lines of each section from 0, and leaves out a line that equals the one before.
#[derive(Debug)]
pub struct Lines {
    next_index: Box<[u64]>,
    /// The line before, the path under it, and the process in it.
    last: Option<(Flow, Side, PathId, OwnerId)>,
}

impl Default for Lines {
    fn default() -> Self {
        Lines {
            next_index: vec![0; Section::COUNT].into_boxed_slice(),
            last: None,
        }
    }
}

impl Lines {
    /// Appends one line of a sorted report.
    pub fn report(&mut self, out: &mut Vec<u8>, shown: &Shown<'_>, side: Side) {
        let flow = shown.flow;
        let path = shown.notes.traced.paths[side as usize];
        let shows_process = !flow.is_icmp();
        let process = if shows_process {
            owner::number(shown, side)
        } else {
            0
        };
        let is_last = |(last, last_side, last_path, last_process)| {
            compare(&last, last_side, flow, side).is_eq()
                && (path == 0 || path == last_path)
                && process == last_process
        };
        // Folded entries that differ in their zone only read alike, but for their counts; and so do
        // flows that were denied.
        let counts = flow.is_folded() || flow.life() == Life::Unconfirmed;
        if !counts && self.last.is_some_and(is_last) {
            return;
        }
        self.last = (!counts).then_some((*flow, side, path, process));
        self.line(out, shown, side);
        way::lines(out, shown, side);
    }

    /// Appends one line for a change.
    pub fn follow(&mut self, out: &mut Vec<u8>, change: Change, shown: &Shown<'_>) {
        out.extend_from_slice(match change {
            Change::Started => b"NEW ",
            Change::Existing => b"OLD ",
            Change::Ended | Change::Gone => b"END ",
            Change::Traced => b"WAY ",
            Change::Owned => b"OWN ",
        });
        self.line(out, shown, Side::Original);
        if change == Change::Traced {
            way::lines(out, shown, Side::Original);
        }
    }

    fn line(&mut self, out: &mut Vec<u8>, shown: &Shown<'_>, side: Side) {
        let flow = shown.flow;
        let tuple = flow.tuple(side);
        let index = &mut self.next_index[Section::new(tuple.proto, tuple.ipv6).index()];
        label(out, &tuple);
        out.extend_from_slice(b" [");
        padded(out, *index, INDEX_WIDTH, b' ');
        out.extend_from_slice(b"] ");
        *index += 1;
        if tuple.is_icmp() {
            icmp_ends(out, &tuple);
        } else {
            ends(out, shown, side, &tuple);
        }
        if flow.is_folded() {
            out.extend_from_slice(b" (flows=");
            decimal(out, u64::from(flow.flow_count()));
            out.push(b')');
        }
        if let Some(netns) = flow.netns() {
            out.extend_from_slice(b" (netns=");
            decimal(out, u64::from(netns.unsigned_abs()));
            out.push(b')');
        }
        way::suffix(out, shown);
        out.push(b'\n');
    }
}

/// The protocol's name in capitals (its number where it has none) and the family, right-aligned.
fn label(out: &mut Vec<u8>, tuple: &Tuple) {
    let start = out.len();
    match PROTOCOL_NAMES
        .iter()
        .find(|(number, _)| *number == tuple.proto)
    {
        // ICMPv6 has the family in its name already.
        Some((_, "icmpv6")) if tuple.ipv6 => out.extend_from_slice(b"ICMP"),
        Some((_, "icmp")) if tuple.ipv6 => decimal(out, 1),
        Some((_, "icmpv6")) => decimal(out, 58),
        Some((_, name)) => out.extend(name.bytes().map(|byte| byte.to_ascii_uppercase())),
        None => decimal(out, u64::from(tuple.proto)),
    }
    out.extend_from_slice(if tuple.ipv6 { b"v6" } else { b"v4" });
    let len = out.len() - start;
    if len < LABEL_WIDTH {
        let pad = LABEL_WIDTH - len;
        out.resize(start + LABEL_WIDTH, b' ');
        out[start..].rotate_right(pad);
    }
}

fn icmp_ends(out: &mut Vec<u8>, tuple: &Tuple) {
    let (kind, code, _) = tuple.icmp();
    out.extend_from_slice(b"src = ");
    address(out, tuple, &tuple.src);
    out.extend_from_slice(b" to dst = ");
    address(out, tuple, &tuple.dst);
    out.extend_from_slice(b" (type=");
    decimal(out, u64::from(kind));
    out.extend_from_slice(b" | code=");
    decimal(out, u64::from(code));
    out.push(b')');
}

fn ends(out: &mut Vec<u8>, shown: &Shown<'_>, side: Side, tuple: &Tuple) {
    let flow = shown.flow;
    let folded_source = flow.is_folded() && side == Side::Original;
    let folded_destination = flow.is_folded() && side == Side::Reply;
    out.extend_from_slice(b"src = ");
    address(out, tuple, &tuple.src);
    port(out, tuple, tuple.sport, folded_source);
    out.extend_from_slice(b" to dst = ");
    address(out, tuple, &tuple.dst);
    port(out, tuple, tuple.dport, folded_destination);
    owner::suffix(out, shown, side);
}

fn port(out: &mut Vec<u8>, tuple: &Tuple, port: u16, folded: bool) {
    if !tuple.has_ports() {
        return;
    }
    out.extend_from_slice(b" (port=");
    if folded {
        out.push(b'*');
    } else {
        decimal(out, u64::from(port));
    }
    out.push(b')');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::step::{Firewall, Step, StepKind, Verdict};
    use crate::flow::entry::Flow;
    use crate::flow::notes::Notes;
    use crate::flow::owner::Owners;
    use crate::flow::path::Ways;
    use crate::flow::traced::Traced;
    use crate::report::Books;

    #[test]
    fn equal_lines_are_printed_once_and_every_way_that_differs() {
        let (mut ways, owners) = (Ways::default(), Owners::default());
        let mut path = |chain: &str| {
            let step = ways.step_id(Step {
                firewall: Firewall::Nft,
                table: "inet fw".into(),
                chain: chain.into(),
                kind: StepKind::Policy,
                position: None,
                handle: None,
                verdict: Some(Verdict::Accept),
                rule: "".into(),
                comment: "".into(),
                generation: None,
            });
            ways.path_id(&[step])
        };
        let paths = [0, path("a"), path("a"), 0, path("b"), path("b")];
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        for path in paths {
            let traced = Traced {
                paths: [path, 0],
                ..Traced::default()
            };
            let shown = Shown {
                flow: &Flow::default(),
                notes: Notes {
                    traced,
                    ..Notes::default()
                },
                books: Books {
                    ways: &ways,
                    owners: &owners,
                },
            };
            lines.report(&mut out, &shown, Side::Original);
        }
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches("src = ").count(), 3, "{text}");
        assert_eq!(text.matches("chain: a").count(), 1, "{text}");
        assert_eq!(text.matches("chain: b").count(), 1, "{text}");
    }
}
