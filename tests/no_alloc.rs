//! Capturing allocates nothing: neither taking events, nor making room in a full table, nor
//! following, nor recording, nor resolving traces whose rules and paths are known.

use conntracker::cli::Output;
use conntracker::event::DumpPass;
use conntracker::features;
use conntracker::flow::filter::Filter;
use conntracker::flow::table::Table;
use conntracker::report::Format;
use conntracker::run::follow::Follow;
use conntracker::run::input::{Input, What};
use conntracker::run::output::Destination;
use conntracker::run::pipeline::Pipeline;
use conntracker::run::recording::{Recorder, Recording};
use conntracker::run::trace_input::TraceInput;
use conntracker::sys::alloc::{Counting, count};
use conntracker::sys::signal::Signals;
use conntracker::wire::kernel::*;
use conntracker::wire::message::{Message, Messages};
use conntracker::wire::request::Request;
use std::path::Path;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A UDP event from 10.x.x.x:port to 192.0.2.host:53, as the kernel lays it out.
fn event(destroy: bool, source: u32, port: u16, host: u8) -> Vec<u8> {
    let (message, flags) = if destroy {
        (IPCTNL_MSG_CT_DELETE, 0)
    } else {
        (IPCTNL_MSG_CT_NEW, NLM_F_CREATE | NLM_F_EXCL)
    };
    let mut request = Request::new((NFNL_SUBSYS_CTNETLINK << 8) | message, flags, 0, 2);
    let client = (0x0a00_0000 | source).to_be_bytes();
    let server = [192, 0, 2, host];
    for (kind, src, dst, sport, dport) in [
        (CTA_TUPLE_ORIG, client, server, port, 53),
        (CTA_TUPLE_REPLY, server, client, 53, port),
    ] {
        request.nest(kind, |tuple| {
            tuple.nest(CTA_TUPLE_IP, |ip| {
                ip.put(CTA_IP_V4_SRC, &src);
                ip.put(CTA_IP_V4_DST, &dst);
            });
            tuple.nest(CTA_TUPLE_PROTO, |proto| {
                proto.put(CTA_PROTO_NUM, &[17]);
                proto.put(CTA_PROTO_SRC_PORT, &sport.to_be_bytes());
                proto.put(CTA_PROTO_DST_PORT, &dport.to_be_bytes());
            });
        });
    }
    request.put_be32(CTA_ID, source ^ u32::from(port) << 8 ^ u32::from(host));
    request.bytes().to_vec()
}

fn take(pipeline: &mut Pipeline<'_>, bytes: &[u8]) {
    pipeline.take(&Input {
        at_ns: 1,
        what: What::Events {
            bytes,
            truncated: false,
            netns: None,
        },
    });
}

/// The hits of a real recording, of both streams, with whether each is a line of the legacy tables;
/// the pipeline has taken the whole recording.
fn traces(pipeline: &mut Pipeline<'_>) -> (u64, Vec<(bool, Vec<u8>)>) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/traced.ctrecord");
    let mut recording = Recording::open(&file).unwrap();
    let (mut hits, mut last_ns) = (Vec::new(), 0);
    while let Some(input) = recording.read().unwrap() {
        last_ns = last_ns.max(input.at_ns);
        let (is_log, bytes) = match input.what {
            What::Trace(TraceInput::Nft(bytes)) => (false, bytes),
            What::Trace(TraceInput::Log(bytes)) => (true, bytes),
            _ => (false, &[][..]),
        };
        let is_hit = |message: Message<'_>| {
            is_log || message.kind == (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_TRACE
        };
        if Messages::new(bytes).map_while(Result::ok).any(is_hit) {
            hits.push((is_log, bytes.to_vec()));
        }
        pipeline.take(&input);
    }
    (last_ns, hits)
}

/// Takes them once more, in a moment of their own; then they are at their end.
fn take_traces(pipeline: &mut Pipeline<'_>, at_ns: u64, hits: &[(bool, Vec<u8>)]) {
    for (is_log, bytes) in hits {
        let input = match is_log {
            true => TraceInput::Log(bytes),
            false => TraceInput::Nft(bytes),
        };
        let what = What::Trace(input);
        pipeline.take(&Input { at_ns, what });
    }
    let (at_ns, what) = (at_ns + 1_000_000_000, What::Trace(TraceInput::Quiet));
    pipeline.take(&Input { at_ns, what });
}

fn traces_allocate_nothing() {
    let mut pipeline = Pipeline::new(Table::new(1000, [1, 2]), Filter::default(), None);
    let (last_ns, mut hits) = traces(&mut pipeline);
    // Of rules that were gone at the end of the recording nothing is remembered.
    hits.retain(|hit| {
        let unresolved = pipeline.counters.unresolved;
        take_traces(&mut pipeline, last_ns, std::slice::from_ref(hit));
        pipeline.counters.unresolved == unresolved
    });
    let count_of = |log| hits.iter().filter(|(is_log, _)| *is_log == log).count();
    assert!(count_of(true) > 100 && count_of(false) > 100);
    let moment = |number: u64| last_ns + number * 10_000_000_000;
    for number in 1..3 {
        take_traces(&mut pipeline, moment(number), &hits);
    }
    let (messages, packets) = (pipeline.counters.trace_messages, pipeline.counters.traced);
    let before = count();
    take_traces(&mut pipeline, moment(3), &hits);
    let allocations = count() - before;
    assert!(pipeline.counters.trace_messages > messages + 200);
    assert!(pipeline.counters.traced > packets + 10);
    assert_eq!(allocations, 0);
}

// One test: others in this process would allocate at the same time.
#[test]
fn events_reclaim_dumps_and_traces_allocate_nothing() {
    traces_allocate_nothing();
    let signals = Signals::that_end().unwrap();
    let destination = Destination::open(&Output::File("/dev/null".into())).unwrap();
    let follow = Follow::new(
        destination.growing(&signals, None, false, None).unwrap(),
        Format::Json,
    );
    let mut pipeline = Pipeline::new(Table::new(1000, [1, 2]), Filter::default(), Some(follow));
    let recording =
        std::env::temp_dir().join(format!("conntracker-no-alloc-{}", std::process::id()));
    let recorder = features::Record::built().map(|_| Recorder::create(&recording));
    let mut recorder = recorder.transpose().unwrap();
    // Enough to fill, evict, fold and refuse: finished ones, one busy client, and many of one flow each.
    let mut datagrams = Vec::new();
    for port in 0..3000 {
        datagrams.push(event(false, 1, port, 1));
        if port % 3 == 0 {
            datagrams.push(event(true, 1, port, 1));
        }
    }
    datagrams.extend((0..3000).map(|source| event(false, 100 + source, 7, 2)));
    let broken = [1, 2, 3];
    let before = count();
    assert!(before > 0, "allocations are counted");
    for datagram in &datagrams {
        take(&mut pipeline, datagram);
        let what = What::Events {
            bytes: datagram,
            truncated: false,
            netns: None,
        };
        if let Some(recorder) = &mut recorder {
            recorder.write(&Input { at_ns: 1, what }).unwrap();
        }
    }
    for pass in [DumpPass::Resync, DumpPass::Final] {
        pipeline.take(&Input {
            at_ns: 2,
            what: What::DumpBegan(pass),
        });
        for bytes in &datagrams {
            pipeline.take(&Input {
                at_ns: 2,
                what: What::Dump {
                    bytes,
                    truncated: false,
                },
            });
        }
        pipeline.take(&Input {
            at_ns: 2,
            what: What::DumpEnded,
        });
    }
    take(&mut pipeline, &broken);
    pipeline.follow.as_mut().unwrap().hand_on().unwrap();
    let allocations = count() - before;
    if recorder.take().is_some() {
        std::fs::remove_file(recording).unwrap();
    }
    let counters = pipeline.counters;
    assert!(
        counters.forgotten > 0 && counters.folded > 0 && counters.refused > 0,
        "{counters:?}"
    );
    assert_eq!(counters.rejected_framing, 1);
    assert_eq!(allocations, 0);
}
