//! The table against a kernel in miniature: a set of live flows whose keys never collide, which
//! creates and destroys flows at random and loses some of what it tells. Fixed seeds.

use super::entry::{Flow, Life};
use super::key::{Key, Side};
use super::table::{Change, Observer, Table};
use crate::counters::Counters;
use crate::event::{DumpPass, Event, Kind};
use crate::wire::conntrack::{Entry, Tuple};
use std::collections::{HashMap, HashSet};

/// xorshift64*: the steps must be the same on every machine.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

struct Kernel {
    live: Vec<Entry>,
    keys: HashSet<Tuple>,
    next_id: u32,
    now_ns: u64,
    /// Few values, so that tuples come again and folding finds groups.
    hosts: u64,
    ports: u64,
}

impl Kernel {
    fn new(hosts: u64, ports: u64) -> Kernel {
        Kernel {
            live: Vec::new(),
            keys: HashSet::new(),
            next_id: 1,
            now_ns: 1,
            hosts,
            ports,
        }
    }

    fn address(random: &mut Random, hosts: u64) -> [u8; 16] {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[10, 0, 0, random.below(hosts) as u8]);
        address
    }

    fn create(&mut self, random: &mut Random) -> Option<Entry> {
        let mut original = Tuple {
            proto: [6, 17, 1, 50][random.below(4) as usize],
            src: Self::address(random, self.hosts),
            dst: Self::address(random, self.hosts),
            sport: random.below(self.ports) as u16,
            dport: random.below(3) as u16,
            ..Tuple::default()
        };
        if !original.has_ports() && !original.is_icmp() {
            (original.sport, original.dport) = (0, 0);
        }
        let mut reply = original.inverse();
        if random.chance(20) {
            reply.src = Self::address(random, self.hosts); // destination translated
        }
        if self.keys.contains(&original) || self.keys.contains(&reply) {
            return None;
        }
        self.keys.extend([original, reply]);
        self.next_id += 1;
        let entry = Entry {
            original,
            reply,
            id: Some(self.next_id),
            ..Entry::default()
        };
        self.live.push(entry);
        Some(entry)
    }

    fn destroy(&mut self, random: &mut Random) -> Option<Entry> {
        if self.live.is_empty() {
            return None;
        }
        let entry = self
            .live
            .swap_remove(random.below(self.live.len() as u64) as usize);
        self.keys.remove(&entry.original);
        self.keys.remove(&entry.reply);
        Some(entry)
    }

    /// Creates a flow, with this chance, or destroys one.
    fn step(&mut self, random: &mut Random, create_percent: u64) -> Option<Event> {
        if random.chance(create_percent) {
            self.create(random)
                .map(|entry| self.event(Kind::New, entry))
        } else {
            self.destroy(random)
                .map(|entry| self.event(Kind::Destroy, entry))
        }
    }

    fn event(&mut self, kind: Kind, entry: Entry) -> Event {
        self.now_ns += 1;
        Event {
            kind,
            netns: None,
            at_ns: self.now_ns,
            is_kernel_time: false,
            entry,
        }
    }
}

/// Counts what the observer is told.
#[derive(Default)]
struct Told(HashMap<&'static str, u64>);

impl Observer for Told {
    fn changed(&mut self, change: Change, _: &Flow, _: super::notes::Notes) {
        let name = match change {
            Change::Started => "started",
            Change::Existing => "existing",
            Change::Ended => "ended",
            Change::Gone => "gone",
            Change::Owned | Change::Traced => "traced",
        };
        *self.0.entry(name).or_default() += 1;
    }
}

fn dump(kernel: &mut Kernel, table: &mut Table, pass: DumpPass, counters: &mut Counters) {
    kernel.now_ns += 1;
    table.begin_dump();
    for entry in kernel.live.clone() {
        let event = kernel.event(Kind::Dumped(pass), entry);
        table.apply(&event, counters, &mut ());
    }
    table.finish_dump(counters, &mut ());
    table.caught_up();
}

fn live_ids(table: &Table) -> HashSet<u32> {
    let live = table.iter().filter(|(_, flow)| flow.life() == Life::Live);
    live.filter_map(|(_, flow)| flow.id()).collect()
}

/// Addresses and ports without their order: where these are the same, one slot is enough.
fn ends(tuple: &Tuple) -> [HashSet<[u8; 16]>; 2] {
    let port = |port: u16| u128::from(port).to_ne_bytes();
    [
        HashSet::from([tuple.src, tuple.dst]),
        HashSet::from([port(tuple.sport), port(tuple.dport)]),
    ]
}

/// What must hold after every step.
pub(super) fn check(table: &Table) {
    let (mut used, mut ended, mut folded, mut slots) = (0, 0, 0, 0);
    for (place, flow) in table.iter() {
        used += 1;
        ended += u32::from(flow.life() != Life::Live);
        folded += u32::from(flow.is_folded());
        if flow.is_indexed() {
            let original = flow.key(Side::Original);
            assert_eq!(table.find(&original), Some((place, Side::Original)));
            slots += 1;
            let reply = flow.key(Side::Reply);
            if !flow.is_folded() && flow.life() != Life::Unconfirmed && reply != original {
                assert_eq!(table.find(&reply), Some((place, Side::Reply)));
                slots += usize::from(ends(&reply.tuple) != ends(&original.tuple));
            }
        } else {
            assert_ne!(
                flow.life(),
                Life::Live,
                "only what has ended may leave the index"
            );
        }
    }
    assert_eq!(
        (used, ended, folded),
        (
            table.used_count,
            table.ended.len() as u32,
            table.folded_count
        )
    );
    assert_eq!(slots, table.index.used_slots());
    assert!(used <= table.capacity());
}

#[test]
fn with_room_and_without_loss_the_table_is_the_kernel() {
    let (mut random, mut kernel) = (Random(1), Kernel::new(40, 60));
    let (mut table, mut counters, mut told) = (
        Table::new(300_000, [1, 2]),
        Counters::default(),
        Told::default(),
    );
    let (mut created, mut destroyed) = (0, 0);
    for step in 0..300_000 {
        let event = if kernel.live.len() < 500 || random.chance(50) {
            kernel
                .create(&mut random)
                .map(|entry| kernel.event(Kind::New, entry))
        } else {
            kernel
                .destroy(&mut random)
                .map(|entry| kernel.event(Kind::Destroy, entry))
        };
        let Some(event) = event else { continue };
        created += u64::from(event.kind == Kind::New);
        destroyed += u64::from(event.kind == Kind::Destroy);
        table.apply(&event, &mut counters, &mut told);
        let (place, side) = table
            .find(&Key {
                tuple: event.entry.reply,
                zone: 0,
                netns: -1,
                folded: false,
                unconfirmed: false,
            })
            .unwrap();
        let flow = table.flow(place);
        assert_eq!(flow.id(), event.entry.id);
        assert!(side == Side::Reply || event.entry.original == event.entry.reply);
        assert_eq!(flow.life() == Life::Live, event.kind == Kind::New);
        if step % 20_000 == 0 {
            check(&table);
        }
    }
    check(&table);
    assert!(counters.complete());
    assert_eq!(
        live_ids(&table),
        kernel.live.iter().filter_map(|entry| entry.id).collect()
    );
    assert_eq!((told.0["started"], told.0["ended"]), (created, destroyed));
    assert_eq!(told.0.get("gone"), None);
}

#[test]
fn a_dump_makes_good_whatever_was_lost() {
    let (mut random, mut kernel) = (Random(2), Kernel::new(20, 20));
    let (mut table, mut counters) = (Table::new(100_000, [3, 4]), Counters::default());
    for round in 0..60 {
        for _ in 0..1000 {
            let event = kernel.step(&mut random, 55);
            if let Some(event) = event.filter(|_| !random.chance(30)) {
                table.apply(&event, &mut counters, &mut ());
            }
        }
        dump(&mut kernel, &mut table, DumpPass::Resync, &mut counters);
        check(&table);
        let expected: HashSet<u32> = kernel.live.iter().filter_map(|entry| entry.id).collect();
        assert_eq!(live_ids(&table), expected, "round {round}");
    }
    assert_eq!(
        (counters.refused, counters.evicted, counters.folded),
        (0, 0, 0)
    );
}

/// A dump as it is: bucket by bucket, each read while events go on, and behind them by one.
fn dump_behind_events(
    kernel: &mut Kernel,
    random: &mut Random,
    table: &mut Table,
    counters: &mut Counters,
) {
    kernel.now_ns += 1;
    table.begin_dump();
    for bucket in 0..8 {
        let mut filled = kernel.live.clone();
        filled.retain(|entry| entry.original.sport % 8 == bucket);
        for _ in 0..40 {
            let event = kernel.step(random, 50);
            if let Some(event) = event {
                table.apply(&event, counters, &mut ());
            }
        }
        for entry in filled {
            let event = kernel.event(Kind::Dumped(DumpPass::Resync), entry);
            table.apply(&event, counters, &mut ());
        }
    }
    table.finish_dump(counters, &mut ());
    table.caught_up();
}

#[test]
fn a_dump_behind_the_events_makes_good_whatever_was_lost() {
    // The more seldom a tuple comes again within one dump, the less there is to mistake. Where one
    // does so twice, the table may have forgotten the end that a dump contradicts: the next dump,
    // at the latest the one at the end, puts that right.
    for (hosts, ports, mistakes_max) in [(6, 400, 0), (3, 16, 1)] {
        let (mut random, mut kernel) = (Random(9), Kernel::new(hosts, ports));
        let (mut table, mut counters) = (Table::new(100_000, [9, 4]), Counters::default());
        let mut mistakes = 0;
        for round in 0..200 {
            for _ in 0..50 {
                let event = kernel.step(&mut random, 55);
                if let Some(event) = event.filter(|_| !random.chance(30)) {
                    table.apply(&event, &mut counters, &mut ());
                }
            }
            dump_behind_events(&mut kernel, &mut random, &mut table, &mut counters);
            check(&table);
            let expected: HashSet<u32> = kernel.live.iter().filter_map(|entry| entry.id).collect();
            mistakes += u32::from(live_ids(&table) != expected);
            dump(&mut kernel, &mut table, DumpPass::Final, &mut counters);
            assert_eq!(live_ids(&table), expected, "round {round}");
        }
        assert!(
            mistakes <= mistakes_max,
            "{hosts} hosts, {ports} ports: {mistakes}"
        );
    }
}

#[test]
fn a_table_far_too_small_accounts_for_every_flow() {
    for (seed, capacity, hosts) in [(3, 50, 3), (4, 64, 40), (5, 1, 5), (6, 300, 8)] {
        let (mut random, mut kernel) = (Random(seed), Kernel::new(hosts, 5000));
        let (mut table, mut counters) = (Table::new(capacity, [5, seed]), Counters::default());
        let mut created = 0;
        for step in 0..60_000 {
            let event = if random.chance(70) || kernel.live.len() < 20 {
                kernel
                    .create(&mut random)
                    .map(|entry| kernel.event(Kind::New, entry))
            } else {
                // A flow that was refused is not in the table: its end would enter it late.
                kernel
                    .destroy(&mut random)
                    .map(|entry| kernel.event(Kind::Destroy, entry))
                    .filter(|event| {
                        let key = Key {
                            tuple: event.entry.original,
                            zone: 0,
                            netns: -1,
                            folded: false,
                            unconfirmed: false,
                        };
                        table.find(&key).is_some() || table.find(&key.folded()).is_some()
                    })
            };
            let Some(event) = event else { continue };
            created += u64::from(event.kind == Kind::New);
            table.apply(&event, &mut counters, &mut ());
            if step % 997 == 0 {
                check(&table);
            }
        }
        check(&table);
        let single = table.iter().filter(|(_, flow)| !flow.is_folded()).count() as u64;
        let folded: u64 = table
            .iter()
            .filter(|(_, flow)| flow.is_folded())
            .map(|(_, flow)| u64::from(flow.flow_count()))
            .sum();
        assert_eq!(folded, counters.folded, "seed {seed}");
        // A flow that was refused and ends after its group was folded is counted there as well.
        let covered = single + folded + counters.evicted + counters.refused;
        assert!(
            (created..=created + counters.refused).contains(&covered),
            "seed {seed}: {covered} of {created}"
        );
    }
}

#[test]
fn finished_flows_go_before_anything_is_folded() {
    let (mut random, mut kernel) = (Random(7), Kernel::new(200, 60_000));
    let (mut table, mut counters) = (Table::new(128, [7, 7]), Counters::default());
    for _ in 0..5000 {
        while kernel.live.len() < 100 {
            if let Some(entry) = kernel.create(&mut random) {
                table.apply(&kernel.event(Kind::New, entry), &mut counters, &mut ());
            }
        }
        let entry = kernel.destroy(&mut random).unwrap();
        table.apply(&kernel.event(Kind::Destroy, entry), &mut counters, &mut ());
    }
    check(&table);
    assert!(counters.evicted > 4000);
    assert_eq!(
        (counters.folded, counters.refused),
        (0, 0),
        "100 live flows fit in 128 places"
    );
}

#[test]
fn a_dump_finds_the_flows_that_a_folded_entry_never_heard_of() {
    let (mut random, mut kernel) = (Random(8), Kernel::new(2, 5000));
    let (mut table, mut counters) = (Table::new(60, [8, 8]), Counters::default());
    for _ in 0..10 {
        for _ in 0..200 {
            let event = kernel
                .create(&mut random)
                .map(|entry| kernel.event(Kind::New, entry));
            if let Some(event) = event.filter(|_| !random.chance(50)) {
                table.apply(&event, &mut counters, &mut ());
            }
        }
        dump(&mut kernel, &mut table, DumpPass::Resync, &mut counters);
        check(&table);
        let counted: u64 = table
            .iter()
            .map(|(_, flow)| u64::from(flow.flow_count()))
            .sum();
        assert_eq!(counted, kernel.live.len() as u64, "no flow has ended");
        assert_eq!(counters.refused + counters.refused_late, 0);
    }
}
