//! The one vocabulary between the sources (sockets, recordings) and the flow table.

pub mod step;

use crate::wire::conntrack::{Entry, Tuple};
use crate::wire::packet::Head;
pub use crate::wire::probe::{Moment, Source};

/// Which dump an entry comes from; they differ in what an unknown entry means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpPass {
    /// At the start: what was there before.
    Initial,
    /// After a loss: finds what the lost events said.
    Resync,
    /// For a report while the capture goes on.
    Report,
    /// At the end: the last state of what lives.
    Final,
}

/// What happened to a conntrack entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// It was confirmed: its first packet passed the firewall.
    #[default]
    New,
    /// Its state changed.
    Update,
    /// It was removed.
    Destroy,
    /// It was found in the table.
    Dumped(DumpPass),
}

/// One event. Fixed size, no references: it can wait, be copied and be replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// The other network namespace's id (nsid) that it happened in; `None` is our own.
    pub netns: Option<i32>,
    /// When: the kernel's time where it gave one, else when it was read; nanoseconds since 1970.
    pub at_ns: u64,
    /// Whether that is the kernel's time.
    pub is_kernel_time: bool,
    /// The entry.
    pub entry: Entry,
}

/// The priority of our own chains behind conntrack (-200), before anything that a firewall does.
pub const BEHIND_CONNTRACK: i32 = -190;

/// Which stream of trace messages a hit comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// nf_tables, and the number that it gave the packet.
    Nft(u32),
    /// The legacy tables.
    Legacy,
}

/// Which base chain of a packet's way: the hook (NF_INET_*), the priority in it, and for the legacy
/// tables how far in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// NF_INET_*.
    pub hook: u8,
    /// Priority in the hook.
    pub priority: i32,
    /// The rule's number in a built-in legacy chain, 1 for a base chain of nf_tables; 0 in a chain that
    /// was entered from there.
    pub number: u32,
}

/// A traced packet met a rule, a policy or the end of a chain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Which stream tells it.
    pub stream: Stream,
    /// When it was read, nanoseconds since 1970.
    pub at_ns: u64,
    /// The packet's head, where the message has it: at least in its first in each base chain.
    pub head: Option<Head>,
    /// Its conntrack entry's id, and whether it goes in that entry's reply direction.
    pub conntrack: Option<(u32, bool)>,
    /// Where it is, where that is known; else where its last hit was.
    pub station: Option<Station>,
    /// It is one of our own rules that make the kernel trace: a packet's way begins with it.
    pub own: bool,
    /// The step's number in the dictionary; `None` where there is nothing to show.
    pub step: Option<u32>,
    /// Whether the packet goes no further.
    pub denies: bool,
}

/// How sure it is that a process is the one at the end of a flow; more is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Only the user is known.
    User,
    /// It made the listening socket, or shares the socket with others.
    Inherited,
    /// It is.
    Process,
}

/// How a process came to be known as an end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Who said so.
    pub source: Source,
    /// What the process did.
    pub moment: Moment,
    /// How sure that is.
    pub rank: Rank,
}

/// A process uses a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// When, nanoseconds since 1970.
    pub at_ns: u64,
    /// The socket's ends as the process sends; all zero is any.
    pub ends: Tuple,
    /// The process's number in the dictionary of owners.
    pub owner: u32,
    /// How that is known.
    pub evidence: Evidence,
}
