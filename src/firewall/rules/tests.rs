//! Which generation a hit is resolved in.

use super::*;
use crate::event::step::StepKind;
use crate::firewall::nft as activation;
use crate::wire::nftrace::{Trace, TraceKind};
use crate::wire::request::Request;

const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;

/// The attributes of what `fill` puts into a message.
fn attributes(fill: impl FnOnce(&mut Request)) -> Vec<u8> {
    let mut request = Request::new(0, 0, 0, NFPROTO_INET);
    fill(&mut request);
    request.bytes()[20..].to_vec()
}

/// A rule of chain `in` of table `fw` with this handle and comment, which drops.
fn rule(handle: u64, comment: &str) -> Vec<u8> {
    let data = [&[0, comment.len() as u8 + 1], comment.as_bytes(), &[0]].concat();
    attributes(|put| {
        put.put_str(NFTA_RULE_TABLE, "fw");
        put.put_str(NFTA_RULE_CHAIN, "in");
        put.put(NFTA_RULE_HANDLE, &handle.to_be_bytes());
        put.nest(NFTA_RULE_EXPRESSIONS, |list| {
            list.nest(NFTA_LIST_ELEM, |element| {
                element.put_str(NFTA_EXPR_NAME, "immediate");
                element.nest(NFTA_EXPR_DATA, |immediate| {
                    immediate.put_be32(NFTA_IMMEDIATE_DREG, 0);
                    immediate.nest(NFTA_IMMEDIATE_DATA, |data| {
                        data.nest(2, |verdict| verdict.put_be32(NFTA_VERDICT_CODE, 0));
                    });
                });
            });
        });
        put.put(7, &data); // NFTA_RULE_USERDATA
    })
}

/// The ruleset is read: its generation, and rules by handle and comment.
fn read(book: &mut Book, generation: u32, rules: &[(u64, &str)]) {
    let chain = attributes(|put| {
        put.put_str(NFTA_CHAIN_TABLE, "fw");
        put.put_str(NFTA_CHAIN_NAME, "in");
        put.nest(NFTA_CHAIN_HOOK, |hook| {
            hook.put_be32(NFTA_HOOK_HOOKNUM, 1);
            hook.put_be32(NFTA_HOOK_PRIORITY, 0);
        });
    });
    book.begin(Some(generation));
    book.take(NFT_MSG_NEWCHAIN, NFPROTO_INET, &chain);
    for (handle, comment) in rules {
        book.take(NFT_MSG_NEWRULE, NFPROTO_INET, &rule(*handle, comment));
    }
    book.finish(true);
}

#[test]
fn what_could_not_be_read_at_the_start_is_read_later() {
    let mut book = Book::default();
    book.begin(Some(1));
    book.finish(false);
    assert!(book.is_stale());
    read(&mut book, 2, &[(1, "a")]);
    assert!(!book.is_stale());
}

/// The stream tells that rules changed (or not), and the new generation.
fn hear(book: &mut Book, generation: u32, changed: bool) {
    if changed {
        let deleted = rule(1, "");
        book.note_change(NFT_MSG_DELRULE, Attributes::new(&deleted));
    }
    let id = attributes(|put| put.put_be32(NFTA_GEN_ID, generation));
    book.note_change(NFT_MSG_NEWGEN, Attributes::new(&id));
}

/// The comment of the rule that a hit of this handle is resolved to.
fn hit(book: &mut Book, ways: &mut Ways, handle: u64) -> Option<String> {
    let trace = Trace {
        family: NFPROTO_INET,
        id: 1,
        table: b"fw",
        chain: b"in",
        kind: TraceKind::Rule,
        handle: Some(handle),
        verdict: Some(NF_DROP),
        target: None,
        enters: true,
        head: None,
        ct_id: None,
        ct_reply: None,
        outgoing: false,
    };
    let resolved = book.resolve_nft(&trace, ways);
    assert!(resolved.denies && resolved.station.is_some());
    let step = ways.step(resolved.step.unwrap()).unwrap();
    assert_eq!((step.kind, step.handle), (StepKind::Rule, Some(handle)));
    resolved.known.then(|| step.comment.to_string())
}

#[test]
fn the_same_handle_is_another_rule_in_another_generation() {
    let (mut book, mut ways) = (Book::default(), Ways::default());
    read(&mut book, 7, &[(4, "old")]);
    assert_eq!(hit(&mut book, &mut ways, 4).as_deref(), Some("old"));
    assert!(!book.is_stale());
    hear(&mut book, 8, true);
    assert!(book.is_stale());
    assert_eq!(hit(&mut book, &mut ways, 4), None, "it was not read yet");
    read(&mut book, 8, &[(4, "new")]);
    assert_eq!(hit(&mut book, &mut ways, 4).as_deref(), Some("new"));
}

#[test]
fn what_is_no_rule_may_change_without_reading() {
    let (mut book, mut ways) = (Book::default(), Ways::default());
    read(&mut book, 7, &[(4, "same")]);
    for generation in 8..12 {
        hear(&mut book, generation, false);
        assert!(!book.is_stale());
        assert_eq!(hit(&mut book, &mut ways, 4).as_deref(), Some("same"));
    }
    hear(&mut book, 12, true);
    assert!(book.is_stale());
}

#[test]
fn a_stream_that_is_behind_gets_the_generation_before_or_none() {
    let (mut book, mut ways) = (Book::default(), Ways::default());
    read(&mut book, 7, &[(4, "first"), (5, "kept"), (6, "gone")]);
    // Two changes, and the ruleset is read after both; the stream comes to the first of them.
    read(&mut book, 9, &[(4, "third"), (5, "kept"), (9, "made")]);
    assert_eq!(
        hit(&mut book, &mut ways, 4).as_deref(),
        Some("first"),
        "the stream is at 7"
    );
    hear(&mut book, 8, true);
    assert!(!book.is_stale(), "what was read is newer");
    assert_eq!(
        hit(&mut book, &mut ways, 4),
        None,
        "first, second or third?"
    );
    assert_eq!(hit(&mut book, &mut ways, 5).as_deref(), Some("kept"));
    assert_eq!(hit(&mut book, &mut ways, 6).as_deref(), Some("gone"));
    assert_eq!(hit(&mut book, &mut ways, 9).as_deref(), Some("made"));
    hear(&mut book, 9, true);
    assert_eq!(hit(&mut book, &mut ways, 4).as_deref(), Some("third"));
}

#[test]
fn after_a_loss_it_is_read_again_and_a_torn_reading_does_not_count() {
    let (mut book, mut ways) = (Book::default(), Ways::default());
    read(&mut book, 7, &[(4, "old")]);
    book.note_loss();
    assert!(book.is_stale());
    book.begin(Some(8));
    book.finish(false);
    assert!(book.is_stale());
    read(&mut book, 8, &[(4, "new")]);
    assert!(!book.is_stale());
    assert_eq!(hit(&mut book, &mut ways, 4).as_deref(), Some("new"));
}

#[test]
fn the_rule_that_switches_conntrack_on_for_us_does_not_count() {
    let mut book = Book::default();
    read(&mut book, 1, &[(2, "somebody's")]);
    let own = attributes(|put| {
        put.put_str(NFTA_RULE_TABLE, activation::TABLE);
        put.put_str(NFTA_RULE_CHAIN, "on");
        put.put(NFTA_RULE_HANDLE, &3u64.to_be_bytes());
    });
    assert_eq!(book.rule_count(), 1);
    book.begin(Some(2));
    book.take(NFT_MSG_NEWRULE, NFPROTO_INET, &own);
    book.finish(true);
    assert_eq!(book.rule_count(), 0);
}
