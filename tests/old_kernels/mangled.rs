//! Whatever becomes of these datagrams on their way, there is an answer and no panic: every truncation,
//! and every value of every byte.

use super::conntrack::{About, Entry, Sender};
use super::entries::{self, DYING, address};
use super::expected::BASE_NS;
use super::kernels::KERNELS;
use super::paths::traced;
use super::run::Run;
use super::trace::{self, Met, datagram, ipv4, line, nft_trace, syn};
use conntracker::event::DumpPass;
use conntracker::report::Format;
use conntracker::run::input::What;
use conntracker::run::trace_input::TraceInput;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Event,
    Dump,
    Log,
    Nft,
    Rules,
}

/// Datagrams of each kind from the oldest kernel and the newest: between them, all that is sent.
fn datagrams() -> Vec<(Kind, Vec<u8>)> {
    let mut datagrams = Vec::new();
    for kernel in [KERNELS[0], KERNELS[3]] {
        let sender = Sender {
            aligns: true,
            ..Sender::plain(kernel)
        };
        let rich = entries::rich();
        let about = About {
            protoinfo: true,
            labels: true,
            adjusted: true,
        };
        let ended = Entry {
            status: rich.status | DYING,
            stop_ns: Some(BASE_NS + 2_000_000_000),
            ..rich.clone()
        };
        datagrams.push((Kind::Event, sender.begun(&rich, about)));
        datagrams.push((Kind::Event, sender.destroy(&ended)));
        let mut all = entries::all(kernel);
        let few = all.split_off(all.len() - 2);
        datagrams.extend(
            sender
                .dump(&few, 4096)
                .into_iter()
                .map(|bytes| (Kind::Dump, bytes)),
        );
        let icmp = all
            .into_iter()
            .filter(|entry| [3, 4, 6].map(address).contains(&entry.address));
        datagrams.extend(icmp.map(|entry| (Kind::Event, sender.update(&entry, about))));
        let tcp = ipv4(6, [10, 1, 0, 6], [192, 0, 2, 80], 1, &syn(40000, 80));
        let prefix = "TRACE: filter:FORWARD:rule:2 ";
        datagrams.push((Kind::Log, line(&sender, prefix, &tcp, Some((&rich, 2)))));
        if kernel == KERNELS[3] {
            let udp = ipv4(17, [10, 1, 0, 6], [192, 0, 2, 80], 2, &datagram(5353, 53));
            datagrams.push((Kind::Nft, nft_trace(&sender, 7, &Met::Rule(2, 1), &udp)));
            datagrams.push((Kind::Nft, nft_trace(&sender, 8, &Met::Policy(0), &tcp)));
            datagrams.push((Kind::Rules, trace::ruleset()));
        }
    }
    let kinds = [Kind::Event, Kind::Dump, Kind::Log, Kind::Nft, Kind::Rules];
    assert!(
        kinds
            .iter()
            .all(|kind| datagrams.iter().any(|(of, _)| of == kind))
    );
    datagrams
}

fn run() -> Run {
    let mut run = traced();
    run.take(BASE_NS, What::DumpBegan(DumpPass::Resync));
    run
}

fn take(run: &mut Run, kind: Kind, bytes: &[u8]) {
    let (at_ns, truncated, netns) = (BASE_NS + 5, false, None);
    match kind {
        Kind::Event => drop(run.take(
            at_ns,
            What::Events {
                bytes,
                truncated,
                netns,
            },
        )),
        Kind::Dump => drop(run.take(at_ns, What::Dump { bytes, truncated })),
        Kind::Log => run.trace(at_ns, TraceInput::Log(bytes)),
        Kind::Nft => run.trace(at_ns, TraceInput::Nft(bytes)),
        Kind::Rules => {
            run.trace(at_ns, TraceInput::RulesBegan(Some(4)));
            run.trace(at_ns, TraceInput::Rules(bytes));
            run.trace(at_ns, TraceInput::RulesEnded { whole: true });
        }
    }
    if matches!(kind, Kind::Log | Kind::Nft) {
        run.trace(at_ns, TraceInput::Ended);
    }
}

fn heard(run: &Run) -> u64 {
    let counters = run.counters();
    counters.new + counters.update + counters.destroy + counters.dumped + counters.trace_messages
}

/// Both reports can be written, and read.
fn report(run: &Run) {
    assert!(
        run.write(Format::Text)
            .lines()
            .all(|line| line.contains("src = ") || line.starts_with('\t'))
    );
    run.flows();
}

#[test]
fn every_truncation() {
    for (kind, bytes) in datagrams() {
        let mut whole = run();
        take(&mut whole, kind, &bytes);
        assert_eq!(
            (whole.counters().rejected(), whole.counters().flaws),
            (0, 0),
            "{kind:?}"
        );
        for len in 0..bytes.len() {
            let mut run = run();
            take(&mut run, kind, &bytes[..len]);
            assert!(
                heard(&run) <= heard(&whole),
                "nothing comes from bytes that are not there"
            );
            let noticed = run.counters().rejected() > 0 || heard(&run) == heard(&whole);
            assert!(noticed || len % 4 == 0, "{kind:?} cut at {len}");
            report(&run);
        }
    }
}

#[test]
fn every_value_of_every_byte() {
    let mut run = run();
    for (kind, mut bytes) in datagrams() {
        for at in 0..bytes.len() {
            let original = bytes[at];
            for value in 0..=u8::MAX {
                bytes[at] = value;
                take(&mut run, kind, &bytes);
            }
            bytes[at] = original;
            report(&run);
        }
    }
    assert!(run.counters().rejected() > 0 && run.counters().flaws > 0);
}
