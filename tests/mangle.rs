//! Whatever the kernel's bytes hold, there is an answer and no panic: every truncation and every
//! single-byte change of recorded datagrams (three of each length, 1,200 bytes of each: what follows
//! repeats itself), and recordings damaged in the same ways. scripts/fuzz goes further.

use conntracker::counters::Counters;
use conntracker::event::DumpPass;
use conntracker::flow::filter::Filter;
use conntracker::flow::table::Table;
use conntracker::report::{
    self, Format,
    summary::{Rungs, Summary},
};
use conntracker::run::input::{Input, What};
use conntracker::run::pipeline::Pipeline;
use conntracker::run::recording::Recording;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Beyond this, a datagram repeats itself: dumps hold many entries of one kind.
const MANGLED_LEN: usize = 1200;

struct Datagram {
    bytes: Vec<u8>,
    is_dump: bool,
}

fn fixtures() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let paths = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let recordings = paths.filter(|path| path.extension().is_some_and(|end| end == "ctrecord"));
    let fixtures: Vec<_> = recordings
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                fs::read(&path).unwrap(),
            )
        })
        .collect();
    assert!(fixtures.len() >= 4);
    fixtures
}

/// The datagrams of all recordings; of those that differ only in what tells flows apart, few.
fn datagrams() -> Vec<Datagram> {
    let mut datagrams: Vec<Datagram> = Vec::new();
    for (_, bytes) in fixtures() {
        let mut recording = Recording::new(bytes.as_slice()).unwrap();
        while let Some(input) = recording.read().unwrap() {
            let (bytes, is_dump) = match input.what {
                What::Events { bytes, .. } => (bytes, false),
                What::Dump { bytes, .. } => (bytes, true),
                _ => continue,
            };
            let alike = datagrams
                .iter()
                .filter(|other| other.bytes.len() == bytes.len())
                .count();
            if alike < 3 {
                datagrams.push(Datagram {
                    bytes: bytes[..bytes.len().min(MANGLED_LEN)].to_vec(),
                    is_dump,
                });
            }
        }
    }
    assert!(datagrams.len() >= 20, "{}", datagrams.len());
    datagrams
}

fn pipeline() -> Pipeline<'static> {
    let mut pipeline = Pipeline::new(Table::new(16, [1, 2]), Filter::default(), None);
    pipeline.take(&Input {
        at_ns: 1,
        what: What::DumpBegan(DumpPass::Resync),
    });
    pipeline
}

/// Sends bytes through the pipeline; returns what it counted for them.
fn take(pipeline: &mut Pipeline<'_>, bytes: &[u8], is_dump: bool) -> Counters {
    let what = if is_dump {
        What::Dump {
            bytes,
            truncated: false,
        }
    } else {
        What::Events {
            bytes,
            truncated: false,
            netns: None,
        }
    };
    pipeline.counters = Counters::default();
    pipeline.take(&Input { at_ns: 2, what });
    pipeline.counters
}

fn entries(counters: &Counters) -> u64 {
    counters.new + counters.update + counters.destroy + counters.dumped
}

/// Both renderers over whatever came of it.
fn render(pipeline: &Pipeline<'_>) {
    let rungs = Rungs::default();
    let summary = Summary {
        counters: &pipeline.counters,
        rungs: &rungs,
        capacity: 16,
        flows: pipeline.table.len(),
        duration: Duration::ZERO,
        allocations: 0,
        blind: None,
        trace: None,
        owning: None,
    };
    for format in [Format::Text, Format::Json] {
        let mut out = Vec::new();
        report::write(
            &pipeline.table,
            pipeline.books(),
            &summary,
            format,
            &mut out,
        )
        .unwrap();
        assert!(
            String::from_utf8(out)
                .unwrap()
                .bytes()
                .all(|byte| byte == b'\n' || byte == b'\t' || byte >= b' ')
        );
    }
}

#[test]
fn every_truncation() {
    let mut pipeline = pipeline();
    for datagram in datagrams() {
        let whole = take(&mut pipeline, &datagram.bytes, datagram.is_dump);
        for len in 0..datagram.bytes.len() {
            let cut = take(&mut pipeline, &datagram.bytes[..len], datagram.is_dump);
            assert!(
                entries(&cut) <= entries(&whole),
                "nothing comes from bytes that are not there"
            );
            let noticed = cut.rejected() > 0 || len % 4 == 0;
            assert!(
                noticed || entries(&cut) == entries(&whole),
                "a message cut at {len} is rejected"
            );
        }
        render(&pipeline);
    }
}

#[test]
fn every_change_of_a_byte() {
    let mut pipeline = pipeline();
    for mut datagram in datagrams() {
        for at in 0..datagram.bytes.len() {
            let original = datagram.bytes[at];
            for value in 0..=255 {
                datagram.bytes[at] = value;
                take(&mut pipeline, &datagram.bytes, datagram.is_dump);
            }
            datagram.bytes[at] = original;
        }
        render(&pipeline);
    }
}

#[test]
fn every_damage_to_a_recording() {
    for (name, bytes) in fixtures() {
        let bytes = &bytes[..bytes.len().min(4000)];
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            for value in [0, 1, 0x7f, 0xff, bytes[at] ^ 0x10] {
                damaged[at] = value;
                read_through(&damaged);
            }
            read_through(&bytes[..at]);
        }
        assert!(!name.is_empty());
    }
}

fn read_through(bytes: &[u8]) {
    let mut pipeline = pipeline();
    if let Ok(mut recording) = Recording::new(bytes) {
        while let Ok(Some(input)) = recording.read() {
            pipeline.take(&input);
        }
    }
}

#[cfg(feature = "trace")]
mod traced {
    use super::*;
    use conntracker::run::trace_input::TraceInput;

    /// What tracing brings in, of each kind and length: hits, lines, rules, tables and their texts.
    fn traces() -> Vec<(Vec<u8>, usize)> {
        let mut kept: Vec<(Vec<u8>, usize)> = Vec::new();
        for (_, bytes) in fixtures() {
            let mut recording = Recording::new(bytes.as_slice()).unwrap();
            while let Some(input) = recording.read().unwrap() {
                let (bytes, kind) = match input.what {
                    What::Trace(TraceInput::Nft(bytes)) => (bytes, 0),
                    What::Trace(TraceInput::Log(bytes)) => (bytes, 1),
                    What::Trace(TraceInput::Rules(bytes)) => (bytes, 2),
                    What::Trace(TraceInput::Legacy { content, .. }) => (content, 3),
                    What::Trace(TraceInput::Saved { text, .. }) => (text, 4),
                    _ => continue,
                };
                let bytes = &bytes[..bytes.len().min(MANGLED_LEN)];
                let same =
                    |(other, of): &(Vec<u8>, usize)| *of == kind && other.len() == bytes.len();
                if !kept.iter().any(same) {
                    kept.push((bytes.to_vec(), kind));
                }
            }
        }
        let count = |kind| kept.iter().filter(|(_, of)| *of == kind).count();
        assert!((0..5).all(|kind| count(kind) >= 2), "some of each kind");
        kept
    }

    fn trace_input(bytes: &[u8], kind: usize) -> TraceInput<'_> {
        let (ipv6, name) = (false, "filter");
        match kind {
            0 => TraceInput::Nft(bytes),
            1 => TraceInput::Log(bytes),
            2 => TraceInput::Rules(bytes),
            3 => TraceInput::Legacy {
                ipv6,
                name,
                content: bytes,
            },
            _ => TraceInput::Saved {
                ipv6,
                name,
                text: bytes,
            },
        }
    }

    /// The rules of the recording are known, as they are when damage comes.
    fn traced_pipeline() -> Pipeline<'static> {
        let mut pipeline = pipeline();
        let (_, bytes) = fixtures()
            .into_iter()
            .find(|(name, _)| name == "traced.ctrecord")
            .unwrap();
        let mut recording = Recording::new(bytes.as_slice()).unwrap();
        while let Some(input) = recording.read().unwrap() {
            if matches!(input.what, What::Trace(_)) {
                pipeline.take(&input);
            }
        }
        pipeline
    }

    #[test]
    fn every_damage_to_a_trace() {
        let mut pipeline = traced_pipeline();
        let take = |pipeline: &mut Pipeline<'_>, bytes: &[u8], kind| {
            for input in [trace_input(bytes, kind), TraceInput::Ended] {
                let what = What::Trace(input);
                pipeline.take(&Input { at_ns: 3, what });
            }
        };
        for (mut bytes, kind) in traces() {
            for len in 0..bytes.len() {
                take(&mut pipeline, &bytes[..len], kind);
            }
            for at in 0..bytes.len() {
                let original = bytes[at];
                for value in [0, 1, 2, 0x7f, 0x80, 0xff, original ^ 1, original ^ 0x20] {
                    bytes[at] = value;
                    take(&mut pipeline, &bytes, kind);
                }
                bytes[at] = original;
            }
            render(&pipeline);
        }
        assert!(pipeline.counters.traced > 0 && pipeline.counters.rejected() > 0);
    }
}
