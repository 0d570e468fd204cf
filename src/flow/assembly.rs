//! Hits to packets: which steps belong to one packet, and in which order it went through them.
//!
//! Theory of operation. Two streams tell of traced packets: nf_tables, whose messages carry a number
//! of the packet that the kernel gives again once it is gone, and the legacy tables, whose lines
//! carry the packet itself. Both may tell of the same packet, over two sockets, in either order.
//! An open packet takes the hits that can be its own: by its number, or by its head, which
//! stays recognisable through translation (`Head::becomes`), as long as they lead forward on its way.
//! A hit that would lead backward begins another packet. Of several packets that look alike the
//! oldest takes a hit first, since each stream keeps its order.
//!
//! A packet is closed when nothing was heard of it for a while and every event of that time has been
//! read, so that by then the table knows its flow if it has one. Its steps are then put in the order
//! of travel: by hook and priority, and the one that denied it last.

use super::chains::Chains;
use super::path::{StepId, Ways};
use super::sweep::InUse;
use crate::event::{BEHIND_CONNTRACK, Hit, Station, Stream};
use crate::limits::{OPEN_PACKETS, STEPS_OF_PACKET};
use crate::wire::conntrack::Tuple;
use crate::wire::kernel::{
    NF_INET_FORWARD, NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING, NF_INET_PRE_ROUTING,
};
use crate::wire::packet::Head;
use std::collections::VecDeque;

/// A packet whose way is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Packet {
    /// As it came, before any translation.
    pub tuple: Tuple,
    /// As it was last seen, translated as far as it came.
    pub last: Tuple,
    /// Its conntrack entry's id and whether it goes in its reply direction, where known.
    pub conntrack: Option<(u32, bool)>,
    /// Its path.
    pub path: u32,
    /// The step that denied it, if one did.
    pub guilty: Option<StepId>,
    /// When its first step was read, nanoseconds since 1970.
    pub at_ns: u64,
}

/// How far on the way: rank of the hook, priority, number in the chain.
type Progress = (u8, i32, u32);

/// What one stream has told of a packet.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    progress: Option<Progress>,
    /// It was denied there: nothing follows.
    done: bool,
}

#[derive(Clone, Debug)]
struct Open {
    first: Head,
    last: Head,
    /// Its number in nf_tables, as long as no other packet has it.
    nft_id: Option<u32>,
    /// Grows with each packet that is opened.
    turn: u64,
    conntrack: Option<(u32, bool)>,
    nft: Told,
    legacy: Told,
    /// It came to our own chain behind conntrack.
    past_own: bool,
    /// It began at the output hook: over the loopback device it comes back to prerouting.
    local: bool,
    first_ns: u64,
    last_ns: u64,
    guilty: Option<StepId>,
    step_count: u16,
    steps: [Passed; STEPS_OF_PACKET],
}

/// A step, and where it was: rank of the hook, priority, and by which stream.
#[derive(Clone, Copy, Debug, Default)]
struct Passed {
    at: (u8, i32),
    is_nft: bool,
    step: StepId,
}

/// Which firewall comes first where both stand at one priority of one hook: the one that registered
/// later, which nobody tells. A packet that one of them denied shows it.
#[derive(Debug, Default)]
struct Ties {
    nft_first: Vec<(u8, i32)>,
}

impl Ties {
    fn learn(&mut self, steps: &[Passed], guilty: Passed) {
        let beside = |step: &&Passed| step.at == guilty.at && step.is_nft != guilty.is_nft;
        let Some(before) = steps.iter().find(beside) else {
            return;
        };
        self.nft_first.retain(|at| *at != guilty.at);
        if before.is_nft {
            self.nft_first.push(guilty.at);
        }
    }

    fn rank(&self, step: &Passed) -> bool {
        step.is_nft != self.nft_first.contains(&step.at)
    }
}

/// The packets that are under way.
#[derive(Debug)]
pub struct Assembly {
    slots: Vec<Open>,
    free: Vec<usize>,
    /// The slots of the open packets, the oldest first.
    queue: VecDeque<usize>,
    /// What hits find them by: the number that they have in nf_tables, and the first head's fingerprint.
    by_id: Chains,
    by_fingerprint: Chains,
    turns: u64,
    /// Hits that belong to no packet that is open.
    pub orphans: u64,
    /// Packets with more steps than are kept.
    pub shortened: u64,
    /// Packets are traced from the first chain on, and those of settled flows no further than to our
    /// own chain behind conntrack: of these nothing is told, since their way goes on.
    pub lets_go: bool,
    ties: Ties,
}

impl Assembly {
    /// Room for `OPEN_PACKETS`.
    pub fn new() -> Assembly {
        Assembly {
            slots: Vec::with_capacity(OPEN_PACKETS),
            free: Vec::with_capacity(OPEN_PACKETS),
            queue: VecDeque::with_capacity(OPEN_PACKETS),
            by_id: Chains::new(),
            by_fingerprint: Chains::new(),
            turns: 0,
            orphans: 0,
            shortened: 0,
            lets_go: false,
            ties: Ties::default(),
        }
    }

    /// Whether any packet is open.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes one hit. Where there is no room, the packet that was open longest is closed into `closed`.
    pub fn take(&mut self, hit: &Hit, ways: &mut Ways, closed: &mut dyn FnMut(Packet)) {
        let slot = match (self.find(hit), &hit.head) {
            (Some(slot), _) => slot,
            (None, Some(head)) => self.open(head, hit, ways, closed),
            (None, None) => {
                // One whose head cannot be read has the number now, if it has come to another chain.
                if hit.station.is_some() {
                    self.release(hit.stream);
                }
                self.orphans += 1;
                return;
            }
        };
        if let Stream::Nft(id) = hit.stream {
            self.number(slot, Some(id));
        }
        self.shortened += u64::from(self.slots[slot].note(hit));
    }

    /// Closes packets of which nothing was heard since `before_ns`, the oldest first.
    pub fn settle(&mut self, before_ns: u64, ways: &mut Ways, closed: &mut dyn FnMut(Packet)) {
        // What was denied tells of the others.
        for slot in &self.queue {
            self.slots[*slot].teach(&mut self.ties);
        }
        for _ in 0..self.queue.len() {
            let Some(slot) = self.queue.pop_front() else {
                break;
            };
            if self.slots[slot].last_ns >= before_ns {
                self.queue.push_back(slot); // all of them are taken in turn: their order stays
            } else {
                self.close(slot, ways, closed);
            }
        }
    }

    /// Nothing can have been heard later than now: where it seems so, the clock was set back.
    pub fn set_clock(&mut self, now_ns: u64) {
        for slot in &self.queue {
            let open = &mut self.slots[*slot];
            open.last_ns = open.last_ns.min(now_ns);
        }
    }

    /// Marks the steps of the packets that are under way.
    pub fn mark(&self, in_use: &mut InUse) {
        for slot in &self.queue {
            let open = &self.slots[*slot];
            let steps = open.steps().iter().map(|passed| passed.step);
            steps.chain(open.guilty).for_each(|step| in_use.step(step));
        }
    }

    /// Opens a packet; returns its slot.
    fn open(
        &mut self,
        head: &Head,
        hit: &Hit,
        ways: &mut Ways,
        closed: &mut dyn FnMut(Packet),
    ) -> usize {
        self.release(hit.stream);
        if self.queue.len() == OPEN_PACKETS {
            if let Some(oldest) = self.queue.pop_front() {
                self.close(oldest, ways, closed);
            }
        }
        self.turns += 1;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot].begin(head, hit, self.turns);
                slot
            }
            None => {
                self.slots.push(Open::new(head, hit, self.turns));
                self.slots.len() - 1
            }
        };
        self.by_fingerprint.enter(head.fingerprint, slot);
        self.queue.push_back(slot);
        slot
    }

    /// Closes a packet that has left the queue.
    fn close(&mut self, slot: usize, ways: &mut Ways, closed: &mut dyn FnMut(Packet)) {
        self.number(slot, None);
        let open = &mut self.slots[slot];
        self.by_fingerprint.leave(open.first.fingerprint, slot);
        let packet = open.close(ways, &mut self.ties, self.lets_go);
        packet.into_iter().for_each(closed);
        self.free.push(slot);
    }

    /// A packet has this number in nf_tables from now on, or none.
    fn number(&mut self, slot: usize, id: Option<u32>) {
        let before = std::mem::replace(&mut self.slots[slot].nft_id, id);
        if before == id {
            return;
        }
        if let Some(before) = before {
            self.by_id.leave(u64::from(before), slot);
        }
        if let Some(id) = id {
            self.by_id.enter(u64::from(id), slot);
        }
    }

    /// The number was given again: no packet that is open has it.
    fn release(&mut self, stream: Stream) {
        let Stream::Nft(id) = stream else { return };
        if let Some(before) = self.numbered(id) {
            self.number(before, None);
        }
    }

    /// The packet that has a number in nf_tables, the youngest if there are more.
    fn numbered(&self, id: u32) -> Option<usize> {
        let slots = self.by_id.of(u64::from(id));
        slots
            .filter(|slot| self.slots[*slot].nft_id == Some(id))
            .max_by_key(|slot| self.slots[*slot].turn)
    }

    /// The slot of the packet that a hit belongs to.
    fn find(&self, hit: &Hit) -> Option<usize> {
        if let Stream::Nft(id) = hit.stream {
            let slot = self.numbered(id);
            if let Some(slot) = slot.filter(|slot| self.slots[*slot].leads_on(hit)) {
                return Some(slot);
            }
        }
        let head = hit.head.as_ref()?;
        // Many packets to different ends look alike but for these: translation is the second guess, and
        // of a packet that its stream has told of rather than of another.
        let (mut told, mut untold) = (None, None);
        for slot in self.by_fingerprint.of(head.fingerprint) {
            let open = &self.slots[slot];
            if open.first.fingerprint != head.fingerprint
                || !open.leads_on(hit)
                || !open.is_free_for(hit)
            {
                continue;
            }
            if open.last.tuple == head.tuple || open.first.tuple == head.tuple {
                return Some(slot);
            }
            if open.can_become(head) {
                let is_told = open.told(hit.stream).progress.is_some();
                let guess = if is_told { &mut told } else { &mut untold };
                guess.get_or_insert(slot);
            }
        }
        told.or(untold)
    }
}

impl Default for Assembly {
    fn default() -> Self {
        Assembly::new()
    }
}

impl Open {
    fn new(head: &Head, hit: &Hit, turn: u64) -> Open {
        let mut open = Open {
            first: *head,
            last: *head,
            nft_id: None,
            turn,
            conntrack: None,
            nft: Told::default(),
            legacy: Told::default(),
            past_own: false,
            local: false,
            first_ns: 0,
            last_ns: 0,
            guilty: None,
            step_count: 0,
            steps: [Passed::default(); STEPS_OF_PACKET],
        };
        open.begin(head, hit, turn);
        open
    }

    /// Begins another packet; what the one before has left in its steps does not count.
    fn begin(&mut self, head: &Head, hit: &Hit, turn: u64) {
        (self.first, self.last) = (*head, *head);
        (self.nft_id, self.turn) = (None, turn);
        self.conntrack = None;
        (self.nft, self.legacy) = (Told::default(), Told::default());
        self.past_own = false;
        self.local = hit
            .station
            .is_some_and(|station| station.hook == NF_INET_LOCAL_OUT);
        (self.first_ns, self.last_ns) = (hit.at_ns, hit.at_ns);
        self.guilty = None;
        self.step_count = 0;
    }

    /// The steps that it has passed.
    fn steps(&self) -> &[Passed] {
        &self.steps[..usize::from(self.step_count).min(STEPS_OF_PACKET)]
    }

    /// Whether translation can make this of the packet: each of its ends is translated once.
    fn can_become(&self, head: &Head) -> bool {
        let ends = |head: &Head| {
            let tuple = &head.tuple;
            let (sport, dport) = if tuple.is_icmp() {
                (0, 0)
            } else {
                (tuple.sport, tuple.dport)
            };
            [(tuple.src, sport), (tuple.dst, dport)]
        };
        let (first, last, next) = (ends(&self.first), ends(&self.last), ends(head));
        let once = |at: usize| last[at] == next[at] || last[at] == first[at];
        self.last.becomes(head) && once(0) && once(1)
    }

    fn told(&self, stream: Stream) -> Told {
        match stream {
            Stream::Nft(_) => self.nft,
            Stream::Legacy => self.legacy,
        }
    }

    /// Whether the hit can come after what its stream has told of this packet.
    fn leads_on(&self, hit: &Hit) -> bool {
        let told = self.told(hit.stream);
        if told.done {
            return false;
        }
        let Some(station) = hit.station else {
            return true;
        };
        let (rank, priority, number) = self.progress(station);
        match told.progress {
            // A chain of the legacy tables that is ours is met first, and once.
            _ if number == 0 && hit.own => false,
            // Inside a chain that was entered before.
            _ if number == 0 => told
                .progress
                .is_some_and(|(r, p, _)| (r, p) == (rank, priority)),
            // Base chains may share a hook and a priority; ours begins a packet.
            Some(progress) if progress == (rank, priority, number) => {
                !hit.own && hit.stream != Stream::Legacy
            }
            Some(progress) => (rank, priority, number) > progress,
            None => true,
        }
    }

    /// A packet has one number in nf_tables, and another one after the loopback device.
    fn is_free_for(&self, hit: &Hit) -> bool {
        match (hit.stream, self.nft_id) {
            (Stream::Nft(_), Some(_)) => {
                self.local
                    && hit
                        .station
                        .is_some_and(|station| station.hook == NF_INET_PRE_ROUTING)
            }
            _ => true,
        }
    }

    fn progress(&self, station: Station) -> Progress {
        let rank = match (station.hook, self.local) {
            (NF_INET_LOCAL_OUT, _) => 0,
            (NF_INET_PRE_ROUTING, false) => 0,
            (NF_INET_LOCAL_IN | NF_INET_FORWARD, false) => 1,
            (NF_INET_POST_ROUTING, true) => 1,
            (NF_INET_PRE_ROUTING, true) => 2,
            (NF_INET_POST_ROUTING, false) => 2,
            (NF_INET_LOCAL_IN | NF_INET_FORWARD, true) => 3,
            _ => 4, // devices have their own: egress comes last, and before ingress nothing is traced
        };
        (rank, station.priority, station.number)
    }

    /// Notes a hit of this packet. Says whether it was the first that found no room.
    fn note(&mut self, hit: &Hit) -> bool {
        let before = self.told(hit.stream).progress;
        let entered = hit.station.filter(|station| station.number > 0);
        let progress = entered.map(|station| self.progress(station)).or(before);
        let told = Told {
            progress,
            done: hit.denies || self.told(hit.stream).done,
        };
        match hit.stream {
            Stream::Nft(_) => self.nft = told,
            Stream::Legacy => self.legacy = told,
        }
        self.last = hit.head.unwrap_or(self.last);
        self.last_ns = self.last_ns.max(hit.at_ns);
        self.conntrack = self.conntrack.or(hit.conntrack);
        let behind = |station: Station| station.priority == BEHIND_CONNTRACK;
        self.past_own |= hit.own && hit.station.is_some_and(behind);
        let Some(step) = hit.step else { return false };
        if hit.denies {
            self.guilty = Some(step);
        }
        let (rank, priority, _) = progress.unwrap_or_default();
        let at = usize::from(self.step_count).min(STEPS_OF_PACKET - 1); // the last one counts most
        self.steps[at] = Passed {
            at: (rank, priority),
            is_nft: hit.stream != Stream::Legacy,
            step,
        };
        self.step_count = self.step_count.saturating_add(1);
        usize::from(self.step_count) == STEPS_OF_PACKET + 1
    }

    /// Lets the step that denied it tell who comes first there.
    fn teach(&self, ties: &mut Ties) {
        if self.guilty.is_none() {
            return;
        }
        let is_guilty = |step: &&Passed| Some(step.step) == self.guilty;
        if let Some(guilty) = self.steps().iter().rfind(is_guilty) {
            ties.learn(self.steps(), *guilty);
        }
    }

    /// What there is to tell of it: nothing where no rule was met, or an ICMP error passed.
    fn close(&mut self, ways: &mut Ways, ties: &mut Ties, lets_go: bool) -> Option<Packet> {
        let count = self.steps().len();
        let passed = self.guilty.is_none();
        if count == 0 || passed && (self.first.icmp_error || (lets_go && !self.past_own)) {
            return None;
        }
        self.teach(ties);
        let steps = &mut self.steps[..count];
        steps.sort_by_key(|step| (step.at, ties.rank(step))); // stable: each stream is in order
        let mut path = [0; STEPS_OF_PACKET];
        path.iter_mut()
            .zip(&*steps)
            .for_each(|(to, passed)| *to = passed.step);
        ways.count_hits(&path[..count]);
        Some(Packet {
            tuple: self.first.tuple,
            last: self.last.tuple,
            conntrack: self.conntrack,
            path: ways.path_id(&path[..count]),
            guilty: self.guilty,
            at_ns: self.first_ns,
        })
    }
}

#[cfg(test)]
#[path = "assembly_tests.rs"]
mod tests;
