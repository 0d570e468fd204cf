//! Where owners come from: the probes of the rung that was taken, the sockets that are older than
//! they, and what /proc says of a process when it is first heard of.
//!
//! Conntrack's events are read first and the probes after them, but the probes' records go first
//! into the table: a process claims a connection before its first packet leaves, so what begins a flow
//! is known when the flow comes. Flows of this machine that nobody claimed are asked for in sock_diag,
//! one by one and within a share of the time; without probes all are.

use super::intake::Intake;
use super::owner_input::{OwnerInput, Told};
use crate::cli::Options;
use crate::error::{Error, Result};
use crate::hashing::HashSet;
use crate::limits::{
    ADDRESSES_PAUSE, ASK_AGAIN, ASK_BUDGET, ASK_PAUSE, OWNER_PATIENCE, OWNER_RECORDS_AT_ONCE,
    WANTED_MAX,
};
use crate::owner::addresses::Addresses;
use crate::owner::ladder::{self, Chosen, PROCFS};
use crate::owner::probe_events;
use crate::owner::probes;
use crate::owner::process::{Cache, Look};
use crate::owner::sockets::SocketTable;
use crate::owner::users::Users;
use crate::sys::{clock, machine};
use crate::wire::conntrack::Tuple;
use crate::wire::probe::{RECORD_LEN, Record, Source};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

/// The sources of owners.
#[derive(Debug)]
pub struct OwnerSource {
    chosen: Chosen,
    cache: Cache,
    users: Users,
    told_users: HashSet<u32>,
    addresses: Addresses,
    sockets: SocketTable,
    records: Vec<u8>,
    asked: VecDeque<Tuple>,
    /// Ends whose process was not found, and when to look again: /proc is not walked for each.
    again: VecDeque<(Duration, Tuple)>,
    next_ask: Duration,
    lost: u64,
    own_pid: u32,
    own_inode: Option<u64>,
}

impl OwnerSource {
    /// Takes a rung. From here on the probes' records wait.
    pub fn open(options: &Options) -> Result<OwnerSource> {
        for line in probe_events::sweep() {
            super::log::line(format_args!("{line}"));
        }
        let chosen =
            ladder::climb(options.owner_rung, options.btf.as_deref()).map_err(|reason| {
                let hint = "--owner auto takes the best that works";
                Error::failed("finding the processes behind flows", reason, hint)
            })?;
        Ok(OwnerSource {
            chosen,
            cache: Cache::default(),
            users: Users::new(Path::new("/etc/passwd")),
            told_users: HashSet::default(),
            addresses: Addresses::new(),
            sockets: SocketTable::new(),
            records: Vec::with_capacity(OWNER_RECORDS_AT_ONCE * RECORD_LEN),
            asked: VecDeque::new(),
            again: VecDeque::new(),
            next_ask: Duration::ZERO,
            lost: 0,
            own_pid: std::process::id(),
            own_inode: machine::own_netns(),
        })
    }

    /// Begins: says which rung it is, and who has the sockets that there are.
    pub fn begin(&mut self, options: &Options, intake: &mut Intake<'_>) {
        intake.owner(OwnerInput::Began {
            rung: self.chosen.rung,
        });
        self.refresh_addresses(intake);
        let older = match &self.chosen.probes {
            Some(_) => probes::older_sockets(options.btf.as_deref()).ok(),
            None => None,
        };
        let older = match older {
            Some(records) => one_holder(&records),
            None => {
                let older = |record| Record {
                    source: Source::Sockets,
                    ..record
                };
                let records = self.sockets.seed().into_iter().map(older);
                records.flat_map(|record| record.to_bytes()).collect()
            }
        };
        for records in older.chunks(OWNER_RECORDS_AT_ONCE * RECORD_LEN) {
            self.records.extend_from_slice(records);
            self.hand_on(intake);
        }
        self.read(intake);
    }

    /// The rung's name.
    pub fn rung(&self) -> &'static str {
        self.chosen.rung
    }

    /// How it works, and why no better one was taken, for people.
    pub fn describe(&self) -> String {
        let detail = self.chosen.probes.as_ref().map(|probes| probes.detail());
        let detail = detail.filter(|detail| !detail.is_empty() && *detail != self.chosen.rung);
        let told = detail.map(str::to_owned).into_iter();
        told.chain(self.chosen.refused.iter().cloned())
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// Readable while records wait.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.chosen.probes.as_ref().map(|probes| probes.fd())
    }

    /// When there is something to do even where nothing comes.
    pub fn next(&self, intake: &Intake<'_>) -> Option<Duration> {
        let waits = intake.pipeline.table.wants_owners() || !self.asked.is_empty();
        let again = self.again.front().map(|(due, _)| *due);
        waits.then_some(self.next_ask).or(again)
    }

    /// Reads all records that are queued.
    pub fn read(&mut self, intake: &mut Intake<'_>) {
        let Some(probes) = &mut self.chosen.probes else {
            return;
        };
        let records = &mut self.records;
        let read = probes.read(&mut |bytes| {
            if let Some(record) = bytes.get(..RECORD_LEN) {
                records.extend_from_slice(record);
            }
        });
        if let Err(error) = read {
            super::log::line(format_args!("reading the probes' records: {error}"));
        }
        let lost = probes.lost();
        if lost != self.lost {
            self.lost = lost;
            intake.owner(OwnerInput::LostTotal(lost));
        }
        self.hand_on(intake);
    }

    /// Does what is due: asks for the processes of flows that nobody claimed.
    pub fn rest(&mut self, intake: &mut Intake<'_>) {
        let now = clock::monotonic();
        if self.next(intake).is_none_or(|next| now < next) {
            return;
        }
        self.refresh_addresses(intake);
        let patience = match self.chosen.rung {
            PROCFS => Duration::ZERO,
            _ => OWNER_PATIENCE, // a claim may still be on its way
        };
        let before_ns = clock::realtime_ns().saturating_sub(patience.as_nanos() as u64);
        if self.asked.len() < WANTED_MAX {
            intake.owner(OwnerInput::Settle { before_ns });
            self.take_asked(intake);
        } // else flows come faster than can be asked for: those that find no room are counted
        while let Some((_, ends)) = self.again.front().copied().filter(|(due, _)| *due <= now) {
            self.again.pop_front();
            self.look(&ends, false);
        }
        self.ask(ASK_BUDGET, intake);
        let is_busy = !self.asked.is_empty();
        self.next_ask = clock::monotonic() + if is_busy { ASK_PAUSE } else { patience / 4 };
    }

    /// What the last flows need.
    pub fn finish(&mut self, intake: &mut Intake<'_>) {
        self.read(intake);
        self.refresh_addresses(intake);
        intake.owner(OwnerInput::SettleAll);
        self.take_asked(intake);
        if !self.asked.is_empty() {
            self.sockets.refresh();
        }
        self.ask(ASK_BUDGET * 100, intake);
        intake.owner(OwnerInput::SettleAll); // the answers
    }

    fn take_asked(&mut self, intake: &mut Intake<'_>) {
        if let Some(attributor) = &mut intake.pipeline.attributor {
            self.asked.extend(attributor.asked.drain(..));
        }
    }

    /// Looks for the sockets of flows, for a while.
    fn ask(&mut self, budget: Duration, intake: &mut Intake<'_>) {
        let until = clock::monotonic() + budget;
        while let Some(ends) = self.asked.pop_front() {
            self.look(&ends, true);
            if clock::monotonic() >= until {
                break;
            }
        }
        self.hand_on(intake);
    }

    /// Looks for the socket with these ends.
    fn look(&mut self, ends: &Tuple, is_first: bool) {
        let now = clock::monotonic();
        let Some(found) = self.sockets.find(ends, now) else {
            return;
        };
        if found.pid.is_none() && is_first && self.again.len() < WANTED_MAX {
            self.again.push_back((now + ASK_AGAIN, *ends));
        }
        self.records.extend(found.to_bytes());
    }

    fn refresh_addresses(&mut self, intake: &mut Intake<'_>) {
        if let Ok(true) = self.addresses.refresh(ADDRESSES_PAUSE) {
            let bytes: Vec<u8> = self
                .addresses
                .iter()
                .flat_map(|known| [&[u8::from(known.ipv6)], &known.address[..]].concat())
                .collect();
            intake.owner(OwnerInput::Addresses(&bytes));
        }
    }

    /// Hands on the records that were gathered, behind what /proc says of their processes.
    fn hand_on(&mut self, intake: &mut Intake<'_>) {
        if self.records.is_empty() {
            return;
        }
        let mut records = std::mem::take(&mut self.records);
        let mut kept = 0;
        for at in (0..records.len()).step_by(RECORD_LEN) {
            let Some(record) = records.get(at..).and_then(Record::parse) else {
                break;
            };
            if record.pid == Some(self.own_pid) || self.is_elsewhere(&record) {
                continue;
            }
            // What is told of a process holds for the records behind it: those before it go first.
            self.introduce(&record, intake, &mut |intake| {
                intake.records(&records[..kept]);
                kept = 0;
            });
            records.copy_within(at..at + RECORD_LEN, kept);
            kept += RECORD_LEN;
        }
        intake.records(&records[..kept]);
        records.clear();
        self.records = records;
    }

    /// Whether a socket is in another network namespace: the same addresses there are others.
    fn is_elsewhere(&self, record: &Record) -> bool {
        let ours = match record.source {
            Source::Sockets => self.own_inode,
            _ => self.chosen.netns,
        };
        record
            .netns
            .zip(ours)
            .is_some_and(|(its, ours)| its != ours)
    }

    /// Tells of the process and the user of a record, where they were not told.
    /// Before that, `hand_on` is called.
    fn introduce(
        &mut self,
        record: &Record,
        intake: &mut Intake<'_>,
        hand_on: &mut dyn FnMut(&mut Intake<'_>),
    ) {
        let attributor = intake.pipeline.attributor.as_ref();
        if attributor.is_some_and(|attributor| attributor.is_full()) {
            hand_on(intake);
            self.cache = Cache::default();
            intake.owner(OwnerInput::Forget);
        }
        if let Some(pid) = record.pid {
            let look = self.cache.look(pid, &record.comm, record.at_ns);
            if look != Look::Same {
                hand_on(intake);
            }
            match look {
                Look::Same => {}
                Look::Gone => intake.owner(OwnerInput::Gone(pid)),
                Look::Tell(process) => intake.owner(OwnerInput::Process(Told {
                    pid,
                    parent: process.ppid,
                    started_ticks: process.start_ticks,
                    netns: process.netns.unwrap_or(0),
                    texts: [
                        &process.comm,
                        &process.cmdline,
                        &process.exe,
                        &process.cgroup,
                    ],
                })),
            }
        }
        if let Some(uid) = record.uid.filter(|uid| self.told_users.insert(*uid)) {
            if let Some(name) = self.users.name(uid) {
                intake.owner(OwnerInput::User { uid, name });
            }
        }
    }
}

/// Of each socket one holder. Where several processes hold it, which one uses it is a guess: that which
/// came first, for a socket that is open to all, since it made the socket and the others got it; that
/// which came last, for a connection, since servers leave connections to their children.
fn one_holder(bytes: &[u8]) -> Vec<u8> {
    let mut sockets: BTreeMap<Option<u64>, Record> = BTreeMap::new();
    let records = bytes.chunks_exact(RECORD_LEN).filter_map(Record::parse);
    for record in records {
        let known = sockets.entry(record.cookie).or_insert(record);
        if known.pid == record.pid {
            continue;
        }
        let is_open = record.ends.dst == [0; 16];
        let replaces = (record.pid < known.pid) == is_open;
        *known = Record {
            inherited: true,
            ..if replaces { record } else { *known }
        };
    }
    sockets.values().flat_map(Record::to_bytes).collect()
}

impl Intake<'_> {
    pub(super) fn owner(&mut self, input: OwnerInput<'_>) {
        self.take(clock::realtime_ns(), super::input::What::Owner(input));
    }

    fn records(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            let clock_offset_ns = clock::realtime_offset_ns();
            self.owner(OwnerInput::Records {
                clock_offset_ns,
                bytes,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::probe::Moment;

    #[test]
    fn a_socket_that_several_hold_is_one_of_theirs_by_a_guess() {
        let held = |cookie, pid, remote: u8| {
            let mut ends = Tuple::default();
            ends.dst[0] = remote;
            Record {
                at_ns: 1,
                cookie: Some(cookie),
                netns: None,
                pid: Some(pid),
                uid: Some(0),
                source: Source::Sockets,
                moment: Moment::Socket,
                ends,
                inherited: false,
                comm: [0; 16],
            }
        };
        let held = [
            held(1, 7, 0),
            held(1, 7, 0),
            held(2, 9, 0),
            held(2, 8, 0),
            held(3, 8, 5),
            held(3, 9, 5),
        ];
        let bytes: Vec<u8> = held.iter().flat_map(Record::to_bytes).collect();
        let one = one_holder(&bytes);
        let told: Vec<_> = one
            .chunks(RECORD_LEN)
            .filter_map(Record::parse)
            .map(|record| (record.cookie, record.pid, record.inherited))
            .collect();
        let expected = [(1, 7, false), (2, 8, true), (3, 9, true)];
        assert_eq!(told, expected.map(|(c, p, i)| (Some(c), Some(p), i)));
    }
}
