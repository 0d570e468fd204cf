//! Claims and flows that are ahead of each other, and a machine in miniature whose processes use the
//! same few ports over and over: whatever is told, it is never told of a wrong process.

use super::key::Side;
use super::model_tests::Random;
use super::table::Table;
use crate::counters::Counters;
use crate::event::{Claim, DumpPass, Event, Evidence, Kind, Moment, Rank, Source};
use crate::wire::conntrack::{Entry, Tuple};
use crate::wire::kernel::{IPPROTO_ICMP, IPPROTO_RAW, IPPROTO_TCP, IPPROTO_UDP, IPS_SEEN_REPLY};

const MS: u64 = 1_000_000;
const S: u64 = 1000 * MS;
const HERE: [u8; 4] = [192, 0, 2, 1];
const THERE: [u8; 4] = [198, 51, 100, 80];

fn address(bytes: [u8; 4]) -> [u8; 16] {
    let mut address = [0; 16];
    address[..4].copy_from_slice(&bytes);
    address
}

fn tuple(proto: u8, src: ([u8; 4], u16), dst: ([u8; 4], u16)) -> Tuple {
    Tuple {
        proto,
        src: address(src.0),
        dst: address(dst.0),
        sport: src.1,
        dport: dst.1,
        ..Tuple::default()
    }
}

fn claim(moment: Moment, ends: Tuple, owner: u32, at_ns: u64) -> Claim {
    Claim {
        at_ns,
        ends,
        owner,
        evidence: Evidence {
            source: Source::Probe,
            moment,
            rank: Rank::Process,
        },
    }
}

struct Bench {
    table: Table,
    counters: Counters,
    next_id: u32,
    is_kernel_time: bool,
}

impl Bench {
    fn new() -> Bench {
        let mut table = Table::new(1000, [1, 2]);
        table.keep_owners();
        table.set_local(vec![(false, address(HERE))]);
        Bench {
            table,
            counters: Counters::default(),
            next_id: 0,
            is_kernel_time: true,
        }
    }

    fn apply(&mut self, kind: Kind, entry: Entry, at_ns: u64) {
        let event = Event {
            kind,
            netns: None,
            at_ns,
            is_kernel_time: self.is_kernel_time,
            entry,
        };
        self.table.apply(&event, &mut self.counters, &mut ());
    }

    fn flow(&mut self, original: Tuple, reply: Tuple, at_ns: u64) -> Entry {
        self.next_id += 1;
        let entry = Entry {
            original,
            reply,
            id: Some(self.next_id),
            status: Some(IPS_SEEN_REPLY),
            ..Entry::default()
        };
        self.apply(Kind::New, entry, at_ns);
        entry
    }

    fn claim(&mut self, claim: Claim) {
        self.table.apply_claim(&claim, &mut ());
    }

    /// The owners of the flow with this id.
    fn owners(&self, id: u32) -> [u32; 2] {
        let found = self.table.iter().find(|(_, flow)| flow.id() == Some(id));
        let (place, _) = found.expect("the flow is in the table");
        self.table.owned(place).owners
    }
}

#[test]
fn a_claim_may_come_before_its_flow_or_after() {
    let mut bench = Bench::new();
    let out = tuple(IPPROTO_TCP, (HERE, 40000), (THERE, 80));
    bench.claim(claim(Moment::Connect, out, 1, 10 * S));
    let id = bench.flow(out, out.inverse(), 10 * S + 1).id.unwrap();
    assert_eq!(bench.owners(id), [1, 0]);
    let arriving = tuple(IPPROTO_TCP, (THERE, 5000), (HERE, 22));
    let id = bench.flow(arriving, arriving.inverse(), 11 * S).id.unwrap();
    bench.claim(claim(Moment::Accept, arriving.inverse(), 2, 11 * S + MS));
    assert_eq!(bench.owners(id), [0, 2]);
}

#[test]
fn both_sides_of_a_translation_lead_to_the_flow() {
    let mut bench = Bench::new();
    let public = [203, 0, 113, 1];
    // A connection of ours, behind another address; a probe sees the packet behind the translation.
    let original = tuple(IPPROTO_TCP, (HERE, 40000), (THERE, 80));
    let wire = tuple(IPPROTO_TCP, (public, 61000), (THERE, 80));
    let id = bench.flow(original, wire.inverse(), S).id.unwrap();
    bench.claim(claim(Moment::PacketOut, wire, 1, S + 1));
    assert_eq!(bench.owners(id), [1, 0]);
    // A server of ours behind another address and port.
    let original = tuple(IPPROTO_TCP, (THERE, 5000), (public, 443));
    let socket = tuple(IPPROTO_TCP, (HERE, 8443), (THERE, 5000));
    let id = bench.flow(original, socket, 2 * S).id.unwrap();
    bench.claim(claim(Moment::Accept, socket, 2, 2 * S + 1));
    assert_eq!(bench.owners(id), [0, 2]);
    // Its answer on the wire has the address that the client knows.
    let original = tuple(IPPROTO_UDP, (THERE, 5001), (public, 53));
    let socket = tuple(IPPROTO_UDP, (HERE, 5353), (THERE, 5001));
    let id = bench.flow(original, socket, 3 * S).id.unwrap();
    bench.claim(claim(Moment::PacketOut, original.inverse(), 3, 3 * S + 1));
    assert_eq!(bench.owners(id), [0, 3]);
}

#[test]
fn the_next_flow_with_the_same_ends_is_another_process() {
    for is_kernel_time in [true, false] {
        let mut bench = Bench::new();
        bench.is_kernel_time = is_kernel_time;
        let ends = tuple(IPPROTO_TCP, (HERE, 40000), (THERE, 80));
        // All claims are read before the first event.
        for (owner, at_ns) in [(1, S), (2, S + 300 * MS)] {
            bench.claim(claim(Moment::Connect, ends, owner, at_ns));
        }
        let read = |at_ns| if is_kernel_time { at_ns } else { S + 400 * MS };
        let first = bench.flow(ends, ends.inverse(), read(S + 1));
        bench.apply(Kind::Destroy, first, read(S + 200 * MS));
        let second = bench.flow(ends, ends.inverse(), read(S + 300 * MS + 1));
        assert_eq!(bench.owners(first.id.unwrap()), [1, 0], "{is_kernel_time}");
        assert_eq!(bench.owners(second.id.unwrap()), [2, 0], "{is_kernel_time}");
    }
}

#[test]
fn an_attempt_that_was_dropped_is_not_the_next_ones() {
    let mut bench = Bench::new();
    let ends = tuple(IPPROTO_TCP, (HERE, 40000), (THERE, 80));
    bench.claim(claim(Moment::Connect, ends, 1, S));
    bench.claim(claim(Moment::Connect, ends, 2, S + 4 * MS));
    let begins = S + 4 * MS + 1;
    let id = bench.flow(ends, ends.inverse(), begins).id.unwrap();
    assert_eq!(bench.owners(id), [2, 0]);
    let later = begins + S;
    let id = bench.flow(ends, ends.inverse(), later).id.unwrap();
    assert_eq!(bench.owners(id), [0, 0], "the claim of 1 is too old");
}

#[test]
fn a_claim_that_does_not_say_all_counts_here_only_and_undisputed() {
    let mut bench = Bench::new();
    let forwarded = [10, 9, 9, 9];
    let any = [0; 4];
    let sent = |sport| tuple(IPPROTO_UDP, (any, sport), (THERE, 53));
    bench.claim(claim(Moment::Send, sent(4000), 1, S));
    let ours = tuple(IPPROTO_UDP, (HERE, 4000), (THERE, 53));
    let theirs = tuple(IPPROTO_UDP, (forwarded, 4000), (THERE, 53));
    let id = bench.flow(theirs, theirs.inverse(), S + 1).id.unwrap();
    assert_eq!(bench.owners(id), [0, 0]);
    let id = bench.flow(ours, ours.inverse(), S + 1).id.unwrap();
    assert_eq!(bench.owners(id), [1, 0]);
    for owner in [2, 3] {
        bench.claim(claim(Moment::Send, sent(4001), owner, 2 * S));
    }
    let disputed = tuple(IPPROTO_UDP, (HERE, 4001), (THERE, 53));
    let id = bench.flow(disputed, disputed.inverse(), 2 * S + 1).id;
    assert_eq!(bench.owners(id.unwrap()), [0, 0]);
    // A receiver that says its own port only.
    let to_us = tuple(IPPROTO_UDP, (THERE, 7), (HERE, 9));
    let id = bench.flow(to_us, to_us.inverse(), 3 * S).id.unwrap();
    let receiver = tuple(IPPROTO_UDP, (any, 9), (any, 0));
    bench.claim(claim(Moment::Receive, receiver, 4, 3 * S + MS));
    let mut asked = Vec::new();
    bench
        .table
        .settle_wanted(4 * S, &mut (), &mut |ends| asked.push(*ends));
    assert_eq!(bench.owners(id), [0, 4]);
    assert!(asked.contains(&disputed) && !asked.contains(&theirs));
}

#[test]
fn who_has_a_port_now_need_not_have_had_it_before() {
    let mut bench = Bench::new();
    bench.is_kernel_time = false;
    let ended = tuple(IPPROTO_UDP, (THERE, 5000), (HERE, 53));
    let entry = Entry {
        original: ended,
        reply: ended.inverse(),
        id: Some(7),
        status: Some(IPS_SEEN_REPLY),
        ..Entry::default()
    };
    bench.apply(Kind::Dumped(DumpPass::Initial), entry, 10 * S);
    let lately = tuple(IPPROTO_UDP, (THERE, 5001), (HERE, 53));
    let id = bench.flow(lately, lately.inverse(), 11 * S).id.unwrap();
    let port = tuple(IPPROTO_UDP, ([0; 4], 53), ([0; 4], 0));
    bench.claim(claim(Moment::Receive, port, 1, 11 * S + MS));
    bench.table.settle_wanted(12 * S, &mut (), &mut |_| {});
    assert_eq!(bench.owners(id), [0, 1]);
    assert_eq!(bench.owners(7), [0, 0]);
}

#[test]
fn a_raw_socket_is_behind_what_it_begins_where_no_other_can_be() {
    let mut bench = Bench::new();
    let echo = |id| tuple(IPPROTO_ICMP, (HERE, id), (THERE, 8 << 8));
    let raw = tuple(IPPROTO_ICMP, ([0; 4], 0), (THERE, 0));
    bench.claim(claim(Moment::Send, raw, 1, 10 * S));
    let first = echo(1);
    let id = bench.flow(first, first.inverse(), 10 * S + 1).id.unwrap();
    assert_eq!(bench.owners(id), [1, 0]);
    // What the other end asks, the kernel answers.
    let asked = tuple(IPPROTO_ICMP, (THERE, 2), (HERE, 8 << 8));
    let id = bench.flow(asked, asked.inverse(), 10 * S + 2).id.unwrap();
    assert_eq!(bench.owners(id), [0, 0]);
    // A process that writes the headers itself can have sent the next one.
    let any = Tuple {
        proto: IPPROTO_RAW,
        ..raw
    };
    bench.claim(claim(Moment::Send, any, 2, 10 * S + 3));
    let next = echo(3);
    let id = bench.flow(next, next.inverse(), 10 * S + 4).id.unwrap();
    assert_eq!(bench.owners(id), [0, 0]);
    // Long after, it alone sends, whatever protocol.
    bench.claim(claim(Moment::Send, any, 2, 30 * S));
    let probe = tuple(IPPROTO_UDP, (HERE, 33000), (THERE, 33434));
    let id = bench.flow(probe, probe.inverse(), 30 * S + 1).id.unwrap();
    assert_eq!(bench.owners(id), [2, 0]);
}

#[test]
fn what_is_surer_replaces_what_is_less_sure() {
    let mut bench = Bench::new();
    let arriving = tuple(IPPROTO_TCP, (THERE, 5000), (HERE, 80));
    let ends = arriving.inverse();
    let id = bench.flow(arriving, ends, S).id.unwrap();
    let ranked = |moment, owner, rank| {
        let claim = claim(moment, ends, owner, S + MS);
        let evidence = Evidence {
            rank,
            ..claim.evidence
        };
        Claim { evidence, ..claim }
    };
    let mut said = Vec::new();
    for claim in [
        ranked(Moment::Socket, 1, Rank::User),
        ranked(Moment::PacketIn, 2, Rank::Inherited),
        ranked(Moment::Socket, 1, Rank::User),
        ranked(Moment::Release, 3, Rank::Process),
        ranked(Moment::PacketIn, 2, Rank::Inherited),
        ranked(Moment::Release, 4, Rank::Process),
    ] {
        bench.claim(claim);
        said.push(bench.owners(id)[1]);
    }
    assert_eq!(said, [1, 2, 2, 3, 3, 3]);
}

#[test]
fn a_flow_that_was_there_before_is_its_sockets_owners() {
    let mut bench = Bench::new();
    let out = tuple(IPPROTO_TCP, (HERE, 40000), (THERE, 80));
    let older = |ends, owner| {
        let claim = claim(Moment::Socket, ends, owner, 10 * S);
        let evidence = Evidence {
            source: Source::Sockets,
            ..claim.evidence
        };
        Claim { evidence, ..claim }
    };
    bench.claim(older(out, 1));
    let listener = tuple(IPPROTO_TCP, ([0; 4], 22), ([0; 4], 0));
    bench.claim(older(listener, 2));
    let id = bench.flow(out, out.inverse(), 10 * S + 1).id.unwrap();
    assert_eq!(bench.owners(id), [1, 0]);
    // The listener may be another's by now: it says nothing of what arrives.
    let arriving = tuple(IPPROTO_TCP, (THERE, 5000), (HERE, 22));
    let id = bench.flow(arriving, arriving.inverse(), 11 * S).id.unwrap();
    bench.table.settle_wanted(20 * S, &mut (), &mut |_| {});
    assert_eq!(bench.owners(id), [0, 0]);
}

#[test]
fn an_answer_is_about_the_flow_that_is_there_when_all_is_read() {
    let mut bench = Bench::new();
    let ends = tuple(IPPROTO_UDP, (HERE, 40000), (THERE, 53));
    let answer = |owner, at_ns| {
        let claim = claim(Moment::Socket, ends, owner, at_ns);
        let evidence = Evidence {
            source: Source::Diag,
            ..claim.evidence
        };
        Claim { evidence, ..claim }
    };
    // The first flow is over and the second one has begun as the answer comes, but neither is read.
    let first = bench.flow(ends, ends.inverse(), S);
    bench.claim(answer(2, S + 30 * MS));
    assert_eq!(bench.owners(first.id.unwrap()), [0, 0]);
    bench.apply(Kind::Destroy, first, S + 10 * MS);
    let second = bench.flow(ends, ends.inverse(), S + 20 * MS);
    bench.table.settle_wanted(2 * S, &mut (), &mut |_| {});
    assert_eq!(bench.owners(first.id.unwrap()), [0, 0]);
    assert_eq!(bench.owners(second.id.unwrap()), [2, 0]);
    // It is about no flow that comes later.
    bench.apply(Kind::Destroy, second, 3 * S);
    bench.claim(answer(3, 3 * S + MS));
    let third = bench.flow(ends, ends.inverse(), 3 * S + 2 * MS);
    bench.table.settle_wanted(4 * S, &mut (), &mut |_| {});
    assert_eq!(bench.owners(third.id.unwrap()), [0, 0]);
}

/// What a machine tells, in the order of its clock.
#[derive(Clone, Copy)]
enum Told {
    Claim(Claim),
    /// A claim found no room.
    Lost,
    Event(Kind, Entry),
}

/// A machine with few ports: connections of changing processes begin and end, a server's process
/// takes those that arrive, and some of what is claimed is lost.
struct Machine {
    now_ns: u64,
    live: Vec<Entry>,
    next_id: u32,
    /// By id: who connected, who took it.
    truth: Vec<[u32; 2]>,
    told: Vec<(u64, Told)>,
    lost_percent: u64,
}

impl Machine {
    fn step(&mut self, random: &mut Random) {
        self.now_ns += MS + random.below(20 * MS);
        if !self.live.is_empty() && random.chance(45) {
            let at = random.below(self.live.len() as u64) as usize;
            let entry = self.live.swap_remove(at);
            self.told
                .push((self.now_ns, Told::Event(Kind::Destroy, entry)));
            return;
        }
        let [from, to] = if random.chance(50) {
            [HERE, THERE]
        } else {
            [THERE, HERE]
        };
        let src = (from, 40000 + random.below(4) as u16);
        let original = tuple(IPPROTO_TCP, src, (to, 80 + random.below(2) as u16));
        if self.live.iter().any(|entry| entry.original == original) {
            return;
        }
        let owner = 1 + random.below(50) as u32;
        self.next_id += 1;
        let entry = Entry {
            original,
            reply: original.inverse(),
            id: Some(self.next_id),
            status: Some(IPS_SEEN_REPLY),
            ..Entry::default()
        };
        let is_ours = from == HERE;
        let passes = random.chance(80); // else our own firewall drops it, and no flow begins
        if is_ours {
            self.claim(claim(Moment::Connect, original, owner, self.now_ns), random);
        }
        if is_ours && !passes {
            self.next_id -= 1;
            return;
        }
        self.truth
            .push(if is_ours { [owner, 0] } else { [0, owner] });
        self.now_ns += 20_000;
        self.told.push((self.now_ns, Told::Event(Kind::New, entry)));
        self.live.push(entry);
        if !is_ours {
            self.now_ns += 30_000 + random.below(MS);
            let accepts = claim(Moment::Accept, original.inverse(), owner, self.now_ns);
            self.claim(accepts, random);
        }
    }

    fn claim(&mut self, claim: Claim, random: &mut Random) {
        let is_lost = random.chance(self.lost_percent);
        let told = if is_lost {
            Told::Lost
        } else {
            Told::Claim(claim)
        };
        self.told.push((self.now_ns, told));
    }
}

/// Reads events, then claims, and applies the claims first; returns how many flows had a process and
/// how many there were.
fn run(seed: u64, is_kernel_time: bool, lost_percent: u64) -> (u64, u64) {
    let mut random = Random(seed);
    let mut bench = Bench::new();
    bench.table = Table::new(100_000, [seed, 2]);
    bench.table.keep_owners();
    bench.table.set_local(vec![(false, address(HERE))]);
    bench.is_kernel_time = is_kernel_time;
    let mut machine = Machine {
        now_ns: 1000 * S,
        live: Vec::new(),
        next_id: 0,
        truth: Vec::new(),
        told: Vec::new(),
        lost_percent,
    };
    let (mut events_at, mut claims_at) = (0, 0);
    for _ in 0..20_000 {
        machine.step(&mut random);
        if random.chance(70) {
            continue;
        }
        // What was queued when the events were read, and what was when the probes were, a little later.
        let received = machine.told.len();
        for _ in 0..random.below(3) {
            machine.step(&mut random);
        }
        let all = machine.told.len();
        for (_, told) in &machine.told[claims_at..all] {
            match told {
                Told::Claim(claim) => bench.claim(*claim),
                Told::Lost => bench.table.forget_claims(),
                Told::Event(..) => {}
            }
        }
        for (at_ns, told) in &machine.told[events_at..received] {
            if let Told::Event(kind, entry) = told {
                let read_ns = if is_kernel_time {
                    *at_ns
                } else {
                    machine.now_ns
                };
                bench.apply(*kind, *entry, read_ns);
            }
        }
        (events_at, claims_at) = (received, all);
        if received == all {
            bench.table.settle_wanted(u64::MAX, &mut (), &mut |_| {});
        }
    }
    let (mut known, mut flows) = (0, 0);
    for (place, flow) in bench.table.iter() {
        let id = flow.id().unwrap();
        let truth = machine.truth[id as usize - 1];
        let owners = bench.table.owned(place).owners;
        for side in [Side::Original, Side::Reply] {
            let (told, truth) = (owners[side as usize], truth[side as usize]);
            assert!(
                told == 0 || told == truth,
                "seed {seed}: flow {id} is of {truth}, not of {told}"
            );
        }
        flows += 1;
        known += u64::from(owners != [0, 0]);
    }
    assert!(flows > 5000, "{flows}");
    (known, flows)
}

#[test]
fn with_the_kernels_times_no_process_is_ever_wrong() {
    for seed in 1..=8 {
        let (known, flows) = run(seed, true, 0);
        assert!(known * 1000 >= flows * 995, "{known} of {flows}");
        let (known, flows) = run(100 + seed, true, 20);
        assert!(known * 100 >= flows * 60, "{known} of {flows}");
    }
}
