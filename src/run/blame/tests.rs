//! A table's blame and that of its report, and reports that are not what they should be.

use super::*;
use crate::counters::Counters;
use crate::event::step::{Firewall, Step, StepKind, Verdict};
use crate::event::{Event, Kind};
use crate::flow::assembly::Packet;
use crate::flow::owner::Owners;
use crate::flow::path::Ways;
use crate::flow::table::{Change, Table};
use crate::report::block::Block;
use crate::report::summary::{Rungs, Summary, Tracing};
use crate::report::{self, Books, Format, Shown, text};
use crate::wire::conntrack::{Entry, Tuple};
use std::time::Duration;

const NOON: u64 = 1_795_348_800_000_000_000;

fn step(chain: &str, verdict: Verdict, rule: &str) -> Step {
    Step {
        firewall: Firewall::Nft,
        table: "inet fw".into(),
        chain: chain.into(),
        kind: StepKind::Rule,
        position: Some(2),
        handle: Some(7),
        verdict: Some(verdict),
        rule: rule.into(),
        comment: "".into(),
        generation: Some(3),
    }
}

fn legacy(kind: StepKind, verdict: Verdict, position: u32, rule: &str) -> Step {
    Step {
        firewall: Firewall::Legacy,
        table: "filter".into(),
        kind,
        position: Some(position),
        handle: None,
        generation: None,
        ..step("FORWARD", verdict, rule)
    }
}

fn tuple(proto: u8, host: u8, dport: u16) -> Tuple {
    let mut tuple = Tuple {
        proto,
        sport: 40000 + u16::from(host),
        dport,
        ..Tuple::default()
    };
    tuple.src[..4].copy_from_slice(&[10, 77, 1, host]);
    tuple.dst[..4].copy_from_slice(&[10, 77, 2, 2]);
    tuple
}

fn tuple_v6(proto: u8, host: u8, dport: u16) -> Tuple {
    let (mut src, mut dst) = ([0xfd; 16], [0xfd; 16]);
    (src[15], dst[15]) = (host, 2);
    Tuple {
        ipv6: true,
        src,
        dst,
        ..tuple(proto, host, dport)
    }
}

struct Bench {
    table: Table,
    ways: Ways,
    owners: Owners,
    counters: Counters,
    now: u64,
}

impl Bench {
    fn books(&self) -> Books<'_> {
        Books {
            ways: &self.ways,
            owners: &self.owners,
        }
    }

    fn new(capacity: u32) -> Bench {
        let mut table = Table::new(capacity, [1, 2]);
        table.keep_traces();
        Bench {
            table,
            ways: Ways::default(),
            owners: Owners::default(),
            counters: Counters::default(),
            now: NOON,
        }
    }

    fn pass(&mut self, tuple: Tuple, id: u32) {
        self.now += 1_000_000_007;
        let event = Event {
            kind: Kind::New,
            netns: None,
            at_ns: self.now,
            is_kernel_time: false,
            entry: Entry {
                original: tuple,
                reply: tuple.inverse(),
                id: Some(id),
                ..Entry::default()
            },
        };
        self.table.apply(&event, &mut self.counters, &mut ());
    }

    fn meet(&mut self, tuple: Tuple, step: Step) {
        self.now += 1_000_000_007;
        let guilty = step.denies();
        let id = self.ways.step_id(step);
        let packet = Packet {
            tuple,
            last: tuple,
            conntrack: None,
            path: self.ways.path_id(&[id]),
            guilty: guilty.then_some(id),
            at_ns: self.now,
        };
        let keep = |_: &Entry| true;
        self.table
            .apply_packet(&packet, keep, &mut self.counters, &mut ());
    }

    fn summary(&self) -> Summary<'_> {
        const RUNGS: &Rungs = &Rungs {
            capture: "",
            activation: "",
            buffer_bytes: 0,
            loss: "",
        };
        Summary {
            counters: &self.counters,
            rungs: RUNGS,
            capacity: self.table.capacity(),
            flows: self.table.len(),
            duration: Duration::ZERO,
            allocations: 0,
            blind: None,
            trace: Some(Tracing {
                rung: "nft",
                reason: None,
                legacy: "on",
                everything: true,
                paths: self.ways.path_count(),
                ended: None,
            }),
            owning: None,
        }
    }

    fn report(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let summary = self.summary();
        report::write(&self.table, self.books(), &summary, Format::Json, &mut out).unwrap();
        out
    }

    fn blame(&self) -> Blame {
        Blame::of_table(&self.table, self.books())
    }
}

fn written(blame: &Blame, format: Format) -> String {
    let mut out = Vec::new();
    blame::write(blame, None, format, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn read(report: &[u8]) -> Told {
    read_filtered(report, &Filter::default())
}

fn read_filtered(report: &[u8], filter: &Filter) -> Told {
    Told::read(report, filter)
        .and_then(Told::useful)
        .expect("it is a report")
}

fn refused(report: &[u8]) -> String {
    let told = Told::read(report, &Filter::default()).and_then(Told::useful);
    let Useless { cause, advice } = told.expect_err("it is not a report with traces");
    format!("{cause} ({advice})")
}

/// Everything that blame tells apart.
fn everything() -> Bench {
    let mut bench = Bench::new(200);
    let drop = |rule: &str| step("forward", Verdict::Drop, rule);
    let moved = |handle, generation| Step {
        handle: Some(handle),
        position: Some(handle as u32 - 4),
        generation: Some(generation),
        ..drop("tcp dport 443 drop")
    };
    for host in 1..=11 {
        bench.meet(tuple(6, host, 443), moved(7 + u64::from(host % 2), 3));
    }
    bench.meet(tuple(6, 3, 443), moved(8, 3));
    let reject = Step {
        comment: "no \"web\"\n\u{1b}[2J é".into(),
        ..step(
            "forward",
            Verdict::Reject("tcp reset"),
            "tcp dport 80 reject",
        )
    };
    bench.meet(tuple(6, 200, 80), reject);
    let policy = || legacy(StepKind::Policy, Verdict::Drop, 9, "");
    bench.meet(tuple(1, 1, 8 << 8), policy());
    bench.meet(tuple(47, 1, 0), policy());
    bench.meet(tuple(99, 1, 0), policy());
    bench.meet(tuple_v6(58, 1, 128 << 8), drop("ip6 daddr fd00::/8 drop"));
    bench.meet(tuple_v6(17, 4, 53), drop("ip6 daddr fd00::/8 drop"));
    for (host, position) in [(20, 4), (21, 5), (22, 4)] {
        let nameless = legacy(StepKind::Rule, Verdict::Drop, position, "");
        bench.meet(tuple(17, host, 666), nameless);
    }
    // Confirmed flows: one that passed, and one whose answers are dropped.
    bench.pass(tuple(6, 50, 22), 5);
    bench.meet(tuple(6, 50, 22), step("forward", Verdict::Accept, "accept"));
    bench.pass(tuple(6, 51, 22), 6);
    bench.meet(tuple(6, 51, 22).inverse(), drop("ct direction reply drop"));
    bench.meet(tuple(6, 51, 22).inverse(), drop("ct direction reply drop"));
    bench
}

/// Flows that differ in their client port only, in a table too small for them.
fn folded() -> Bench {
    let mut bench = Bench::new(16);
    for client in 0..20 {
        let tuple = Tuple {
            sport: 1000 + client,
            ..tuple(17, 1, 53)
        };
        bench.pass(tuple, 70 + u32::from(client));
    }
    bench.meet(tuple(17, 1, 53), step("output", Verdict::Drop, "drop"));
    bench
}

/// More sources than are kept, not in their order.
fn flood() -> Bench {
    let mut bench = Bench::new(2000);
    for source in (0..1500u16).rev() {
        let mut tuple = tuple(6, 1, 443);
        tuple.src[2..4].copy_from_slice(&source.to_be_bytes());
        bench.meet(tuple, step("input", Verdict::Drop, "drop"));
    }
    bench
}

#[test]
fn a_table_and_its_report_blame_alike() {
    for (name, bench, rules) in [
        ("everything", everything(), 7),
        ("folded", folded(), 1),
        ("flood", flood(), 1),
        ("nothing", Bench::new(4), 0),
    ] {
        let told = read(&bench.report());
        for format in [Format::Text, Format::Json] {
            let expected = written(&bench.blame(), format);
            assert_eq!(written(&told.blame, format), expected, "{name}");
        }
        let json = written(&told.blame, Format::Json);
        assert_eq!(json.lines().count(), rules, "{name}: {json}");
        assert_eq!(told.is_whole(), bench.counters.complete(), "{name}");
    }
}

#[test]
fn the_sums_of_a_table() {
    let text = written(&everything().blame(), Format::Text);
    let lines: Vec<&str> = text.lines().collect();
    let sums = |line: &&str| line.split(", ").take(2).collect::<Vec<_>>().join(" ");
    let sums: Vec<String> = lines.iter().map(sums).collect();
    assert_eq!(
        sums,
        [
            "11 flows 12 attempts",
            "3 flows 3 attempts",
            "2 flows 2 attempts",
            "2 flows 2 attempts",
            "1 flow 2 attempts",
            "1 flow 1 attempt",
            "1 flow 1 attempt"
        ]
    );
    assert!(
        lines[0].contains("10.77.1.8,... (3 more) to 10.77.2.2 port tcp/443, 2026-11-22T12:00:01Z")
            && lines[0].ends_with("rule 4 (handle 8): tcp dport 443 drop"),
        "{text}"
    );
    let folded = written(&folded().blame(), Format::Text);
    assert!(folded.starts_with("20 flows, 1 attempt, from 10.77.1.1 to 10.77.2.2 port udp/53,"));
}

#[test]
fn blame_of_a_capture_ends_with_its_stats() {
    let bench = everything();
    let mut out = Vec::new();
    let summary = Some(&bench.summary());
    blame::write(&bench.blame(), summary, Format::Json, &mut out).unwrap();
    let written = String::from_utf8(out).unwrap();
    let report = String::from_utf8(bench.report()).unwrap();
    assert_eq!(written.lines().count(), 8);
    assert_eq!(written.lines().last(), report.lines().last());
    assert!(refused(written.as_bytes()).contains("a report of blame already"));
}

#[test]
fn the_filters_hold_for_a_report_too() {
    let report = everything().report();
    let flows = |filter: Filter| {
        let text = written(&read_filtered(&report, &filter).blame, Format::Json);
        let count = |line: &str| -> u64 {
            let count = line.split_once("\"flows\":").unwrap().1;
            count.split(',').next().unwrap().parse().unwrap()
        };
        text.lines().map(count).sum::<u64>()
    };
    assert_eq!(flows(Filter::default()), 21);
    let ipv6 = Some(true);
    assert_eq!(
        flows(Filter {
            ipv6,
            ..Filter::default()
        }),
        2
    );
    let protocols = vec![1, 99];
    assert_eq!(
        flows(Filter {
            protocols,
            ..Filter::default()
        }),
        2
    );
    let ports = vec![(400, 500)];
    assert_eq!(
        flows(Filter {
            ports,
            ..Filter::default()
        }),
        11
    );
    let networks = vec![crate::flow::filter::Network {
        address: tuple(6, 20, 0).src,
        prefix_bits: 30,
        ipv6: false,
    }];
    let not_networks = networks.clone();
    assert_eq!(
        flows(Filter {
            networks,
            ..Filter::default()
        }),
        3
    );
    assert_eq!(
        flows(Filter {
            not_networks,
            ..Filter::default()
        }),
        18
    );
}

#[test]
fn a_flow_that_a_followed_report_tells_again_counts_once() {
    let bench = everything();
    let (mut out, mut lines) = (Block::default(), text::Lines::default());
    for change in [Change::Traced, Change::Ended] {
        for (place, flow) in bench.table.iter() {
            let mut notes = bench.table.notes(place);
            if change == Change::Traced {
                notes.traced.attempts = notes.traced.attempts.min(1);
            }
            let books = bench.books();
            let shown = Shown { flow, notes, books };
            report::write_change(&mut lines, Format::Json, change, &shown, &mut out);
        }
    }
    let told = read(out.bytes());
    let expected = written(&bench.blame(), Format::Text);
    assert_eq!(written(&told.blame, Format::Text), expected);
}

#[test]
fn a_report_that_is_cut_short_says_what_was_whole() {
    let report = everything().report();
    let end = report.iter().rposition(|byte| *byte == b'}').unwrap();
    let whole = read(&report[..=end]); // only the line break is missing
    assert!(whole.cut_short.is_none() && whole.is_whole());
    for len in 1..=end {
        let Ok(told) = Told::read(&report[..len], &Filter::default()) else {
            panic!("{len}");
        };
        let at_line_end = report[len - 1] == b'\n' || report[len] == b'\n';
        assert_eq!(told.cut_short.is_some(), !at_line_end, "{len}");
        assert_eq!(told.is_whole(), at_line_end);
    }
    let (first, _) = report.split_at(report.iter().position(|byte| *byte == b'\n').unwrap());
    assert!(refused(&first[..20]).contains("cut short in its first line"));
}

#[test]
fn a_report_that_missed_something_is_said_to() {
    let report = String::from_utf8(everything().report()).unwrap();
    let report = report.replace("\"complete\":true", "\"complete\":false");
    assert!(!read(report.as_bytes()).is_whole());
    let two = report.replace("\"complete\":false", "\"complete\":true") + &report;
    assert!(!read(two.as_bytes()).is_whole());
}

#[test]
fn what_is_no_report_with_traces_is_refused_with_a_reason() {
    let report = String::from_utf8(everything().report()).unwrap();
    let line = |number: usize| report.lines().nth(number).unwrap();
    let first = line(0);
    assert!(first.contains("\"blame\":{"), "{first}");
    let plain = "{\"v\":1,\"type\":\"flow\",\"family\":\"ipv4\"}\n";
    for (text, expected) in [
        ("", "there is no flow in it"),
        ("\n \n", "there is no flow in it"),
        ("{}\n{\"type\":\"x\"}\n", "there is no flow in it"),
        (
            plain,
            "it has no traces (make it with 'conntracker -t -e --format json')",
        ),
        (
            " TCPv4 [ 0] src",
            "not JSON: line 1, column 2: no value of JSON",
        ),
        (
            &format!("{first}\n{{\n}}\n"),
            "not JSON: line 2, column 2: it ends in the middle",
        ),
        (
            &format!("{first}\n\n[1]\n"),
            "line 3: a value that is not an object",
        ),
        (
            &first.replace("\"v\":1", "\"v\":2"),
            "line 1: its schema has version 2",
        ),
        (
            &first.replace("\"10.77.1.1\"", "\"10.77\""),
            "whose src is missing",
        ),
        (
            &first.replace("\"10.77.2.2\"", "\"::1\""),
            "whose dst is missing",
        ),
        (
            &first.replace("first_seen", "seen"),
            "whose first_seen is missing",
        ),
        (
            &first.replace("\"chain\"", "\"hain\""),
            "whose chain is missing",
        ),
        (
            &first.replace("\"proto_number\":6", "\"proto_number\":256"),
            "whose proto_number",
        ),
        (
            &first.replace("\"dport\":443", "\"dport\":-1"),
            "whose dport is missing",
        ),
        (
            &first.replace("\"blame\":{", "\"blame\":1,\"x\":{"),
            "whose firewall is missing",
        ),
    ] {
        let refused = refused(text.as_bytes());
        assert!(refused.contains(expected), "{text}\n{refused}");
    }
}

#[test]
fn the_end_of_a_report_says_whether_it_was_traced() {
    let plain = "{\"v\":1,\"type\":\"flow\",\"family\":\"ipv4\"}\n";
    let report = String::from_utf8(everything().report()).unwrap();
    let stats = report.lines().last().unwrap();
    let untraced = stats.replace("\"trace\"", "\"other\"");
    assert!(refused(untraced.as_bytes()).contains("it has no traces"));
    let cut = format!("{plain}{{\"v\":");
    assert!(refused(cut.as_bytes()).contains("no traces before line 2, where it is cut short"));
    let long = vec![b' '; LINE_LEN_MAX + 1];
    assert!(refused(&long).contains("line 1 is longer"));
}

#[test]
fn no_byte_of_a_line_makes_it_panic() {
    let report = everything().report();
    let mut line = report[..report.iter().position(|byte| *byte == b'\n').unwrap()].to_vec();
    let mut read = 0;
    for at in 0..line.len() {
        let before = line[at];
        for byte in 0..=255 {
            line[at] = byte;
            if let Ok(told) = Told::read(line.as_slice(), &Filter::default()) {
                written(&told.blame, Format::Text);
                read += 1;
            }
        }
        line[at] = before;
    }
    assert!(read > 10_000, "{read}");
}
