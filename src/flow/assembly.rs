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

#[derive(Clone, Copy, Debug)]
struct Open {
    first: Head,
    last: Head,
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

/// What an open packet is found by; small, since all of them are looked through.
#[derive(Clone, Copy, Debug)]
struct Tag {
    slot: usize,
    nft_id: Option<u32>,
    fingerprint: u64,
}

/// The packets that are under way.
#[derive(Debug)]
pub struct Assembly {
    slots: Vec<Open>,
    free: Vec<usize>,
    /// The open packets, the oldest first.
    queue: VecDeque<Tag>,
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
        let at = match (self.find(hit), hit.head) {
            (Some(at), _) => at,
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
        let tag = &mut self.queue[at];
        if let Stream::Nft(id) = hit.stream {
            tag.nft_id = Some(id);
        }
        self.shortened += u64::from(self.slots[tag.slot].note(hit));
    }

    /// Closes packets of which nothing was heard since `before_ns`, the oldest first.
    pub fn settle(&mut self, before_ns: u64, ways: &mut Ways, closed: &mut dyn FnMut(Packet)) {
        let (slots, free) = (&self.slots, &mut self.free);
        let (ties, lets_go) = (&mut self.ties, self.lets_go);
        // What was denied tells of the others.
        for tag in &self.queue {
            slots[tag.slot].teach(ties);
        }
        self.queue.retain(|tag| {
            let open = &slots[tag.slot];
            let stays = open.last_ns >= before_ns;
            if !stays {
                let packet = open.close(ways, ties, lets_go);
                packet.into_iter().for_each(&mut *closed);
                free.push(tag.slot);
            }
            stays
        });
    }

    /// Nothing can have been heard later than now: where it seems so, the clock was set back.
    pub fn set_clock(&mut self, now_ns: u64) {
        for tag in &self.queue {
            let open = &mut self.slots[tag.slot];
            open.last_ns = open.last_ns.min(now_ns);
        }
    }

    /// Marks the steps of the packets that are under way.
    pub fn mark(&self, in_use: &mut InUse) {
        for tag in &self.queue {
            let open = &self.slots[tag.slot];
            let count = usize::from(open.step_count).min(STEPS_OF_PACKET);
            let steps = open.steps[..count].iter().map(|passed| passed.step);
            steps.chain(open.guilty).for_each(|step| in_use.step(step));
        }
    }

    /// Opens a packet; returns its place in the queue.
    fn open(
        &mut self,
        head: Head,
        hit: &Hit,
        ways: &mut Ways,
        closed: &mut dyn FnMut(Packet),
    ) -> usize {
        self.release(hit.stream);
        if self.queue.len() == OPEN_PACKETS {
            if let Some(oldest) = self.queue.pop_front() {
                let packet = self.slots[oldest.slot].close(ways, &mut self.ties, self.lets_go);
                packet.into_iter().for_each(closed);
                self.free.push(oldest.slot);
            }
        }
        let open = Open::new(head, hit);
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = open;
                slot
            }
            None => {
                self.slots.push(open);
                self.slots.len() - 1
            }
        };
        self.queue.push_back(Tag {
            slot,
            nft_id: None,
            fingerprint: head.fingerprint,
        });
        self.queue.len() - 1
    }

    /// The number was given again: no packet that is open has it.
    fn release(&mut self, stream: Stream) {
        let Stream::Nft(id) = stream else { return };
        let mut tags = self.queue.iter_mut();
        if let Some(before) = tags.rfind(|tag| tag.nft_id == Some(id)) {
            before.nft_id = None;
        }
    }

    /// The place in the queue of the packet that a hit belongs to.
    fn find(&self, hit: &Hit) -> Option<usize> {
        if let Stream::Nft(id) = hit.stream {
            let at = self.queue.iter().rposition(|tag| tag.nft_id == Some(id));
            if let Some(at) = at.filter(|at| self.slots[self.queue[*at].slot].leads_on(hit)) {
                return Some(at);
            }
        }
        let head = hit.head?;
        let find = |is_known: &dyn Fn(&Open) -> bool| {
            self.queue.iter().position(|tag| {
                let open = &self.slots[tag.slot];
                tag.fingerprint == head.fingerprint
                    && is_known(open)
                    && open.leads_on(hit)
                    && open.is_free_for(hit, tag.nft_id)
            })
        };
        // Many packets to different ends look alike but for these: translation is the second guess, and
        // of a packet that its stream has told of rather than of another.
        find(&|open| open.last.tuple == head.tuple || open.first.tuple == head.tuple)
            .or_else(|| {
                find(&|open| open.told(hit.stream).progress.is_some() && open.can_become(&head))
            })
            .or_else(|| find(&|open| open.can_become(&head)))
    }
}

impl Default for Assembly {
    fn default() -> Self {
        Assembly::new()
    }
}

impl Open {
    fn new(head: Head, hit: &Hit) -> Open {
        Open {
            first: head,
            last: head,
            conntrack: None,
            nft: Told::default(),
            legacy: Told::default(),
            past_own: false,
            local: hit
                .station
                .is_some_and(|station| station.hook == NF_INET_LOCAL_OUT),
            first_ns: hit.at_ns,
            last_ns: hit.at_ns,
            guilty: None,
            step_count: 0,
            steps: [Passed::default(); STEPS_OF_PACKET],
        }
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
    fn is_free_for(&self, hit: &Hit, nft_id: Option<u32>) -> bool {
        match (hit.stream, nft_id) {
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
        let count = usize::from(self.step_count).min(STEPS_OF_PACKET);
        let is_guilty = |step: &&Passed| Some(step.step) == self.guilty;
        if let Some(guilty) = self.steps[..count].iter().rfind(is_guilty) {
            ties.learn(&self.steps[..count], *guilty);
        }
    }

    /// What there is to tell of it: nothing where no rule was met, or an ICMP error passed.
    fn close(&self, ways: &mut Ways, ties: &mut Ties, lets_go: bool) -> Option<Packet> {
        let count = usize::from(self.step_count).min(STEPS_OF_PACKET);
        let passed = self.guilty.is_none();
        if count == 0 || passed && (self.first.icmp_error || (lets_go && !self.past_own)) {
            return None;
        }
        let mut steps = self.steps;
        let steps = &mut steps[..count];
        self.teach(ties);
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
