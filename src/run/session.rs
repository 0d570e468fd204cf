//! A capture that goes on: the loop, and what it is made of.
//!
//! The loop drains the event socket into the table and does nothing slow. After a batch that was
//! not full it rests, since a wake-up costs more than the events that it brings.

use self::life::Life;
use super::account::{events_are_off, owning, tracing};
use super::dump::Dumper;
use super::ending::write_report;
use super::follow::Follow;
use super::input::What;
use super::intake::Intake;
use super::log;
use super::output::Destination;
use super::owner_source::OwnerSource;
use super::pipeline::Pipeline;
use super::recording::Recorder;
use super::source::{EventSource, Queue};
use super::status::{Status, StatusLine};
use super::table::new_table;
use super::trace_input::TraceInput;
use super::trace_source::{TraceSource, wishes};
use crate::cli::Options;
use crate::error::{EXIT_INCOMPLETE, Error, Result};
use crate::event::DumpPass;
use crate::features::{self, OwnersOnly, TraceOnly};
use crate::firewall::activation::{self, Activated, Idle};
use crate::firewall::instrument::Instrument;
use crate::limits::{COALESCE, COALESCE_OWNED};
use crate::report::summary::{Rungs, Summary};
use crate::sys::process::Told;
use crate::sys::signal::{Asked, Signals, wait};
use crate::sys::{alloc, clock};
use crate::wire::kernel::{AF_INET, AF_INET6, AF_UNSPEC};
use rustix::event::PollFlags;
use std::io;
use std::time::Duration;

mod life;

const WENT_IDLE: &str =
    "the rules that used conntrack went away during the capture: flows after that were not tracked";

pub(super) struct Session<'a> {
    options: &'a Options,
    signals: &'a Signals,
    source: EventSource,
    dumper: Dumper,
    intake: Intake<'a>,
    rungs: Rungs,
    status: StatusLine,
    began: Duration,
    ended: Duration,
    allocations: u64,
    loss_logged: bool,
    queue: Queue,
    trace: Option<TraceOnly<TraceSource>>,
    owners: Option<OwnersOnly<OwnerSource>>,
    /// A dump was read and the event queue was not empty since.
    behind_dump: bool,
    /// What was left without conntrack at the start.
    left_idle: Idle,
    /// Why flows may have passed that could not be seen, if so.
    blind: Option<&'static str>,
    /// What is done besides.
    life: Life<'a>,
}

impl<'a> Session<'a> {
    pub(super) fn open(
        options: &'a Options,
        destination: &'a Destination,
        signals: &'a Signals,
        told: &Told,
    ) -> Result<Self> {
        let source = EventSource::open(options)?;
        let family = options
            .filter
            .ipv6
            .map_or(AF_UNSPEC, |ipv6| if ipv6 { AF_INET6 } else { AF_INET });
        let dumper = Dumper::open(family)?;
        let table = new_table(options.capacity)?;
        let recorder = match (features::Record::built(), &options.record) {
            (Some(built), Some(path)) => Some(built.only(Recorder::create(path)?)),
            _ => None,
        };
        let owners = match features::Owners::built() {
            Some(built) if options.owners => Some(built.only(OwnerSource::open(options)?)),
            _ => None,
        };
        let pipeline = Pipeline::new(table, options.filter.clone(), None);
        let now = clock::monotonic();
        Ok(Session {
            options,
            signals,
            source,
            dumper,
            intake: Intake {
                pipeline,
                recorder,
                record_error: None,
            },
            rungs: Rungs::default(),
            status: StatusLine::new(),
            began: now,
            ended: now,
            allocations: 0,
            loss_logged: false,
            queue: Queue::Empty,
            trace: None,
            owners,
            behind_dump: false,
            left_idle: Idle::default(),
            blind: None,
            life: Life::open(options, destination, told)?,
        })
    }

    /// How conntrack came to be active, and what that leaves unseen.
    pub(super) fn activated(&mut self, activated: &Activated) {
        self.rungs.activation = activated.rung;
        self.left_idle = activated.left_idle;
        self.blind = activated.blind.or(events_are_off());
    }

    /// Where traces come from, if they do.
    pub(super) fn trace(&self) -> Option<&TraceOnly<TraceSource>> {
        self.trace.as_ref()
    }

    /// Begins to hear events.
    pub(super) fn join(&self) -> Result<()> {
        self.source.join()
    }

    /// The start succeeded.
    pub(super) fn ready(&self) {
        self.life.ready();
    }

    /// Has packets traced, where that was asked for.
    pub(super) fn begin_traces(&mut self, idle: Idle) -> Result<()> {
        let options = self.options;
        let Some(built) = features::Trace::built().filter(|_| options.trace) else {
            return Ok(());
        };
        let wishes = wishes(options, idle);
        let instrument = Instrument::start(&wishes)?;
        let lets_go = wishes.everything && wishes.conntrack && instrument.rung.starts_with("nft");
        let (everything, intake) = (options.everything, &mut self.intake);
        let trace = TraceSource::begin(instrument, everything, lets_go, intake);
        self.trace = Some(built.only(trace));
        Ok(())
    }

    /// Says who has the sockets that there are, before the flows come.
    pub(super) fn begin_owners(&mut self) {
        if let Some(owners) = &mut self.owners {
            owners.begin(self.options, &mut self.intake);
        }
    }

    /// Gives back what traces the packets.
    pub(super) fn end_traces(&mut self) -> Result<()> {
        match &mut self.trace {
            Some(trace) => trace.instrument.release(),
            None => Ok(()),
        }
    }

    /// Begins a report that is seen as it grows: late, so that a start that fails leaves the one that
    /// is there alone.
    pub(super) fn open_follow(&mut self, destination: &'a Destination) -> Result<()> {
        if self.options.follow {
            let deadline = self
                .options
                .duration
                .map(|duration| clock::monotonic() + duration);
            let appends = self.options.daemon;
            let growing =
                destination.growing(self.signals, deadline, appends, self.options.rotate)?;
            self.intake.pipeline.follow = Some(Follow::new(growing, self.options.format));
        }
        Ok(())
    }

    /// Says how the capture works, and what it cannot see.
    pub(super) fn announce(&mut self, activated: &Activated) {
        self.rungs.capture = "ctnetlink";
        self.rungs.buffer_bytes = self.source.buffer_bytes;
        self.rungs.loss = if self.source.counts_losses() {
            "socket drop counter"
        } else {
            "unknown number"
        };
        log::line(format_args!("{}", activated.log_line));
        if self.source.buffer_limited {
            log::line(format_args!(
                "the receive buffer is limited to {} bytes: CAP_NET_ADMIN lifts net.core.rmem_max",
                self.source.buffer_bytes
            ));
        }
        if self.options.all_netns {
            log::line(format_args!(
                "other namespaces: only flows that begin or end now; the table dumped is our own"
            ));
        }
        if let Some(blind) = self.blind {
            log::line(format_args!("{blind}"));
        }
        if let Some(trace) = &self.trace {
            let instrument = &trace.instrument;
            let reason = instrument.why_not.as_deref().unwrap_or_default();
            let reason = if reason.is_empty() {
                String::new()
            } else {
                format!(" ({reason})")
            };
            let legacy = instrument.legacy_lines.as_ref().err();
            let legacy = legacy.map_or("legacy tables too", String::as_str);
            log::line(format_args!(
                "tracing: {}{reason}; {legacy}",
                instrument.rung
            ));
        }
        if let Some(owners) = &self.owners {
            let described = owners.describe();
            let described = match described.as_str() {
                "" => String::new(),
                described => format!(" ({described})"),
            };
            log::line(format_args!("owners: {}{described}", owners.rung()));
        }
        log::line(format_args!("capturing"));
    }

    /// Begins the first dump, and reads its first part: where the kernel cannot dump its table it says
    /// so at once, and the capture does not start.
    pub(super) fn begin_dump(&mut self) -> Result<()> {
        self.began = clock::monotonic();
        self.dumper
            .begin(DumpPass::Initial, self.began, &mut self.intake)?;
        self.behind_dump = true;
        self.dumper.read(&mut self.intake)
    }

    pub(super) fn capture(&mut self) -> Result<()> {
        let allocations_before = alloc::count();
        let deadline = self.options.duration.map(|duration| self.began + duration);
        loop {
            let now = clock::monotonic();
            if deadline.is_some_and(|deadline| now >= deadline) {
                break;
            }
            if self.queue == Queue::Empty {
                self.dumper.tick(now, &mut self.intake)?;
            }
            self.draw(now, deadline);
            self.live(now)?;
            if self.round(now, deadline)? {
                break;
            }
        }
        self.ended = clock::monotonic();
        self.status.clear();
        self.end_life();
        self.allocations = alloc::count() - allocations_before;
        // Now, while our own rules are there: they use conntrack, too.
        let idle = activation::idle(self.options.activation, self.options.filter.ipv6);
        if idle.is_beyond(self.left_idle) {
            self.blind = self.blind.or(Some(WENT_IDLE));
        }
        let allocations_before = alloc::count();
        self.finish()?;
        self.allocations += alloc::count() - allocations_before;
        Ok(())
    }

    /// Waits for something to do and does it. Says whether a signal ended the capture.
    fn round(&mut self, now: Duration, deadline: Option<Duration>) -> Result<bool> {
        let redraw = self.status.next().map(|next| self.began + next);
        // Whether the queue is empty after a dump is asked for, not waited for.
        let check = (self.behind_dump && !self.dumper.is_going()).then_some(now);
        let trace = self
            .trace
            .as_ref()
            .and_then(|trace| trace.next(&self.intake));
        let owners = self
            .owners
            .as_ref()
            .and_then(|owners| owners.next(&self.intake));
        let life = self.next_in_life(now);
        let next = [
            deadline,
            self.dumper.next(),
            redraw,
            check,
            trace,
            owners,
            life,
        ]
        .into_iter()
        .flatten()
        .min();
        let [signal, asks, events, dump, nft, log, probes] =
            self.wait(next.map(|next| next.saturating_sub(now)))?;
        self.queue = if events {
            self.read_events()?
        } else {
            Queue::Empty
        };
        if let Some(owners) = self.owners.as_mut().filter(|_| probes && !events) {
            owners.read(&mut self.intake);
        }
        let traces = match &mut self.trace {
            Some(trace) if nft || log => trace.read(&mut self.intake)?,
            _ => Queue::Empty,
        };
        if dump {
            self.dumper.read(&mut self.intake)?;
            self.behind_dump = true;
        } else if self.behind_dump && self.queue == Queue::Empty && !self.dumper.is_going() {
            self.behind_dump = false;
            self.intake.take(clock::realtime_ns(), What::CaughtUp);
        }
        let all_read = self.queue == Queue::Empty && traces == Queue::Empty;
        if all_read && !self.dumper.is_going() && !self.behind_dump {
            self.rest()?;
        }
        self.hand_on()?;
        if (events || nft || log || probes) && all_read && !self.dumper.is_going() {
            let rest = match self.owners {
                Some(_) => COALESCE_OWNED,
                None => COALESCE,
            };
            wait([(self.signals.fd(), PollFlags::IN)], Some(rest)).map_err(waiting)?;
        }
        let asked = if signal || asks {
            self.signals.asked()
        } else {
            Asked::default()
        };
        self.heed(asked);
        Ok(asked.end)
    }

    /// Does what is due while nothing is queued anywhere.
    fn rest(&mut self) -> Result<()> {
        let at_ns = clock::realtime_ns();
        let trace = self.trace.as_mut();
        let due = trace.is_some_and(|trace| trace.is_quiet_due(&self.intake));
        if due && !self.read_once_more()? {
            return Ok(());
        }
        if let Some(trace) = &mut self.trace {
            if due {
                trace.quiet(at_ns, &mut self.intake);
            }
            trace.rest(&mut self.intake);
        }
        if let Some(owners) = &mut self.owners {
            owners.rest(&mut self.intake);
        }
        Ok(())
    }

    /// Reads what traces and events came since the queues were asked. Says whether that is all.
    fn read_once_more(&mut self) -> Result<bool> {
        let traces = match &mut self.trace {
            Some(trace) => trace.read(&mut self.intake)?,
            None => Queue::Empty,
        };
        self.queue = self.read_events()?;
        Ok([traces, self.queue] == [Queue::Empty; 2])
    }

    /// Which are readable: signals that end, those that ask, events, the dump, traces of nf_tables, of the legacy tables, probes.
    fn wait(&self, timeout: Option<Duration>) -> Result<[bool; 7]> {
        let none = self.signals.fd(); // in the place of one that is not there
        let [nft, log] = self.trace.as_ref().map_or([None; 2], |trace| trace.fds());
        let probes = self.owners.as_ref().and_then(|owners| owners.fd());
        let fds = [
            none,
            self.signals.asks_fd(),
            self.source.fd(),
            self.dumper.fd(),
            nft.unwrap_or(none),
            log.unwrap_or(none),
            probes.unwrap_or(none),
        ];
        wait(fds.map(|fd| (fd, PollFlags::IN)), timeout).map_err(waiting)
    }

    fn read_events(&mut self) -> Result<Queue> {
        let owners = &mut self.owners;
        let (queue, lost) = self.source.read(&mut self.intake, &mut |intake| {
            if let Some(owners) = owners {
                owners.read(intake);
            }
        })?;
        if lost {
            self.dumper.want_resync();
            if !std::mem::replace(&mut self.loss_logged, true) {
                self.status.clear();
                log::line(format_args!(
                    "events are being lost; the report will say how many (a larger --buffer may help)"
                ));
            }
        }
        Ok(queue)
    }

    fn hand_on(&mut self) -> Result<()> {
        match &mut self.intake.pipeline.follow {
            Some(follow) => {
                let handed_on = follow.hand_on();
                self.intake.pipeline.counters.unwritten = follow.unwritten();
                handed_on.map_err(|error| Error::failed("writing what is followed", error, ""))
            }
            None => Ok(()),
        }
    }

    /// Hears no more, reads what is queued, and sees what lives.
    fn finish(&mut self) -> Result<()> {
        if let Some(trace) = &mut self.trace {
            // First, so that of each packet that is traced the flow is heard of.
            if let Err(error) = trace.stop(&mut self.intake) {
                log::line(format_args!("{error}"));
            }
            trace.read_all(&mut self.intake)?;
        }
        self.source.leave();
        while self.read_events()? == Queue::MoreWaits {}
        self.read_dump_to_its_end()?;
        self.dumper
            .begin(DumpPass::Final, clock::monotonic(), &mut self.intake)?;
        self.read_dump_to_its_end()?;
        self.note_losses();
        if let Some(trace) = &mut self.trace {
            trace.read_all(&mut self.intake)?;
            trace.finish(&mut self.intake);
            self.intake.trace(TraceInput::Ended);
        }
        if let Some(owners) = &mut self.owners {
            owners.finish(&mut self.intake);
        }
        self.intake.take(clock::realtime_ns(), What::Finished);
        self.hand_on()
    }

    /// Takes the kernel's counts of what was lost.
    fn note_losses(&mut self) {
        self.source.note_loss(&mut self.intake, false);
        if let Some(trace) = &mut self.trace {
            trace.note_loss(false, &mut self.intake);
        }
    }

    fn read_dump_to_its_end(&mut self) -> Result<()> {
        while self.dumper.is_going() {
            let now = clock::monotonic();
            self.dumper.tick(now, &mut self.intake)?;
            let timeout = self.dumper.next().map(|next| next.saturating_sub(now));
            let fds = [
                (self.signals.fd(), PollFlags::IN),
                (self.dumper.fd(), PollFlags::IN),
            ];
            let [signal, dump] = wait(fds, timeout).map_err(waiting)?;
            if signal {
                return Err(Error::failed(
                    "reading the last state of the flows",
                    "ended by a second signal",
                    "",
                ));
            }
            if dump {
                self.dumper.read(&mut self.intake)?;
            }
        }
        Ok(())
    }

    fn draw(&mut self, now: Duration, deadline: Option<Duration>) {
        let counters = &self.intake.pipeline.counters;
        self.status.draw(&Status {
            elapsed: now - self.began,
            flows: self.intake.pipeline.table.len(),
            events: counters.new + counters.update + counters.destroy,
            lost: counters.lost,
            left: deadline.map(|deadline| deadline.saturating_sub(now)),
        });
    }

    /// What the run can say of itself, after so long.
    fn summary<'s>(&'s self, duration: Duration, described: &'s str) -> Summary<'s> {
        let pipeline = &self.intake.pipeline;
        Summary {
            counters: &pipeline.counters,
            rungs: &self.rungs,
            capacity: pipeline.table.capacity(),
            flows: pipeline.table.len(),
            duration,
            allocations: self.allocations,
            blind: self.blind,
            trace: self
                .trace
                .as_ref()
                .map(|trace| tracing(&trace.instrument, self.options, pipeline)),
            owning: self
                .owners
                .as_ref()
                .map(|owners| owning(owners, described, &pipeline.table)),
        }
    }

    /// How attribution works, for people.
    fn described(&self) -> String {
        let described = self.owners.as_ref().map(|owners| owners.describe());
        described.unwrap_or_default()
    }

    /// Writes the report. Returns the exit status.
    pub(super) fn report(mut self, destination: &Destination) -> Result<u8> {
        let recorder = self.intake.recorder.take();
        let record_error = self.intake.record_error.take();
        let record_error =
            record_error.or_else(|| recorder.and_then(|mut recorder| recorder.finish().err()));
        let follow = self.intake.pipeline.follow.take();
        let described = self.described();
        let summary = self.summary(self.ended - self.began, &described);
        let pipeline = &self.intake.pipeline;
        write_report(
            &pipeline.table,
            pipeline.books(),
            follow,
            &summary,
            self.options,
            destination,
            self.signals,
        )?;
        say(destination, "Finished capturing conntrack/ulog events");
        log::line(format_args!("{summary}"));
        match record_error {
            Some(error) => Err(Error::failed(
                "writing the recording",
                error,
                "it is not whole; the report is",
            )),
            None => Ok(if summary.complete() {
                0
            } else {
                EXIT_INCOMPLETE
            }),
        }
    }
}

/// A message of the seed's: on stdout, unless that belongs to the report.
pub(super) fn say(destination: &Destination, message: &str) {
    if log::is_syslog() {
        return log::line(format_args!("{message}"));
    }
    let _ = if destination.is_stdout() {
        log::write_line(io::stderr().lock(), format_args!("{message}"))
    } else {
        log::write_line(io::stdout().lock(), format_args!("{message}"))
    };
}

fn waiting(error: io::Error) -> Error {
    Error::failed("waiting for events", error, "")
}
