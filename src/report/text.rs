//! The seed's lines, byte for byte.

use super::block::Block;
use super::number::{address, decimal, padded};
use super::order::Section;
use super::{Shown, owner, way};
use crate::flow::entry::Life;
use crate::flow::key::Side;
use crate::flow::owner::OwnerId;
use crate::flow::path::PathId;
use crate::flow::table::Change;
use crate::wire::conntrack::Tuple;
use crate::wire::kernel::PROTOCOL_NAMES;

const LABEL_WIDTH: usize = 6;
/// How the lines of the first sections begin.
const LABELS: [[u8; LABEL_WIDTH + 2]; 6] = [
    *b" TCPv4 [",
    *b" UDPv4 [",
    *b"ICMPv4 [",
    *b" TCPv6 [",
    *b" UDPv6 [",
    *b"ICMPv6 [",
];
const INDEX_WIDTH: usize = 12;

/// Numbers the lines of each section from 0, and leaves out a line that equals the one before.
#[derive(Debug)]
pub struct Lines {
    next_index: Box<[u64]>,
    last: Option<Last>,
}

/// What the line before says, and the path under it.
#[derive(Clone, Copy, Debug)]
struct Last {
    tuple: Tuple,
    netns: Option<i32>,
    process: OwnerId,
    path: PathId,
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
    #[cfg_attr(small, optimize(speed))]
    pub fn report(&mut self, out: &mut Block, shown: &Shown<'_>, side: Side) {
        let flow = shown.flow;
        let mut tuple = flow.tuple(side);
        let mut process = 0;
        if tuple.is_icmp() {
            tuple.sport = 0; // its id, which the line does not show
        } else {
            process = owner::number(shown, side);
        }
        let this = Last {
            tuple,
            netns: flow.netns(),
            process,
            path: shown.notes.traced.paths[side as usize],
        };
        // Folded entries that differ in their zone only read alike, but for their counts; and so do
        // flows that were denied.
        let counts = flow.is_folded() || flow.life() == Life::Unconfirmed;
        if !counts && self.last.is_some_and(|last| this.adds_nothing_to(&last)) {
            return;
        }
        self.last = (!counts).then_some(this);
        self.line(out, shown, side);
        way::lines(out, shown, side);
    }

    /// Appends one line for a change.
    pub fn follow(&mut self, out: &mut Block, change: Change, shown: &Shown<'_>) {
        out.put(match change {
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

    #[cfg_attr(small, optimize(speed))]
    fn line(&mut self, out: &mut Block, shown: &Shown<'_>, side: Side) {
        let flow = shown.flow;
        let tuple = flow.tuple(side);
        let section = Section::new(tuple.proto, tuple.ipv6).index();
        let index = &mut self.next_index[section];
        match LABELS.get(section) {
            Some(label) => out.put(label),
            None => other_label(out, &tuple),
        }
        padded(out, *index, INDEX_WIDTH, b' ');
        *index += 1;
        if tuple.is_icmp() {
            icmp_ends(out, &tuple);
        } else {
            ends(out, shown, side, &tuple);
        }
        if flow.is_folded() {
            out.put(b" (flows=");
            decimal(out, u64::from(flow.flow_count()));
            out.push(b')');
        }
        if let Some(netns) = flow.netns() {
            out.put(b" (netns=");
            decimal(out, u64::from(netns.unsigned_abs()));
            out.push(b')');
        }
        way::suffix(out, shown);
        out.push(b'\n');
    }
}

impl Last {
    #[cfg_attr(small, optimize(speed))]
    fn adds_nothing_to(&self, last: &Last) -> bool {
        self.tuple == last.tuple
            && self.netns == last.netns
            && self.process == last.process
            && (self.path == 0 || self.path == last.path)
    }
}

/// The protocol's name in capitals (its number where it has none) and the family, right-aligned.
fn other_label(out: &mut Block, tuple: &Tuple) {
    // ICMPv6 has the family in its name already, and its number where that is another one.
    let known = PROTOCOL_NAMES
        .iter()
        .find(|(number, name)| *number == tuple.proto && !name.starts_with("icmp"));
    match known {
        Some((_, name)) => {
            let pad = LABEL_WIDTH.saturating_sub(name.len() + "v4".len());
            out.short(&[b' '; LABEL_WIDTH], pad);
            name.bytes()
                .for_each(|byte| out.push(byte.to_ascii_uppercase()));
        }
        None => padded(out, u64::from(tuple.proto), LABEL_WIDTH - "v4".len(), b' '),
    }
    out.put(if tuple.ipv6 { b"v6 [" } else { b"v4 [" });
}

fn icmp_ends(out: &mut Block, tuple: &Tuple) {
    let (kind, code, _) = tuple.icmp();
    out.put(b"] src = ");
    address(out, tuple, &tuple.src);
    out.put(b" to dst = ");
    address(out, tuple, &tuple.dst);
    out.put(b" (type=");
    decimal(out, u64::from(kind));
    out.put(b" | code=");
    decimal(out, u64::from(code));
    out.push(b')');
}

#[cfg_attr(small, optimize(speed))]
fn ends(out: &mut Block, shown: &Shown<'_>, side: Side, tuple: &Tuple) {
    let flow = shown.flow;
    let folded_source = flow.is_folded() && side == Side::Original;
    let folded_destination = flow.is_folded() && side == Side::Reply;
    out.put(b"] src = ");
    address(out, tuple, &tuple.src);
    port(out, tuple, tuple.sport, folded_source);
    out.put(b" to dst = ");
    address(out, tuple, &tuple.dst);
    port(out, tuple, tuple.dport, folded_destination);
    owner::suffix(out, shown, side);
}

#[cfg_attr(small, optimize(speed))]
#[inline]
fn port(out: &mut Block, tuple: &Tuple, port: u16, folded: bool) {
    if !tuple.has_ports() {
        return;
    }
    out.put(b" (port=");
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
        let (mut lines, mut out) = (Lines::default(), Block::new(0));
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
        let text = String::from_utf8(out.bytes().to_vec()).unwrap();
        assert_eq!(text.matches("src = ").count(), 3, "{text}");
        assert_eq!(text.matches("chain: a").count(), 1, "{text}");
        assert_eq!(text.matches("chain: b").count(), 1, "{text}");
    }
}
