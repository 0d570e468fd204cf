//! A capture without a kernel: a pipeline, and what must hold of it whatever came in.

use conntracker::counters::Counters;
use conntracker::event::DumpPass;
use conntracker::flow::entry::Life;
use conntracker::flow::filter::{Filter, Network};
use conntracker::flow::key::Side;
use conntracker::flow::path::Ways;
use conntracker::flow::table::{Change, Table};
use conntracker::report::{
    self, Format, Shown,
    blame::{self, Blame, Line},
    json_value::Value,
    order,
    summary::{Owning, Rungs, Summary, Tracing},
    text::Lines,
};
use conntracker::run::input::{Input, What};
use conntracker::run::pipeline::{DumpProgress, Pipeline};
use conntracker::run::recording::Recording;
use conntracker::run::trace_input::{self, TraceInput};
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

    static KNOWN_RULES: Vec<(u8, Vec<u8>)> = known_rules();
}

/// The first rules of a recording with traces, as kinds and payloads of its records.
fn known_rules() -> Vec<(u8, Vec<u8>)> {
    let bytes = include_bytes!("../../fixtures/traced.ctrecord");
    let mut recording = Recording::new(bytes.as_slice()).unwrap();
    let (mut rules, mut rulesets) = (Vec::new(), 0);
    while let Some(input) = recording.read().unwrap() {
        let What::Trace(trace) = input.what else {
            continue;
        };
        let of_nft = match trace {
            TraceInput::RulesBegan(_) => {
                rulesets += 1;
                true
            }
            TraceInput::Rules(_) | TraceInput::RulesEnded { .. } | TraceInput::SetsRead => true,
            TraceInput::Legacy { .. } | TraceInput::Saved { .. } => false,
            _ => continue,
        };
        if !of_nft || rulesets == 1 {
            let (kind, head, bytes) = trace_input::encode(&trace);
            rules.push((kind, [&head, bytes].concat()));
        }
    }
    rules
}

/// Bits of the setup byte, beside capacity and filter.
const ONLY_CONFIRMED: u8 = 1 << 4;
const LETS_GO: u8 = 1 << 5;
const RULES_UNKNOWN: u8 = 1 << 6;

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
    /// Trace inputs that were rejected.
    unreadable: u64,
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
            (pipeline.ways, pipeline.tracer) = (Ways::default(), None);
            pipeline.everything = false;
            let mut capture = Capture {
                pipeline: &mut pipeline,
                capacity,
                filtering: filter != 0,
                messages: 0,
                broken: 0,
                truncated: 0,
                unreadable: 0,
            };
            work(&mut capture);
            capture.finish();
        });
    }

    /// Turns tracing on, as the setup byte says.
    pub fn begin_traces(&mut self, setup: u8) {
        self.trace(TraceInput::Began {
            everything: setup & ONLY_CONFIRMED == 0,
            lets_go: setup & LETS_GO != 0,
        });
        if setup & RULES_UNKNOWN == 0 {
            KNOWN_RULES.with(|rules| {
                for (kind, payload) in rules {
                    self.trace(trace_input::decode(*kind, payload).unwrap());
                }
            });
        }
    }

    /// No more traces come.
    pub fn end_traces(&mut self) {
        self.trace(TraceInput::Ended);
        let tracer = self.pipeline.tracer.as_ref();
        assert!(tracer.is_some_and(|tracer| !tracer.is_waiting()));
    }

    fn trace(&mut self, input: TraceInput<'_>) {
        let what = What::Trace(input);
        self.take(&Input { at_ns: 0, what });
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
        if let What::Trace(_) = input.what {
            let unreadable = self.pipeline.counters.rejected() - before.rejected();
            assert!(unreadable <= 1);
            self.unreadable += unreadable;
        }
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
            self.messages + self.broken + self.unreadable,
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
            (before.traced, now.traced),
            (before.trace_messages, now.trace_messages),
            (before.orphans, now.orphans),
            (before.shortened, now.shortened),
            (before.ways_refused, now.ways_refused),
            (before.unresolved, now.unresolved),
            (before.unjoined, now.unjoined),
        ] {
            assert!(before <= now, "a count goes down");
        }
        assert!(
            now.traced + now.orphans <= now.trace_messages && now.unjoined <= now.traced,
            "every packet was told of"
        );
    }

    fn finish(&self) {
        self.check_table();
        self.check_traces();
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
            + counters.filtered
            + counters.unjoined;
        assert!(
            placed <= entries + counters.traced,
            "no flow comes from nothing"
        );
    }

    /// What traces told of a flow is in the dictionary, and of one piece.
    fn check_traces(&self) {
        let (table, ways) = (&self.pipeline.table, &self.pipeline.ways);
        let mut attempts = 0;
        for (place, flow) in table.iter() {
            let traced = table.traced(place);
            attempts += u64::from(traced.attempts);
            assert_eq!(traced.attempts > 0, traced.blamed().is_some());
            for (path, guilty) in traced.paths.into_iter().zip(traced.guilty) {
                assert!(path == 0 || ways.path(path).count() > 0, "a path is known");
                assert!(guilty == 0 || path != 0, "who is guilty stands on the path");
                if let Some(step) = ways.step(guilty) {
                    assert!(ways.path(path).any(|passed| passed == step));
                    assert!(step.denies());
                } else {
                    assert_eq!(guilty, 0, "a step is known");
                }
            }
            if flow.life() == Life::Unconfirmed {
                assert!(flow.id().is_none() && flow.netns().is_none() && !flow.is_folded());
                assert!(self.pipeline.everything && traced.paths != [0; 2]);
            }
        }
        assert!(
            attempts <= self.pipeline.counters.traced,
            "a packet is one attempt"
        );
    }

    /// A change, as --follow writes it, is one line.
    fn check_changes(&self) {
        const CHANGES: [Change; 5] = [
            Change::Traced,
            Change::Started,
            Change::Existing,
            Change::Ended,
            Change::Gone,
        ];
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        for ((place, _), change) in self.pipeline.table.iter().zip(CHANGES.iter().cycle()) {
            let shown = self.shown(place);
            for format in [Format::Text, Format::Json] {
                out.clear();
                report::write_change(&mut lines, format, *change, &shown, &mut out);
                let steps = match (format, change) {
                    (Format::Text, Change::Traced) => {
                        shown.books.ways.path(shown.notes.traced.paths[0]).count()
                    }
                    _ => 0,
                };
                let text = self.printable(&out, format);
                assert!(text.ends_with('\n') && text.lines().count() == 1 + steps);
            }
        }
    }

    fn shown(&self, place: u32) -> Shown<'_> {
        let table = &self.pipeline.table;
        Shown {
            flow: table.flow(place),
            notes: table.notes(place),
            books: self.pipeline.books(),
        }
    }

    fn check_reports(&self) {
        let table = &self.pipeline.table;
        let rungs = Rungs::default();
        let trace = self.pipeline.tracer.as_ref().map(|_| Tracing {
            rung: "test",
            reason: None,
            legacy: "test",
            everything: self.pipeline.everything,
            paths: self.pipeline.ways.path_count(),
            ended: self.pipeline.trace_ended(),
        });
        let summary = Summary {
            counters: &self.pipeline.counters,
            rungs: &rungs,
            capacity: self.capacity,
            flows: table.len(),
            duration: Duration::ZERO,
            allocations: 0,
            blind: None,
            trace,
            owning: self.pipeline.attributor.as_ref().map(|_| Owning {
                rung: &self.pipeline.owners.rung,
                reason: None,
                ends: 0,
                known: 0,
            }),
        };
        assert!(!summary.to_string().contains(char::is_control));
        let text = self.written(&summary, Format::Text);
        let lines = text.lines().filter(|line| !line.starts_with('\t'));
        let in_report: HashSet<(&str, &str)> = lines.map(without_number).collect();
        for (place, side) in order::lines(table) {
            let mut line = Vec::new();
            Lines::default().report(&mut line, &self.shown(place), side);
            let line = String::from_utf8(line).unwrap();
            let line = line.lines().next().unwrap();
            assert!(
                in_report.contains(&without_number(line)),
                "missing in the report: {line}"
            );
        }
        let json = self.written(&summary, Format::Json);
        let blame = self.check_json(&json);
        self.check_blame(&blame, &summary);
    }

    /// Each line is JSON. What a report says of who is to blame is returned.
    fn check_json(&self, json: &str) -> Blame {
        let (mut flows, mut stats) = (0, 0);
        let mut blame = Blame::default();
        for line in json.lines() {
            assert_eq!(stats, 0, "nothing comes after the stats");
            match Line::of(&parsed(line)).expect("a line of a report is one") {
                Line::Denied(flow) => {
                    blame.add(&flow.rule, flow.place, &flow.denied);
                    flows += 1;
                }
                Line::Flow { .. } => flows += 1,
                Line::Stats { trace, .. } => {
                    assert_eq!(trace.is_some(), self.pipeline.tracer.is_some());
                    stats += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((flows, stats), (self.pipeline.table.len(), 1));
        blame
    }

    /// The table and its report put the same blame on the same rules.
    fn check_blame(&self, of_report: &Blame, summary: &Summary<'_>) {
        let of_table = Blame::of_table(&self.pipeline.table, self.pipeline.books());
        for format in [Format::Text, Format::Json] {
            let [table, report] = [&of_table, of_report].map(|blame| {
                let mut out = Vec::new();
                blame::write(blame, Some(summary), format, &mut out).unwrap();
                self.printable(&out, format).to_owned()
            });
            assert_eq!(table, report);
            if format == Format::Json {
                table.lines().for_each(|line| drop(parsed(line)));
            }
        }
    }

    fn written(&self, summary: &Summary<'_>, format: Format) -> String {
        let mut out = Vec::new();
        let (table, books) = (&self.pipeline.table, self.pipeline.books());
        report::write(table, books, summary, format, &mut out).unwrap();
        self.printable(&out, format).to_owned()
    }

    /// Lines of printable ASCII and nothing else; where rules are told of, of any printable text.
    fn printable<'a>(&self, out: &'a [u8], format: Format) -> &'a str {
        let text = std::str::from_utf8(out).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        for line in text.lines() {
            let step = line.strip_prefix("\t\t\t\t");
            assert!(step.is_none() || format == Format::Text);
            let line = step.unwrap_or(line);
            assert!(!line.contains(char::is_control), "{line:?}");
            let strangers = self.pipeline.tracer.is_some() || self.pipeline.attributor.is_some();
            assert!(strangers || line.is_ascii());
        }
        text
    }
}

/// A line of a report, as our own reader and another one see it.
fn parsed(line: &str) -> Value {
    serde_json::from_str::<serde_json::Value>(line).expect("a line is valid JSON");
    Value::parse(line.as_bytes()).expect("we can read it")
}

/// A line of the text report without its number, which counts the lines before it.
fn without_number(line: &str) -> (&str, &str) {
    let (label, rest) = line.split_once(" [").unwrap();
    (label, rest.split_once("] ").unwrap().1)
}
