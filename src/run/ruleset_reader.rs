//! Reads the nf_tables ruleset: chains and rules of one generation, never the elements of a set but
//! those of small anonymous ones that a rule's text needs.

use super::input::What;
use super::intake::Intake;
use super::trace_input::TraceInput;
use crate::firewall::nft;
use crate::firewall::nft_rule;
use crate::firewall::rules::WantedSet;
use crate::limits::{DUMP_DATAGRAM_LEN, READ_AGAIN_FACTOR};
use crate::sys::clock;
use crate::sys::netlink::Batch;
use crate::wire::attr::be32_of;
use crate::wire::kernel::*;
use crate::wire::message::Messages;
use crate::wire::nftables::{attribute_of, chains_request, generation_request, rules_request};
use crate::wire::request::Request;
use std::io;
use std::time::Duration;

/// The ruleset may change while it is read; after so many attempts the last one must do.
const ATTEMPTS: u32 = 4;

/// Reads the ruleset, and again when it has changed, as long as that takes a small share of the time.
#[derive(Debug)]
pub struct RulesetReader {
    batch: Batch,
    next: Duration,
}

impl RulesetReader {
    /// Nothing is read yet.
    pub fn new() -> RulesetReader {
        RulesetReader {
            batch: Batch::new(1, DUMP_DATAGRAM_LEN),
            next: Duration::ZERO,
        }
    }

    /// Whether it may be read again now: a ruleset that changes all the time must not keep us busy.
    pub fn may_read(&self, now: Duration) -> bool {
        now >= self.next
    }

    /// Reads it into the book.
    pub fn read(&mut self, intake: &mut Intake<'_>) {
        let began = clock::monotonic();
        for _ in 0..ATTEMPTS {
            let generation = self.generation();
            intake.trace(TraceInput::RulesBegan(generation));
            let whole = self
                .dump(&chains_request(1), intake)
                .and_then(|chains| Ok(chains & self.dump(&rules_request(1), intake)?));
            let whole = matches!(whole, Ok(true)) && self.generation() == generation;
            intake.trace(TraceInput::RulesEnded { whole });
            if whole {
                break;
            }
        }
        let now = clock::monotonic();
        self.next = now + (now - began) * READ_AGAIN_FACTOR;
    }

    /// Reads what texts wait for.
    pub fn read_sets(&mut self, wanted: &[WantedSet], intake: &mut Intake<'_>) {
        for set in wanted {
            let description = nft_rule::set_request(1, set.family, &set.table, &set.name);
            let elements = nft_rule::elements_request(2, set.family, &set.table, &set.name);
            // A set that is gone by now has gone with its rule.
            let _ = self
                .dump(&description, intake)
                .and_then(|_| self.dump(&elements, intake));
        }
        intake.trace(TraceInput::SetsRead);
    }

    fn generation(&mut self) -> Option<u32> {
        let mut generation = None;
        let take = &mut |bytes: &[u8]| {
            for message in Messages::new(bytes).map_while(Result::ok) {
                if let Ok((_, attributes)) = message.netfilter() {
                    let id = attribute_of(attributes, NFTA_GEN_ID).and_then(be32_of);
                    generation = generation.or(id);
                }
            }
            true
        };
        nft::exchange(&generation_request(1), &mut self.batch, take).ok()?;
        generation
    }

    /// Sends a request and takes all of its answer. Says whether that is of one piece.
    fn dump(&mut self, request: &Request, intake: &mut Intake<'_>) -> io::Result<bool> {
        let take = &mut |bytes: &[u8]| {
            intake.trace(TraceInput::Rules(bytes));
            true
        };
        nft::exchange(request, &mut self.batch, take)
    }
}

/// Gives an input of tracing to the pipeline, and to a recording.
impl Intake<'_> {
    pub(super) fn trace(&mut self, input: TraceInput<'_>) {
        self.trace_at(clock::realtime_ns(), input);
    }

    /// The same, of what was read at `at_ns`.
    pub(super) fn trace_at(&mut self, at_ns: u64, input: TraceInput<'_>) {
        self.take(at_ns, What::Trace(input));
    }
}
