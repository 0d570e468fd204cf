//! Assembly: two streams, translation, numbers given again.

use super::*;
use crate::event::Station;
use crate::event::step::{Firewall, Step, StepKind, Verdict};
use crate::flow::model_tests::Random;
use crate::limits::STEPS_OF_PACKET;

const OWN: i32 = -190;

struct Bench {
    assembly: Assembly,
    ways: Ways,
    closed: Vec<Packet>,
    now: u64,
}

impl Bench {
    fn new() -> Bench {
        Bench {
            assembly: Assembly::new(),
            ways: Ways::default(),
            closed: Vec::new(),
            now: 1,
        }
    }

    fn step(&mut self, chain: &str, verdict: Verdict) -> StepId {
        self.ways.step_id(Step {
            firewall: Firewall::Nft,
            table: "t".into(),
            chain: chain.into(),
            kind: StepKind::Rule,
            position: None,
            handle: None,
            verdict: Some(verdict),
            rule: "".into(),
            comment: "".into(),
            generation: None,
        })
    }

    fn hit(
        &mut self,
        stream: Stream,
        head: Option<Head>,
        station: Option<(u8, i32, u32)>,
        step: Option<&str>,
    ) {
        self.hit_with(stream, head, station, step, Verdict::Accept)
    }

    fn hit_with(
        &mut self,
        stream: Stream,
        head: Option<Head>,
        station: Option<(u8, i32, u32)>,
        step: Option<&str>,
        verdict: Verdict,
    ) {
        self.now += 1;
        let hit = Hit {
            stream,
            at_ns: self.now,
            head,
            conntrack: None,
            station: station.map(|(hook, priority, number)| Station {
                hook,
                priority,
                number,
            }),
            own: step.is_none(),
            denies: verdict.denies(),
            step: step.map(|name| self.step(name, verdict)),
        };
        let closed = &mut self.closed;
        self.assembly
            .take(&hit, &mut self.ways, &mut |packet| closed.push(packet));
    }

    /// Closes everything: each packet's destination, its steps by chain, and whether it was denied.
    fn packets(&mut self) -> Vec<(u8, String, bool)> {
        let closed = &mut self.closed;
        self.assembly
            .settle(u64::MAX, &mut self.ways, &mut |packet| closed.push(packet));
        let ways = &self.ways;
        let shown = |packet: &Packet| {
            let chains: Vec<&str> = ways.path(packet.path).map(|step| &*step.chain).collect();
            (
                packet.tuple.dst[3],
                chains.join(" "),
                packet.guilty.is_some(),
            )
        };
        self.closed.iter().map(shown).collect()
    }
}

fn head(dst: u8, fingerprint: u64) -> Option<Head> {
    let mut tuple = Tuple {
        proto: 17,
        sport: 1000,
        dport: 53,
        ..Tuple::default()
    };
    tuple.src[..4].copy_from_slice(&[10, 0, 0, 1]);
    tuple.dst[..4].copy_from_slice(&[10, 0, 0, dst]);
    Some(Head {
        tuple,
        fingerprint,
        icmp_error: false,
    })
}

#[test]
fn both_streams_of_a_packet_become_one_path_in_the_order_of_travel() {
    let mut bench = Bench::new();
    let packet = head(2, 7);
    let nft = Stream::Nft(5);
    bench.hit(nft, packet, Some((0, OWN, 1)), None);
    bench.hit(nft, packet, Some((2, 0, 1)), Some("forward"));
    bench.hit(nft, None, None, Some("user"));
    bench.hit(nft, packet, Some((4, 0, 1)), Some("postrouting"));
    bench.hit(
        Stream::Legacy,
        packet,
        Some((0, -150, 1)),
        Some("PREROUTING"),
    );
    bench.hit(Stream::Legacy, packet, Some((2, -150, 1)), Some("FORWARD"));
    bench.hit(Stream::Legacy, packet, Some((2, -150, 0)), Some("USER"));
    assert_eq!(
        bench.packets(),
        [(
            2,
            "PREROUTING FORWARD USER forward user postrouting".to_owned(),
            false
        )]
    );
}

#[test]
fn a_number_that_is_given_again_begins_another_packet() {
    let mut bench = Bench::new();
    for (dst, fingerprint) in [(2, 1), (3, 2), (3, 2)] {
        bench.hit(
            Stream::Nft(5),
            head(dst, fingerprint),
            Some((0, OWN, 1)),
            None,
        );
        bench.hit(
            Stream::Nft(5),
            head(dst, fingerprint),
            Some((2, 0, 1)),
            Some("forward"),
        );
    }
    let forward = |dst| (dst, "forward".to_owned(), false);
    assert_eq!(bench.packets(), [forward(2), forward(3), forward(3)]);
}

#[test]
fn a_packet_without_a_readable_head_gives_its_steps_to_no_other() {
    let mut bench = Bench::new();
    let nft = Stream::Nft(5);
    bench.hit(nft, head(2, 1), Some((0, OWN, 1)), None);
    bench.hit(nft, head(2, 1), Some((2, 0, 1)), Some("forward"));
    bench.hit(nft, None, Some((0, OWN, 1)), None); // the number again: IPv6 with options
    bench.hit(nft, None, Some((2, 0, 1)), Some("forward"));
    bench.hit_with(nft, None, None, Some("drops"), Verdict::Drop);
    assert_eq!(bench.packets(), [(2, "forward".to_owned(), false)]);
    assert_eq!(bench.assembly.orphans, 3);
}

#[test]
fn chains_that_share_hook_and_priority_are_on_one_way() {
    let mut bench = Bench::new();
    let packet = head(2, 1);
    bench.hit(Stream::Nft(5), packet, Some((0, OWN, 1)), None);
    bench.hit(Stream::Nft(5), packet, Some((2, 0, 1)), Some("a"));
    bench.hit(Stream::Nft(5), packet, Some((2, 0, 1)), Some("b"));
    assert_eq!(bench.packets(), [(2, "a b".to_owned(), false)]);
}

#[test]
fn the_end_of_a_base_chain_shows_nothing_and_begins_nothing() {
    let mut bench = Bench::new();
    let packet = head(2, 1);
    bench.hit(Stream::Nft(5), packet, Some((0, OWN, 1)), None);
    for chain in ["a", "b"] {
        let end = Hit {
            stream: Stream::Nft(5),
            at_ns: 1,
            head: packet,
            conntrack: None,
            station: Some(Station {
                hook: 2,
                priority: 0,
                number: 1,
            }),
            own: false,
            step: None,
            denies: false,
        };
        bench.assembly.take(&end, &mut bench.ways, &mut |_| ());
        bench.hit(Stream::Nft(5), None, None, Some(chain));
    }
    assert_eq!(bench.packets(), [(2, "a b".to_owned(), false)]);
}

#[test]
fn a_translated_packet_stays_one_and_keeps_its_first_tuple() {
    let mut bench = Bench::new();
    bench.hit(
        Stream::Legacy,
        head(2, 1),
        Some((0, -100, 1)),
        Some("PREROUTING"),
    );
    bench.hit(Stream::Legacy, head(9, 1), Some((2, 0, 1)), Some("FORWARD"));
    let mut snat = head(9, 1);
    snat.as_mut().unwrap().tuple.src[3] = 77;
    bench.hit(Stream::Legacy, snat, Some((4, 100, 1)), Some("POSTROUTING"));
    assert_eq!(
        bench.packets(),
        [(2, "PREROUTING FORWARD POSTROUTING".to_owned(), false)]
    );
    let last = &bench.closed[0].last;
    assert_eq!(
        (last.src[3], last.dst[3]),
        (77, 9),
        "and tells where it went"
    );
}

#[test]
fn packets_that_look_alike_are_told_apart_by_their_way() {
    let mut bench = Bench::new();
    for _ in 0..2 {
        bench.hit(Stream::Legacy, head(2, 1), Some((2, 0, 1)), Some("A"));
        bench.hit_with(
            Stream::Legacy,
            head(2, 1),
            Some((2, 0, 3)),
            Some("D"),
            Verdict::Drop,
        );
    }
    // The other stream tells of both later, the older first.
    bench.hit(Stream::Nft(1), head(2, 1), Some((0, OWN, 1)), None);
    bench.hit(Stream::Nft(1), head(2, 1), Some((0, 0, 1)), Some("pre"));
    bench.hit(Stream::Nft(2), head(2, 1), Some((0, OWN, 1)), None);
    let packets = bench.packets();
    assert_eq!(
        packets,
        [(2, "pre A D".to_owned(), true), (2, "A D".to_owned(), true)]
    );
}

#[test]
fn the_step_that_denied_comes_last() {
    let mut bench = Bench::new();
    let packet = head(2, 1);
    bench.hit(Stream::Nft(1), packet, Some((0, OWN, 1)), None);
    bench.hit_with(
        Stream::Nft(1),
        packet,
        Some((2, 0, 1)),
        Some("drops"),
        Verdict::Drop,
    );
    bench.hit(Stream::Legacy, packet, Some((2, 0, 1)), Some("ACCEPTS"));
    assert_eq!(bench.packets(), [(2, "ACCEPTS drops".to_owned(), true)]);
}

#[test]
fn over_loopback_a_packet_comes_back_to_prerouting() {
    let mut bench = Bench::new();
    let packet = head(2, 1);
    bench.hit(Stream::Nft(1), packet, Some((3, OWN, 1)), None);
    bench.hit(Stream::Nft(1), packet, Some((4, 0, 1)), Some("post"));
    bench.hit(Stream::Nft(8), packet, Some((0, OWN, 1)), None);
    bench.hit(Stream::Nft(8), packet, Some((1, 0, 1)), Some("in"));
    assert_eq!(bench.packets(), [(2, "post in".to_owned(), false)]);
}

#[test]
fn what_belongs_to_no_packet_is_counted_and_a_long_way_keeps_its_end() {
    let mut bench = Bench::new();
    bench.hit(Stream::Nft(1), None, None, Some("user"));
    assert_eq!(bench.assembly.orphans, 1);
    bench.hit(Stream::Nft(1), head(2, 1), Some((0, OWN, 1)), None);
    for at in 0..STEPS_OF_PACKET + 5 {
        bench.hit(Stream::Nft(1), None, None, Some(&format!("c{at}")));
    }
    assert_eq!(bench.assembly.shortened, 1);
    let last = format!("c{}", STEPS_OF_PACKET + 4);
    assert!(bench.packets()[0].1.ends_with(&last));
}

#[test]
fn when_there_is_no_room_the_oldest_goes() {
    let mut bench = Bench::new();
    for fingerprint in 0..=OPEN_PACKETS as u64 {
        bench.hit(
            Stream::Legacy,
            head(2, fingerprint),
            Some((2, 0, 1)),
            Some("F"),
        );
    }
    assert_eq!(bench.closed.len(), 1);
    assert_eq!(bench.packets().len(), OPEN_PACKETS + 1);
}

#[test]
fn an_icmp_error_is_told_of_only_when_it_is_denied() {
    let mut bench = Bench::new();
    let mut error = head(2, 1).unwrap();
    error.icmp_error = true;
    bench.hit(Stream::Legacy, Some(error), Some((2, 0, 1)), Some("F"));
    assert!(bench.packets().is_empty());
    bench.hit_with(
        Stream::Legacy,
        Some(error),
        Some((2, 0, 1)),
        Some("D"),
        Verdict::Drop,
    );
    assert_eq!(bench.packets().len(), 1);
}

#[test]
fn who_comes_first_at_one_priority_is_learned_from_what_was_denied() {
    let mut bench = Bench::new();
    let pass = |bench: &mut Bench, id: u32, verdict: Verdict| {
        let packet = head(2, u64::from(id));
        bench.hit(Stream::Legacy, packet, Some((2, 0, 1)), Some("FORWARD"));
        bench.hit(Stream::Nft(id), packet, Some((0, OWN, 1)), None);
        bench.hit_with(
            Stream::Nft(id),
            packet,
            Some((2, 0, 1)),
            Some("forward"),
            verdict,
        );
    };
    pass(&mut bench, 1, Verdict::Accept);
    let packet = head(2, 7);
    bench.hit(Stream::Nft(7), packet, Some((0, OWN, 1)), None);
    bench.hit(Stream::Nft(7), packet, Some((2, 0, 1)), Some("forward"));
    bench.hit_with(
        Stream::Legacy,
        packet,
        Some((2, 0, 1)),
        Some("FORWARD"),
        Verdict::Drop,
    );
    pass(&mut bench, 2, Verdict::Accept);
    let paths: Vec<String> = bench
        .packets()
        .into_iter()
        .map(|(_, path, _)| path)
        .collect();
    assert_eq!(
        paths,
        ["forward FORWARD", "forward FORWARD", "forward FORWARD"]
    );
}

/// Many packets that look alike, in any order of hits and ends. That a search begins behind those that
/// were out of reach is held against one that begins with the oldest, wherever there is a search.
#[test]
fn a_search_that_is_taken_up_finds_what_a_whole_one_finds() {
    let mut bench = Bench::new();
    let mut random = Random(7);
    for _ in 0..30_000 {
        let fingerprint = 1 + u64::from(random.below(8) == 0);
        let packet = head(random.below(200) as u8, fingerprint);
        let translated = packet.map(|mut head| {
            head.tuple.src[3] = random.below(3) as u8;
            head
        });
        let stream = match random.below(2) {
            0 => Stream::Nft(random.below(300) as u32),
            _ => Stream::Legacy,
        };
        let station = match random.below(6) {
            0 | 1 => (0, OWN, 1),
            2 => (2, 0, 1 + random.below(3) as u32),
            3 => (2, 0, 0),
            4 => (3, -300, 1),
            _ => (4, 100, 1),
        };
        let step = (station.1 != OWN).then_some("chain");
        bench.hit(stream, translated, Some(station), step);
        if random.below(500) == 0 {
            let (assembly, ways) = (&mut bench.assembly, &mut bench.ways);
            let before_ns = bench.now.saturating_sub(random.below(400));
            assembly.settle(before_ns, ways, &mut |_| ());
        }
    }
}
