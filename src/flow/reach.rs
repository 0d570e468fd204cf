//! How far each stream has told of the packets under way, in a few bytes each: many may look alike, and
//! what is known of one of them as a whole lies in many lines of the processor's cache.

use super::open::{Open, Progress};
use crate::event::{Hit, Stream};
use crate::limits::OPEN_PACKETS;

/// The stream has told nothing of it.
const UNTOLD: u64 = 0;
/// Nothing follows.
const DONE: u64 = u64::MAX;
/// It began at the output hook.
const LOCAL: u64 = 1 << 63;
const NUMBER_BITS: u32 = 24;
const NUMBER_MAX: u32 = (1 << NUMBER_BITS) - 1;

/// By slot.
#[derive(Debug)]
pub(super) struct Reach {
    nft: Box<[u64; OPEN_PACKETS]>,
    legacy: Box<[u64; OPEN_PACKETS]>,
}

/// How far a packet has come for a hit to be its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    least: u64,
    /// Of one that did not begin at the output hook, and of one that did.
    most: [u64; 2],
}

impl Reach {
    /// Room for `OPEN_PACKETS`.
    pub fn new() -> Reach {
        Reach {
            nft: Box::new([0; OPEN_PACKETS]),
            legacy: Box::new([0; OPEN_PACKETS]),
        }
    }

    /// Takes over what is known of the packet in a slot.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn note(&mut self, slot: usize, open: &Open) {
        let reached = |stream| {
            let told = open.told(stream);
            let local = if open.is_local() { LOCAL } else { 0 };
            match told.progress {
                _ if told.done => DONE,
                Some(progress) => local | packed(progress),
                None => local | UNTOLD,
            }
        };
        self.nft[slot] = reached(Stream::Nft(0));
        self.legacy[slot] = reached(Stream::Legacy);
    }

    /// How far a stream has told of them.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn of(&self, stream: Stream) -> &[u64; OPEN_PACKETS] {
        match stream {
            Stream::Nft(_) => &self.nft,
            Stream::Legacy => &self.legacy,
        }
    }
}

impl Limits {
    /// Those of a hit.
    #[cfg_attr(small, optimize(speed))]
    pub fn of(hit: &Hit) -> Limits {
        let limit = |local| match hit.station {
            None => !LOCAL - 1,
            Some(station) => match Open::progress_at(station, local) {
                (rank, priority, 0) => packed((rank, priority, NUMBER_MAX)),
                progress => packed(progress),
            },
        };
        Limits {
            least: UNTOLD,
            most: [limit(false), limit(true)],
        }
    }

    /// Whether `Open::leads_on` may hold for a packet of which its stream has told so far: where this says
    /// no, it does not.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn allow(self, reached: u64) -> bool {
        let most = self.most[usize::from(reached & LOCAL != 0)];
        (self.least..=most).contains(&(reached & !LOCAL))
    }

    /// The same, for packets of which its stream has told.
    pub fn of_told(self) -> Limits {
        Limits {
            least: UNTOLD + 1,
            ..self
        }
    }
}

/// In the order of the way; numbers from `NUMBER_MAX` on are one.
#[cfg_attr(small, optimize(speed))]
#[inline]
fn packed((rank, priority, number): Progress) -> u64 {
    let priority = (i64::from(priority) - i64::from(i32::MIN)) as u64; // 32 bits
    let way = u64::from(rank) << 32 | priority;
    UNTOLD + 1 + (way << NUMBER_BITS | u64::from(number.min(NUMBER_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Station;
    use crate::wire::conntrack::Tuple;
    use crate::wire::kernel::{NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING, NF_INET_PRE_ROUTING};
    use crate::wire::packet::Head;

    fn hits(head: Head) -> Vec<Hit> {
        let hooks = [NF_INET_PRE_ROUTING, NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING];
        let stations = hooks.into_iter().flat_map(|hook| {
            [-300, 0, 100].into_iter().flat_map(move |priority| {
                [0, 1, 7, NUMBER_MAX, NUMBER_MAX + 1].map(|number| Station {
                    hook,
                    priority,
                    number,
                })
            })
        });
        let stations: Vec<_> = stations.map(Some).chain([None]).collect();
        let streams = [Stream::Nft(1), Stream::Legacy];
        let mut hits = Vec::new();
        for (stream, station) in streams
            .into_iter()
            .flat_map(|stream| stations.iter().map(move |station| (stream, *station)))
        {
            for (own, denies) in [(false, false), (true, false), (false, true)] {
                hits.push(Hit {
                    stream,
                    at_ns: 1,
                    head: Some(head),
                    conntrack: None,
                    station,
                    own,
                    step: None,
                    denies,
                });
            }
        }
        hits
    }

    /// Of every two hits, one behind the other: it never keeps a hit from a packet that it may belong
    /// to, and it does keep most that do not.
    #[test]
    fn what_leads_on_is_within_reach() {
        let head = Head {
            tuple: Tuple::default(),
            fingerprint: 1,
            icmp_error: false,
        };
        let hits = hits(head);
        let (mut kept_away, mut let_through) = (0, 0);
        for first in &hits {
            let mut open = Open::new(&head, first, 1);
            open.note(first);
            let mut reach = Reach::new();
            reach.note(3, &open);
            for next in &hits {
                let may = Limits::of(next).allow(reach.of(next.stream)[3]);
                match open.leads_on(next) {
                    true => assert!(may, "{first:?}, then {next:?}"),
                    false if may => let_through += 1,
                    false => kept_away += 1,
                }
            }
        }
        assert!(kept_away > let_through, "{kept_away}, {let_through}");
    }
}
