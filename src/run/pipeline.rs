//! The one way of the data: datagram, messages, entry, filter, event, table.

use super::attributor::Attributor;
use super::follow::{Follow, Watching};
use super::input::{Input, What};
use super::log;
use super::owner_input::OwnerInput;
use super::trace_input::TraceInput;
use super::tracer::Tracer;
use crate::counters::Counters;
use crate::event::{DumpPass, Event, Kind};
use crate::features::{self, OwnersOnly, TraceOnly};
use crate::flow::filter::Filter;
use crate::flow::owner::Owners;
use crate::flow::path::Ways;
use crate::flow::table::Table;
use crate::limits::{EVENTS_AHEAD, PAGES_AT_ONCE_LEN};
use crate::report::Books;
use crate::sys::cache;
use crate::sys::pages::Pages;
use crate::wire::conntrack::{Rejected, Tuple};
use crate::wire::kernel::*;
use crate::wire::message::{Message, Messages};

/// How far a dump is after a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpProgress {
    /// More is to come.
    Going,
    /// That was all.
    Done,
    /// The kernel refused it or broke it off; a positive errno.
    Failed(i32),
}

/// An event that is read and not applied yet, with the hashes of its flow's keys.
#[derive(Clone, Copy, Debug, Default)]
struct Ahead {
    event: Event,
    hashes: [u64; 2],
}

const NEW_OR_UPDATE: u16 = (NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_NEW;
const DESTROY: u16 = (NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_DELETE;

/// Takes inputs, keeps the table and the counters.
#[derive(Debug)]
pub struct Pipeline<'a> {
    /// The flows.
    pub table: Table,
    /// What was and what was not accounted for.
    pub counters: Counters,
    /// Writes changes as they happen, where that was asked for.
    pub follow: Option<Follow<'a>>,
    /// The steps and paths that traces have told of.
    pub ways: Ways,
    /// The processes that flows belong to.
    pub owners: Owners,
    /// Takes traces, where tracing is on.
    pub tracer: Option<TraceOnly<Tracer>>,
    /// Takes what probes say, where attribution is on.
    pub attributor: Option<OwnersOnly<Attributor>>,
    /// Whether flows that conntrack never confirmed are kept.
    pub everything: bool,
    filter: Filter,
    pass: DumpPass,
    /// Events that were read, and how many of these are still to be applied.
    ahead: Box<[Ahead]>,
    ahead_count: usize,
    /// The table's.
    pages: Pages,
    /// Whether a broken message of a kind was logged already.
    logged: [bool; 2],
}

impl<'a> Pipeline<'a> {
    /// A pipeline into an empty table.
    pub fn new(table: Table, filter: Filter, follow: Option<Follow<'a>>) -> Self {
        Pipeline {
            table,
            counters: Counters::default(),
            follow,
            ways: Ways::default(),
            owners: Owners::default(),
            tracer: None,
            attributor: None,
            everything: false,
            filter,
            pass: DumpPass::Initial,
            ahead: vec![Ahead::default(); EVENTS_AHEAD].into(),
            ahead_count: 0,
            pages: Pages::new(PAGES_AT_ONCE_LEN),
            logged: [false; 2],
        }
    }

    /// Takes one input. Says how far the dump is where the input belongs to one.
    pub fn take(&mut self, input: &Input<'_>) -> DumpProgress {
        let progress = self.apply(input);
        self.catch_up();
        progress
    }

    /// Reads events that others come right behind; `catch_up` behind the last of them.
    pub fn read_ahead(&mut self, input: &Input<'_>) {
        self.apply(input);
    }

    /// Applies what was read.
    #[cfg_attr(small, optimize(speed))]
    pub fn catch_up(&mut self) {
        self.apply_ahead();
        if self.follow.is_some() {
            self.counters.forgotten += std::mem::take(&mut self.counters.evicted);
        }
    }

    #[cfg_attr(small, optimize(speed))]
    fn apply(&mut self, input: &Input<'_>) -> DumpProgress {
        match input.what {
            What::Events {
                bytes,
                truncated,
                netns,
            } => self.events(bytes, truncated, netns, input.at_ns),
            What::Dump { bytes, truncated } => return self.dump(bytes, truncated, input.at_ns),
            What::DumpBegan(pass) => {
                self.pass = pass;
                self.counters.resyncs += u64::from(pass == DumpPass::Resync);
                self.table.begin_dump();
            }
            What::DumpEnded => {
                self.counters.dumps += 1;
                let (table, counters, mut watching) = self.parts();
                table.finish_dump(counters, &mut watching);
            }
            What::CaughtUp => self.table.caught_up(),
            What::DumpFailed => self.counters.dumps_failed += 1,
            What::LostTotal(total) => self.counters.lost = total,
            What::LostUnknown => self.counters.lost_unknown += 1,
            What::Trace(trace) => self.trace(&trace, input.at_ns),
            What::Owner(owner) => self.owner(&owner),
            What::Finished => {}
        }
        DumpProgress::Going
    }

    /// What the numbers in the table stand for.
    pub fn books(&self) -> Books<'_> {
        Books {
            ways: &self.ways,
            owners: &self.owners,
        }
    }

    /// What changes, what counts, and who is told.
    #[cfg_attr(small, optimize(speed))]
    fn parts(&mut self) -> (&mut Table, &mut Counters, Watching<'_, 'a>) {
        let watching = Watching {
            follow: &mut self.follow,
            books: Books {
                ways: &self.ways,
                owners: &self.owners,
            },
        };
        (&mut self.table, &mut self.counters, watching)
    }

    #[cfg_attr(small, optimize(speed))]
    fn events(&mut self, bytes: &[u8], truncated: bool, netns: Option<i32>, at_ns: u64) {
        self.counters.truncated += u64::from(truncated);
        for message in Messages::new(bytes) {
            let Ok(message) = message else {
                self.reject(Rejected::Framing, bytes);
                break;
            };
            let kind = match message.kind {
                NEW_OR_UPDATE if message.flags & (NLM_F_CREATE | NLM_F_EXCL) != 0 => Kind::New,
                NEW_OR_UPDATE => Kind::Update,
                DESTROY => Kind::Destroy,
                _ => continue,
            };
            self.entry(kind, &message, netns, at_ns);
        }
    }

    #[cfg_attr(small, optimize(speed))]
    fn dump(&mut self, bytes: &[u8], truncated: bool, at_ns: u64) -> DumpProgress {
        self.counters.truncated += u64::from(truncated);
        for message in Messages::new(bytes) {
            let Ok(message) = message else {
                self.reject(Rejected::Framing, bytes);
                break;
            };
            match message.kind {
                NLMSG_DONE if message.flags & NLM_F_DUMP_INTR != 0 => {
                    return DumpProgress::Failed(libc::EINTR);
                }
                NLMSG_DONE => return dump_end(&message),
                NLMSG_ERROR => {
                    return DumpProgress::Failed(
                        message
                            .errno()
                            .ok()
                            .filter(|errno| *errno > 0)
                            .unwrap_or(libc::EBADMSG),
                    );
                }
                NEW_OR_UPDATE => self.entry(Kind::Dumped(self.pass), &message, None, at_ns),
                _ => {}
            }
        }
        DumpProgress::Going
    }

    /// Reads an entry, which is applied together with those right behind it.
    #[cfg_attr(small, optimize(speed))]
    fn entry(&mut self, kind: Kind, message: &Message<'_>, netns: Option<i32>, at_ns: u64) {
        if self.ahead_count == EVENTS_AHEAD {
            self.apply_ahead();
        }
        let Ahead { event, hashes } = &mut self.ahead[self.ahead_count];
        (event.kind, event.netns) = (kind, netns);
        (event.at_ns, event.is_kernel_time) = (at_ns, false);
        let entry = &mut event.entry;
        entry.clear();
        let read = message
            .netfilter()
            .map_err(Rejected::from)
            .and_then(|(_, attributes)| entry.read(attributes));
        if let Err(reason) = read {
            return self.reject(reason, message.body);
        }
        self.counters.flaws += u64::from(entry.flaws);
        match kind {
            Kind::New => self.counters.new += 1,
            Kind::Update => self.counters.update += 1,
            Kind::Destroy => self.counters.destroy += 1,
            Kind::Dumped(_) => self.counters.dumped += 1,
        }
        if !self.filter.admits(entry) {
            self.counters.filtered += 1;
            return;
        }
        let kernel_time = if kind == Kind::Destroy {
            entry.stop_ns.or(entry.event_ns)
        } else {
            entry.event_ns
        };
        if let Some(kernel_time) = kernel_time {
            (event.at_ns, event.is_kernel_time) = (kernel_time, true);
        }
        *hashes = self.table.hashes(event);
        self.ahead_count += 1;
    }

    /// Applies what was read. Where those flows are, or would be, is far from the processor: all of it is
    /// asked for at once, for each time that it is asked it waits until it has the address of the page, and
    /// it looks up several of these at the same time.
    #[cfg_attr(small, optimize(speed))]
    fn apply_ahead(&mut self) {
        let ahead = std::mem::take(&mut self.ahead); // neither this nor an empty one allocates
        let count = std::mem::take(&mut self.ahead_count);
        self.pages.ahead(self.table.room(), EVENTS_AHEAD);
        let (table, counters, mut watching) = self.parts();
        for Ahead { hashes, .. } in &ahead[..count] {
            cache::fetch(table.first_slot(hashes[0]));
            if hashes[1] != hashes[0] {
                cache::fetch(table.first_slot(hashes[1]));
            }
        }
        for Ahead { event, hashes } in &ahead[..count] {
            table.apply_hashed(event, *hashes, counters, &mut watching);
        }
        self.ahead = ahead;
    }

    /// Why packets were not traced from some moment on, if so.
    pub fn trace_ended(&self) -> Option<&'static str> {
        let gone = self
            .tracer
            .as_ref()
            .is_some_and(|tracer| tracer.book.own_table_gone());
        gone.then_some("somebody removed our nf_tables table: from then on nothing was traced")
    }

    #[cfg_attr(small, optimize(speed))]
    fn trace(&mut self, input: &TraceInput<'_>, at_ns: u64) {
        let Some(built) = features::Trace::built() else {
            return;
        };
        if let TraceInput::Began { everything, .. } = *input {
            self.table.keep_traces();
            self.everything = everything;
            self.tracer
                .get_or_insert_with(|| built.only(Tracer::default()));
        }
        if self.ways.is_nearly_full() {
            self.sweep_ways();
        }
        let Some(tracer) = &mut self.tracer else {
            return;
        };
        let taken = tracer.take(input, at_ns, &mut self.ways, &mut self.counters);
        for packet in tracer.closed.drain(..) {
            self.counters.traced += 1;
            let (ways, owners) = (&self.ways, &self.owners);
            let mut watching = Watching {
                follow: &mut self.follow,
                books: Books { ways, owners },
            };
            let (everything, filter) = (self.everything, &self.filter);
            self.table.apply_packet(
                &packet,
                |entry| everything && filter.admits(entry),
                &mut self.counters,
                &mut watching,
            );
        }
        self.senders(at_ns);
        if let Err(reason) = taken {
            let (TraceInput::Nft(bytes) | TraceInput::Log(bytes) | TraceInput::Rules(bytes)) =
                *input
            else {
                return self.reject(reason, &[]);
            };
            self.reject(reason, bytes);
        }
    }

    /// Forgets steps and paths that nothing refers to; where these are few, also those that only hits
    /// refer to which are remembered.
    fn sweep_ways(&mut self) {
        let Some(tracer) = &mut self.tracer else {
            return;
        };
        for remembered in [true, false] {
            let mut in_use = self.ways.unmarked();
            self.table.mark_ways(&mut in_use);
            tracer.mark_ways(&mut in_use, remembered);
            self.ways.keep(in_use);
            if self.ways.has_ample_room() {
                break;
            }
        }
        tracer.book.forget_hits(&self.ways);
    }

    /// Takes the users whose packets were traced as they left.
    fn senders(&mut self, at_ns: u64) {
        let Some(tracer) = &mut self.tracer else {
            return;
        };
        let mut senders = std::mem::take(&mut tracer.senders);
        if let Some(mut attributor) = self.attributor.take() {
            for (ends, uid) in &senders {
                let (table, owners) = (&self.table, &mut self.owners);
                let claim = attributor.sender(*ends, *uid, at_ns, table, owners);
                let (table, _, mut watching) = self.parts();
                if let Some(claim) = claim {
                    table.apply_claim(&claim, &mut watching);
                }
            }
            self.attributor = Some(attributor);
        }
        senders.clear(); // its memory serves again
        if let Some(tracer) = &mut self.tracer {
            tracer.senders = senders;
        }
    }

    fn owner(&mut self, input: &OwnerInput<'_>) {
        let Some(built) = features::Owners::built() else {
            return;
        };
        if let OwnerInput::Began { .. } = input {
            self.table.keep_owners();
            self.attributor
                .get_or_insert_with(|| built.only(Attributor::default()));
        }
        let Some(mut attributor) = self.attributor.take() else {
            return;
        };
        let (table, counters) = (&self.table, &mut self.counters);
        attributor.take(input, table, &mut self.owners, counters);
        let (table, counters, mut watching) = self.parts();
        for claim in attributor.claims.drain(..) {
            table.apply_claim(&claim, &mut watching);
        }
        let mut ask = |ends: &Tuple| attributor.asked.push(*ends);
        match *input {
            OwnerInput::Addresses(bytes) => table.set_local(addresses(bytes)),
            OwnerInput::Settle { before_ns } => {
                table.settle_wanted(before_ns, &mut watching, &mut ask);
            }
            OwnerInput::LostTotal(_) => table.forget_claims(),
            OwnerInput::SettleAll => table.settle_all(&mut watching, &mut ask),
            _ => {}
        }
        counters.unasked = table.unasked();
        self.attributor = Some(attributor);
    }

    /// Counts what could not be used; the first of each kind is shown, for a report to us.
    fn reject(&mut self, reason: Rejected, bytes: &[u8]) {
        let (count, logged, what) = match reason {
            Rejected::Framing => (
                &mut self.counters.rejected_framing,
                &mut self.logged[0],
                "broken framing",
            ),
            Rejected::NoTuple => (
                &mut self.counters.rejected_no_tuple,
                &mut self.logged[1],
                "no original tuple",
            ),
        };
        *count += 1;
        if !std::mem::replace(logged, true) {
            log::line(format_args!(
                "a message from the kernel could not be read ({what}): {}",
                Hex(bytes)
            ));
        }
    }
}

/// Family and address, 17 bytes each.
fn addresses(bytes: &[u8]) -> Vec<(bool, [u8; 16])> {
    let address = |bytes: &[u8]| {
        let (ipv6, address) = bytes.split_first()?;
        Some((*ipv6 != 0, address.try_into().ok()?))
    };
    bytes.chunks_exact(17).filter_map(address).collect()
}

/// The end of a dump carries the dump's result.
fn dump_end(message: &Message<'_>) -> DumpProgress {
    match message.errno() {
        Ok(errno) if errno > 0 => DumpProgress::Failed(errno),
        _ => DumpProgress::Done,
    }
}

/// The beginning of a message as hexadecimal digits.
struct Hex<'a>(&'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 256;
        for byte in self.0.iter().take(SHOWN) {
            write!(out, "{byte:02x}")?;
        }
        if self.0.len() > SHOWN {
            write!(out, "... ({} bytes)", self.0.len())
        } else {
            Ok(())
        }
    }
}
