//! One counter per reason something was, or was not, accounted for.

/// Counts of one capture. Every loss has a counter here, and the report names each that is not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// NEW events.
    pub new: u64,
    /// UPDATE events.
    pub update: u64,
    /// DESTROY events.
    pub destroy: u64,
    /// Entries read in dumps.
    pub dumped: u64,
    /// Dumps that were read to their end.
    pub dumps: u64,
    /// Entries and events that the filters left out.
    pub filtered: u64,

    /// Events that the kernel could not queue: the socket's own drop counter.
    pub lost: u64,
    /// Times the kernel said that it lost something, where the drop counter cannot be read.
    pub lost_unknown: u64,
    /// Dumps made because of a loss.
    pub resyncs: u64,
    /// Dumps that failed or were cut short.
    pub dumps_failed: u64,
    /// Datagrams longer than our buffer.
    pub truncated: u64,
    /// Messages rejected: broken framing.
    pub rejected_framing: u64,
    /// Messages rejected: no original tuple.
    pub rejected_no_tuple: u64,
    /// Attributes that were there and could not be read.
    pub flaws: u64,

    /// Finished flows removed to make room.
    pub evicted: u64,
    /// The same where their end had been written before (`--follow`): nothing is missed.
    pub forgotten: u64,
    /// Flows that became part of another entry's count.
    pub folded: u64,
    /// Flows that found no room, as they were first reported.
    pub refused: u64,
    /// Records of DESTROY events and later dumps that found no room; may repeat `refused`.
    pub refused_late: u64,
    /// Events that came after a dump had shown a later flow with the same tuple: what they say of the
    /// flow before is not kept.
    pub stale: u64,

    /// Lines of what is followed that could not be written.
    pub unwritten: u64,

    /// Traced packets whose way is known.
    pub traced: u64,
    /// Trace messages and lines read.
    pub trace_messages: u64,
    /// Trace messages that the kernel could not queue.
    pub trace_lost: u64,
    /// Times an unknown number of them was lost.
    pub trace_lost_unknown: u64,
    /// Packets that the cap on tracing left out.
    pub untraced: u64,
    /// Trace messages that belong to no packet that is known.
    pub orphans: u64,
    /// Packets with more steps than are kept.
    pub shortened: u64,
    /// Steps and paths that found no room in the dictionary.
    pub ways_refused: u64,
    /// Hits of rules that were gone before they could be read.
    pub unresolved: u64,
    /// Traced packets of no flow that the report has.
    pub unjoined: u64,

    /// Records of probes that were read.
    pub owner_records: u64,
    /// Records that found no room in the probes' buffer.
    pub owner_lost: u64,
    /// Records that could not be read.
    pub owner_flaws: u64,
    /// Processes that found no room.
    pub owners_refused: u64,
    /// Flows whose process was not asked for, for want of room.
    pub unasked: u64,
}

impl Counters {
    /// Messages that could not be used at all.
    pub fn rejected(&self) -> u64 {
        self.rejected_framing + self.rejected_no_tuple
    }

    /// Whether the report holds everything that there was to see.
    pub fn complete(&self) -> bool {
        [
            self.lost,
            self.lost_unknown,
            self.dumps_failed,
            self.truncated,
            self.rejected(),
            self.flaws,
            self.evicted,
            self.folded,
            self.refused,
            self.refused_late,
            self.stale,
            self.unwritten,
            self.trace_lost,
            self.trace_lost_unknown,
            self.untraced,
            self.shortened,
            self.ways_refused,
            self.unresolved,
            self.owner_lost,
            self.owner_flaws,
            self.owners_refused,
        ]
        .iter()
        .all(|count| *count == 0)
    }
}
