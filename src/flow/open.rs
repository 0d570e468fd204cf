//! A packet that is under way: what the streams have told of it, and whether a hit can be its own.

use super::assembly::Packet;
use super::path::{StepId, Ways};
use crate::event::{BEHIND_CONNTRACK, Hit, Station, Stream};
use crate::limits::STEPS_OF_PACKET;
use crate::wire::kernel::{
    NF_INET_FORWARD, NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING, NF_INET_PRE_ROUTING,
};
use crate::wire::packet::Head;

/// How far on the way: rank of the hook, priority, number in the chain.
pub(super) type Progress = (u8, i32, u32);

/// What one stream has told of a packet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub progress: Option<Progress>,
    /// It was denied there: nothing follows.
    pub done: bool,
}

/// What is known of it.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub first: Head,
    pub last: Head,
    /// Its number in nf_tables, as long as no other packet has it.
    pub nft_id: Option<u32>,
    /// Grows with each packet that is opened.
    pub turn: u64,
    conntrack: Option<(u32, bool)>,
    nft: Told,
    legacy: Told,
    /// It came to our own chain behind conntrack.
    past_own: bool,
    /// It began at the output hook: over the loopback device it comes back to prerouting.
    local: bool,
    first_ns: u64,
    pub last_ns: u64,
    pub guilty: Option<StepId>,
    step_count: u16,
    steps: [Passed; STEPS_OF_PACKET],
}

/// A step, and where it was: rank of the hook, priority, and by which stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Passed {
    at: (u8, i32),
    is_nft: bool,
    pub step: StepId,
}

/// Which firewall comes first where both stand at one priority of one hook: the one that registered
/// later, which nobody tells. A packet that one of them denied shows it.
#[derive(Debug, Default)]
pub(super) struct Ties {
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

impl Open {
    /// One that begins with this hit.
    #[cfg_attr(small, optimize(speed))]
    pub fn new(head: &Head, hit: &Hit, turn: u64) -> Open {
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
    #[cfg_attr(small, optimize(speed))]
    pub fn begin(&mut self, head: &Head, hit: &Hit, turn: u64) {
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
    #[cfg_attr(small, optimize(speed))]
    pub fn steps(&self) -> &[Passed] {
        &self.steps[..usize::from(self.step_count).min(STEPS_OF_PACKET)]
    }

    /// Whether translation can make this of the packet: each of its ends is translated once.
    pub fn can_become(&self, head: &Head) -> bool {
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

    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn told(&self, stream: Stream) -> Told {
        match stream {
            Stream::Nft(_) => self.nft,
            Stream::Legacy => self.legacy,
        }
    }

    /// Whether the hit can come after what its stream has told of this packet.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn leads_on(&self, hit: &Hit) -> bool {
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
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn is_free_for(&self, hit: &Hit) -> bool {
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

    /// Whether it began at the output hook.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn is_local(&self) -> bool {
        self.local
    }

    #[cfg_attr(small, optimize(speed))]
    #[inline]
    fn progress(&self, station: Station) -> Progress {
        Open::progress_at(station, self.local)
    }

    /// How far that is, for a packet that began at the output hook (`local`) or not.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn progress_at(station: Station, local: bool) -> Progress {
        let rank = match (station.hook, local) {
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
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn note(&mut self, hit: &Hit) -> bool {
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
    #[cfg_attr(small, optimize(speed))]
    pub fn teach(&self, ties: &mut Ties) {
        if self.guilty.is_none() {
            return;
        }
        let is_guilty = |step: &&Passed| Some(step.step) == self.guilty;
        if let Some(guilty) = self.steps().iter().rfind(is_guilty) {
            ties.learn(self.steps(), *guilty);
        }
    }

    /// What there is to tell of it: nothing where no rule was met, or an ICMP error passed.
    #[cfg_attr(small, optimize(speed))]
    pub fn close(&mut self, ways: &mut Ways, ties: &mut Ties, lets_go: bool) -> Option<Packet> {
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
