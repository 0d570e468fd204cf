//! Hits of the legacy tables: table, chain and number, in the content that was read last.

use super::{BUILT_IN, Book, HitKey, Resolved, lossy};
use crate::event::Station;
use crate::event::step::{Firewall, RuleText, Step, StepKind, Verdict};
use crate::firewall::instrument::LEGACY_CHAIN;
use crate::firewall::legacy_rules::LegacyTable;
use crate::flow::path::Ways;
use crate::limits::{CLOCK_STEP, LEGACY_TABLES_MAX, RELOAD_DOUBT};
use crate::wire::kernel::{NF_INET_LOCAL_OUT, NF_INET_PRE_ROUTING};
use crate::wire::nflog::{Line, LineKind};

impl Book {
    /// The content of a legacy table, as it was read at `at_ns`.
    pub fn take_legacy(&mut self, ipv6: bool, name: &str, table: LegacyTable, at_ns: u64) {
        let same = |other: &LegacyTable| other.is(ipv6, name.as_bytes());
        self.legacy_before.retain(|(_, other)| !same(other));
        if let Some(at) = self.legacy.iter().position(same) {
            self.legacy_before.push((at_ns, self.legacy.remove(at)));
        }
        if self.legacy.len() < LEGACY_TABLES_MAX {
            self.legacy.push(table);
        }
        self.cache.clear();
    }

    /// The text of a legacy table's rules, as its own program saves them. Steps that were resolved
    /// from this content get it.
    pub fn take_saved(&mut self, ipv6: bool, name: &str, saved: &str, ways: &mut Ways) {
        let tables = &mut self.legacy;
        let Some(table) = tables
            .iter_mut()
            .find(|table| table.is(ipv6, name.as_bytes()))
        else {
            return;
        };
        if !table.take_saved(saved) {
            return;
        }
        for (key, resolved) in self.cache.iter() {
            let (Some(key), Some(step)) = (parts(&key), resolved.step) else {
                continue;
            };
            if (key.ipv6, key.table) == (ipv6, name.as_bytes()) {
                let found = table.resolve(key.chain, key.kind, key.number);
                if let Some(found) = found.filter(|found| found.kind != StepKind::Policy) {
                    ways.set_rule(step, &found.text.text);
                }
            }
        }
    }

    /// The content hash of a legacy table that is known.
    pub fn legacy_content(&self, ipv6: bool, name: &str) -> Option<u64> {
        let same = |table: &&LegacyTable| table.is(ipv6, name.as_bytes());
        self.legacy.iter().find(same).map(LegacyTable::content)
    }

    /// Resolves a line of the legacy tables.
    #[cfg_attr(small, optimize(speed))]
    pub fn resolve_legacy(&mut self, line: &Line<'_>, at_ns: u64, ways: &mut Ways) -> Resolved {
        self.legacy_before.retain(|(changed_ns, _)| {
            let is_soon = at_ns <= changed_ns.saturating_add(RELOAD_DOUBT.as_nanos() as u64);
            let is_late = *changed_ns >= at_ns.saturating_add(CLOCK_STEP.as_nanos() as u64);
            is_soon && !is_late
        });
        let key = key_of(line);
        if let Some(resolved) = self.cache.find(&key) {
            return resolved;
        }
        let resolved = self.look_up_legacy(line, ways);
        if self.legacy_before.is_empty() {
            self.remember(&key, resolved);
        }
        resolved
    }

    /// Whether the line may be of the content before, where it means something else.
    fn is_in_doubt(&self, line: &Line<'_>, table: &LegacyTable) -> bool {
        let before = self.legacy_before.iter().map(|(_, table)| table);
        before
            .filter(|before| before.is(line.ipv6, line.table))
            .any(|before| {
                !table.means_the_same(before, line.chain, kind_of(line.kind), line.number)
            })
    }

    fn look_up_legacy(&self, line: &Line<'_>, ways: &mut Ways) -> Resolved {
        let built_in = BUILT_IN.contains(&line.chain);
        let mut resolved = Resolved {
            own: false,
            step: None,
            station: Some(Station {
                hook: line.hook,
                priority: legacy_priority(line.table, line.hook),
                number: if built_in { line.number } else { 0 },
            }),
            denies: false,
            known: true,
        };
        if line.chain == LEGACY_CHAIN.as_bytes() {
            resolved.own = true;
            return resolved;
        }
        let same = |table: &&LegacyTable| table.is(line.ipv6, line.table);
        let table = self.legacy.iter().find(same);
        let kind = kind_of(line.kind);
        let found = table
            .filter(|table| !self.is_in_doubt(line, table))
            .and_then(|table| table.resolve(line.chain, kind, line.number));
        resolved.known = found.is_some();
        let (kind, position, text) = match found {
            Some(found) => (found.kind, found.position, found.text),
            None => {
                let position = (kind != StepKind::Policy).then_some(line.number);
                (kind, position, RuleText::default())
            }
        };
        let is_ours =
            matches!(&text.verdict, Some(Verdict::Jump(chain)) if **chain == *LEGACY_CHAIN);
        if is_ours {
            resolved.own = true;
            return resolved;
        }
        let ours = table.map_or_else(Vec::new, |table| {
            table.positions_of_jumps_to(&lossy(line.chain), LEGACY_CHAIN)
        });
        let above = |position: u32| ours.iter().filter(|at| **at < position).count() as u32;
        resolved.denies = text.verdict.as_ref().is_some_and(Verdict::denies);
        resolved.step = Some(ways.step_id(Step {
            firewall: Firewall::Legacy,
            table: lossy(line.table),
            chain: lossy(line.chain),
            kind,
            position: position.map(|position| position - above(position)),
            handle: None,
            verdict: text.verdict,
            rule: if kind == StepKind::Policy {
                "".into()
            } else {
                text.text.into()
            },
            comment: text.comment.unwrap_or_default().into(),
            generation: None,
        }));
        resolved
    }
}

#[cfg_attr(small, optimize(speed))]
fn key_of<'a>(line: &Line<'a>) -> HitKey<'a> {
    HitKey {
        kind: [b'L', u8::from(line.ipv6), line.kind as u8, line.hook],
        verdict: 0, // it does not say one
        number: u64::from(line.number),
        names: [line.table, line.chain, b""],
    }
}

/// What a key of a line says.
struct Parts<'a> {
    ipv6: bool,
    kind: StepKind,
    number: u32,
    table: &'a [u8],
    chain: &'a [u8],
}

/// Takes a key apart, if it is a line's.
#[cfg_attr(small, optimize(speed))]
fn parts<'a>(key: &HitKey<'a>) -> Option<Parts<'a>> {
    let [b'L', ipv6, kind, _hook] = key.kind else {
        return None;
    };
    let [table, chain, _] = key.names;
    Some(Parts {
        ipv6: ipv6 != 0,
        kind: match kind {
            0 => StepKind::Rule,
            1 => StepKind::Policy,
            _ => StepKind::Return,
        },
        number: u32::try_from(key.number).ok()?,
        table,
        chain,
    })
}

fn kind_of(kind: LineKind) -> StepKind {
    match kind {
        LineKind::Rule => StepKind::Rule,
        LineKind::Policy => StepKind::Policy,
        LineKind::Return => StepKind::Return,
    }
}

/// Where the legacy tables stand in a hook (enum nf_ip_hook_priorities, netfilter_ipv4.h).
fn legacy_priority(table: &[u8], hook: u8) -> i32 {
    match table {
        b"raw" => -300,
        b"mangle" => -150,
        b"nat" if matches!(hook, NF_INET_PRE_ROUTING | NF_INET_LOCAL_OUT) => -100,
        b"nat" => 100,
        b"security" => 50,
        _ => 0,
    }
}
