//! Every capacity and interval of the program, each with its reason.

use std::time::Duration;

/// Flows that the table holds unless `--capacity` says otherwise: a quarter of the kernel's own
/// default limit on a 64-bit machine, 10 MiB.
pub const CAPACITY_DEFAULT: u32 = 65_536;

/// The most flows that can be asked for: an index slot has 24 bits for (index + 1).
pub const CAPACITY_MAX: u32 = (1 << 24) - 2;

/// Index slots per flow: two sides, at a load of two thirds, where probes stay short.
pub const SLOTS_PER_FLOW: usize = 3;

/// What a flow costs, everything included; the README promises it.
pub const BYTES_PER_FLOW: usize = 160;

/// Receive buffer to ask for. One queued event is charged 1,280 bytes and the kernel doubles what
/// is asked for, so this holds about 100,000 events.
pub const RECEIVE_BUFFER: u32 = 64 << 20;

/// The queue may never hold more than this share of the machine's memory (the kernel doubles what
/// is asked for, hence half of a sixteenth).
pub const RECEIVE_BUFFER_MEMORY_SHARE: u64 = 32;

/// Datagrams per recvmmsg: halves the cost of one recv per datagram; more gain nothing.
pub const BATCH_DATAGRAMS: usize = 64;

/// Room for one event datagram. Events take 200 to 400 bytes; a longer one is counted as truncated.
pub const EVENT_DATAGRAM_LEN: usize = 4096;

/// Room for one dump datagram: the kernel fills at most 32 KiB.
pub const DUMP_DATAGRAM_LEN: usize = 65_536;

/// Rest after a batch that was not full: a wake-up costs more than parsing what it brings, for us
/// and for the packet that causes it.
pub const COALESCE: Duration = Duration::from_millis(2);

/// Batches read in a row before signals, timers and the dump get their turn.
pub const BATCHES_IN_A_ROW: usize = 16;

/// First pause between two dumps after a loss; doubles up to the longest while losses go on.
pub const RESYNC_PAUSE_FIRST: Duration = Duration::from_secs(1);
/// Longest pause between two dumps after a loss.
pub const RESYNC_PAUSE_LONGEST: Duration = Duration::from_secs(64);

/// How long one dump may take before it counts as stuck.
pub const DUMP_TIMEOUT: Duration = Duration::from_secs(60);

/// How often the terminal's status line is redrawn.
pub const STATUS_INTERVAL: Duration = Duration::from_millis(500);

/// How often a capture that follows hands on what it has buffered.
pub const FOLLOW_BUFFER_LEN: usize = 64 << 10;

/// A fold that freed less than this share of the table is not tried again for as many new flows.
pub const RECLAIM_SHARE: u32 = 64;

/// The longest `--for`: a century.
pub const DURATION_MAX_S: u64 = 100 * 366 * 86_400;

const _: () = assert!(
    SLOTS_PER_FLOW > 2,
    "both sides of every flow need a slot, and one must stay free"
);
const _: () = assert!(EVENT_DATAGRAM_LEN >= 2048 && DUMP_DATAGRAM_LEN > 32 << 10);
