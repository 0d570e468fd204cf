//! What comes in from outside, whether from the kernel or from a recording: the pipeline sees no
//! difference, so a replay is the same run.

use super::owner_input::OwnerInput;
use super::trace_input::TraceInput;
use crate::event::DumpPass;

/// One input and when it was read (nanoseconds since 1970).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input<'a> {
    /// When.
    pub at_ns: u64,
    /// What.
    pub what: What<'a>,
}

/// The inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What<'a> {
    /// A datagram of events.
    Events {
        /// Its bytes.
        bytes: &'a [u8],
        /// Whether it was longer than that.
        truncated: bool,
        /// The other namespace that it is about.
        netns: Option<i32>,
    },
    /// A datagram of the dump that is going on.
    Dump {
        /// Its bytes.
        bytes: &'a [u8],
        /// Whether it was longer than that.
        truncated: bool,
    },
    /// A dump of the table begins.
    DumpBegan(DumpPass),
    /// It came to its end.
    DumpEnded,
    /// It could not be made, or not to its end.
    DumpFailed,
    /// The event queue was empty after the last dump had ended.
    CaughtUp,
    /// How many events the kernel says that it could not queue, in all so far.
    LostTotal(u64),
    /// It lost an unknown number.
    LostUnknown,
    /// What tracing brings in.
    Trace(TraceInput<'a>),
    /// What attribution brings in.
    Owner(OwnerInput<'a>),
    /// The capture ended.
    Finished,
}
