//! What a capture does besides capturing, as long as it lives: it heeds signals, has reports and
//! numbers written, tells systemd that it lives, and offers syslog what that did not take.
//!
//! A report is written by a child from a copy of our memory, so that the capture does not pause,
//! however slow the disk or the reader is. Before, the table is dumped, as at the end: the kernel
//! tells its counters in no other way. One child works at a time; what is asked for meanwhile is
//! done once, behind it.

use super::Session;
use crate::cli::{Options, Output};
use crate::error::{Error, Result};
use crate::event::DumpPass;
use crate::features;
use crate::limits::{REPORT_PATIENCE, STATUS_FILE_INTERVAL};
use crate::report::numbers;
use crate::run::ending::write_report;
use crate::run::log;
use crate::run::notify::Notify;
use crate::run::output::Destination;
use crate::run::source::Queue;
use crate::sys::clock;
use crate::sys::process::{self, Copy, Told};
use crate::sys::signal::Asked;
use std::fmt;
use std::time::Duration;

/// How far a report is that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nobody asked.
    Idle,
    /// Waits for a dump to begin.
    Asked,
    /// The table is being dumped, since then.
    Dumping(Duration),
    /// Waits for the child before to end.
    Ready,
}

/// What a child writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Report,
    Numbers,
}

/// Where reports go that are written meanwhile.
#[derive(Debug)]
enum Reports<'a> {
    /// To where the last one goes.
    There(&'a Destination),
    /// To a file beside it.
    Beside(Destination),
}

impl Reports<'_> {
    fn destination(&self) -> &Destination {
        match self {
            Reports::There(destination) => destination,
            Reports::Beside(destination) => destination,
        }
    }
}

/// What is due, and who works on it.
#[derive(Debug)]
pub(in crate::run) struct Life<'a> {
    report: Stage,
    report_due: Option<Duration>,
    /// Where reports go that are written meanwhile, if there is such a place.
    reports: Option<Reports<'a>>,
    /// Where the numbers go, if they are wanted.
    numbers: Option<Destination>,
    numbers_due: Duration,
    child: Option<(Work, Copy)>,
    /// Whether the last report, the last numbers could not be written.
    failing: [bool; 2],
    notify: Notify,
    alive_due: Duration,
}

impl<'a> Life<'a> {
    /// Opens what is written to meanwhile.
    pub(in crate::run) fn open(
        options: &Options,
        destination: &'a Destination,
        told: &Told,
    ) -> Result<Life<'a>> {
        let built = features::Daemon::built();
        let reports = match &options.output {
            _ if built.is_none() => None,
            _ if !options.follow => Some(Reports::There(destination)),
            // What is followed has the place that its report would take.
            Output::File(path) => {
                let mut name = path.as_os_str().to_owned();
                name.push(".report");
                let beside = Destination::open(&Output::File(name.into()))?;
                Some(Reports::Beside(beside))
            }
            Output::Stdout => None,
        };
        let numbers = options.status.clone().map(Output::File);
        Ok(Life {
            report: Stage::Idle,
            report_due: options.every.map(|every| clock::monotonic() + every),
            reports,
            numbers: numbers.as_ref().map(Destination::open).transpose()?,
            numbers_due: Duration::ZERO,
            child: None,
            failing: [false; 2],
            notify: built.map_or_else(Notify::default, |built| Notify::open(built, told)),
            alive_due: Duration::ZERO,
        })
    }

    /// The start succeeded.
    pub(in crate::run) fn ready(&self) {
        let pid = std::process::id();
        self.notify.say(format_args!("READY=1\nMAINPID={pid}"));
    }

    /// When there is something to do even where nothing comes.
    fn next(&self, now: Duration, is_dumping: bool) -> Option<Duration> {
        let report = match self.report {
            Stage::Dumping(since) if !is_dumping => Some(since + REPORT_PATIENCE),
            _ => self.report_due,
        };
        let numbers = self.numbers.as_ref().map(|_| self.numbers_due);
        let numbers = numbers.filter(|_| self.child.is_none()); // its end is heard of
        let alive = self.notify.interval.map(|_| self.alive_due);
        let syslog = log::next().map(|pause| now + pause);
        [report, numbers, alive, syslog].into_iter().flatten().min()
    }
}

impl Session<'_> {
    /// When there is something of this to do even where nothing comes.
    pub(super) fn next_in_life(&self, now: Duration) -> Option<Duration> {
        self.life.next(now, self.dumper.is_going())
    }

    /// Does what signals ask for, their end aside.
    pub(super) fn heed(&mut self, asked: Asked) {
        if features::Daemon::built().is_none() {
            return; // the end is not asked for here
        }
        if asked.reopen {
            if let Some(follow) = &mut self.intake.pipeline.follow {
                follow.reopen();
            }
        }
        if asked.status {
            log::line(format_args!("status: {}", self.brief()));
        }
        if asked.report && self.life.reports.is_none() {
            log::line(format_args!(
                "no report: standard output has what is followed; with -o FILE it is written to FILE.report"
            ));
        } else if asked.report && self.life.report == Stage::Idle {
            self.life.report = Stage::Asked;
        }
    }

    /// Does what is due.
    pub(super) fn live(&mut self, now: Duration) -> Result<()> {
        if features::Daemon::built().is_none() {
            return Ok(());
        }
        log::flush();
        let interval = self.life.notify.interval;
        if let Some(interval) = interval.filter(|_| now >= self.life.alive_due) {
            self.life.alive_due = now + interval;
            let brief = self.brief();
            self.life
                .notify
                .say(format_args!("WATCHDOG=1\nSTATUS={brief}"));
        }
        if self.life.report_due.is_some_and(|due| now >= due) {
            // A time that passed unheeded (the machine slept) is not made up for.
            self.life.report_due = self.options.every.map(|every| now + every);
            if self.life.report == Stage::Idle {
                self.life.report = Stage::Asked;
            }
        }
        self.prepare_report(now)?;
        self.look_after_child();
        if self.life.child.is_none() && self.life.report == Stage::Ready {
            self.life.report = Stage::Idle;
            self.fork(Work::Report);
        }
        if self.life.child.is_none() && self.life.numbers.is_some() && now >= self.life.numbers_due
        {
            self.life.numbers_due = now + STATUS_FILE_INTERVAL;
            self.fork(Work::Numbers);
        }
        Ok(())
    }

    /// Has the table dumped, and reads what was heard of meanwhile.
    fn prepare_report(&mut self, now: Duration) -> Result<()> {
        match self.life.report {
            Stage::Asked if !self.dumper.is_going() => {
                self.life.report = Stage::Dumping(now);
                self.dumper.begin(DumpPass::Report, now, &mut self.intake)
            }
            Stage::Dumping(since) if !self.dumper.is_going() => {
                let all_read = self.queue == Queue::Empty && !self.behind_dump;
                if all_read || now >= since + REPORT_PATIENCE {
                    self.life.report = Stage::Ready;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn fork(&mut self, work: Work) {
        self.note_losses();
        let session = &*self;
        let started = Copy::start(|line| {
            let ready = session.signals.end_by(line);
            ready.map_err(|error| error.to_string())?;
            session.write(work).map_err(|error| error.to_string())
        });
        match started {
            Ok(child) => self.life.child = Some((work, child)),
            Err(error) => self.wrote(work, Err(format!("forking a process for it: {error}"))),
        }
    }

    fn write(&self, work: Work) -> Result<()> {
        let described = self.described();
        let summary = self.summary(clock::monotonic() - self.began, &described);
        let pipeline = &self.intake.pipeline;
        match (work, &self.life.reports, &self.life.numbers) {
            (Work::Report, Some(reports), _) => write_report(
                &pipeline.table,
                pipeline.books(),
                None,
                &summary,
                self.options,
                reports.destination(),
                self.signals,
            ),
            (Work::Numbers, _, Some(destination)) => {
                let written = destination.sink(self.signals).map(|mut sink| {
                    let resident_bytes = process::resident_bytes();
                    let at_ns = clock::realtime_ns();
                    numbers::write(
                        &pipeline.table,
                        pipeline.books(),
                        &summary,
                        resident_bytes,
                        at_ns,
                        &mut sink,
                    )
                    .and_then(|()| sink.publish_to_all())
                });
                written?.map_err(|error| Error::failed(destination.doing(), error, ""))
            }
            _ => Ok(()),
        }
    }

    fn look_after_child(&mut self) {
        let Some((work, child)) = &mut self.life.child else {
            return;
        };
        if let Some(ended) = child.ended() {
            let work = *work;
            self.life.child = None;
            self.wrote(work, ended);
        }
    }

    /// Says so when it begins to fail, and when it works again.
    fn wrote(&mut self, work: Work, outcome: std::result::Result<(), String>) {
        let (failing, what) = match work {
            Work::Report => (&mut self.life.failing[0], "reports"),
            Work::Numbers => (&mut self.life.failing[1], "numbers"),
        };
        let failed_before = std::mem::replace(failing, outcome.is_err());
        match outcome {
            Err(cause) if !failed_before => log::failure(format_args!("{cause}")),
            Ok(()) if failed_before => log::line(format_args!("{what} are written again")),
            _ => {}
        }
    }

    /// The capture is over: nothing else writes from here on, and numbers that grow old are taken away.
    pub(super) fn end_life(&mut self) {
        self.life.notify.say(format_args!("STOPPING=1"));
        if let Some((_, child)) = self.life.child.take() {
            child.end(); // a report that is being written is about to be written anew
        }
        if let Some(numbers) = &self.life.numbers {
            numbers.remove();
        }
    }

    fn brief(&self) -> impl fmt::Display + use<> {
        let counters = &self.intake.pipeline.counters;
        Brief {
            up: clock::monotonic() - self.began,
            flows: self.intake.pipeline.table.len(),
            capacity: self.intake.pipeline.table.capacity(),
            events: counters.new + counters.update + counters.destroy,
            lost: counters.lost + counters.trace_lost + counters.owner_lost,
            resident_bytes: process::resident_bytes(),
            capture: self.rungs.capture,
            activation: self.rungs.activation,
            trace: self.trace.as_ref().map(|trace| trace.instrument.rung),
            owners: self.owners.as_ref().map(|owners| owners.rung()),
        }
    }
}

/// How it goes, in one line.
struct Brief {
    up: Duration,
    flows: u32,
    capacity: u32,
    events: u64,
    lost: u64,
    resident_bytes: u64,
    capture: &'static str,
    activation: &'static str,
    trace: Option<&'static str>,
    owners: Option<&'static str>,
}

impl fmt::Display for Brief {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} s, {} of {} flows, {} events, {} lost, {} KiB, capture {}, activation {}",
            self.up.as_secs(),
            self.flows,
            self.capacity,
            self.events,
            self.lost,
            self.resident_bytes >> 10,
            self.capture,
            self.activation,
        )?;
        if let Some(rung) = self.trace {
            write!(out, ", tracing {rung}")?;
        }
        if let Some(rung) = self.owners {
            write!(out, ", owners {rung}")?;
        }
        Ok(())
    }
}
