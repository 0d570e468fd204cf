//! Legacy rules as the kernel hands out a whole table (struct ipt_entry, struct ip6t_entry and what
//! follows them; include/uapi/linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h,
//! netfilter/x_tables.h; numbers of 64 bits aligned to 8, as everywhere but on 32-bit x86; host byte order).
//!
//! An entry says which addresses, interfaces and protocol it is for (`selector`); matches follow it,
//! and one target. Which chain it belongs to is said by where it stands (`chains`).

pub mod chains;
pub mod selector;

use super::attr::BrokenFraming;

/// Where the fields of an entry are.
struct Layout {
    /// How long struct ipt_ip is, with which the entry begins.
    selector_len: usize,
    target_offset: usize,
    next_offset: usize,
    /// From here to the matches: scratch space of the kernel, and the counters.
    comefrom: usize,
    matches: usize,
}

const IPV4: Layout = Layout {
    selector_len: 84,
    target_offset: 88,
    next_offset: 90,
    comefrom: 92,
    matches: 112,
};
const IPV6: Layout = Layout {
    selector_len: 136,
    target_offset: 140,
    next_offset: 142,
    comefrom: 144,
    matches: 168,
};

impl Layout {
    fn of(ipv6: bool) -> &'static Layout {
        if ipv6 { &IPV6 } else { &IPV4 }
    }
}

/// struct xt_entry_match and xt_entry_target begin alike: size (u16), name (29 bytes), revision.
const NAME_OFFSET: usize = 2;
const NAME_LEN: usize = 29;
const REVISION_OFFSET: usize = 31;
const DATA_OFFSET: usize = 32;

/// The target of an entry that is no rule but the head of a chain, or the end of the table.
const ERROR_TARGET: &[u8] = b"ERROR";

/// A match or a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    /// `tcp`, `REJECT`; empty for the target that only holds a verdict.
    pub name: &'a [u8],
    /// Of the layout of its data.
    pub revision: u8,
    /// Its own structure.
    pub data: &'a [u8],
}

/// Iterates over the matches of an entry; yields `Err` once where the framing breaks, then ends.
#[derive(Clone, Copy, Debug)]
pub struct Extensions<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Extensions<'a> {
    type Item = Result<Extension<'a>, BrokenFraming>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let Some((extension, rest)) = split_extension(self.rest) else {
            self.rest = &[];
            return Some(Err(BrokenFraming));
        };
        self.rest = rest;
        Some(Ok(extension))
    }
}

fn split_extension(bytes: &[u8]) -> Option<(Extension<'_>, &[u8])> {
    let (whole, rest) = bytes.split_at_checked(u16_at(bytes, 0)?)?;
    let extension = Extension {
        name: until_nul(whole.get(NAME_OFFSET..)?.get(..NAME_LEN)?),
        revision: *whole.get(REVISION_OFFSET)?,
        data: whole.get(DATA_OFFSET..)?,
    };
    Some((extension, rest))
}

/// What an entry does with a packet that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A verdict below zero; else the offset of the entry to go to.
    Standard(i32),
    /// Nothing: the entry is the head of the chain of that name, or ends the table.
    Head(&'a [u8]),
    /// A target by name.
    Extension(Extension<'a>),
}

/// One entry.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Where it begins in the table.
    pub offset: u32,
    /// Where the next one begins.
    pub end: u32,
    /// What it does.
    pub target: Target<'a>,
    ipv6: bool,
    header: &'a [u8],
    matches: &'a [u8],
    target_bytes: &'a [u8],
}

impl<'a> Entry<'a> {
    /// The entry that begins at `offset`.
    pub fn at(table: &'a [u8], ipv6: bool, offset: u32) -> Option<Entry<'a>> {
        let layout = Layout::of(ipv6);
        let rest = table.get(usize::try_from(offset).ok()?..)?;
        let target_offset = u16_at(rest, layout.target_offset)?;
        let next_offset = u16_at(rest, layout.next_offset)?;
        let entry = rest.get(..next_offset)?;
        let target_bytes = entry.get(target_offset..)?;
        let (target, _) = split_extension(target_bytes)?;
        Some(Entry {
            offset,
            end: offset.checked_add(u32::try_from(next_offset).ok()?)?,
            target: match target.name {
                b"" => Target::Standard(i32_of(target.data)?),
                ERROR_TARGET => Target::Head(until_nul(target.data)),
                _ => Target::Extension(target),
            },
            ipv6,
            header: entry.get(..layout.matches)?,
            matches: entry.get(layout.matches..target_offset)?,
            target_bytes,
        })
    }

    /// Its matches, in order.
    pub fn matches(&self) -> Extensions<'a> {
        Extensions { rest: self.matches }
    }

    /// Whether it is for every packet, and decides at once: the form that a policy and the end of a
    /// user chain have, and a bare `-j DROP`. The kernel's trace tells them apart by nothing else.
    pub fn is_bare_verdict(&self) -> bool {
        let selector = self.header.get(..Layout::of(self.ipv6).selector_len);
        let for_all = selector.is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0));
        for_all && self.matches.is_empty() && matches!(self.target, Target::Standard(..0))
    }

    /// All of it that does not change while packets pass: no counters.
    pub fn lasting(&self) -> [&'a [u8]; 3] {
        let header = self.header.get(..Layout::of(self.ipv6).comefrom);
        [header.unwrap_or_default(), self.matches, self.target_bytes]
    }
}

/// Iterates over the entries of a table; yields `Err` once where the framing breaks, then ends.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'a> {
    table: &'a [u8],
    ipv6: bool,
    next: Option<u32>,
}

impl<'a> Entries<'a> {
    /// Reads entries from the start of `table`.
    pub fn new(table: &'a [u8], ipv6: bool) -> Self {
        Entries {
            table,
            ipv6,
            next: Some(0),
        }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, BrokenFraming>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.next?;
        if usize::try_from(offset).is_ok_and(|offset| offset == self.table.len()) {
            return None;
        }
        let entry = Entry::at(self.table, self.ipv6, offset);
        self.next = entry.map(|entry| entry.end);
        Some(entry.ok_or(BrokenFraming))
    }
}

/// Whether the rule set of a table has a match or target whose name is `wanted`.
pub fn has_extension(
    table: &[u8],
    ipv6: bool,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<bool, BrokenFraming> {
    for entry in Entries::new(table, ipv6) {
        let entry = entry?;
        for found in entry.matches() {
            if wanted(found?.name) {
                return Ok(true);
            }
        }
        if matches!(entry.target, Target::Extension(target) if wanted(target.name)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<usize> {
    let (value, _) = bytes.get(offset..)?.split_first_chunk()?;
    Some(usize::from(u16::from_ne_bytes(*value)))
}

fn i32_of(bytes: &[u8]) -> Option<i32> {
    let (value, _) = bytes.split_first_chunk()?;
    Some(i32::from_ne_bytes(*value))
}

/// A string in a field of fixed length.
pub fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extension(name: &str) -> Vec<u8> {
        let mut bytes = 40u16.to_ne_bytes().to_vec(); // size, with some data behind the header
        bytes.extend(name.as_bytes());
        bytes.resize(40, 0);
        bytes
    }

    fn entry(ipv6: bool, matches: &[&str], target: &str) -> Vec<u8> {
        let layout = if ipv6 { IPV6 } else { IPV4 };
        let mut bytes = vec![0; layout.matches];
        matches
            .iter()
            .for_each(|name| bytes.extend(extension(name)));
        let target_offset = bytes.len() as u16;
        bytes.extend(extension(target));
        let next_offset = bytes.len() as u16;
        bytes[layout.target_offset..][..2].copy_from_slice(&target_offset.to_ne_bytes());
        bytes[layout.next_offset..][..2].copy_from_slice(&next_offset.to_ne_bytes());
        bytes
    }

    fn finds(table: &[u8], ipv6: bool, wanted: &str) -> Result<bool, BrokenFraming> {
        has_extension(table, ipv6, |name| name == wanted.as_bytes())
    }

    #[test]
    fn matches_and_targets_are_found_in_every_rule() {
        for ipv6 in [false, true] {
            let mut table = entry(ipv6, &[], "");
            table.extend(entry(ipv6, &["tcp", "conntrack"], "LOG"));
            table.extend(entry(ipv6, &[], "MASQUERADE"));
            for (name, found) in [
                ("conntrack", true),
                ("LOG", true),
                ("MASQUERADE", true),
                ("conn", false),
            ] {
                assert_eq!(finds(&table, ipv6, name), Ok(found), "{name}");
            }
        }
    }

    #[test]
    fn what_does_not_hold_together_is_refused() {
        let whole = entry(false, &["tcp"], "LOG");
        let broken = |offset: usize, value: u16| {
            let mut table = whole.clone();
            table[offset..][..2].copy_from_slice(&value.to_ne_bytes());
            finds(&table, false, "none")
        };
        assert_eq!(finds(&whole, false, "none"), Ok(false));
        for (field, values) in [
            (88, [0, 111, 113, 153]), // target_offset: in the header, in the match, behind the target
            (90, [0, 112, 183, 193]), // next_offset: before the target's end, behind the table
            (112, [0, 31, 39, 0xffff]), // size of the match: below its header, not to the target
            (152, [0, 31, 41, 0xffff]), // size of the target
        ] {
            for value in values {
                assert_eq!(broken(field, value), Err(BrokenFraming), "{field}: {value}");
            }
        }
    }

    #[test]
    fn an_extension_has_a_name_a_revision_and_data() {
        let mut table = entry(false, &[&"n".repeat(29)], "LOG");
        table[112 + 31] = 2; // the revision stands right behind a name that fills its field
        table[112 + 32] = 7;
        let entry = Entry::at(&table, false, 0).unwrap();
        let matches: Vec<_> = entry.matches().collect();
        let expected = Extension {
            name: &[b'n'; 29],
            revision: 2,
            data: &[7, 0, 0, 0, 0, 0, 0, 0],
        };
        assert_eq!(matches, [Ok(expected)]);
        assert_eq!((entry.offset, entry.end), (0, 192));
    }

    #[test]
    fn every_truncation_and_change_has_an_answer() {
        let mut table = entry(false, &["tcp"], "ACCEPT");
        table.extend(entry(false, &["udp"], "DROP"));
        for len in 1..table.len() {
            let _ = finds(&table[..len], false, "none");
        }
        for at in 0..table.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = table.clone();
                changed[at] = value;
                let _ = finds(&changed, false, "none");
            }
        }
        assert_eq!(finds(&table[..100], false, "none"), Err(BrokenFraming));
    }
}
