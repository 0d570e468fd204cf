//! The way of what probes say: record, process as it was told, owner, claim.

use super::owner_input::{OwnerInput, Told};
use crate::counters::Counters;
use crate::event::{Claim, Evidence, Moment, Rank, Source};
use crate::flow::owner::{Owner, OwnerId, Owners};
use crate::flow::table::Table;
use crate::hashing::{HashMap, HashSet};
use crate::limits::{COOKIES_MAX, PROCESSES_TOLD_MAX};
use crate::wire::conntrack::Tuple;
use crate::wire::kernel::{IPPROTO_TCP, IPPROTO_UDP};
use crate::wire::probe::{COMM_LEN, RECORD_LEN, Record};

/// The parent of the kernel's own threads.
const KTHREADD: u32 = 2;

/// Turns records into claims.
#[derive(Debug, Default)]
pub struct Attributor {
    /// Claims for the table; the caller takes them out.
    pub claims: Vec<Claim>,
    /// Ends whose process nobody named; the caller takes them out.
    pub asked: Vec<Tuple>,
    processes: HashMap<u32, Process>,
    users: HashMap<u32, Box<str>>,
    /// The owners of sockets that are older than the probes.
    cookies: HashMap<u64, (OwnerId, Rank)>,
}

/// What was told of a process.
#[derive(Clone, Debug)]
struct Process {
    parent: u32,
    started_ticks: u64,
    netns: u64,
    texts: [Box<str>; 4],
    /// Its number, under the task's name and the user of the last record.
    last: Option<([u8; COMM_LEN], Option<u32>, OwnerId)>,
}

impl Attributor {
    /// Takes one input, but for what is about the table alone.
    pub fn take(
        &mut self,
        input: &OwnerInput<'_>,
        table: &Table,
        owners: &mut Owners,
        counters: &mut Counters,
    ) {
        match *input {
            OwnerInput::Began { rung } => owners.rung = rung.into(),
            OwnerInput::Records {
                clock_offset_ns,
                bytes,
            } => {
                for bytes in bytes.chunks(RECORD_LEN) {
                    counters.owner_records += 1;
                    match Record::parse(bytes) {
                        Some(record) => {
                            self.record(&record, clock_offset_ns, table, owners, counters);
                        }
                        None => counters.owner_flaws += 1,
                    }
                }
            }
            OwnerInput::Process(told) => self.tell(told),
            OwnerInput::Gone(pid) => {
                self.processes.remove(&pid);
            }
            OwnerInput::User { uid, name } => {
                self.users.insert(uid, name.into());
            }
            OwnerInput::Forget => self.processes.clear(),
            OwnerInput::LostTotal(total) => counters.owner_lost = total,
            OwnerInput::Addresses(_) | OwnerInput::Settle { .. } | OwnerInput::SettleAll => {}
        }
    }

    /// A user sent a packet: a claim where nothing better is known.
    pub fn sender(
        &mut self,
        ends: Tuple,
        uid: u32,
        at_ns: u64,
        table: &Table,
        owners: &mut Owners,
    ) -> Option<Claim> {
        let record = Record {
            at_ns,
            cookie: None,
            netns: None,
            pid: None,
            uid: Some(uid),
            source: Source::Log,
            moment: Moment::Socket,
            ends,
            inherited: false,
            comm: [0; COMM_LEN],
        };
        Some(Claim {
            at_ns,
            ends,
            owner: self.owner(&record, table, owners)?,
            evidence: Evidence {
                source: Source::Log,
                moment: Moment::Socket,
                rank: Rank::User,
            },
        })
    }

    /// Whether it is time to begin anew with processes.
    pub fn is_full(&self) -> bool {
        self.processes.len() >= PROCESSES_TOLD_MAX
    }

    fn tell(&mut self, told: Told<'_>) {
        let process = Process {
            parent: told.parent,
            started_ticks: told.started_ticks,
            netns: told.netns,
            texts: told.texts.map(Box::from),
            last: None,
        };
        self.processes.insert(told.pid, process);
    }

    fn record(
        &mut self,
        record: &Record,
        clock_offset_ns: u64,
        table: &Table,
        owners: &mut Owners,
        counters: &mut Counters,
    ) {
        let process = record.pid.and_then(|pid| self.processes.get(&pid));
        if process.is_some_and(|process| process.parent == KTHREADD) {
            return; // it works for some process, and does not say for which
        }
        let rank = match record.pid {
            None => Rank::User,
            Some(_) if record.inherited => Rank::Inherited,
            Some(_) => Rank::Process,
        };
        let nobody = record.pid.is_none() && record.source == Source::Probe;
        let known = match record.cookie.filter(|_| nobody) {
            Some(cookie) => self.cookies.get(&cookie).copied(),
            None if nobody => None,
            None => self.owner(record, table, owners).map(|owner| (owner, rank)),
        };
        let Some((owner, rank)) = known else {
            counters.owners_refused += u64::from(!nobody);
            return;
        };
        if let Some(cookie) = record.cookie.filter(|_| record.source != Source::Probe) {
            if self.cookies.len() >= COOKIES_MAX {
                self.cookies.clear(); // mostly of sockets that are gone
            }
            self.cookies.insert(cookie, (owner, rank));
        }
        let has_ports = matches!(record.ends.proto, IPPROTO_TCP | IPPROTO_UDP);
        let is_raw = record.moment == Moment::Send && record.ends.dport == 0;
        if has_ports && record.ends.sport == 0 && !is_raw {
            return; // it has not got one yet
        }
        let rank = if record.inherited {
            rank.min(Rank::Inherited)
        } else {
            rank
        };
        self.claims.push(Claim {
            at_ns: record.at_ns.wrapping_add(clock_offset_ns),
            ends: record.ends,
            owner,
            evidence: Evidence {
                source: record.source,
                moment: record.moment,
                rank,
            },
        });
    }

    /// The number of a record's process. Where there is no room, those that nothing holds make it.
    fn owner(&mut self, record: &Record, table: &Table, owners: &mut Owners) -> Option<OwnerId> {
        let process = record.pid.and_then(|pid| self.processes.get(&pid));
        match process.and_then(|process| process.last) {
            Some((comm, uid, id)) if (comm, uid) == (record.comm, record.uid) => return Some(id),
            _ => {}
        }
        let id = self.enter(record, table, owners)?;
        let process = record.pid.and_then(|pid| self.processes.get_mut(&pid));
        if let Some(process) = process {
            process.last = Some((record.comm, record.uid, id));
        }
        Some(id)
    }

    fn enter(&mut self, record: &Record, table: &Table, owners: &mut Owners) -> Option<OwnerId> {
        let process = record.pid.and_then(|pid| self.processes.get(&pid));
        let user = record.uid.and_then(|uid| self.users.get(&uid));
        let mut owner = Owner {
            pid: record.pid,
            uid: record.uid,
            user: user.cloned().unwrap_or_default(),
            comm: record.name().into(),
            ..Owner::default()
        };
        if let Some(process) = process {
            owner.parent = Some(process.parent);
            owner.started_ticks = Some(process.started_ticks);
            owner.netns = Some(process.netns).filter(|netns| *netns != 0);
            let [comm, command_line, executable, cgroup] = process.texts.clone();
            if owner.comm.is_empty() {
                owner.comm = comm;
            }
            (owner.command_line, owner.executable, owner.cgroup) =
                (command_line, executable, cgroup);
        }
        if let Some(id) = owners.id(owner.clone()) {
            return Some(id);
        }
        self.forget_unused(table, owners);
        if let Some(id) = owners.id(owner.clone()) {
            return Some(id);
        }
        // Over the months those of sockets that are gone gather.
        self.cookies.clear();
        self.forget_unused(table, owners);
        owners.id(owner)
    }

    /// Forgets the owners that nothing holds.
    fn forget_unused(&mut self, table: &Table, owners: &mut Owners) {
        let mut in_use: HashSet<OwnerId> = HashSet::default();
        table.owners_in_use(&mut |id| {
            in_use.insert(id);
        });
        in_use.extend(self.claims.iter().map(|claim| claim.owner));
        in_use.extend(self.cookies.values().map(|(owner, _)| *owner));
        owners.keep(|id| in_use.contains(&id));
        self.processes
            .values_mut()
            .for_each(|process| process.last = None);
    }
}
