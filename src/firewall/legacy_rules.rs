//! What a rule of a legacy table says, found by what the kernel's trace says of it:
//! `TRACE: table:chain:kind:number`.
//!
//! The trace names a place in the rules that the kernel has, so those are read, as the kernel hands
//! them out. What they hold of matches and targets only the iptables program can put into words
//! in full; its listing is taken where it fits, and else the rule is put into words here as far as it
//! goes.

mod listing;
mod text;
mod verdict;

use crate::event::step::{RuleText, StepKind, Verdict};
use crate::hashing::HashMap;
use crate::sys::xtables::RawTable;
use crate::wire::attr::BrokenFraming;
use crate::wire::xtables::chains::{Hooks, Places};
use crate::wire::xtables::{Entries, Entry, Target, until_nul};
use listing::Listing;

/// A table as it was at one time.
#[derive(Clone, Debug)]
pub struct LegacyTable {
    ipv6: bool,
    name: Box<str>,
    entries: Vec<u8>,
    content: u64,
    chains: HashMap<Box<[u8]>, Chain>,
    /// Chains by the offset of their first entry, which is how jumps name them.
    heads: HashMap<u32, Box<[u8]>>,
}

#[derive(Clone, Debug)]
struct Chain {
    built_in: bool,
    /// Where its rules are in the entries.
    rules: Vec<u32>,
    /// Where its policy or end is.
    foot: u32,
    /// Its rules as iptables lists them; empty where that was not taken.
    saved: Vec<Box<str>>,
}

/// What a line of the trace means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// What it really is: the kernel calls some rules a policy or a return.
    pub kind: StepKind,
    /// The rule's number in its chain, from 1; none for a policy or the end of a user chain.
    pub position: Option<u32>,
    /// What the rule says. The end of a user chain is not a rule and has no text.
    pub text: RuleText,
}

impl LegacyTable {
    /// Reads a table. One that no iptables program would make (a chain twice, or without its foot)
    /// is refused, since numbers in it could mean another rule than the kernel does.
    pub fn parse(ipv6: bool, name: &str, raw: &RawTable) -> Result<LegacyTable, BrokenFraming> {
        let hooks = Hooks {
            valid: raw.valid_hooks,
            entry: raw.hook_entry,
            underflow: raw.underflow,
        };
        let mut table = LegacyTable {
            ipv6,
            name: name.into(),
            entries: raw.entries.clone(),
            content: content(ipv6, name, raw),
            chains: HashMap::default(),
            heads: HashMap::default(),
        };
        let entry_count = Entries::new(&raw.entries, ipv6).count();
        if usize::try_from(raw.entry_count) != Ok(entry_count) {
            return Err(BrokenFraming);
        }
        let mut rules = Vec::new();
        for place in Places::new(&raw.entries, ipv6, hooks) {
            let place = place?;
            place.entry.selector().ok_or(BrokenFraming)?;
            place
                .entry
                .matches()
                .try_for_each(|found| found.map(drop))?;
            if place.number == 1 {
                let name = Box::from(place.chain.name);
                table.heads.insert(place.entry.offset, name);
            }
            if !place.is_foot {
                rules.push(place.entry.offset);
                continue;
            }
            let chain = Chain {
                built_in: place.chain.policy.is_some(),
                rules: std::mem::take(&mut rules),
                foot: place.entry.offset,
                saved: Vec::new(),
            };
            let name = Box::from(place.chain.name);
            if table.chains.insert(name, chain).is_some() {
                return Err(BrokenFraming);
            }
        }
        Ok(table)
    }

    /// The `content` that `parse` would find, without taking the table apart.
    pub fn content_of(ipv6: bool, name: &str, raw: &RawTable) -> u64 {
        content(ipv6, name, raw)
    }

    /// Whether it is the table of that family and name.
    pub fn is(&self, ipv6: bool, name: &[u8]) -> bool {
        self.ipv6 == ipv6 && self.name.as_bytes() == name
    }

    /// Equal for equal content; the counters are not part of it.
    pub fn content(&self) -> u64 {
        self.content
    }

    /// Takes the text of the rules from what `iptables-legacy-save -t TABLE` printed, with or without
    /// counters. False, and nothing is taken, when that has other chains or policies or another number
    /// of rules. To be sure that it is of this content, see that `content` is still the same after it
    /// was printed.
    pub fn take_saved(&mut self, saved: &str) -> bool {
        let Some(mut listing) = Listing::read(&self.name, saved) else {
            return false;
        };
        if listing.chains.len() != self.chains.len() {
            return false;
        }
        let mut taken = Vec::new();
        for (name, chain) in &self.chains {
            let name = String::from_utf8_lossy(name);
            let Some(listed) = listing.chains.remove(name.as_ref()) else {
                return false;
            };
            let policy = chain.built_in.then(|| self.policy(chain)).flatten();
            let policy = policy.as_ref().map_or("-", verdict::target_name);
            if listed.policy != policy || listed.rules.len() != chain.rules.len() {
                return false;
            }
            taken.push(listed.rules.into_iter().map(Box::from).collect());
        }
        for (chain, rules) in self.chains.values_mut().zip(taken) {
            chain.saved = rules;
        }
        true
    }

    /// What a line of the trace means; `None` when this content has nothing there, or nothing that the
    /// kernel would call so: then the line is of another content.
    pub fn resolve(&self, chain: &[u8], kind: StepKind, number: u32) -> Option<Resolved> {
        self.resolve_as(chain, kind, number, true)
    }

    /// Whether a line means the same in another content of this table.
    pub fn means_the_same(&self, other: &Self, chain: &[u8], kind: StepKind, number: u32) -> bool {
        let meaning = |table: &Self| table.resolve_as(chain, kind, number, false);
        meaning(self) == meaning(other)
    }

    /// `saved`: with the text as it was saved; else with ours, which is had from the content alone.
    fn resolve_as(
        &self,
        chain: &[u8],
        kind: StepKind,
        number: u32,
        saved: bool,
    ) -> Option<Resolved> {
        let name = chain;
        let chain = self.chains.get(name)?;
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        let foot = if chain.built_in {
            StepKind::Policy
        } else {
            StepKind::Return
        };
        let Some(offset) = chain.rules.get(index) else {
            let is_foot = index == chain.rules.len() && kind == foot;
            return is_foot.then(|| self.foot(name, chain, foot));
        };
        let entry = Entry::at(&self.entries, self.ipv6, *offset)?;
        let traced_as = if entry.is_bare_verdict() {
            foot
        } else {
            StepKind::Rule
        };
        (kind == traced_as).then(|| Resolved {
            kind: StepKind::Rule,
            position: Some(number),
            text: {
                let text = chain.saved.get(index).filter(|_| saved);
                self.rule(name, &entry, text.map(AsRef::as_ref))
            },
        })
    }

    /// The numbers of the rules of a chain that jump or go to another.
    pub fn positions_of_jumps_to(&self, chain: &str, target_chain: &str) -> Vec<u32> {
        let rules = self.chains.get(chain.as_bytes());
        let rules = rules.map_or(&[][..], |chain| &chain.rules);
        let jumps = |offset: &u32| {
            let entry = Entry::at(&self.entries, self.ipv6, *offset)?;
            self.destination(&entry)
                .filter(|name| *name == target_chain.as_bytes())
        };
        (1..)
            .zip(rules)
            .filter_map(|(number, offset)| jumps(offset).map(|_| number))
            .collect()
    }

    /// The chain that an entry jumps to.
    fn destination(&self, entry: &Entry<'_>) -> Option<&[u8]> {
        match entry.target {
            Target::Standard(offset @ 0..) => {
                let head = u32::try_from(offset).ok()?;
                self.heads.get(&head).map(AsRef::as_ref)
            }
            _ => None,
        }
    }

    fn policy(&self, chain: &Chain) -> Option<Verdict> {
        let entry = Entry::at(&self.entries, self.ipv6, chain.foot)?;
        verdict::of(&entry, None, self.ipv6)
    }

    fn foot(&self, name: &[u8], chain: &Chain, kind: StepKind) -> Resolved {
        let verdict = self.policy(chain);
        let text = match &verdict {
            Some(policy) if chain.built_in => {
                let name = String::from_utf8_lossy(name);
                format!("-P {name} {}", verdict::target_name(policy))
            }
            _ => String::new(),
        };
        Resolved {
            kind,
            position: None,
            text: RuleText {
                text,
                comment: None,
                verdict,
            },
        }
    }

    fn rule(&self, chain: &[u8], entry: &Entry<'_>, saved: Option<&str>) -> RuleText {
        let destination = self.destination(entry);
        let text = saved.map_or_else(
            || text::rule(chain, entry, destination, self.ipv6),
            str::to_owned,
        );
        let mut matches = entry.matches().flatten();
        let comment = matches.find(|found| found.name == b"comment");
        RuleText {
            text,
            comment: comment
                .map(|found| String::from_utf8_lossy(until_nul(found.data)).into_owned()),
            verdict: verdict::of(entry, destination, self.ipv6),
        }
    }
}

/// Each piece with its length before it, a word at a time: tables are looked at all the time.
fn content(ipv6: bool, name: &str, raw: &RawTable) -> u64 {
    let mut hash = 0x243f_6a88_85a3_08d3; // digits of pi
    let mut add_word = |word: u64| {
        let product = u128::from(hash ^ word) * 0x9e37_79b9_7f4a_7c15;
        hash = (product as u64).rotate_left(1) ^ ((product >> 64) as u64);
    };
    let mut add = |piece: &[u8]| {
        add_word(piece.len() as u64);
        let mut rest = piece;
        while let Some((word, behind)) = rest.split_first_chunk::<8>() {
            add_word(u64::from_ne_bytes(*word));
            rest = behind;
        }
        let tail = rest
            .iter()
            .fold(0, |tail, byte| tail << 8 | u64::from(*byte));
        add_word(tail);
    };
    add(&[u8::from(ipv6)]);
    add(name.as_bytes());
    add(&raw.valid_hooks.to_ne_bytes());
    let places = raw.hook_entry.iter().chain(&raw.underflow);
    places.for_each(|place| add(&place.to_ne_bytes()));
    for entry in Entries::new(&raw.entries, ipv6).flatten() {
        entry.lasting().into_iter().for_each(&mut add);
    }
    hash
}
