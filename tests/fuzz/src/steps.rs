//! The input format of the targets `datagram` and `trace`: one byte of setup, then steps.
//!
//! A step is a control byte, a clock byte and what belongs to its kind. Every string of bytes is a
//! sequence of steps: lengths beyond the end mean the end, and what is too short is no step.

use crate::made;
use conntracker::event::DumpPass;
use conntracker::run::input::{Input, What};
use conntracker::run::owner_input;
use conntracker::run::trace_input::{self, KIND_FIRST, TraceInput};

const EVENTS: u8 = 0;
const DUMP: u8 = 1;
const MADE: u8 = 2;
const DUMP_BEGAN: u8 = 3;
const DUMP_ENDED: u8 = 4;
const DUMP_FAILED: u8 = 5;
const LOST: u8 = 6;
const MARK: u8 = 7;
const KIND_MASK: u8 = 7;

const TRUNCATED: u8 = 1 << 3;
const LOST_UNKNOWN: u8 = 1 << 3;
const CAUGHT_UP: u8 = 1 << 3;
/// What a recording has of a trace input: kind, length, bytes.
const TRACE: u8 = 1 << 4;
/// A well-formed trace message.
const HIT: u8 = 1 << 5;
const PASS_SHIFT: u8 = 3;
const NETNS: u8 = 1 << 4;
const NETNS_SHIFT: u8 = 5;
const NETNS_IDS: [i32; 8] = [0, 1, 2, 7, i32::MAX, -1, -2, i32::MIN];

/// 2026-11-22; the clock byte counts milliseconds from here, forwards and backwards.
const CLOCK_START_NS: u64 = 1_795_305_600_000_000_000;

/// Bytes of a step, taken apart.
#[derive(Debug)]
pub struct Steps<'a> {
    rest: &'a [u8],
}

/// One input, with the bytes of its datagram.
#[derive(Debug)]
pub enum Step<'a> {
    /// As it stands in the fuzzer's data.
    Raw(Input<'a>),
    /// A datagram of one well-formed message, where it comes in, and when.
    Made(Vec<u8>, Door, u64),
}

/// Where a datagram comes in.
#[derive(Clone, Copy, Debug)]
pub enum Door {
    /// With events, of this namespace.
    Events(Option<i32>),
    /// With a dump.
    Dump,
    /// With the traces of nf_tables.
    Nft,
    /// With those of the legacy tables.
    Log,
}

impl Step<'_> {
    /// As the pipeline takes it.
    pub fn input(&self) -> Input<'_> {
        let (bytes, door, at_ns) = match self {
            Step::Raw(input) => return *input,
            Step::Made(bytes, door, at_ns) => (bytes.as_slice(), *door, *at_ns),
        };
        let truncated = false;
        let what = match door {
            Door::Events(netns) => What::Events {
                bytes,
                truncated,
                netns,
            },
            Door::Dump => What::Dump { bytes, truncated },
            Door::Nft => What::Trace(TraceInput::Nft(bytes)),
            Door::Log => What::Trace(TraceInput::Log(bytes)),
        };
        Input { at_ns, what }
    }
}

impl<'a> Steps<'a> {
    /// Takes the setup byte off and goes on with the steps; `None` where there is nothing.
    pub fn split(data: &'a [u8]) -> Option<(u8, Steps<'a>)> {
        let (setup, rest) = data.split_first()?;
        Some((*setup, Steps { rest }))
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    fn recipe(&mut self) -> Option<&'a [u8; made::RECIPE_LEN]> {
        let (recipe, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(recipe)
    }

    fn trace(&mut self) -> Option<What<'a>> {
        let (kind, rest) = self.rest.split_first()?;
        self.rest = rest;
        let payload = self.datagram()?;
        let kind = KIND_FIRST.saturating_add(*kind);
        let traced = trace_input::decode(kind, payload).map(What::Trace);
        let owned = || owner_input::decode(kind, payload).map(What::Owner);
        Some(traced.or_else(owned).unwrap_or(What::Finished))
    }

    fn datagram(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(self.take(usize::from(u16::from_le_bytes(*len))))
    }
}

impl<'a> Iterator for Steps<'a> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        let ([control, clock], rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        let at_ns = CLOCK_START_NS + u64::from(*clock) * 1_000_000;
        let netns = (control & NETNS != 0).then(|| NETNS_IDS[usize::from(control >> NETNS_SHIFT)]);
        let truncated = control & TRUNCATED != 0;
        let what = match control & KIND_MASK {
            EVENTS => What::Events {
                bytes: self.datagram()?,
                truncated,
                netns,
            },
            DUMP => What::Dump {
                bytes: self.datagram()?,
                truncated,
            },
            MADE => {
                let (bytes, is_dump) = made::datagram(self.recipe()?);
                let door = if is_dump {
                    Door::Dump
                } else {
                    Door::Events(netns)
                };
                return Some(Step::Made(bytes, door, at_ns));
            }
            DUMP_BEGAN => What::DumpBegan(match control >> PASS_SHIFT & 3 {
                0 => DumpPass::Initial,
                1 => DumpPass::Final,
                2 => DumpPass::Resync,
                _ => DumpPass::Report,
            }),
            DUMP_ENDED => What::DumpEnded,
            DUMP_FAILED => What::DumpFailed,
            LOST if control & LOST_UNKNOWN != 0 => What::LostUnknown,
            LOST => What::LostTotal(u64::from(*clock)),
            _ if control & TRACE != 0 => self.trace()?,
            _ if control & HIT != 0 => {
                let (bytes, is_legacy) = made::hit(self.recipe()?);
                let door = if is_legacy { Door::Log } else { Door::Nft };
                return Some(Step::Made(bytes, door, at_ns));
            }
            _ if control & CAUGHT_UP != 0 => What::CaughtUp,
            _ => What::Finished,
        };
        Some(Step::Raw(Input { at_ns, what }))
    }
}

/// Writes an input of a recording as a step, for a seed. Times and namespaces come out as the format
/// can say them.
pub fn append(out: &mut Vec<u8>, input: &Input<'_>, clock: u8) {
    let (control, datagram) = match input.what {
        What::Events {
            bytes,
            truncated,
            netns,
        } => {
            let netns = netns.map_or(0, |id| NETNS | (id.clamp(0, 3) as u8) << NETNS_SHIFT);
            (EVENTS | netns | flag(truncated), Some(bytes))
        }
        What::Dump { bytes, truncated } => (DUMP | flag(truncated), Some(bytes)),
        What::DumpBegan(DumpPass::Initial) => (DUMP_BEGAN, None),
        What::DumpBegan(DumpPass::Final) => (DUMP_BEGAN | 1 << PASS_SHIFT, None),
        What::DumpBegan(DumpPass::Resync) => (DUMP_BEGAN | 2 << PASS_SHIFT, None),
        What::DumpBegan(DumpPass::Report) => (DUMP_BEGAN | 3 << PASS_SHIFT, None),
        What::DumpEnded => (DUMP_ENDED, None),
        What::DumpFailed => (DUMP_FAILED, None),
        What::LostTotal(_) => (LOST, None),
        What::LostUnknown => (LOST | LOST_UNKNOWN, None),
        What::CaughtUp => (MARK | CAUGHT_UP, None),
        What::Trace(trace) => {
            let (kind, head, bytes) = trace_input::encode(&trace);
            out.extend([MARK | TRACE, clock, kind - KIND_FIRST]);
            return append_datagram(out, &[&head, bytes].concat());
        }
        What::Owner(owner) => {
            let (kind, head, bytes) = owner_input::encode(&owner);
            out.extend([MARK | TRACE, clock, kind - KIND_FIRST]);
            return append_datagram(out, &[&head, bytes].concat());
        }
        What::Finished => (MARK, None),
    };
    out.extend([control, clock]);
    if let Some(datagram) = datagram {
        append_datagram(out, datagram);
    }
}

fn append_datagram(out: &mut Vec<u8>, datagram: &[u8]) {
    let len = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
    out.extend(len.to_le_bytes());
    out.extend(&datagram[..usize::from(len)]);
}

/// Writes a step that makes a well-formed message.
pub fn append_made(out: &mut Vec<u8>, recipe: [u8; made::RECIPE_LEN], clock: u8) {
    out.extend([MADE, clock]);
    out.extend(recipe);
}

/// Writes a step that makes a well-formed trace message.
pub fn append_hit(out: &mut Vec<u8>, recipe: [u8; made::RECIPE_LEN], clock: u8) {
    out.extend([MARK | HIT, clock]);
    out.extend(recipe);
}

fn flag(truncated: bool) -> u8 {
    if truncated { TRUNCATED } else { 0 }
}
