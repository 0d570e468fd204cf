//! Which rule was it? Resolves hits to the rule of that moment, with its text.
//!
//! Theory of operation. An nf_tables hit names table, chain and handle. Handles are not given twice
//! in the life of a table, but a table that is made anew begins with the first handle again; so a
//! hit counts only together with the generation of the ruleset. The kernel tells of
//! changes in the same stream as of hits: rules and chains that come and go, and then the new
//! generation. After that the ruleset is read anew before the next hit is resolved. Where
//! it has changed once more until then, the stream is behind what was read: a hit is resolved
//! only where the generations before and after agree, or only one of them has such a rule.
//!
//! A legacy hit names table, chain and number. Nothing tells of changes, so the caller reads the
//! tables again before hits are resolved, as often as that costs little.
//!
//! This room reads nothing itself: what was read comes in as bytes, so a recording resolves alike.

mod legacy;
mod nft;
mod remembered;

use super::instrument;
use super::legacy_rules::LegacyTable;
use super::nft_rule;
use super::ruleset::{FoundRule, Ruleset};
use crate::event::Station;
use crate::flow::path::{StepId, Ways};
use crate::flow::sweep::InUse;
use crate::wire::attr::{Attributes, be32_of};
use crate::wire::kernel::*;
use crate::wire::nftables::{attribute_of, text_of};
use remembered::{HitKey, Remembered};

/// What a hit was resolved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// It is one of our own rules.
    pub own: bool,
    /// The step; `None` for our own rules, and for the end of a base chain.
    pub step: Option<StepId>,
    /// Where the packet is, where the hit says it.
    pub station: Option<Station>,
    /// Whether the packet goes no further.
    pub denies: bool,
    /// Whether the rule was found.
    pub known: bool,
}

/// A set whose elements a rule's text needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedSet {
    /// NFPROTO_* of its table.
    pub family: u8,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
}

/// A step whose text waits for a set.
#[derive(Debug)]
struct Waiting {
    step: StepId,
    family: u8,
    table: Box<[u8]>,
    chain: Box<[u8]>,
    handle: u64,
}

/// The rules, as far as they are known.
#[derive(Debug, Default)]
pub struct Book {
    current: Ruleset,
    before: Ruleset,
    reading: Option<Ruleset>,
    legacy: Vec<LegacyTable>,
    /// Contents that were replaced, and when that was seen, in nanoseconds since 1970.
    legacy_before: Vec<(u64, LegacyTable)>,
    cache: Remembered,
    /// Rules or chains have changed since the last generation that was heard of.
    changing: bool,
    /// They have changed since the ruleset was read.
    stale: bool,
    /// The generation that the stream has come to.
    heard: Option<u32>,
    /// Somebody removed the table that makes the kernel trace.
    own_table_gone: bool,
    wanted: Vec<WantedSet>,
    waiting: Vec<Waiting>,
}

impl Book {
    /// Whether the nf_tables ruleset must be read before a hit can be resolved.
    #[cfg_attr(small, optimize(speed))]
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Whether somebody removed the table that makes the kernel trace.
    pub fn own_table_gone(&self) -> bool {
        self.own_table_gone
    }

    /// How many rules of nf_tables are known.
    pub fn rule_count(&self) -> usize {
        self.current.rule_count()
    }

    /// Notes a message of the stream that is no trace: what changes, and the new generation.
    pub fn note_change(&mut self, message: u16, attributes: Attributes<'_>) {
        let is_own = text_of(attributes, NFTA_TABLE_NAME) == Some(instrument::TABLE.as_bytes());
        match message {
            NFT_MSG_DELTABLE | NFT_MSG_DESTROYTABLE if is_own => self.own_table_gone = true,
            NFT_MSG_NEWTABLE | NFT_MSG_DELTABLE | NFT_MSG_NEWCHAIN | NFT_MSG_DELCHAIN
            | NFT_MSG_NEWRULE | NFT_MSG_DELRULE | NFT_MSG_DESTROYTABLE | NFT_MSG_DESTROYCHAIN
            | NFT_MSG_DESTROYRULE => self.changing = true,
            NFT_MSG_NEWGEN => {
                if let Some(heard) = attribute_of(attributes, NFTA_GEN_ID).and_then(be32_of) {
                    self.note_generation(heard);
                }
            }
            _ => {}
        }
    }

    fn note_generation(&mut self, heard: u32) {
        let changed = std::mem::take(&mut self.changing);
        if is_after(Some(heard), self.current.generation) {
            if changed {
                self.stale = true;
            } else if self.heard == self.current.generation {
                self.current.generation = Some(heard); // elements of sets, say: the rules are the same
            }
        }
        self.heard = Some(heard);
        if changed {
            self.cache.clear();
        }
    }

    /// Messages were lost, changes perhaps among them.
    pub fn note_loss(&mut self) {
        self.stale = true;
        self.heard = None;
    }

    /// A dump of the ruleset of a generation begins.
    pub fn begin(&mut self, generation: Option<u32>) {
        self.reading = Some(Ruleset::of_generation(generation));
    }

    /// Takes a message of the dump, or of a set that was wanted.
    pub fn take(&mut self, message: u16, family: u8, attributes: &[u8]) {
        let ruleset = self.reading.as_mut().unwrap_or(&mut self.current);
        ruleset.take(message, family, attributes);
    }

    /// The dump came to its end; `whole` says that it is of one generation.
    pub fn finish(&mut self, whole: bool) {
        let Some(mut ruleset) = self.reading.take().filter(|_| whole) else {
            self.stale = true; // also where nothing was read before
            return;
        };
        ruleset.finish();
        self.heard = self.heard.or(ruleset.generation);
        self.before = std::mem::replace(&mut self.current, ruleset);
        self.stale = false;
        self.cache.clear();
        self.waiting.clear();
    }

    /// Remembers what a hit was resolved to, where that is known.
    fn remember(&mut self, key: &HitKey<'_>, resolved: Resolved) {
        let has_room = resolved.step != Some(0); // it may have, later
        if resolved.known && has_room {
            self.cache.insert(key, resolved);
        }
    }

    /// Marks the steps that wait for their text, and those of hits that are remembered.
    pub fn mark(&self, in_use: &mut InUse, remembered: bool) {
        let waiting = self.waiting.iter().map(|waiting| waiting.step);
        waiting.for_each(|step| in_use.step(step));
        if remembered {
            let steps = self.cache.iter().filter_map(|(_, resolved)| resolved.step);
            steps.for_each(|step| in_use.step(step));
        }
    }

    /// Forgets the hits whose step is not known any more.
    pub fn forget_hits(&mut self, ways: &Ways) {
        self.cache.retain(|step| ways.step(step).is_some());
    }

    /// The sets that texts wait for; they are forgotten here.
    pub fn wanted_sets(&mut self) -> Vec<WantedSet> {
        std::mem::take(&mut self.wanted)
    }

    /// Gives the steps that waited for sets their text.
    pub fn sets_are_read(&mut self, ways: &mut Ways) {
        for waiting in std::mem::take(&mut self.waiting) {
            let (table, chain) = (&waiting.table, &waiting.chain);
            let ruleset = &self.current;
            if let Some(rule) = ruleset.rule(waiting.family, table, chain, waiting.handle) {
                let text = describe(ruleset, waiting.family, table, rule).text.text;
                ways.set_rule(waiting.step, &text);
            }
        }
    }
}

const BUILT_IN: [&[u8]; 5] = [
    b"PREROUTING",
    b"INPUT",
    b"FORWARD",
    b"OUTPUT",
    b"POSTROUTING",
];

/// Whether a generation came after another; they are counted round.
fn is_after(generation: Option<u32>, other: Option<u32>) -> bool {
    match (generation, other) {
        (Some(generation), Some(other)) => {
            let ahead = generation.wrapping_sub(other);
            ahead != 0 && ahead < 1 << 31
        }
        _ => false,
    }
}

fn describe(
    ruleset: &Ruleset,
    family: u8,
    table: &[u8],
    rule: FoundRule<'_>,
) -> nft_rule::Described {
    nft_rule::describe(family, rule.attributes, &|name| {
        ruleset.set(family, table, name.as_bytes())
    })
}

fn lossy(name: &[u8]) -> Box<str> {
    String::from_utf8_lossy(name).into()
}

#[cfg(test)]
mod tests;
