//! The same report from a recorded file: no kernel, no root.

use super::account::owned_ends;
use super::ending::write_report;
use super::follow::Follow;
use super::input::What;
use super::log;
use super::output::Destination;
use super::pipeline::Pipeline;
use super::recording::Recording;
use super::table::new_table;
use crate::cli::Options;
use crate::error::{EXIT_INCOMPLETE, Error, Result};
use crate::features;
use crate::report::summary::{Owning, Rungs, Summary, Tracing};
use crate::sys::signal::Signals;
use std::fmt::Display;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

const RUNGS: Rungs = Rungs {
    capture: "recording",
    activation: "recording",
    buffer_bytes: 0,
    loss: "recording",
};

/// Reads the recording and writes its report. Returns the exit status.
pub fn run(file: &Path, options: &Options) -> Result<u8> {
    features::Record::needed_by("replay")?;
    let mut recording = Recording::open(file).map_err(|cause| unreadable(file, &cause))?;
    log::line(format_args!(
        "recorded on Linux {}",
        recording.kernel_release
    ));
    let destination = Destination::open(&options.output)?;
    let signals = Signals::that_end()
        .map_err(|error| Error::failed("opening a signal descriptor", error, ""))?;
    let follow = match options.follow {
        true => Some(Follow::new(
            destination.growing(&signals, None, false, options.rotate)?,
            options.format,
        )),
        false => None,
    };
    let mut pipeline = Pipeline::new(new_table(options.capacity)?, options.filter.clone(), follow);
    let (duration, finished) = feed(file, &mut recording, &mut pipeline, &signals)?;
    let summary = Summary {
        counters: &pipeline.counters,
        rungs: &RUNGS,
        capacity: pipeline.table.capacity(),
        flows: pipeline.table.len(),
        duration,
        allocations: 0,
        blind: (!finished)
            .then_some("the recording is cut short: what came after is not in this report"),
        trace: pipeline.tracer.as_ref().map(|_| Tracing {
            rung: "recording",
            reason: None,
            legacy: "recording",
            everything: pipeline.everything,
            paths: pipeline.ways.path_count(),
            ended: pipeline.trace_ended(),
        }),
        owning: pipeline.attributor.as_ref().map(|_| {
            let (ends, known) = owned_ends(&pipeline.table);
            Owning {
                rung: &pipeline.owners.rung,
                reason: None,
                ends,
                known,
            }
        }),
    };
    let follow = pipeline.follow.take();
    write_report(
        &pipeline.table,
        pipeline.books(),
        follow,
        &summary,
        options,
        &destination,
        &signals,
    )?;
    if !destination.is_stdout() {
        log::line(format_args!("the report is in {}", destination.shown()));
    }
    log::line(format_args!("{summary}"));
    Ok(if summary.complete() {
        0
    } else {
        EXIT_INCOMPLETE
    })
}

/// Sends the recording through the pipeline. Returns how long the capture was, and whether its end
/// is in the file.
fn feed<R: Read>(
    file: &Path,
    recording: &mut Recording<R>,
    pipeline: &mut Pipeline<'_>,
    signals: &Signals,
) -> Result<(Duration, bool)> {
    let (mut first_ns, mut last_ns, mut finished) = (None, 0, false);
    loop {
        let input = match recording.read() {
            Ok(Some(input)) => input,
            Ok(None) => break,
            Err(cause) if cause.is_cut_short() => break,
            Err(cause) => return Err(unreadable(file, &cause)),
        };
        first_ns = first_ns.or(Some(input.at_ns));
        last_ns = input.at_ns;
        finished = input.what == What::Finished;
        pipeline.take(&input);
        if signals.pending() {
            return Err(unreadable(file, &"ended by a signal"));
        }
    }
    let duration_ns = last_ns.saturating_sub(first_ns.unwrap_or(last_ns));
    Ok((Duration::from_nanos(duration_ns), finished))
}

fn unreadable(file: &Path, cause: &dyn Display) -> Error {
    let doing = format!("reading the recording {}", file.display());
    Error::failed(doing, cause, "conntracker --record makes them")
}
