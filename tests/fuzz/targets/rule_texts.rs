//! Firewall rules in words: those of nf_tables with a set, and a legacy table with its listing. What a
//! table is asked for is found at one place, under one kind, and the listing changes no more than words.
#![no_main]

use conntracker::event::step::StepKind;
use conntracker::firewall::legacy_rules::{LegacyTable, Resolved};
use conntracker::firewall::nft_rule::{
    Set, anonymous_sets, describe, elements_request, set_request,
};
use conntracker::sys::xtables::RawTable;
use conntracker::wire::attr::Attributes;
use conntracker::wire::message::Messages;
use conntracker::wire::xtables::Entries;
use conntracker::wire::xtables::chains::{Hooks, Places};
use conntracker_fuzz::rules::{LEGACY, Legacy, NfTables};
use libfuzzer_sys::fuzz_target;

/// A text within texts may double with each expression; beyond this much, statements are left out,
const LEN_MAX: usize = 64 << 10;
/// which costs no more than this for each byte of the rule.
const LEN_MAX_OF_BYTE: usize = 4;

fn nf_tables(rule: &NfTables<'_>) {
    let mut set = Set::new(Attributes::new(rule.set));
    if let Some(set) = &mut set {
        set.take_elements(Attributes::new(rule.elements));
    }
    let bytes = rule.set.len() + rule.elements.len() + rule.rule.len();
    let attributes = Attributes::new(rule.rule);
    for set in [set.as_ref(), None] {
        let describe = || describe(rule.family, attributes, &|_| set);
        let described = describe();
        let comment = described.text.comment.as_ref().map_or(0, String::len);
        let len = described.text.text.len() + comment;
        let len_max = LEN_MAX + LEN_MAX_OF_BYTE * bytes;
        assert!(len <= len_max, "{len} of {bytes} bytes");
        assert_eq!(described, describe());
    }
    for name in anonymous_sets(attributes) {
        assert!(name.starts_with("__"), "{name}");
        for request in [set_request, elements_request] {
            let request = request(1, rule.family, "t", &name);
            assert_eq!(
                Messages::new(request.bytes()).filter(Result::is_ok).count(),
                1
            );
        }
    }
}

/// What is at a place, whatever the kernel calls it.
fn found(table: &LegacyTable, chain: &[u8], number: u32) -> Option<Resolved> {
    let kinds = [StepKind::Rule, StepKind::Policy, StepKind::Return];
    let mut found = kinds
        .into_iter()
        .filter_map(|kind| table.resolve(chain, kind, number));
    let first = found.next();
    assert_eq!(found.next(), None, "two kinds at one place");
    first
}

fn legacy(given: &Legacy<'_>) {
    const NAME: &str = "filter";
    let count = Entries::new(given.entries, given.ipv6).count();
    let raw = RawTable {
        valid_hooks: given.words[0],
        hook_entry: given.words[1..6].try_into().unwrap(),
        underflow: given.words[6..11].try_into().unwrap(),
        entry_count: u32::try_from(count).unwrap(),
        entries: given.entries.to_vec(),
    };
    assert_eq!(RawTable::from_bytes(&raw.to_bytes()).as_ref(), Some(&raw));
    let Ok(table) = LegacyTable::parse(given.ipv6, NAME, &raw) else {
        return;
    };
    let mut listed = table.clone();
    let taken = listed.take_saved(&String::from_utf8_lossy(given.saved));
    let hooks = Hooks {
        valid: raw.valid_hooks,
        entry: raw.hook_entry,
        underflow: raw.underflow,
    };
    let mut last: &[u8] = b"";
    for place in Places::new(given.entries, given.ipv6, hooks) {
        let place = place.expect("the table was read");
        let (chain, number) = (place.chain.name, place.number);
        let ours = found(&table, chain, number).expect("each entry is found");
        assert_eq!(ours.position, (!place.is_foot).then_some(number));
        let theirs = found(&listed, chain, number).unwrap();
        assert_eq!((ours.kind, ours.position), (theirs.kind, theirs.position));
        assert_eq!(ours.text.verdict, theirs.text.verdict);
        assert!(
            taken || ours == theirs,
            "what was not taken changes nothing"
        );
        if place.is_foot {
            assert_eq!(found(&table, chain, number + 1), None);
        }
        if chain != last {
            let chain = String::from_utf8_lossy(chain);
            table.positions_of_jumps_to(&chain, &chain);
        }
        last = chain;
    }
    assert_eq!(table.content(), listed.content());
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    if kind & LEGACY == 0 {
        NfTables::read(data).iter().for_each(nf_tables);
    } else {
        Legacy::read(*kind, data).iter().for_each(legacy);
    }
});
