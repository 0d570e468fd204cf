//! Sends datagrams through the product as a replay does, and reads its reports.

use super::expected::Fields;
use conntracker::counters::Counters;
use conntracker::event::DumpPass;
use conntracker::flow::filter::Filter;
use conntracker::flow::table::Table;
use conntracker::report::json_value::Value;
use conntracker::report::summary::{Rungs, Summary};
use conntracker::report::{self, Format};
use conntracker::run::input::{Input, What};
use conntracker::run::pipeline::{DumpProgress, Pipeline};
use conntracker::run::trace_input::TraceInput;
use std::time::Duration;

pub struct Run {
    pub pipeline: Pipeline<'static>,
}

impl Run {
    pub fn new() -> Run {
        Run {
            pipeline: Pipeline::new(Table::new(64, [1, 2]), Filter::default(), None),
        }
    }

    pub fn take(&mut self, at_ns: u64, what: What<'_>) -> DumpProgress {
        self.pipeline.take(&Input { at_ns, what })
    }

    pub fn event(&mut self, at_ns: u64, bytes: &[u8]) {
        let (truncated, netns) = (false, None);
        self.take(
            at_ns,
            What::Events {
                bytes,
                truncated,
                netns,
            },
        );
    }

    /// A whole dump; it must come to its end with its last datagram and not before.
    pub fn dump(&mut self, at_ns: u64, pass: DumpPass, datagrams: &[Vec<u8>]) {
        self.take(at_ns, What::DumpBegan(pass));
        let truncated = false;
        let progress: Vec<_> = datagrams
            .iter()
            .map(|bytes| self.take(at_ns, What::Dump { bytes, truncated }))
            .collect();
        let (last, before) = progress.split_last().unwrap();
        assert_eq!(*last, DumpProgress::Done);
        assert!(
            before
                .iter()
                .all(|progress| *progress == DumpProgress::Going)
        );
        self.take(at_ns, What::DumpEnded);
        self.take(at_ns, What::CaughtUp);
    }

    pub fn trace(&mut self, at_ns: u64, input: TraceInput<'_>) {
        self.take(at_ns, What::Trace(input));
    }

    pub fn counters(&self) -> &Counters {
        &self.pipeline.counters
    }

    /// Nothing was rejected, nothing could not be read, nothing is missing.
    pub fn assert_clean(&self) {
        let counters = self.counters();
        assert_eq!(
            (counters.flaws, counters.rejected(), counters.truncated),
            (0, 0, 0)
        );
        assert!(counters.complete(), "{counters:?}");
    }

    pub fn write(&self, format: Format) -> String {
        let rungs = Rungs::default();
        let summary = Summary {
            counters: self.counters(),
            rungs: &rungs,
            capacity: self.pipeline.table.capacity(),
            flows: self.pipeline.table.len(),
            duration: Duration::ZERO,
            allocations: 0,
            blind: None,
            trace: None,
            owning: None,
        };
        let mut out = Vec::new();
        report::write(
            &self.pipeline.table,
            self.pipeline.books(),
            &summary,
            format,
            &mut out,
        )
        .unwrap();
        String::from_utf8(out).unwrap()
    }

    /// The flows of the JSON report, flat.
    pub fn flows(&self) -> Vec<Fields> {
        flows_of(&self.write(Format::Json))
    }

    /// The lines of the text report without their numbers, in the order of the alphabet.
    pub fn lines(&self) -> Vec<String> {
        let text = self.write(Format::Text);
        let of_flows = text.lines().filter(|line| !line.starts_with('\t'));
        let mut lines: Vec<_> = of_flows.map(without_number).collect();
        lines.sort_unstable();
        lines
    }
}

/// The flows are these; what differs is shown and nothing else.
pub fn assert_flows(found: Vec<Fields>, expected: Vec<Fields>, of: &str) {
    let (found, expected) = (sorted(found), sorted(expected));
    for (found, expected) in found.iter().zip(&expected) {
        let only = |these: &Fields, those: &Fields| -> Vec<String> {
            let only = these
                .iter()
                .filter(|(name, value)| those.get(*name) != Some(value));
            only.map(|(name, value)| format!("{name}={value}"))
                .collect()
        };
        assert!(
            found == expected,
            "{of}: {} flow: the report has {:?} for {:?}",
            expected["proto"],
            only(found, expected),
            only(expected, found)
        );
    }
    assert_eq!(found.len(), expected.len(), "{of}");
}

fn sorted(mut flows: Vec<Fields>) -> Vec<Fields> {
    flows.sort_unstable();
    flows
}

/// The flows of a JSON report.
pub fn flows_of(report: &str) -> Vec<Fields> {
    let values = report
        .lines()
        .map(|line| Value::parse(line.as_bytes()).unwrap());
    let flows = values.filter(|value| value.get("type").and_then(Value::as_str) == Some("flow"));
    let flat = |value: Value| {
        let mut fields = Fields::new();
        flatten("", &value, &mut fields);
        fields
    };
    flows.map(flat).collect()
}

/// The last line of a JSON report.
pub fn stats_of(report: &str) -> Value {
    Value::parse(report.lines().last().unwrap().as_bytes()).unwrap()
}

fn flatten(path: &str, value: &Value, fields: &mut Fields) {
    let text = match value {
        Value::Object(members) => {
            for (name, value) in members {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                flatten(&path, value, fields);
            }
            return;
        }
        Value::Array(values) if values.iter().any(|value| matches!(value, Value::Object(_))) => {
            for (at, value) in values.iter().enumerate() {
                flatten(&format!("{path}.{at}"), value, fields);
            }
            return;
        }
        Value::Array(values) => values.iter().map(scalar).collect::<Vec<_>>().join(","),
        scalar_value => scalar(scalar_value),
    };
    assert!(
        fields.insert(path.to_owned(), text).is_none(),
        "{path} twice"
    );
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Unsigned(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        other => panic!("no field has such a value: {other:?}"),
    }
}

fn without_number(line: &str) -> String {
    let (label, rest) = line.split_once(" [").unwrap();
    format!("{label}{}", rest.split_once(']').unwrap().1)
}
