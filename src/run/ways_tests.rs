//! A ruleset that is loaded anew all the time, each time with new handles, while packets pass: the
//! dictionary of steps and paths stays within its room, and each flow has its own path.

use super::input::{Input, What};
use super::pipeline::Pipeline;
use super::trace_input::TraceInput;
use crate::flow::filter::Filter;
use crate::flow::key::Side;
use crate::flow::path::{Room, Ways};
use crate::flow::table::Table;
use crate::wire::kernel::*;
use crate::wire::request::Request;

const RULES: u64 = 20;
pub(super) const ACCEPT: u32 = 1;

pub(super) fn nft(message: u16, fill: impl FnOnce(&mut Request)) -> Vec<u8> {
    let mut request = Request::new((NFNL_SUBSYS_NFTABLES << 8) | message, 0, 0, NFPROTO_INET);
    fill(&mut request);
    request.bytes().to_vec()
}

struct Bench {
    pipeline: Pipeline<'static>,
    now_ns: u64,
    generation: u32,
    /// Of the first rule, as the ruleset is now.
    handle: u64,
    packets: u64,
}

impl Bench {
    fn new(capacity: u32, room: Room) -> Bench {
        let mut pipeline = Pipeline::new(Table::new(capacity, [1, 2]), Filter::default(), None);
        pipeline.ways = Ways::new(room);
        let mut bench = Bench {
            pipeline,
            now_ns: 1,
            generation: 0,
            handle: 1,
            packets: 0,
        };
        bench.take(TraceInput::Began {
            everything: true,
            lets_go: false,
        });
        bench
    }

    fn take(&mut self, input: TraceInput<'_>) {
        self.now_ns += 1_000_000;
        self.pipeline.take(&Input {
            at_ns: self.now_ns,
            what: What::Trace(input),
        });
    }

    /// All rules are replaced: they are told of, and read.
    fn reload(&mut self) {
        self.handle += RULES;
        self.generation += 1;
        let generation = self.generation;
        let changed = nft(NFT_MSG_NEWRULE, |put| put.put_str(NFTA_RULE_TABLE, "fw"));
        self.take(TraceInput::Nft(&changed));
        let heard = nft(NFT_MSG_NEWGEN, |put| put.put_be32(NFTA_GEN_ID, generation));
        self.take(TraceInput::Nft(&heard));
        self.take(TraceInput::RulesBegan(Some(generation)));
        let chain = nft(NFT_MSG_NEWCHAIN, |put| {
            put.put_str(NFTA_CHAIN_TABLE, "fw");
            put.put_str(NFTA_CHAIN_NAME, "in");
            put.nest(NFTA_CHAIN_HOOK, |hook| {
                hook.put_be32(NFTA_HOOK_HOOKNUM, 1);
                hook.put_be32(NFTA_HOOK_PRIORITY, 0);
            });
        });
        self.take(TraceInput::Rules(&chain));
        for handle in self.handle..self.handle + RULES {
            let rule = nft(NFT_MSG_NEWRULE, |put| {
                put.put_str(NFTA_RULE_TABLE, "fw");
                put.put_str(NFTA_RULE_CHAIN, "in");
                put.put(NFTA_RULE_HANDLE, &handle.to_be_bytes());
                put.nest(NFTA_RULE_EXPRESSIONS, |_| {});
            });
            self.take(TraceInput::Rules(&rule));
        }
        self.take(TraceInput::RulesEnded { whole: true });
    }

    /// A packet from a new end, which one rule continues and another one denies.
    fn packet(&mut self) {
        let number = self.packets;
        self.packets += 1;
        let rule = self.handle + number % (RULES - 1);
        for (handle, verdict) in [(rule, ACCEPT), (rule + 1, 0)] {
            self.take(TraceInput::Nft(&hit(number, handle, verdict)));
        }
    }

    fn settle(&mut self) {
        self.now_ns += 1_000_000_000;
        self.take(TraceInput::Quiet);
    }

    /// Each flow was denied by the rule behind the one that it met, and both are its path, where there
    /// was room for that.
    fn check(&self) {
        let (table, ways) = (&self.pipeline.table, &self.pipeline.ways);
        assert!(!table.is_empty());
        for (place, flow) in table.iter() {
            let source = flow.tuple(Side::Original).src;
            let number = u64::from(u32::from_be_bytes(source[..4].try_into().unwrap()));
            let traced = table.traced(place);
            let blamed = traced.blamed().and_then(|step| ways.step(step)).unwrap();
            let denied = blamed.handle.unwrap() - 1;
            assert_eq!((denied - 1) % RULES, number % (RULES - 1), "{number}");
            let path: Vec<_> = ways.path(traced.paths[0]).collect();
            if traced.paths[0] == 0 {
                assert!(self.pipeline.counters.ways_refused > 0);
                continue;
            }
            assert_eq!(path.len(), 2, "{number}");
            assert_eq!(path[0].handle, Some(denied));
            assert_eq!(blamed, path[1]);
        }
    }
}

/// A rule that a packet met, and what it said. Where it may go on, it comes to the chain there.
pub(super) fn hit(number: u64, handle: u64, verdict: u32) -> Vec<u8> {
    nft(NFT_MSG_TRACE, |put| {
        put.put_str(NFTA_TRACE_TABLE, "fw");
        put.put_str(NFTA_TRACE_CHAIN, "in");
        put.put_be32(NFTA_TRACE_TYPE, NFT_TRACETYPE_RULE);
        put.put_be32(NFTA_TRACE_ID, number as u32);
        put.put(NFTA_TRACE_RULE_HANDLE, &handle.to_be_bytes());
        put.nest(NFTA_TRACE_VERDICT, |put| {
            put.put_be32(NFTA_VERDICT_CODE, verdict);
        });
        if verdict == ACCEPT {
            let (ip, udp) = headers(number);
            put.put(NFTA_TRACE_NETWORK_HEADER, &ip);
            put.put(NFTA_TRACE_TRANSPORT_HEADER, &udp);
        }
    })
}

/// An IPv4 packet from an address that says its number, and what is in it.
fn headers(number: u64) -> (Vec<u8>, Vec<u8>) {
    let mut ip = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
    ip.extend((number as u32).to_be_bytes());
    ip.extend([192, 0, 2, 1]);
    (ip, vec![0, 7, 0, 53, 0, 8, 0, 0])
}

#[test]
fn rules_that_are_loaded_again_and_again_find_room_for_ever() {
    let room = Room {
        steps: 2048,
        paths: 2048,
        text_len: 1 << 16,
    };
    let mut bench = Bench::new(300, room);
    let mut most = (0, 0);
    for _ in 0..10_000 {
        bench.reload();
        for _ in 0..30 {
            bench.packet();
        }
        bench.settle();
        let ways = &bench.pipeline.ways;
        most = (most.0.max(ways.step_count()), most.1.max(ways.path_count()));
        if bench.generation % 100 == 0 {
            bench.check();
        }
    }
    let (counters, ways) = (&bench.pipeline.counters, &bench.pipeline.ways);
    assert_eq!(counters.ways_refused, 0);
    assert_eq!((counters.traced, counters.unresolved), (300_000, 0));
    assert!(most.0 <= room.steps && most.1 <= room.paths, "{most:?}");
    assert!(
        most.0 > room.steps / 2,
        "{most:?}: was it ever nearly full?"
    );
    let kept: u64 = ways.hits().map(|(_, hits)| hits).sum();
    assert_eq!(kept + ways.gone_hits(), 2 * counters.traced);
}

#[test]
fn what_is_under_way_or_remembered_keeps_its_number() {
    let room = Room {
        steps: 128,
        paths: 128,
        text_len: 1 << 16,
    };
    let mut bench = Bench::new(40, room);
    for _ in 0..300 {
        bench.reload();
        bench.packet();
        // The rules of the packets that are open are replaced under them.
        bench.reload();
        for _ in 0..20 {
            bench.packet();
        }
        bench.settle();
        bench.check();
    }
    assert_eq!(bench.pipeline.counters.ways_refused, 0);
}

#[test]
fn a_dictionary_that_is_really_full_says_so_and_finds_room_later() {
    let room = Room {
        steps: 64,
        paths: 4,
        text_len: 1 << 16,
    };
    let mut bench = Bench::new(200, room);
    bench.reload();
    for _ in 0..RULES {
        bench.packet();
        bench.settle();
    }
    bench.check();
    let refused = bench.pipeline.counters.ways_refused;
    assert!(refused > 0, "{} paths do not fit into 4", RULES - 1);
    // Other flows have the four paths: also steps make room of which only hits are remembered.
    bench.pipeline.table = Table::new(200, [1, 2]);
    bench.pipeline.table.keep_traces();
    for round in 0..20 {
        for _ in 0..4 {
            bench.packet();
            bench.settle();
        }
        bench.check();
        if round % 2 == 0 {
            bench.packets += 9;
        }
    }
    // The flows are gone, and so is the lack of room.
    bench.pipeline.table = Table::new(200, [1, 2]);
    bench.pipeline.table.keep_traces();
    bench.settle();
    let refused = bench.pipeline.counters.ways_refused;
    for _ in 0..100 {
        bench.packets -= bench.packets % (RULES - 1);
        bench.packet();
        bench.settle();
    }
    bench.check();
    assert_eq!(bench.pipeline.counters.ways_refused, refused);
}
