//! Traced packets against a firewall in miniature, which denies or lets pass at random, in three zones
//! at once, and knows of each packet whose it was. Packets come after the events of their time, and
//! out of order. Fixed seeds.

use super::assembly::Packet;
use super::entry::{Flow, Life};
use super::key::Side;
use super::model_tests::{Random, check};
use super::table::{Change, Observer, Table};
use crate::counters::Counters;
use crate::event::{DumpPass, Event, Kind};
use crate::wire::conntrack::{Entry, Tuple, Zone};
use std::collections::{HashMap, HashSet};

/// The step that denies, of few; 0 lets pass.
type Rule = u32;

struct Firewall {
    random: Random,
    live: Vec<Entry>,
    /// Both keys of what lives.
    keys: HashSet<(u16, Tuple)>,
    /// Packets that the trace has not told of yet.
    late: Vec<Packet>,
    /// Denied packets, by tuple and rule, of attempts that conntrack never confirmed.
    denied: HashMap<(Tuple, Rule), u32>,
    next_id: u32,
    now_ns: u64,
    with_ids: bool,
}

/// A path that says whose it is: the entry, the direction, and whether it was denied.
fn path_of(id: u32, side: Side) -> u32 {
    2 * id + side as u32
}

impl Firewall {
    fn new(seed: u64) -> Firewall {
        Firewall {
            random: Random(seed),
            live: Vec::new(),
            keys: HashSet::new(),
            late: Vec::new(),
            denied: HashMap::new(),
            next_id: 1,
            now_ns: 1,
            with_ids: true,
        }
    }

    /// Few hosts and ports, the same on both ends, so that tuples come again, also the other way.
    fn tuple(&mut self) -> Tuple {
        let mut tuple = Tuple {
            proto: 17,
            sport: self.random.below(4) as u16,
            dport: self.random.below(4) as u16,
            ..Tuple::default()
        };
        (tuple.src[0], tuple.dst[0]) = (self.random.below(3) as u8, 3 + self.random.below(3) as u8);
        if self.random.chance(50) {
            tuple.inverse()
        } else {
            tuple
        }
    }

    fn packet(&mut self, tuple: Tuple, id: u32, side: Side, rule: Rule) {
        let packet = Packet {
            tuple,
            last: tuple,
            conntrack: self.with_ids.then_some((id, side == Side::Reply)),
            path: path_of(id, side),
            guilty: (rule != 0).then_some(rule),
            at_ns: self.now_ns,
        };
        self.late.push(packet);
    }

    /// A first packet: it is denied, or vanishes behind the rules, or begins a flow.
    fn attempt(&mut self) -> Option<Event> {
        let (original, id) = (self.tuple(), self.next_id);
        let zone = Zone {
            id: [0, 5, 7][self.random.below(3) as usize],
            ..Zone::default()
        };
        let mut reply = original.inverse();
        if self.random.chance(20) {
            reply.src[0] = 9; // destination translated
        }
        let keys = [(zone.id, original), (zone.id, reply)];
        if keys.iter().any(|key| self.keys.contains(key)) {
            return None;
        }
        self.next_id += 1;
        let rule = self.random.below(4) as Rule;
        self.packet(original, id, Side::Original, rule);
        if rule != 0 {
            *self.denied.entry((original, rule)).or_default() += 1;
            return None;
        }
        if self.random.chance(10) {
            return None;
        }
        self.keys.extend(keys);
        let entry = Entry {
            original,
            reply,
            zone,
            id: Some(id),
            ..Entry::default()
        };
        self.live.push(entry);
        Some(self.event(Kind::New, entry))
    }

    fn end(&mut self) -> Option<Event> {
        let at = self.random.below(self.live.len().max(1) as u64) as usize;
        let entry = (at < self.live.len()).then(|| self.live.swap_remove(at))?;
        self.keys.remove(&(entry.zone.id, entry.original));
        self.keys.remove(&(entry.zone.id, entry.reply));
        Some(self.event(Kind::Destroy, entry))
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

    /// A packet of a flow that lives; now and then it is denied.
    fn another(&mut self) {
        let at = self.random.below(self.live.len().max(1) as u64) as usize;
        let Some(entry) = self.live.get(at).copied() else {
            return;
        };
        let rule = self.random.below(40).saturating_sub(37) as Rule;
        let (tuple, side) = if self.random.chance(50) {
            (entry.original, Side::Original)
        } else {
            (entry.reply, Side::Reply)
        };
        self.packet(tuple, entry.id.unwrap(), side, rule);
    }

    fn step(&mut self) -> Option<Event> {
        match self.random.below(10) {
            0..5 => self.attempt(),
            5..8 => {
                self.another();
                None
            }
            _ => self.end(),
        }
    }

    /// Some of the packets that wait.
    fn told(&mut self, share: u64) -> Vec<Packet> {
        let mut told = Vec::new();
        let random = &mut self.random;
        self.late.retain(|packet| {
            let now = random.chance(share);
            if now {
                told.push(*packet);
            }
            !now
        });
        told
    }

    fn live_ids(&self) -> HashSet<u32> {
        self.live.iter().filter_map(|entry| entry.id).collect()
    }
}

/// Nothing that a trace says ends a flow.
struct NoneGone;

impl Observer for NoneGone {
    fn changed(&mut self, change: Change, _: &Flow, _: super::notes::Notes) {
        assert_ne!(change, Change::Gone);
    }
}

struct Bench {
    firewall: Firewall,
    table: Table,
    counters: Counters,
    packets_of: HashMap<u32, HashSet<Rule>>,
}

impl Bench {
    fn new(seed: u64, capacity: u32) -> Bench {
        let mut table = Table::new(capacity, [seed, 1]);
        table.keep_traces();
        Bench {
            firewall: Firewall::new(seed),
            table,
            counters: Counters::default(),
            packets_of: HashMap::new(),
        }
    }

    fn hear(&mut self, share: u64, observer: &mut impl Observer) {
        for packet in self.firewall.told(share) {
            let rules = self.packets_of.entry(packet.path).or_default();
            rules.insert(packet.guilty.unwrap_or(0));
            let keep = |_: &Entry| true;
            self.table
                .apply_packet(&packet, keep, &mut self.counters, observer);
        }
    }

    fn live_ids(&self) -> HashSet<u32> {
        let flows = self.table.iter().map(|(_, flow)| flow);
        let live = flows.filter(|flow| flow.life() == Life::Live);
        live.filter_map(Flow::id).collect()
    }

    /// Each confirmed flow has the paths of its own packets, and only a rule that denied one of these.
    fn check_paths(&self) {
        for (place, flow) in self.table.iter() {
            let (Some(id), traced) = (flow.id(), self.table.traced(place)) else {
                continue;
            };
            for side in [Side::Original, Side::Reply] {
                let (path, guilty) = (traced.paths[side as usize], traced.guilty[side as usize]);
                assert!(path == 0 || path == path_of(id, side), "{flow:?} {path}");
                let rules = self.packets_of.get(&path_of(id, side));
                assert!(path == 0 || rules.unwrap().contains(&guilty));
            }
        }
    }

    /// Denied packets of unconfirmed flows, by tuple and rule.
    fn denied(&self) -> HashMap<(Tuple, Rule), u32> {
        let mut denied = HashMap::new();
        for (place, flow) in self.table.iter() {
            let traced = self.table.traced(place);
            if flow.life() == Life::Unconfirmed && traced.guilty[0] != 0 {
                let key = (flow.tuple(Side::Original), traced.guilty[0]);
                *denied.entry(key).or_default() += traced.attempts;
            }
        }
        denied
    }
}

#[test]
fn every_packet_is_its_own_flows() {
    for seed in 1..20 {
        let mut bench = Bench::new(seed, 200_000);
        for step in 0..4000 {
            if let Some(event) = bench.firewall.step() {
                let counters = &mut bench.counters;
                bench.table.apply(&event, counters, &mut NoneGone);
            }
            bench.hear(10, &mut NoneGone);
            if step % 500 == 0 {
                check(&bench.table);
            }
        }
        bench.hear(100, &mut NoneGone);
        check(&bench.table);
        bench.check_paths();
        assert_eq!(bench.live_ids(), bench.firewall.live_ids(), "seed {seed}");
        let denied = bench.denied();
        // What was denied of a flow that is over stands for itself where its flow has left the index.
        for (key, attempts) in &bench.firewall.denied {
            assert!(denied.get(key) >= Some(attempts), "seed {seed}: {key:?}");
        }
        assert!(bench.counters.complete());
    }
}

#[test]
fn packets_of_a_kernel_that_says_no_ids_end_no_flow_either() {
    for seed in 1..10 {
        let mut bench = Bench::new(seed, 200_000);
        bench.firewall.with_ids = false;
        for _ in 0..4000 {
            if let Some(event) = bench.firewall.step() {
                let counters = &mut bench.counters;
                bench.table.apply(&event, counters, &mut NoneGone);
            }
            bench.hear(30, &mut NoneGone);
        }
        check(&bench.table);
        assert_eq!(bench.live_ids(), bench.firewall.live_ids(), "seed {seed}");
    }
}

#[test]
fn what_was_lost_and_dumped_again_has_its_own_paths() {
    for seed in 1..10 {
        let mut bench = Bench::new(seed, 200_000);
        for _ in 0..40 {
            for _ in 0..200 {
                let event = bench.firewall.step();
                let lost = bench.firewall.random.chance(30);
                if let Some(event) = event.filter(|_| !lost) {
                    bench.table.apply(&event, &mut bench.counters, &mut ());
                }
                bench.hear(10, &mut ());
            }
            bench.firewall.now_ns += 1;
            bench.table.begin_dump();
            for entry in bench.firewall.live.clone() {
                let event = bench.firewall.event(Kind::Dumped(DumpPass::Resync), entry);
                bench.table.apply(&event, &mut bench.counters, &mut ());
            }
            bench.table.finish_dump(&mut bench.counters, &mut ());
            bench.table.caught_up();
            check(&bench.table);
            bench.check_paths();
            assert_eq!(bench.live_ids(), bench.firewall.live_ids(), "seed {seed}");
        }
    }
}

#[test]
fn a_full_table_gives_nobody_the_path_of_another() {
    for (seed, capacity) in [(1, 1), (2, 3), (3, 20), (4, 40), (5, 80), (6, 160)] {
        let mut bench = Bench::new(seed, capacity);
        for step in 0..20_000 {
            if let Some(event) = bench.firewall.step() {
                bench.table.apply(&event, &mut bench.counters, &mut ());
            }
            bench.hear(20, &mut ());
            if step % 200 == 0 {
                check(&bench.table);
                bench.check_paths();
            }
        }
        assert!(!bench.counters.complete(), "seed {seed}");
    }
}
