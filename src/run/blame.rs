//! Guilty rules from a JSON report that was written before: no kernel, no root.

use super::log;
use super::output::Destination;
use crate::cli::Options;
use crate::error::{EXIT_INCOMPLETE, Error, Result};
use crate::features;
use crate::flow::filter::Filter;
use crate::hashing::HashMap;
use crate::report::blame::{self, Blame, DeniedFlow, Line, Unusable};
use crate::report::json_value::Value;
use crate::sys::signal::{Signals, wait};
use rustix::event::PollFlags;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::Path;

/// No line of a report is longer: a hundred steps in each direction, their rules a hundred times as
/// long as anybody writes them.
const LINE_LEN_MAX: usize = 16 << 20;

/// Flows that are remembered where a report tells of each several times: 24 bytes each.
const REMEMBERED_MAX: usize = 1 << 20;

const MAKE_IT: &str = "make it with 'conntracker -t -e --format json'";

/// Reads the report and writes which rules denied flows. Returns the exit status.
pub fn run(file: &Path, options: &Options) -> Result<u8> {
    features::Trace::needed_by("blame")?;
    let shown = if file == Path::new("-") {
        "stdin".into()
    } else {
        file.to_string_lossy()
    };
    let doing = || format!("reading the report {shown}");
    let input = open(file).map_err(|error| Error::failed(doing(), error, ""))?;
    let destination = Destination::open(&options.output)?;
    let signals = Signals::that_end()
        .map_err(|error| Error::failed("opening a signal descriptor", error, ""))?;
    let input = Interruptible {
        file: input,
        signals: &signals,
    };
    let told = Told::read(BufReader::with_capacity(64 << 10, input), &options.filter)
        .and_then(Told::useful)
        .map_err(|Useless { cause, advice }| Error::failed(doing(), cause, advice))?;
    let mut sink = destination.sink(&signals)?;
    blame::write(&told.blame, None, options.format, &mut sink)
        .and_then(|()| sink.finish())
        .map_err(|error| Error::failed(destination.doing(), error, ""))?;
    if !destination.is_stdout() {
        log::line(format_args!("the report is in {}", destination.shown()));
    }
    for note in told.notes() {
        log::line(format_args!("{note}"));
    }
    Ok(if told.is_whole() { 0 } else { EXIT_INCOMPLETE })
}

fn open(file: &Path) -> io::Result<File> {
    if file == Path::new("-") {
        io::stdin().as_fd().try_clone_to_owned().map(File::from)
    } else {
        File::open(file)
    }
}

/// A file or pipe whose reading a signal ends, also while nothing comes.
struct Interruptible<'a> {
    file: File,
    signals: &'a Signals,
}

impl Read for Interruptible<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            let polled = [
                (self.signals.fd(), PollFlags::IN),
                (self.file.as_fd(), PollFlags::IN),
            ];
            let [signal, readable] = wait(polled, None)?;
            if signal && self.signals.pending() {
                return Err(io::Error::other("ended by a signal"));
            }
            if readable {
                return self.file.read(bytes);
            }
        }
    }
}

/// Why there is nothing to say from a report.
#[derive(Debug, PartialEq, Eq)]
struct Useless {
    cause: String,
    advice: &'static str,
}

impl Useless {
    fn new(cause: impl ToString, advice: &'static str) -> Useless {
        Useless {
            cause: cause.to_string(),
            advice,
        }
    }
}

/// What a report says.
#[derive(Debug, Default)]
struct Told {
    blame: Blame,
    /// Flow objects.
    flows: u64,
    /// Objects of a report of blame.
    blamed: u64,
    /// The ways of flows are told.
    traced: bool,
    /// The number of its end objects.
    ends: u64,
    /// One of them says that something was missed.
    incomplete: bool,
    /// One of them says that only confirmed flows were traced.
    confirmed_only: bool,
    /// The line that is not whole.
    cut_short: Option<u64>,
    /// Flows that may be told of again.
    remembered: Remembered,
}

impl Told {
    fn read(mut input: impl BufRead, filter: &Filter) -> std::result::Result<Told, Useless> {
        let mut told = Told::default();
        let mut line = Vec::new();
        for number in 1u64.. {
            line.clear();
            let mut limited = input.by_ref().take(LINE_LEN_MAX as u64 + 1);
            let read = limited.read_until(b'\n', &mut line);
            let len = read.map_err(|error| Useless::new(error, ""))?;
            if len == 0 {
                break;
            }
            if len > LINE_LEN_MAX {
                let cause = format!("line {number} is longer than any line of a report");
                return Err(Useless::new(cause, MAKE_IT));
            }
            let whole = line.last() == Some(&b'\n');
            let text = line.trim_ascii_end();
            if text.is_empty() {
                continue;
            }
            match Value::parse(text) {
                Ok(value) => told.take(number, &value, filter)?,
                Err(flaw) if flaw.cut_short && !whole => told.cut_short = Some(number),
                Err(flaw) => {
                    let (column, what) = (flaw.column, flaw.what);
                    let cause = format!("not JSON: line {number}, column {column}: {what}");
                    return Err(Useless::new(cause, MAKE_IT));
                }
            }
        }
        Ok(told)
    }

    fn take(
        &mut self,
        number: u64,
        value: &Value,
        filter: &Filter,
    ) -> std::result::Result<(), Useless> {
        let line = Line::of(value).map_err(|unusable| {
            let advice = match unusable {
                Unusable::Newer(_) => "a later conntracker made it: read it with that one",
                _ => MAKE_IT,
            };
            Useless::new(format_args!("line {number}: {unusable}"), advice)
        })?;
        match line {
            Line::Denied(flow) => {
                (self.flows, self.traced) = (self.flows + 1, true);
                if filter.admits(&flow.entry) {
                    self.remembered.add(*flow, &mut self.blame);
                }
            }
            Line::Flow { traced } => {
                self.flows += 1;
                self.traced |= traced;
            }
            Line::Stats { complete, trace } => {
                self.ends += 1;
                self.incomplete |= !complete;
                self.traced |= trace.is_some();
                self.confirmed_only |= trace == Some(false);
            }
            Line::Blame => self.blamed += 1,
            Line::Other => {}
        }
        Ok(())
    }

    /// Whether it is a report that says who denied what. One that ends well and has no flow is: nothing
    /// passed by.
    fn useful(self) -> std::result::Result<Told, Useless> {
        match self {
            Told {
                flows: 0,
                blamed: 1..,
                ..
            } => Err(Useless::new(
                "it is a report of blame already, there are no flows in it",
                MAKE_IT,
            )),
            Told {
                flows: 0,
                cut_short: Some(1),
                ..
            } => Err(Useless::new(
                "there is no flow in it: it is cut short in its first line",
                MAKE_IT,
            )),
            Told {
                flows: 0, ends: 0, ..
            } => Err(Useless::new("there is no flow in it", MAKE_IT)),
            // Its end would say that there was nothing to trace.
            Told {
                traced: false,
                cut_short: Some(line),
                ..
            } => Err(Useless::new(
                format_args!("it has no traces before line {line}, where it is cut short"),
                MAKE_IT,
            )),
            Told { traced: false, .. } => Err(Useless::new("it has no traces", MAKE_IT)),
            told => Ok(told),
        }
    }

    /// Whether everything that the capture should have seen is in it.
    fn is_whole(&self) -> bool {
        self.cut_short.is_none() && !self.incomplete && !self.remembered.full
    }

    /// What there is to say of the report itself.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(line) = self.cut_short {
            notes.push(format!(
                "the report is cut short in line {line}: what came after is not in this"
            ));
        } else if self.ends == 0 {
            notes.push("the report has no stats: whether it is complete is not known".to_owned());
        }
        if self.incomplete {
            notes.push(
                "the report is not complete: its capture missed something, as its stats say"
                    .to_owned(),
            );
        }
        if self.confirmed_only {
            notes.push(
                "the report was made without -e: flows that were denied from their first packet on are not in it"
                    .to_owned(),
            );
        }
        if self.remembered.full {
            notes.push(format!(
                "more than {REMEMBERED_MAX} denied flows in a report that was followed: some may be counted twice"
            ));
        }
        notes
    }
}

/// A report that was followed tells of a flow when it is denied and again when it ends, each time
/// with all that is known until then: what was known before counts no second time.
#[derive(Debug, Default)]
struct Remembered {
    /// By the hash of what tells flows apart: the rule's number, flows and attempts that were counted.
    flows: HashMap<u64, (u32, u32, u32)>,
    hasher: RandomState,
    full: bool,
}

impl Remembered {
    fn add(&mut self, flow: DeniedFlow, blame: &mut Blame) {
        let DeniedFlow {
            rule,
            place,
            mut denied,
            again,
            ..
        } = flow;
        let Some(identity) = again else {
            blame.add(&rule, place, &denied);
            return;
        };
        let limit = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let (flows, attempts) = (limit(denied.flows), limit(denied.attempts));
        let hash = self.hasher.hash_one(identity);
        if let Some((at, flows_before, attempts_before)) = self.flows.get_mut(&hash) {
            denied.flows = u64::from(flows.saturating_sub(*flows_before));
            denied.attempts = u64::from(attempts.saturating_sub(*attempts_before));
            blame.add_again(*at as usize, &rule, place, &denied);
            *flows_before = flows.max(*flows_before);
            *attempts_before = attempts.max(*attempts_before);
            return;
        }
        let at = limit(blame.add(&rule, place, &denied) as u64);
        if self.flows.len() < REMEMBERED_MAX {
            self.flows.insert(hash, (at, flows, attempts));
        } else {
            self.full = true;
        }
    }
}

#[cfg(test)]
mod tests;
