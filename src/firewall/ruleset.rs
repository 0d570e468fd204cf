//! One generation of the nf_tables ruleset, as dumps tell of it: chains with their hooks, rules as
//! they came, by chain and handle. Of sets only what a rule's text needs is ever asked for.

use super::nft;
use super::nft_rule::Set;
use crate::hashing::HashMap;
use crate::limits::RULES_LEN_MAX;
use crate::wire::attr::{Attributes, be32_of, be64_of};
use crate::wire::kernel::*;
use crate::wire::nftables::{attribute_of, text_of};
use std::ops::Range;

/// A generation of the ruleset.
#[derive(Debug, Default)]
pub struct Ruleset {
    /// NFTA_GEN_ID, where it is known.
    pub generation: Option<u32>,
    chains: HashMap<Box<[u8]>, Chain>,
    sets: HashMap<Box<[u8]>, Set>,
    bytes: Vec<u8>,
    rule_count: usize,
    /// Bytes of all messages that were taken.
    taken: usize,
}

/// A chain and its rules.
#[derive(Debug, Default)]
struct Chain {
    hook: Option<(u8, i32)>,
    rules: Vec<(u64, Range<usize>)>,
}

/// A rule of the ruleset.
#[derive(Clone, Copy, Debug)]
pub struct FoundRule<'a> {
    /// Its number in its chain, from 1.
    pub position: u32,
    /// The attributes of its NFT_MSG_NEWRULE message.
    pub attributes: Attributes<'a>,
}

impl Ruleset {
    /// An empty one, of this generation.
    pub fn of_generation(generation: Option<u32>) -> Ruleset {
        Ruleset {
            generation,
            ..Ruleset::default()
        }
    }

    /// Takes one message of a dump: its number (NFT_MSG_*), its family, and its attributes. What is
    /// beyond RULES_LEN_MAX is not kept, and so not found.
    pub fn take(&mut self, message: u16, family: u8, attributes: &[u8]) {
        let taken = self.taken.saturating_add(attributes.len());
        if taken > RULES_LEN_MAX {
            return;
        }
        self.taken = taken;
        let cursor = Attributes::new(attributes);
        match message {
            NFT_MSG_NEWCHAIN => {
                let (table, name) = (NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME);
                if let Some(key) = key_of(family, cursor, table, name) {
                    self.chains.entry(key).or_default().hook = hook_of(cursor);
                }
            }
            NFT_MSG_NEWRULE => {
                let (table, name) = (NFTA_RULE_TABLE, NFTA_RULE_CHAIN);
                let handle = attribute_of(cursor, NFTA_RULE_HANDLE).and_then(be64_of);
                if let (Some(key), Some(handle)) = (key_of(family, cursor, table, name), handle) {
                    let start = self.bytes.len();
                    self.bytes.extend_from_slice(attributes);
                    let rules = &mut self.chains.entry(key).or_default().rules;
                    rules.push((handle, start..self.bytes.len()));
                    let own = text_of(cursor, NFTA_RULE_TABLE) == Some(nft::TABLE.as_bytes());
                    self.rule_count += usize::from(!own);
                }
            }
            NFT_MSG_NEWSET => {
                if let (Some(key), Some(set)) = (set_key(family, cursor), Set::new(cursor)) {
                    self.sets.insert(key, set);
                }
            }
            NFT_MSG_NEWSETELEM => {
                if let Some(set) = set_key(family, cursor).and_then(|key| self.sets.get_mut(&key)) {
                    set.take_elements(cursor);
                }
            }
            _ => {}
        }
    }

    /// Gives back what growing took too much of.
    pub fn finish(&mut self) {
        self.bytes.shrink_to_fit();
        for chain in self.chains.values_mut() {
            chain.rules.shrink_to_fit();
        }
    }

    /// How many rules it has, without the one that switches conntrack on for us.
    pub fn rule_count(&self) -> usize {
        self.rule_count
    }

    /// Whether the chain is known; the hook (NF_INET_*) and priority of a base chain.
    pub fn chain(&self, family: u8, table: &[u8], chain: &[u8]) -> Option<Option<(u8, i32)>> {
        let chain = self.chains.get(&*key(family, table, chain))?;
        Some(chain.hook)
    }

    /// A rule by its handle.
    pub fn rule(
        &self,
        family: u8,
        table: &[u8],
        chain: &[u8],
        handle: u64,
    ) -> Option<FoundRule<'_>> {
        let chain = self.chains.get(&*key(family, table, chain))?;
        let at = chain.rules.iter().position(|(other, _)| *other == handle)?;
        let (_, range) = chain.rules.get(at)?;
        Some(FoundRule {
            position: u32::try_from(at).ok()?.checked_add(1)?,
            attributes: Attributes::new(self.bytes.get(range.clone())?),
        })
    }

    /// A set by its name.
    pub fn set(&self, family: u8, table: &[u8], name: &[u8]) -> Option<&Set> {
        self.sets.get(&*key(family, table, name))
    }
}

fn hook_of(chain: Attributes<'_>) -> Option<(u8, i32)> {
    let hook = Attributes::new(attribute_of(chain, NFTA_CHAIN_HOOK)?);
    let number = attribute_of(hook, NFTA_HOOK_HOOKNUM).and_then(be32_of)?;
    let priority = <[u8; 4]>::try_from(attribute_of(hook, NFTA_HOOK_PRIORITY)?).ok()?;
    Some((u8::try_from(number).ok()?, i32::from_be_bytes(priority)))
}

fn set_key(family: u8, attributes: Attributes<'_>) -> Option<Box<[u8]>> {
    const NFTA_SET_NAME: u16 = 2; // NFTA_SET_ELEM_LIST_SET is the same number
    key_of(family, attributes, NFTA_TABLE_NAME, NFTA_SET_NAME)
}

fn key_of(family: u8, attributes: Attributes<'_>, table: u16, name: u16) -> Option<Box<[u8]>> {
    Some(key(
        family,
        text_of(attributes, table)?,
        text_of(attributes, name)?,
    ))
}

fn key(family: u8, table: &[u8], name: &[u8]) -> Box<[u8]> {
    [&[family], table, &[0], name].concat().into_boxed_slice()
}
