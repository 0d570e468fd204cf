//! The one vocabulary between the sources (sockets, recordings) and the flow table.

pub mod step;

use crate::wire::conntrack::Entry;

/// Which dump an entry comes from; they differ in what an unknown entry means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpPass {
    /// At the start: what was there before.
    Initial,
    /// After a loss: finds what the lost events said.
    Resync,
    /// At the end: the last state of what lives.
    Final,
}

/// What happened to a conntrack entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It was confirmed: its first packet passed the firewall.
    New,
    /// Its state changed.
    Update,
    /// It was removed.
    Destroy,
    /// It was found in the table.
    Dumped(DumpPass),
}

/// One event. Fixed size, no references: it can wait, be copied and be replayed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// The other network namespace's id (nsid) that it happened in; `None` is our own.
    pub netns: Option<i32>,
    /// When: the kernel's time where it gave one, else when it was read; nanoseconds since 1970.
    pub at_ns: u64,
    /// The entry.
    pub entry: Entry,
}
