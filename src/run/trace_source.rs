//! Where traces come from: the sockets of the instrument, and what is read beside them so that each
//! hit is resolved to the rule of its moment.

use super::intake::Intake;
use super::legacy_reader::LegacyReader;
use super::ruleset_reader::RulesetReader;
use super::source::Queue;
use super::trace_input::TraceInput;
use crate::cli::Options;
use crate::error::{Error, Result};
use crate::firewall::activation::{Activation, Idle};
use crate::firewall::instrument::{Instrument, Wishes};
use crate::limits::{
    BATCH_DATAGRAMS, BATCHES_IN_A_ROW, LOG_DATAGRAM_LEN, PACKET_QUIET, READS_OF_A_QUEUE,
    TRACE_DATAGRAM_LEN, UNTRACED_INTERVAL,
};
use crate::sys::clock;
use crate::sys::netlink::{Batch, DropCounter, Socket};
use crate::wire::kernel::{NFNL_SUBSYS_NFTABLES, NFT_MSG_TRACE};
use crate::wire::message::Messages;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// What is to be traced, where `idle` is what no rule uses conntrack for.
pub(super) fn wishes(options: &Options, idle: Idle) -> Wishes {
    let leaves_idle = options.activation == Activation::Off && idle != Idle::default();
    Wishes {
        rung: options.trace_rung,
        everything: options.everything,
        rate: options.trace_rate,
        conntrack: !leaves_idle,
        ipv4: options.filter.ipv6 != Some(true),
        ipv6: options.filter.ipv6 != Some(false),
    }
}

/// Lines may wait so long, and a packet of which nothing is heard is taken to be at its end.
const LINES_BEHIND: Duration = Duration::from_millis(PACKET_QUIET.as_millis() as u64 / 4);

/// The sources of traces, and what they need.
#[derive(Debug)]
pub struct TraceSource {
    /// What makes the kernel trace.
    pub instrument: Instrument,
    nft_batch: Batch,
    log_batch: Batch,
    nft_drops: Option<DropCounter>,
    log_drops: Option<DropCounter>,
    lost: u64,
    /// A loss is counted that the kernel has not told of yet.
    is_counted: bool,
    ruleset: RulesetReader,
    legacy: LegacyReader,
    /// When the legacy tables were read for the lines that are read now; nanoseconds since 1970.
    lines_ns: u64,
    /// Of those lines more may be queued.
    draining: bool,
    /// When no line was queued any more.
    drained: Duration,
    quiet_at: Duration,
    untraced_at: Duration,
}

impl TraceSource {
    /// Begins with an instrument that traces already: reads the rules. `lets_go` says that packets of
    /// settled flows are traced no further than to our chain behind conntrack.
    pub fn begin(
        instrument: Instrument,
        everything: bool,
        lets_go: bool,
        intake: &mut Intake<'_>,
    ) -> TraceSource {
        let drops = |socket: &Option<Socket>| {
            let socket = socket.as_ref()?;
            DropCounter::open(socket).ok()
        };
        let mut source = TraceSource {
            nft_batch: Batch::new(BATCH_DATAGRAMS, TRACE_DATAGRAM_LEN),
            log_batch: Batch::new(BATCH_DATAGRAMS, LOG_DATAGRAM_LEN),
            nft_drops: drops(&instrument.nft),
            log_drops: drops(&instrument.log),
            instrument,
            lost: 0,
            is_counted: false,
            ruleset: RulesetReader::new(),
            legacy: LegacyReader::new(),
            lines_ns: 0,
            draining: false,
            drained: Duration::ZERO,
            quiet_at: Duration::ZERO,
            untraced_at: Duration::ZERO,
        };
        intake.trace(TraceInput::Began {
            everything,
            lets_go,
        });
        if source.instrument.nft.is_some() {
            source.ruleset.read(intake);
        }
        if source.instrument.log.is_some() {
            source.legacy.refresh(intake);
            source.legacy.read_texts(true, intake);
        }
        source
    }

    /// Readable while something is queued: nf_tables, the legacy tables; `None` also for lines that are
    /// to wait.
    pub fn fds(&self) -> [Option<BorrowedFd<'_>>; 2] {
        let Instrument { nft, log, .. } = &self.instrument;
        let log = log.as_ref().filter(|_| !self.lines_wait());
        [nft.as_ref(), log].map(|socket| socket.map(Socket::fd))
    }

    /// Whether lines stay in their socket: the legacy tables were read a moment ago, and are to be read
    /// once more before these lines are.
    fn lines_wait(&self) -> bool {
        self.instrument.log.is_some()
            && !self.draining
            && clock::monotonic() < self.legacy.next_lines()
    }

    /// When there is something to do even where nothing comes.
    pub fn next(&self, intake: &Intake<'_>) -> Option<Duration> {
        let waiting = intake
            .pipeline
            .tracer
            .as_ref()
            .is_some_and(|tracer| tracer.is_waiting());
        let quiet = waiting.then_some(self.quiet_at);
        let legacy = self.instrument.log.as_ref().map(|_| self.legacy.next());
        let lines = self.lines_wait().then(|| self.legacy.next_lines());
        [quiet, legacy, lines, Some(self.untraced_at)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Reads what is queued, a bounded number of batches. Lines of the legacy tables wait until all is
    /// read that our own table said before: that tells which packet they belong to.
    pub fn read(&mut self, intake: &mut Intake<'_>) -> Result<Queue> {
        let mut queue = Queue::MoreWaits;
        for _ in 0..BATCHES_IN_A_ROW {
            let lines = self.receive_lines(intake)?;
            let nft = self.read_nft(intake)?;
            for datagram in self.log_batch.datagrams().take(lines) {
                intake.trace_at(self.lines_ns, TraceInput::Log(datagram.bytes));
            }
            if nft == Queue::Empty && lines < self.log_batch.size() {
                queue = Queue::Empty;
                break;
            }
        }
        let tracer = intake.pipeline.tracer.as_mut();
        let wanted = tracer
            .map(|tracer| tracer.book.wanted_sets())
            .unwrap_or_default();
        if !wanted.is_empty() {
            self.ruleset.read_sets(&wanted, intake);
        }
        Ok(queue)
    }

    /// Reads what is queued by now. Somebody else may have packets traced too, without an end: what
    /// comes after as much as a queue holds is not waited for.
    pub fn read_all(&mut self, intake: &mut Intake<'_>) -> Result<()> {
        self.legacy.hurry();
        for _ in 0..READS_OF_A_QUEUE {
            if self.read(intake)? == Queue::Empty {
                break;
            }
        }
        Ok(())
    }

    /// Whether it is time to see which packets are at their end. Then all queues are to be read once
    /// more before `quiet`: since they were asked time has passed, and that of lines that were to wait
    /// was not asked.
    pub fn is_quiet_due(&mut self, intake: &Intake<'_>) -> bool {
        let now = clock::monotonic();
        let tracer = intake.pipeline.tracer.as_ref();
        if now < self.quiet_at || !tracer.is_some_and(|tracer| tracer.is_waiting()) {
            return false;
        }
        // A packet is not at its end while lines wait that may be its own.
        let behind = self.lines_wait() && now.saturating_sub(self.drained) > LINES_BEHIND;
        if behind {
            self.quiet_at = self.legacy.next_lines();
        }
        !behind
    }

    /// What was queued until then is read: packets are at their end of which nothing was heard for long.
    pub fn quiet(&mut self, at_ns: u64, intake: &mut Intake<'_>) {
        self.quiet_at = clock::monotonic() + PACKET_QUIET / 2;
        intake.trace_at(at_ns, TraceInput::Quiet);
    }

    /// Does what is due while nothing is queued anywhere.
    pub fn rest(&mut self, intake: &mut Intake<'_>) {
        let now = clock::monotonic();
        if now >= self.untraced_at {
            self.untraced_at = now + UNTRACED_INTERVAL;
            self.count_untraced(intake);
        }
        if self.instrument.log.is_some() {
            self.legacy.look(intake);
            self.legacy.read_texts(false, intake);
        }
    }

    /// Nothing new is traced from here on; what is queued can be read.
    pub fn stop(&mut self, intake: &mut Intake<'_>) -> Result<()> {
        self.count_untraced(intake);
        if let Some(table) = self.instrument.legacy_table() {
            self.legacy.settle(table, intake);
        }
        self.instrument.stop_tracing()
    }

    /// What the last packets need: losses, and the texts that were put off.
    pub fn finish(&mut self, intake: &mut Intake<'_>) {
        self.note_loss(false, intake);
        self.legacy.read_texts(true, intake);
    }

    fn count_untraced(&mut self, intake: &mut Intake<'_>) {
        if let Some(untraced) = self.instrument.untraced() {
            if untraced != intake.pipeline.counters.untraced {
                intake.trace(TraceInput::Untraced(untraced));
            }
        }
    }

    fn read_nft(&mut self, intake: &mut Intake<'_>) -> Result<Queue> {
        for _ in 0..BATCHES_IN_A_ROW {
            let Some(socket) = &self.instrument.nft else {
                return Ok(Queue::Empty);
            };
            let Some(received) = receive(socket, &mut self.nft_batch)? else {
                self.note_loss(true, intake);
                continue;
            };
            let at_ns = clock::realtime_ns();
            for datagram in self.nft_batch.datagrams() {
                let tracer = intake.pipeline.tracer.as_ref();
                let stale = tracer.is_some_and(|tracer| tracer.book.is_stale());
                if stale && is_trace(datagram.bytes) && self.ruleset.may_read(clock::monotonic()) {
                    self.ruleset.read(intake);
                }
                intake.trace_at(at_ns, TraceInput::Nft(datagram.bytes));
            }
            if received < self.nft_batch.size() {
                return Ok(Queue::Empty);
            }
        }
        Ok(Queue::MoreWaits)
    }

    /// Receives a batch of lines of the legacy tables, and reads the tables that they are about: what
    /// is queued by then is of that content, or of one before it.
    fn receive_lines(&mut self, intake: &mut Intake<'_>) -> Result<usize> {
        let wait = self.lines_wait();
        let Some(socket) = self.instrument.log.as_ref().filter(|_| !wait) else {
            return Ok(0);
        };
        match receive(socket, &mut self.log_batch)? {
            Some(received) => {
                let now = clock::monotonic();
                if received > 0 && now >= self.legacy.next_lines() {
                    self.legacy.refresh(intake);
                    self.lines_ns = clock::realtime_ns();
                }
                self.draining = received == self.log_batch.size();
                self.drained = now;
                Ok(received)
            }
            None => {
                self.note_loss(true, intake);
                Ok(0)
            }
        }
    }

    /// Takes the kernel's counts of what was lost; `told` is whether it said so just now.
    pub(super) fn note_loss(&mut self, told: bool, intake: &mut Intake<'_>) {
        let read = |drops: &mut Option<DropCounter>| drops.as_mut().and_then(DropCounter::read);
        let counts = [read(&mut self.nft_drops), read(&mut self.log_drops)];
        let total: u64 = counts.into_iter().flatten().sum();
        if total != self.lost {
            self.lost = total;
            self.is_counted = !told;
            intake.trace(TraceInput::LostTotal(total));
        } else if told && !std::mem::take(&mut self.is_counted) {
            intake.trace(TraceInput::LostUnknown);
        }
    }
}

/// A batch; `None` where the kernel says that it lost something.
fn receive(socket: &Socket, batch: &mut Batch) -> Result<Option<usize>> {
    match socket.receive(batch) {
        Ok(received) => Ok(Some(received)),
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(None),
        Err(error) => Err(Error::failed("reading traces", error, "")),
    }
}

/// Whether a datagram brings a hit: only then the rules must be known.
fn is_trace(bytes: &[u8]) -> bool {
    const KIND: u16 = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_TRACE;
    matches!(Messages::new(bytes).next(), Some(Ok(message)) if message.kind == KIND)
}
