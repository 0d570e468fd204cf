//! The way of trace messages: datagram, message, rule of that moment, hit, packet.

use crate::counters::Counters;
use crate::event::{Hit, Stream};
use crate::firewall::legacy_rules::LegacyTable;
use crate::firewall::rules::Book;
use crate::flow::assembly::{Assembly, Packet};
use crate::flow::path::Ways;
use crate::flow::sweep::InUse;
use crate::limits::{OPEN_PACKETS, PACKET_QUIET};
use crate::sys::xtables::RawTable;
use crate::wire::conntrack::{Rejected, Tuple};
use crate::wire::kernel::*;
use crate::wire::message::{Message, Messages};
use crate::wire::nflog::Line;
use crate::wire::nftrace::Trace;

use super::trace_input::TraceInput;

const NFT_TRACE: u16 = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_TRACE;
const LOG_PACKET: u16 = (NFNL_SUBSYS_ULOG << 8) | NFULNL_MSG_PACKET;

/// Turns trace messages into packets with their paths.
#[derive(Debug, Default)]
pub struct Tracer {
    /// The rules.
    pub book: Book,
    /// Which user sent which packet, for the table; the caller takes them out.
    pub senders: Vec<(Tuple, u32)>,
    /// Packets whose way came to its end, for the table; the caller takes them out.
    pub closed: Vec<Packet>,
    assembly: Assembly,
}

impl Tracer {
    /// Whether packets are under way.
    pub fn is_waiting(&self) -> bool {
        !self.assembly.is_empty()
    }

    /// Takes one input that was read at `at_ns`. Says whether a message of it was framed wrongly.
    #[cfg_attr(small, optimize(speed))]
    pub fn take(
        &mut self,
        input: &TraceInput<'_>,
        at_ns: u64,
        ways: &mut Ways,
        counters: &mut Counters,
    ) -> Result<(), Rejected> {
        match *input {
            TraceInput::Began { lets_go, .. } => self.assembly.lets_go = lets_go,
            TraceInput::Nft(bytes) | TraceInput::Log(bytes) => {
                return self.datagram(bytes, at_ns, ways, counters);
            }
            TraceInput::RulesBegan(generation) => self.book.begin(generation),
            TraceInput::Rules(bytes) => return self.rules(bytes),
            TraceInput::RulesEnded { whole } => self.book.finish(whole),
            TraceInput::SetsRead => self.book.sets_are_read(ways),
            TraceInput::Legacy {
                ipv6,
                name,
                content,
            } => {
                let raw = RawTable::from_bytes(content).ok_or(Rejected::Framing)?;
                let table = LegacyTable::parse(ipv6, name, &raw)?;
                self.book.take_legacy(ipv6, name, table, at_ns);
            }
            TraceInput::Saved { ipv6, name, text } => {
                let text = String::from_utf8_lossy(text);
                self.book.take_saved(ipv6, name, &text, ways);
            }
            TraceInput::Quiet => {
                self.assembly.set_clock(at_ns);
                self.settle(at_ns.saturating_sub(PACKET_QUIET.as_nanos() as u64), ways)
            }
            TraceInput::Ended => self.settle(u64::MAX, ways),
            TraceInput::LostTotal(total) => {
                counters.trace_lost = total;
                self.book.note_loss();
            }
            TraceInput::LostUnknown => {
                counters.trace_lost_unknown += 1;
                self.book.note_loss();
            }
            TraceInput::Untraced(total) => counters.untraced = total,
        }
        counters.orphans = self.assembly.orphans;
        counters.shortened = self.assembly.shortened;
        counters.ways_refused = ways.refused;
        Ok(())
    }

    /// Marks the steps that are of no flow yet: those of packets under way, and of what is remembered.
    pub fn mark_ways(&self, in_use: &mut InUse, remembered: bool) {
        for packet in &self.closed {
            in_use.path(packet.path);
            packet.guilty.into_iter().for_each(|step| in_use.step(step));
        }
        self.assembly.mark(in_use);
        self.book.mark(in_use, remembered);
    }

    #[cfg_attr(small, optimize(speed))]
    fn settle(&mut self, before_ns: u64, ways: &mut Ways) {
        let closed = &mut self.closed;
        self.assembly
            .settle(before_ns, ways, &mut |packet| closed.push(packet));
    }

    #[cfg_attr(small, optimize(speed))]
    fn datagram(
        &mut self,
        bytes: &[u8],
        at_ns: u64,
        ways: &mut Ways,
        counters: &mut Counters,
    ) -> Result<(), Rejected> {
        for message in Messages::new(bytes) {
            let message = message?;
            let hit = match message.kind {
                NFT_TRACE => self.nft_hit(&message, at_ns, ways)?,
                LOG_PACKET => self.legacy_hit(&message, at_ns, ways)?,
                kind if kind >> 8 == NFNL_SUBSYS_NFTABLES => {
                    let (_, attributes) = message.netfilter()?;
                    self.book.note_change(kind & 0xff, attributes);
                    continue;
                }
                _ => continue,
            };
            let Some((hit, known)) = hit else { continue };
            counters.trace_messages += 1;
            counters.unresolved += u64::from(!known);
            let closed = &mut self.closed;
            self.assembly
                .take(&hit, ways, &mut |packet| closed.push(packet));
        }
        Ok(())
    }

    #[cfg_attr(small, optimize(speed))]
    fn nft_hit(
        &mut self,
        message: &Message<'_>,
        at_ns: u64,
        ways: &mut Ways,
    ) -> Result<Option<(Hit, bool)>, Rejected> {
        let (family, attributes) = message.netfilter()?;
        let trace = Trace::parse(family, attributes)?;
        let resolved = self.book.resolve_nft(&trace, ways);
        let hit = Hit {
            stream: Stream::Nft(trace.id),
            at_ns,
            head: trace.head,
            conntrack: trace.ct_id.zip(trace.ct_reply),
            station: resolved.station,
            own: resolved.own,
            step: resolved.step,
            denies: resolved.denies,
        };
        Ok(Some((hit, resolved.known)))
    }

    #[cfg_attr(small, optimize(speed))]
    fn legacy_hit(
        &mut self,
        message: &Message<'_>,
        at_ns: u64,
        ways: &mut Ways,
    ) -> Result<Option<(Hit, bool)>, Rejected> {
        let (family, attributes) = message.netfilter()?;
        let Some(line) = Line::parse(family, attributes)? else {
            return Ok(None); // somebody else's message in the same group
        };
        let first = line.hook == NF_INET_LOCAL_OUT && self.senders.len() < OPEN_PACKETS;
        if let (Some(uid), Some(head), true) = (line.uid, &line.head, first) {
            self.senders.push((head.tuple, uid));
        }
        let resolved = self.book.resolve_legacy(&line, at_ns, ways);
        let hit = Hit {
            stream: Stream::Legacy,
            at_ns,
            head: line.head,
            conntrack: line.ct_id.zip(line.ct_reply),
            station: resolved.station,
            own: resolved.own,
            step: resolved.step,
            denies: resolved.denies,
        };
        Ok(Some((hit, resolved.known)))
    }

    fn rules(&mut self, bytes: &[u8]) -> Result<(), Rejected> {
        for message in Messages::new(bytes) {
            let message = message?;
            if message.kind >> 8 == NFNL_SUBSYS_NFTABLES {
                let (family, _) = message.netfilter()?;
                let attributes = message.body.get(4..).unwrap_or_default(); // behind struct nfgenmsg
                self.book.take(message.kind & 0xff, family, attributes);
            }
        }
        Ok(())
    }
}
