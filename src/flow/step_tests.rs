//! Dumps and events out of step, one case each: what may be ahead of what, and what must not be
//! brought back, replaced or taken for another flow.

use super::entry::Life;
use super::model_tests::check;
use super::table::Table;
use crate::counters::Counters;
use crate::event::{DumpPass, Event, Kind};
use crate::wire::conntrack::{Entry, Tuple};

fn entry(id: u32) -> Entry {
    let original = Tuple {
        proto: 17,
        src: [1; 16],
        dst: [2; 16],
        sport: 5,
        dport: 53,
        ..Tuple::default()
    };
    Entry {
        original,
        reply: original.inverse(),
        id: Some(id),
        ..Entry::default()
    }
}

fn apply(table: &mut Table, counters: &mut Counters, kind: Kind, at_ns: u64, id: u32) {
    table.apply(
        &Event {
            kind,
            netns: None,
            at_ns,
            is_kernel_time: false,
            entry: entry(id),
        },
        counters,
        &mut (),
    );
}

fn lives(table: &Table) -> Vec<(Option<u32>, Life)> {
    table
        .iter()
        .map(|(_, flow)| (flow.id(), flow.life()))
        .collect()
}

#[test]
fn a_dump_that_is_behind_does_not_bring_back_what_ended() {
    let (mut table, mut counters) = (Table::new(10, [0, 0]), Counters::default());
    apply(&mut table, &mut counters, Kind::New, 10, 1);
    table.begin_dump();
    apply(&mut table, &mut counters, Kind::Destroy, 21, 1);
    apply(
        &mut table,
        &mut counters,
        Kind::Dumped(DumpPass::Resync),
        22,
        1,
    );
    table.finish_dump(&mut counters, &mut ());
    assert_eq!(lives(&table), [(Some(1), Life::Ended)]);
}

#[test]
fn a_dump_that_is_behind_does_not_replace_what_began() {
    let (mut table, mut counters) = (Table::new(10, [0, 0]), Counters::default());
    apply(&mut table, &mut counters, Kind::New, 10, 1);
    table.begin_dump();
    apply(&mut table, &mut counters, Kind::Destroy, 21, 1);
    apply(&mut table, &mut counters, Kind::New, 22, 2);
    apply(
        &mut table,
        &mut counters,
        Kind::Dumped(DumpPass::Resync),
        23,
        1,
    );
    table.finish_dump(&mut counters, &mut ());
    assert_eq!(
        lives(&table),
        [(Some(1), Life::Ended), (Some(2), Life::Live)]
    );
    check(&table);
}

#[test]
fn the_event_of_an_end_that_a_dump_noticed_first_is_the_end() {
    let (mut table, mut counters) = (Table::new(10, [0, 0]), Counters::default());
    apply(&mut table, &mut counters, Kind::New, 10, 1);
    table.begin_dump();
    table.finish_dump(&mut counters, &mut ());
    assert_eq!(lives(&table), [(Some(1), Life::Gone)]);
    apply(&mut table, &mut counters, Kind::Destroy, 15, 1);
    assert_eq!(lives(&table), [(Some(1), Life::Ended)]);
    check(&table);
}

#[test]
fn the_same_tuple_with_another_id_is_another_flow() {
    let (mut table, mut counters) = (Table::new(10, [0, 0]), Counters::default());
    apply(&mut table, &mut counters, Kind::New, 10, 1);
    apply(&mut table, &mut counters, Kind::New, 20, 2); // the end of 1 was lost
    apply(&mut table, &mut counters, Kind::Destroy, 30, 3); // and so were the end of 2 and 3 itself
    assert_eq!(
        lives(&table),
        [
            (Some(1), Life::Gone),
            (Some(2), Life::Gone),
            (Some(3), Life::Ended)
        ]
    );
    check(&table);
}

#[test]
fn the_same_id_again_is_another_flow() {
    let (mut table, mut counters) = (Table::new(10, [0, 0]), Counters::default());
    apply(&mut table, &mut counters, Kind::New, 10, 1);
    apply(&mut table, &mut counters, Kind::Destroy, 20, 1);
    apply(&mut table, &mut counters, Kind::New, 30, 1);
    apply(&mut table, &mut counters, Kind::New, 40, 1); // an end was lost
    assert_eq!(
        lives(&table),
        [
            (Some(1), Life::Ended),
            (Some(1), Life::Gone),
            (Some(1), Life::Live)
        ]
    );
    check(&table);
}

#[test]
fn a_tuple_that_a_dump_brought_may_come_again() {
    let (mut table, mut counters) = (Table::new(10, [0, 0]), Counters::default());
    table.begin_dump();
    apply(
        &mut table,
        &mut counters,
        Kind::Dumped(DumpPass::Initial),
        21,
        1,
    );
    table.finish_dump(&mut counters, &mut ());
    table.caught_up();
    for id in 2..5 {
        // The first was older than the listener: its end was never told.
        apply(&mut table, &mut counters, Kind::New, 30, id);
        apply(&mut table, &mut counters, Kind::Destroy, 31, id);
    }
    assert_eq!(
        lives(&table),
        [
            (Some(1), Life::Gone),
            (Some(2), Life::Ended),
            (Some(3), Life::Ended),
            (Some(4), Life::Ended)
        ]
    );
    assert_eq!(counters.stale, 0);
    check(&table);
}

#[test]
fn late_events_do_not_replace_what_a_dump_brought() {
    let (mut table, mut counters) = (Table::new(10, [0, 0]), Counters::default());
    table.begin_dump();
    apply(
        &mut table,
        &mut counters,
        Kind::Dumped(DumpPass::Initial),
        21,
        2,
    );
    apply(&mut table, &mut counters, Kind::New, 22, 1); // queued before 2 began
    apply(&mut table, &mut counters, Kind::Destroy, 23, 1);
    apply(&mut table, &mut counters, Kind::New, 24, 2);
    table.finish_dump(&mut counters, &mut ());
    assert_eq!(
        lives(&table),
        [(Some(2), Life::Live), (Some(1), Life::Gone)]
    );
    assert_eq!(counters.stale, 1);
    check(&table);
}

#[test]
fn an_end_without_a_beginning_is_a_flow() {
    let (mut table, mut counters) = (Table::new(10, [0, 0]), Counters::default());
    apply(&mut table, &mut counters, Kind::Destroy, 30, 9);
    assert_eq!(lives(&table), [(Some(9), Life::Ended)]);
    check(&table);
}
