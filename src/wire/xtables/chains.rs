//! Which chain an entry is in, and its number there. Built-in chains begin where the table says,
//! user chains behind an entry that holds their name. The last entry of each is its foot: the policy,
//! or the way back to the caller.

use super::{Entries, Entry, Target};
use crate::wire::attr::BrokenFraming;

const HOOK_NAMES: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
const HOOK_BITS: [u32; 5] = [0x01, 0x02, 0x04, 0x08, 0x10];

/// Where the built-in chains are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Which there are, one bit each.
    pub valid: u32,
    /// Where they begin.
    pub entry: [u32; 5],
    /// Where their policies stand.
    pub underflow: [u32; 5],
}

impl Hooks {
    /// The chain that begins at an offset: its name and where its policy stands.
    fn at(&self, offset: u32) -> Option<(&'static str, u32)> {
        let names = HOOK_NAMES.into_iter().zip(HOOK_BITS);
        let places = self.entry.into_iter().zip(self.underflow);
        names
            .zip(places)
            .find(|((_, bit), (entry, _))| self.valid & bit != 0 && *entry == offset)
            .map(|((name, _), (_, underflow))| (name, underflow))
    }
}

/// A chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Where its policy stands, for a built-in one.
    pub policy: Option<u32>,
}

/// An entry in its place.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The chain that it is in.
    pub chain: Chain<'a>,
    /// Its number there, from 1; the foot has one too, as in the kernel's trace.
    pub number: u32,
    /// It is no rule but the foot of its chain.
    pub is_foot: bool,
    /// The entry.
    pub entry: Entry<'a>,
}

/// Iterates over the rules and feet of all chains; yields `Err` once where the table makes no sense,
/// then ends.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    entries: Entries<'a>,
    hooks: Hooks,
    chain: Option<Chain<'a>>,
    number: u32,
    ended: bool,
}

impl<'a> Places<'a> {
    /// Reads the chains of `table` from its start.
    pub fn new(table: &'a [u8], ipv6: bool, hooks: Hooks) -> Self {
        Places {
            entries: Entries::new(table, ipv6),
            hooks,
            chain: None,
            number: 0,
            ended: false,
        }
    }

    fn step(&mut self) -> Result<Option<Place<'a>>, BrokenFraming> {
        let mut entry = self.entries.next().ok_or(BrokenFraming)??;
        if let Target::Head(name) = entry.target {
            let Some(first) = self.entries.next() else {
                // Every chain has its foot before the next head, so none is open here.
                return Ok(None);
            };
            entry = first?;
            if matches!(entry.target, Target::Head(_)) {
                return Err(BrokenFraming); // a chain without even a foot
            }
            self.enter(Chain { name, policy: None });
        } else if let Some((name, policy)) = self.hooks.at(entry.offset) {
            let name = name.as_bytes();
            self.enter(Chain {
                name,
                policy: Some(policy),
            });
        }
        let chain = self.chain.ok_or(BrokenFraming)?;
        self.number = self.number.checked_add(1).ok_or(BrokenFraming)?;
        let is_foot = self.is_last_of_chain()?;
        if is_foot {
            self.chain = None;
            let in_place = chain.policy.is_none_or(|policy| policy == entry.offset);
            if !(in_place && entry.is_bare_verdict()) {
                return Err(BrokenFraming);
            }
        }
        Ok(Some(Place {
            chain,
            number: self.number,
            is_foot,
            entry,
        }))
    }

    fn enter(&mut self, chain: Chain<'a>) {
        self.chain = Some(chain);
        self.number = 0;
    }

    fn is_last_of_chain(&self) -> Result<bool, BrokenFraming> {
        let mut ahead = self.entries;
        let next = ahead.next().ok_or(BrokenFraming)??; // an entry without a chain ends every table
        Ok(matches!(next.target, Target::Head(_)) || self.hooks.at(next.offset).is_some())
    }
}

impl<'a> Iterator for Places<'a> {
    type Item = Result<Place<'a>, BrokenFraming>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.step().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 entry for every packet, without matches.
    fn entry(target_name: &str, target_data: &[u8]) -> Vec<u8> {
        let mut target = vec![0; 2]; //                         its size, below
        target.extend(target_name.as_bytes());
        target.resize(31, 0); //                                name
        target.push(0); //                                      revision
        target.extend(target_data);
        let target_len = target.len().next_multiple_of(8);
        target.resize(target_len, 0);
        target[..2].copy_from_slice(&(target_len as u16).to_ne_bytes());
        let mut bytes = vec![0; 84]; //                         struct ipt_ip
        bytes.extend([0; 4]); //                                nfcache
        bytes.extend(112u16.to_ne_bytes()); //                  target_offset
        bytes.extend((112 + target_len as u16).to_ne_bytes()); // next_offset
        bytes.extend([0; 4]); //                                comefrom
        bytes.extend([0; 16]); //                               counters
        bytes.extend(target);
        bytes
    }

    const VERDICT_LEN: u32 = 152;
    const HEAD_LEN: i32 = 176;

    fn verdict(verdict: i32) -> Vec<u8> {
        entry("", &verdict.to_ne_bytes())
    }

    fn head(name: &str) -> Vec<u8> {
        let mut data = name.as_bytes().to_vec();
        data.resize(30, 0);
        entry("ERROR", &data)
    }

    fn hooks(valid: u32, entry: [u32; 5], underflow: [u32; 5]) -> Hooks {
        Hooks {
            valid,
            entry,
            underflow,
        }
    }

    type Seen = Result<(String, u32, bool), BrokenFraming>;

    fn walk(entries: &[Vec<u8>], hooks: Hooks) -> Vec<Seen> {
        let seen = |place: Place<'_>| {
            let name = String::from_utf8_lossy(place.chain.name).into_owned();
            (name, place.number, place.is_foot)
        };
        Places::new(&entries.concat(), false, hooks)
            .map(|place| place.map(seen))
            .collect()
    }

    fn place(name: &str, number: u32, is_foot: bool) -> Seen {
        Ok((name.to_owned(), number, is_foot))
    }

    #[test]
    fn each_chain_is_numbered_from_one_to_its_foot() {
        let table = [
            verdict(-1),   // INPUT: -j DROP
            verdict(-2),   // its policy
            verdict(-2),   // OUTPUT: only its policy
            head("user"),  //
            verdict(-5),   // -j RETURN, which is not the end yet
            verdict(-5),   // the end
            head("empty"), //
            verdict(-5),   // the end
            head("ERROR"), // the end of the table
        ];
        let at = |index: u32| index * VERDICT_LEN;
        let hooks = hooks(
            0x0a, //                        INPUT and OUTPUT; what the others say does not count
            [0, 0, at(1), at(2), 0],
            [0, at(1), at(1), at(2), 0],
        );
        assert_eq!(
            walk(&table, hooks),
            [
                place("INPUT", 1, false),
                place("INPUT", 2, true),
                place("OUTPUT", 1, true),
                place("user", 1, false),
                place("user", 2, true),
                place("empty", 1, true),
            ]
        );
    }

    #[test]
    fn a_user_chain_may_be_named_like_the_end_of_the_table() {
        let table = [head("ERROR"), verdict(-5), head("ERROR")];
        assert_eq!(
            walk(&table, hooks(0, [0; 5], [0; 5])),
            [place("ERROR", 1, true)]
        );
    }

    #[test]
    fn chains_that_make_no_sense_end_it() {
        let none = hooks(0, [0; 5], [0; 5]);
        let no_chain = [verdict(-1), head("ERROR")];
        assert_eq!(walk(&no_chain, none), [Err(BrokenFraming)]);
        let no_end = [head("user"), verdict(-5)];
        assert_eq!(walk(&no_end, none), [Err(BrokenFraming)]);
        let no_foot = [head("user"), head("other"), verdict(-5), head("ERROR")];
        assert_eq!(walk(&no_foot, none), [Err(BrokenFraming)]);
        let jump_for_foot = [head("user"), verdict(HEAD_LEN), head("ERROR")];
        assert_eq!(walk(&jump_for_foot, none), [Err(BrokenFraming)]);
        let after_the_foot = [verdict(-2), verdict(-2), verdict(-2), head("ERROR")];
        let elsewhere = hooks(0x02, [0; 5], [0, VERDICT_LEN, 0, 0, 0]);
        assert_eq!(
            walk(&after_the_foot, elsewhere),
            [
                place("INPUT", 1, false),
                place("INPUT", 2, false),
                Err(BrokenFraming)
            ]
        );
        assert_eq!(walk(&[], none), [Err(BrokenFraming)]);
    }
}
