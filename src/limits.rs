//! Every capacity and interval of the program, each with its reason.

use std::time::Duration;

/// Flows that the table holds unless `--capacity` says otherwise: a quarter of the kernel's own
/// default limit on a 64-bit machine, 10 MiB.
pub const CAPACITY_DEFAULT: u32 = 65_536;

/// The most flows that can be asked for: an index slot has 24 bits for (index + 1).
pub const CAPACITY_MAX: u32 = (1 << 24) - 2;

/// Index slots per flow: two sides at most, at a load of two thirds, where probes stay short.
pub const SLOTS_PER_FLOW: usize = 3;

/// What a flow costs, everything included; the README promises it.
pub const BYTES_PER_FLOW: usize = 160;

/// What it costs more with `-t`.
pub const BYTES_PER_TRACED_FLOW: usize = 20;

/// What it costs more with `-b`.
pub const BYTES_PER_OWNED_FLOW: usize = 20;

/// Processes that are known at a time; those of flows that left the table make room.
pub const OWNERS_MAX: usize = 1 << 16;

/// Bytes of what is kept of them: five hundred each.
pub const OWNER_TEXTS_LEN_MAX: usize = 32 << 20;

/// Records of probes that are handed on at once.
pub const OWNER_RECORDS_AT_ONCE: usize = 256;

/// What was noted so much later than now was noted before the clock was set back.
pub const CLOCK_STEP: Duration = Duration::from_secs(2);

/// How long a flow's process may be claimed later than the flow is read, before it is asked for.
pub const OWNER_PATIENCE: Duration = Duration::from_millis(60);

/// How long processes are asked for at a time,
pub const ASK_BUDGET: Duration = Duration::from_millis(5);
/// and how long not, so that flows are read meanwhile.
pub const ASK_PAUSE: Duration = Duration::from_millis(15);

/// A process that was not found is looked for again after this, once.
pub const ASK_AGAIN: Duration = Duration::from_millis(150);

/// The addresses of this machine are read anew no sooner than after this.
pub const ADDRESSES_PAUSE: Duration = Duration::from_secs(1);

/// Processes that are told of before they are told anew.
pub const PROCESSES_TOLD_MAX: usize = 1 << 14;

/// Sockets older than the start that are known by their cookie.
pub const COOKIES_MAX: usize = 1 << 16;

/// Claims of processes that wait for their flow: it comes within milliseconds, over another socket;
/// one that the firewall drops within a few tenths of a second, or never. 1 MiB.
pub const CLAIMS_KEPT: usize = 1 << 14;

/// Flows whose process nobody named yet, that are asked for.
pub const WANTED_MAX: usize = 1 << 12;

/// Receive buffer to ask for. One queued event is charged 1,280 bytes and the kernel doubles what
/// is asked for, so this holds about 100,000 events.
pub const RECEIVE_BUFFER: u32 = 64 << 20;

/// The queue may never hold more than this share of the machine's memory (the kernel doubles what
/// is asked for, hence half of a sixteenth).
pub const RECEIVE_BUFFER_MEMORY_SHARE: u64 = 32;

/// Datagrams per recvmmsg: halves the cost of one recv per datagram; more gain nothing.
pub const BATCH_DATAGRAMS: usize = 64;

/// Room for one event datagram. Events take 200 to 400 bytes; a longer one is counted as truncated.
/// Not a power of two: at equal distances of 4096 or a part of it all of a batch would share a few lines of the cache.
pub const EVENT_DATAGRAM_LEN: usize = 2048 + 64;

/// Room for one dump datagram: the kernel fills at most 32 KiB.
pub const DUMP_DATAGRAM_LEN: usize = 65_536;

/// Rest after a batch that was not full: a wake-up costs more than parsing what it brings, for us
/// and for the packet that causes it.
pub const COALESCE: Duration = Duration::from_millis(5);
/// And where processes are told of, which may be gone by then.
pub const COALESCE_OWNED: Duration = Duration::from_millis(2);

/// Events that are read before the first of them is applied: enough to hide the way to their flows.
pub const EVENTS_AHEAD: usize = 16;

/// Bytes of the table that are there before flows come into them: 450 flows, and no more than is of no
/// account on a small machine.
pub const PAGES_AT_ONCE_LEN: usize = 64 << 10;

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

/// A fold that freed less than this share of the table is not tried again for as many new flows, and
/// then for twice as many each time, up to the table's capacity: each sorts the whole table.
pub const RECLAIM_SHARE: u32 = 64;

/// The shortest `--every`: each report has the kernel dump its table, and forks.
pub const EVERY_MIN: Duration = Duration::from_secs(1);

/// The shortest file that `--rotate` leaves: what is written at once must fit.
pub const ROTATE_LEN_MIN: u64 = 128 << 10;
/// The most files of before that it keeps: each rotation renames them all.
pub const ROTATE_COUNT_MAX: u32 = 99;

/// A message to syslogd, all included (RFC 3164, 4.1).
pub const SYSLOG_MESSAGE_LEN: usize = 1024;
/// Bytes of messages that are kept while no syslogd takes them: some two hundred.
pub const SYSLOG_KEPT_LEN: usize = 32 << 10;
/// How often they are offered again where nobody is there,
pub const SYSLOG_PAUSE: Duration = Duration::from_secs(1);
/// and where somebody is, whose queue is full: the kernel lets ten messages wait there.
pub const SYSLOG_BUSY_PAUSE: Duration = Duration::from_millis(20);

/// How often the numbers of `--status` are written.
pub const STATUS_FILE_INTERVAL: Duration = Duration::from_secs(10);

/// How long a report waits, behind its dump, for the event queue to be empty: in a flood it never is.
pub const REPORT_PATIENCE: Duration = Duration::from_secs(1);

/// A message to systemd: a line of text and what to take it for.
pub const NOTIFY_MESSAGE_LEN: usize = 512;

/// After a write that found no room, the next is tried no sooner than after this.
pub const WRITE_AGAIN_PAUSE: Duration = Duration::from_secs(1);

/// The longest `--for`: a century.
pub const DURATION_MAX_S: u64 = 100 * 366 * 86_400;

/// Packets in a second that may be traced, unless the caller says otherwise: each makes some ten
/// messages, at 1.3 µs of the packet's own time each.
pub const TRACE_RATE_DEFAULT: u32 = 2000;

/// The most that the legacy limit match can be asked for in a second.
pub const TRACE_RATE_LEGACY_MAX: u32 = 10_000;

/// Receive buffer of each trace socket: 25,000 messages as the kernel charges them, about a second
/// of tracing at its full rate.
pub const TRACE_RECEIVE_BUFFER: u32 = 16 << 20;

/// The trace queues may never hold more than this share of the machine's memory (the kernel doubles
/// what is asked for, hence half of it).
pub const TRACE_RECEIVE_BUFFER_MEMORY_SHARE: u64 = 128;

/// Flows whose traced packets the kernel counts for us at a time; beyond, only the common rate
/// limits them.
pub const TRACE_KEYS_MAX: u32 = 65_536;
/// And on a small machine at least.
pub const TRACE_KEYS_MIN: u32 = 1024;
/// Memory that a machine has for each of these: all of them from 1 GiB on.
pub const TRACE_KEY_MEMORY_SHARE: u64 = 16 << 10;

/// How long a flow that is silent is remembered as traced, in milliseconds.
pub const TRACE_KEY_TIMEOUT_MS: u32 = 10_000;

/// Bytes of a packet in a line of the legacy tables: IPv6 with an extension header, and TCP.
pub const TRACE_LOG_COPY_LEN: u32 = 128;

const _: () = assert!(
    SLOTS_PER_FLOW > 2,
    "both sides of every flow need a slot, and one must stay free"
);
const _: () = assert!(EVENT_DATAGRAM_LEN >= 2048 && DUMP_DATAGRAM_LEN > 32 << 10);

/// Steps kept apart; a ruleset of ten thousand rules, each of them hit, reloaded a few times.
pub const STEPS_MAX: usize = 1 << 16;

/// Bytes of the texts of all steps: five hundred each.
pub const STEP_TEXTS_LEN_MAX: usize = 32 << 20;

/// Bytes of a rule's text that are kept: more than a set of 64 elements takes.
pub const RULE_TEXT_MAX: usize = 8192;

/// Paths kept apart.
pub const PATHS_MAX: usize = 1 << 18;

/// Less room than this share of it, and the dictionary of steps and paths is swept for what nothing
/// refers to; as much is taken before it is swept again. More than what one input brings.
pub const WAYS_SPARE_SHARE: usize = 32;
/// A sweep that leaves less room than this share takes the hits that are remembered too.
pub const WAYS_AMPLE_SHARE: usize = 4;

const _: () = assert!(
    PATHS_MAX / WAYS_SPARE_SHARE > OPEN_PACKETS
        && STEPS_MAX / WAYS_SPARE_SHARE > TRACE_DATAGRAM_LEN / 64,
    "what one input can bring finds room before the next sweep"
);

/// Hits whose rule is remembered: the rules of many firewalls, with each verdict.
pub const HITS_REMEMBERED: usize = 1 << 17;

/// Steps whose text waits for a set at a time, and sets that are waited for.
pub const TEXTS_WAITING: usize = 4096;

/// Bytes of the nf_tables rules that are kept, of one generation: a million rules.
pub const RULES_LEN_MAX: usize = 256 << 20;

/// Legacy tables that are known: five in each family, as the kernel has them.
pub const LEGACY_TABLES_MAX: usize = 10;

/// Steps of one packet: chains three deep at every hook, in two firewalls. Of more the last is kept.
pub const STEPS_OF_PACKET: usize = 96;

/// Packets under way at a time: what the cap lets through in a quarter of a second.
pub const OPEN_PACKETS: usize = 512;

/// How long nothing is heard of a traced packet before its way is taken to be at its end. Its steps
/// come within microseconds of each other; two sockets are read a few milliseconds apart.
pub const PACKET_QUIET: Duration = Duration::from_millis(40);

/// How much later than an event about a flow the kernel may stamp its beginning: it does so within one
/// packet's way, the event first (Linux 6.14). A beginning that is later still is of another flow.
pub const STAMP_DOUBT: Duration = Duration::from_millis(10);

/// How long after the end of a flow a packet of it may still be read. What is read later is of the next
/// flow between the same ends, though it may have the same id.
pub const TRACE_LATE: Duration = Duration::from_secs(1);

/// The longest record that tracing writes: a legacy table of a hundred thousand rules.
pub const RECORD_LEN_MAX: usize = 64 << 20;

/// Room for one trace datagram: a hit takes 150 bytes, changes of the ruleset come in up to 8 KiB.
pub const TRACE_DATAGRAM_LEN: usize = 16 << 10;

/// Room for lines of the legacy tables: ours come one by one, with 128 bytes of their packet, but may
/// stand behind those of somebody's NFLOG rule that the kernel has gathered (NFULNL_NLBUFSIZ_DEFAULT).
pub const LOG_DATAGRAM_LEN: usize = 8192;

/// Reads (of at least BATCHES_IN_A_ROW * BATCH_DATAGRAMS each) that empty a full trace queue: the kernel
/// charges no datagram less than 512 bytes of twice TRACE_RECEIVE_BUFFER.
pub const READS_OF_A_QUEUE: u32 = 64;

/// Rules are read again no sooner than after so many times what reading them took: a fifth of the time
/// at most, and that only where they change all the time.
pub const READ_AGAIN_FACTOR: u32 = 4;

/// Legacy tables are read again, for lines that have come, no sooner than after this,
pub const LINES_PAUSE: Duration = Duration::from_millis(5);
/// and after so many times what reading them took: a twentieth of the time,
pub const LINES_FACTOR: u32 = 19;
/// unless the lines would wait longer than this: then READ_AGAIN_FACTOR is enough. Their packets are
/// under way as long.
pub const LINES_WAIT_MAX: Duration = Duration::from_millis(10);

/// Legacy tables are looked at although no line comes, no sooner than after this,
pub const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// and after so many times what reading them took: a hundredth of the time at most.
pub const LOOK_FACTOR: u32 = 100;

/// Lines that are read so soon after a legacy table was seen to have changed may be of the content
/// before: they wait in a socket for a few milliseconds at most.
pub const RELOAD_DOUBT: Duration = Duration::from_millis(10);

/// A legacy table's own program is run no sooner again than after this.
pub const SAVE_PAUSE: Duration = Duration::from_secs(1);

/// How often the count of packets that the cap left out is read.
pub const UNTRACED_INTERVAL: Duration = Duration::from_secs(1);

/// The most that can be asked for.
pub const TRACE_RATE_MAX: u32 = 1_000_000;

/// Processes that are remembered, to tell each once: more than talk at a time on most machines. One
/// takes some 500 bytes, CMDLINE_LEN_MAX and a cgroup's path at most.
pub const PROCESSES_CACHED: usize = 1024;

/// Bytes of a command line that are kept.
pub const CMDLINE_LEN_MAX: usize = 4096;

/// Bytes that are read of any other file of a process: twelve cgroup hierarchies with long paths.
pub const PROC_FILE_LEN_MAX: usize = 8192;

/// A process that was there is taken to be there for this long: pids are given in turn, so even the
/// smallest range (300 of 32,768 are never given) does not come round in it.
pub const PROCESS_TRUST: Duration = Duration::from_millis(20);

/// Names of threads by which one process is known.
pub const THREAD_NAMES_KNOWN: usize = 8;

/// Bytes that are read of /etc/passwd: some 10,000 users.
pub const PASSWD_LEN_MAX: usize = 1 << 20;

/// How often it is looked at whether /etc/passwd has changed.
pub const PASSWD_PAUSE: Duration = Duration::from_secs(1);

/// How long the kernel may take to answer what it mostly answers at once.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Sockets that are told of at the start: 7 MiB.
pub const SEED_SOCKETS_MAX: usize = 1 << 16;

/// Which process holds which socket, at 12 bytes each and what a tree costs: 5 MiB.
pub const HOLDINGS_MAX: usize = 1 << 18;

/// A walk of /proc or of the socket tables is not begun again sooner than after so many times what the
/// last one took: a tenth of the time at most for each kind, where flows come faster.
pub const WALK_FACTOR: u32 = 10;

/// A socket that no process holds, such as the kernel's own, is looked for again after this.
pub const UNHELD_PAUSE: Duration = Duration::from_secs(5);

/// Sockets that are known to be held by nobody.
pub const UNHELD_MAX: usize = 1024;

/// Generations of a process's ancestors that are looked at.
pub const ANCESTORS_MAX: usize = 16;

/// Pages of the buffer that probes fill on each CPU: 2,500 records.
pub const PROBE_BUFFER_PAGES: usize = 64;

/// Flows that a probe remembers to have told, so that it tells each once and not with every packet;
/// 130 bytes each,
pub const PROBE_FLOWS_MAX: u32 = 65_536;
/// and on a small machine at least,
pub const PROBE_FLOWS_MIN: u32 = 1024;
/// of the memory that a machine has for each of these: all of them from 1 GiB on.
pub const PROBE_FLOW_MEMORY_SHARE: u64 = 16 << 10;

/// How long the self-test of a rung waits for records: they come at once, where they come.
pub const SELF_TEST_WAIT: Duration = Duration::from_millis(300);

/// UDP ports of which it is known who shares them, sockets of one such port, and for how long that is
/// believed: whoever shares a port does so for long.
pub const SHARED_PORTS_MAX: usize = 256;
/// See SHARED_PORTS_MAX.
pub const SHARERS_MAX: usize = 64;
/// See SHARED_PORTS_MAX.
pub const SHARED_TRUST: Duration = Duration::from_secs(1);

const _: () = assert!(ROTATE_LEN_MIN as usize > FOLLOW_BUFFER_LEN + (8 << 10));
const _: () =
    assert!(SYSLOG_MESSAGE_LEN < u16::MAX as usize && SYSLOG_MESSAGE_LEN < SYSLOG_KEPT_LEN);
