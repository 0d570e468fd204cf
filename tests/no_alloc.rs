//! Capturing allocates nothing: neither taking events, nor making room in a full table, nor
//! following, nor recording.

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
use conntracker::run::recording::Recorder;
use conntracker::sys::alloc::{Counting, count};
use conntracker::sys::signal::Signals;
use conntracker::wire::kernel::*;
use conntracker::wire::request::Request;

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

// One test: others in this process would allocate at the same time.
#[test]
fn events_reclaim_and_dumps_allocate_nothing() {
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
