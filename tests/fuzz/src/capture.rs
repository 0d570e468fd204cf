//! A capture without a kernel: a pipeline, and what must hold of it whatever came in.

use conntracker::counters::Counters;
use conntracker::event::DumpPass;
use conntracker::flow::entry::Life;
use conntracker::flow::filter::{Filter, Network};
use conntracker::flow::key::Side;
use conntracker::flow::table::{Change, Table};
use conntracker::report::{
    self, Format, order,
    summary::{Rungs, Summary},
    text::Lines,
};
use conntracker::run::input::{Input, What};
use conntracker::run::pipeline::{DumpProgress, Pipeline};
use conntracker::wire::kernel::*;
use conntracker::wire::message::Messages;
use conntracker::wire::request::Request;
use std::cell::RefCell;
use std::collections::HashSet;
use std::time::Duration;

/// Small ones: a full table is where the work is.
const CAPACITIES: [u32; 4] = [8, 1, 3, 16];

const NEW_OR_UPDATE: u16 = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW;
const DESTROY: u16 = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE;

thread_local! {
    /// One for each filter, kept for all inputs: each logs the first message that it rejects.
    static PIPELINES: [RefCell<Pipeline<'static>>; 4] =
        filters().map(|filter| RefCell::new(pipeline(filter)));
}

fn filters() -> [Filter; 4] {
    let mut address = [0; 16];
    address[0] = 10;
    let (network, everything) = (
        Network {
            address,
            prefix_bits: 8,
            ipv6: false,
        },
        Network {
            address: [0; 16],
            prefix_bits: 0,
            ipv6: true,
        },
    );
    [
        Filter::default(),
        Filter {
            ports: vec![(0, 2), (80, 8080)],
            protocols: vec![IPPROTO_TCP, IPPROTO_UDP],
            ..Filter::default()
        },
        Filter {
            networks: vec![network],
            ..Filter::default()
        },
        Filter {
            not_networks: vec![network, everything],
            ..Filter::default()
        },
    ]
}

/// A pipeline that has rejected a message of each kind already, and so is silent from now on.
fn pipeline(filter: Filter) -> Pipeline<'static> {
    let mut pipeline = Pipeline::new(table(CAPACITIES[0]), filter, None);
    let no_tuple = Request::new(NEW_OR_UPDATE, 0, 0, AF_UNSPEC);
    for bytes in [&[0; 1], no_tuple.bytes()] {
        let what = What::Events {
            bytes,
            truncated: false,
            netns: None,
        };
        pipeline.take(&Input { at_ns: 0, what });
    }
    assert_eq!(pipeline.counters.rejected(), 2);
    pipeline
}

fn table(capacity: u32) -> Table {
    Table::new(capacity, [1, 2])
}

/// What comes in, checked after every input.
pub struct Capture<'p> {
    pipeline: &'p mut Pipeline<'static>,
    capacity: u32,
    filtering: bool,
    /// What the counters must come to.
    messages: u64,
    broken: u64,
    truncated: u64,
}

impl Capture<'_> {
    /// Runs `work` over an empty table; `setup` picks its capacity and the filter. Then checks what
    /// came of it.
    pub fn run(setup: u8, work: impl FnOnce(&mut Capture<'_>)) {
        let capacity = CAPACITIES[usize::from(setup & 3)];
        let filter = usize::from(setup >> 2 & 3);
        PIPELINES.with(|pipelines| {
            let mut pipeline = pipelines[filter].borrow_mut();
            // Which dump is going on is the one thing that the pipeline hides.
            pipeline.take(&Input {
                at_ns: 0,
                what: What::DumpBegan(DumpPass::Initial),
            });
            pipeline.table = table(capacity);
            pipeline.counters = Counters::default();
            let mut capture = Capture {
                pipeline: &mut pipeline,
                capacity,
                filtering: filter != 0,
                messages: 0,
                broken: 0,
                truncated: 0,
            };
            work(&mut capture);
            capture.finish();
        });
    }

    /// Takes one input.
    pub fn take(&mut self, input: &Input<'_>) {
        let before = self.pipeline.counters;
        let progress = self.pipeline.take(input);
        let expected = match input.what {
            What::Events {
                bytes, truncated, ..
            } => {
                self.truncated += u64::from(truncated);
                self.count_events(bytes);
                DumpProgress::Going
            }
            What::Dump { bytes, truncated } => {
                self.truncated += u64::from(truncated);
                self.count_dump(bytes)
            }
            _ => DumpProgress::Going,
        };
        assert_eq!(
            std::mem::discriminant(&progress),
            std::mem::discriminant(&expected),
            "how far the dump is: {progress:?}"
        );
        self.check_counters(&before);
    }

    fn count_events(&mut self, bytes: &[u8]) {
        for message in Messages::new(bytes) {
            match message {
                Ok(message) => {
                    self.messages += u64::from([NEW_OR_UPDATE, DESTROY].contains(&message.kind));
                }
                Err(_) => self.broken += 1,
            }
        }
    }

    fn count_dump(&mut self, bytes: &[u8]) -> DumpProgress {
        for message in Messages::new(bytes) {
            match message {
                Ok(message) => match message.kind {
                    NLMSG_DONE if message.flags & NLM_F_DUMP_INTR != 0 => {
                        return DumpProgress::Failed(0);
                    }
                    NLMSG_DONE if message.errno().is_ok_and(|errno| errno > 0) => {
                        return DumpProgress::Failed(0);
                    }
                    NLMSG_DONE => return DumpProgress::Done,
                    NLMSG_ERROR => return DumpProgress::Failed(0),
                    kind => self.messages += u64::from(kind == NEW_OR_UPDATE),
                },
                Err(_) => self.broken += 1,
            }
        }
        DumpProgress::Going
    }

    fn check_counters(&self, before: &Counters) {
        let (table, now) = (&self.pipeline.table, &self.pipeline.counters);
        assert!(table.len() <= self.capacity && table.capacity() == self.capacity);
        assert_eq!(now.truncated, self.truncated);
        let entries = now.new + now.update + now.destroy + now.dumped;
        assert_eq!(
            entries + now.rejected(),
            self.messages + self.broken,
            "every message is an entry or rejected"
        );
        assert!(now.rejected_framing >= self.broken);
        assert!(self.filtering || now.filtered == 0);
        for (before, now) in [
            (before.filtered, now.filtered),
            (before.flaws, now.flaws),
            (before.evicted, now.evicted),
            (before.folded, now.folded),
            (before.refused, now.refused),
            (before.refused_late, now.refused_late),
            (before.stale, now.stale),
        ] {
            assert!(before <= now, "a count goes down");
        }
    }

    fn finish(&self) {
        self.check_table();
        self.check_changes();
        self.check_reports();
    }

    /// Everything is found under its keys, and every flow is accounted for.
    fn check_table(&self) {
        let (table, counters) = (&self.pipeline.table, &self.pipeline.counters);
        let (mut used, mut plain, mut folded) = (0, 0, 0);
        for (place, flow) in table.iter() {
            used += 1;
            let original = flow.key(Side::Original);
            if flow.life() == Life::Live {
                assert_eq!(table.find(&original), Some((place, Side::Original)));
                let reply = flow.key(Side::Reply);
                assert!(
                    flow.is_folded()
                        || reply == original
                        || table.find(&reply) == Some((place, Side::Reply))
                );
            }
            if flow.is_folded() {
                folded += u64::from(flow.flow_count());
            } else {
                plain += 1;
            }
        }
        assert_eq!(used, table.len());
        assert_eq!(
            folded, counters.folded,
            "what was folded is in folded entries"
        );
        let entries = counters.new + counters.update + counters.destroy + counters.dumped;
        let placed = plain
            + counters.folded
            + counters.evicted
            + counters.refused
            + counters.refused_late
            + counters.stale
            + counters.filtered;
        assert!(placed <= entries, "no flow comes from nothing");
    }

    /// A change, as --follow writes it, is one line.
    fn check_changes(&self) {
        const CHANGES: [Change; 4] = [
            Change::Started,
            Change::Existing,
            Change::Ended,
            Change::Gone,
        ];
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        for ((_, flow), change) in self.pipeline.table.iter().zip(CHANGES.iter().cycle()) {
            for format in [Format::Text, Format::Json] {
                out.clear();
                report::write_change(&mut lines, format, *change, flow, &mut out);
                assert!(printable(&out).ends_with('\n') && printable(&out).lines().count() == 1);
            }
        }
    }

    fn check_reports(&self) {
        let table = &self.pipeline.table;
        let summary = Summary {
            counters: &self.pipeline.counters,
            rungs: &Rungs::default(),
            capacity: self.capacity,
            flows: table.len(),
            duration: Duration::ZERO,
            allocations: 0,
            blind: None,
        };
        assert!(!summary.to_string().contains(char::is_control));
        let text = written(table, &summary, Format::Text);
        let in_report: HashSet<(&str, &str)> = text.lines().map(without_number).collect();
        for (place, side) in order::lines(table) {
            let mut line = Vec::new();
            Lines::default().report(&mut line, table.flow(place), side);
            let line = String::from_utf8(line).unwrap();
            assert!(
                in_report.contains(&without_number(line.trim_end())),
                "missing in the report: {line}"
            );
        }
        let json = written(table, &summary, Format::Json);
        let (mut flows, mut stats) = (0, 0);
        for line in json.lines() {
            serde_json::from_str::<serde_json::Value>(line).expect("a line is valid JSON");
            assert_eq!(stats, 0, "nothing comes after the stats");
            flows += u32::from(line.starts_with(r#"{"v":1,"type":"flow","#));
            stats += u32::from(line.starts_with(r#"{"v":1,"type":"stats","#));
        }
        assert_eq!((flows, stats), (table.len(), 1));
    }
}

fn written(table: &Table, summary: &Summary<'_>, format: Format) -> String {
    let mut out = Vec::new();
    report::write(table, summary, format, &mut out).unwrap();
    printable(&out).to_owned()
}

/// Lines of printable ASCII and nothing else.
fn printable(out: &[u8]) -> &str {
    let fits = |byte: &u8| *byte == b'\n' || (b' '..=b'~').contains(byte);
    assert!(out.iter().all(fits), "a report is printable ASCII");
    assert!(out.last().is_none_or(|byte| *byte == b'\n'));
    std::str::from_utf8(out).unwrap()
}

/// A line of the text report without its number, which counts the lines before it.
fn without_number(line: &str) -> (&str, &str) {
    let (label, rest) = line.split_once(" [").unwrap();
    (label, rest.split_once("] ").unwrap().1)
}
