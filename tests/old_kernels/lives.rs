//! Flows from their beginning to their end, and what old kernels make of that: ids that are given again
//! at once, and records that lack what later ones have.

use super::bytes::{Head, MULTI, be32, be64, nested, netfilter};
use super::conntrack::{About, Entry, Layer4, ProtoInfo, Sender, family};
use super::entries::{self, ASSURED, CONFIRMED, DYING, SEEN_REPLY, address, bare};
use super::expected::{self, BASE_NS, Fields, Life, rfc3339};
use super::kernels::KERNELS;
use super::run::{Run, assert_flows};
use super::{READ_NS, found, senders};
use conntracker::event::DumpPass;
use std::slice::from_ref;

const BEGAN_NS: u64 = BASE_NS + 3_000_000_000;
const CHANGED_NS: u64 = BASE_NS + 4_000_000_000;
const STOPPED_NS: u64 = BASE_NS + 4_900_000_000;

/// The message without an attribute of this type at its top.
fn without(message: &[u8], kind: u16) -> Vec<u8> {
    let mut kept = message[..20].to_vec();
    let mut rest = &message[20..];
    let mut dropped = 0;
    while !rest.is_empty() {
        let len = usize::from(u16::from_ne_bytes([rest[0], rest[1]])).next_multiple_of(4);
        let of = u16::from_ne_bytes([rest[2], rest[3]]) & 0x3fff;
        if of == kind {
            dropped += 1;
        } else {
            kept.extend(&rest[..len]);
        }
        rest = &rest[len..];
    }
    assert_eq!(dropped, 1, "it was there");
    let len = u32::try_from(kept.len()).unwrap();
    kept[..4].copy_from_slice(&len.to_ne_bytes());
    kept
}

fn dying(entry: &Entry) -> Entry {
    Entry {
        status: entry.status | DYING,
        stop_ns: entry.start_ns.map(|_| STOPPED_NS),
        ..entry.clone()
    }
}

/// The flow whose whole life was heard.
fn ended(sender: &Sender, entry: &Entry) -> Fields {
    let end_ns = entry.stop_ns.unwrap_or(READ_NS);
    let life = Life {
        state: "ended",
        start_ns: Some(entry.start_ns.unwrap_or(BEGAN_NS)),
        first_ns: BEGAN_NS,
        last_ns: end_ns,
        end_ns: Some(end_ns),
    };
    expected::fields(sender, entry, &life)
}

fn live(sender: &Sender, entry: &Entry, began_ns: u64, last_ns: u64) -> Fields {
    let life = Life {
        state: "live",
        start_ns: Some(began_ns),
        first_ns: began_ns,
        last_ns,
        end_ns: None,
    };
    expected::fields(sender, entry, &life)
}

fn udp(at: u64) -> Entry {
    bare(
        "10.1.0.6",
        "192.0.2.53",
        Layer4::Ports(17, 5353, 53),
        address(at),
    )
}

fn tcp() -> Entry {
    bare(
        "10.1.0.6",
        "192.0.2.80",
        Layer4::Ports(6, 40000, 80),
        address(1),
    )
}

#[test]
fn events_tell_a_life() {
    for sender in senders() {
        let entries = entries::all(sender.kernel);
        let mut run = Run::new();
        for entry in &entries {
            let begun = Entry {
                status: entry.status & !(SEEN_REPLY | ASSURED),
                ..entry.clone()
            };
            let about = About {
                protoinfo: true,
                ..About::default()
            };
            run.event(BEGAN_NS, &sender.begun(&begun, about));
        }
        for entry in &entries {
            let about = About {
                protoinfo: true,
                labels: true,
                adjusted: true,
            };
            run.event(CHANGED_NS, &sender.update(entry, about));
        }
        for entry in &entries {
            run.event(READ_NS, &sender.destroy(&dying(entry)));
        }
        run.assert_clean();
        let count = entries.len() as u64;
        let counters = run.counters();
        assert_eq!(
            (counters.new, counters.update, counters.destroy),
            (count, count, count)
        );
        let expected = entries
            .iter()
            .map(|entry| ended(&sender, &dying(entry)))
            .collect();
        assert_flows(run.flows(), expected, &format!("{sender:?}"));
    }
}

#[test]
fn the_state_of_tcp_is_the_last_that_was_told() {
    for kernel in KERNELS {
        let sender = Sender::plain(kernel);
        let mut run = Run::new();
        let told = |status, state| Entry {
            status,
            protoinfo: Some(ProtoInfo::Tcp(state)),
            ..tcp()
        };
        let about = About {
            protoinfo: true,
            ..About::default()
        };
        run.event(BEGAN_NS, &sender.begun(&told(CONFIRMED, 1), about));
        run.event(
            CHANGED_NS,
            &sender.update(&told(CONFIRMED | SEEN_REPLY, 3), about),
        );
        let assured = told(CONFIRMED | SEEN_REPLY | ASSURED, 3);
        run.event(CHANGED_NS, &sender.update(&assured, About::default()));
        assert_flows(
            run.flows(),
            vec![live(&sender, &assured, BEGAN_NS, CHANGED_NS)],
            sender.kernel.release,
        );
        run.event(READ_NS, &sender.destroy(&dying(&assured)));
        assert_flows(
            run.flows(),
            vec![ended(&sender, &dying(&assured))],
            sender.kernel.release,
        );
        let mut run = Run::new();
        run.event(BEGAN_NS, &sender.begun(&tcp(), About::default()));
        assert_flows(
            run.flows(),
            vec![live(&sender, &tcp(), BEGAN_NS, BEGAN_NS)],
            sender.kernel.release,
        ); // no state, not NONE
        run.assert_clean();
    }
}

#[test]
fn an_id_that_is_given_again_at_once_is_another_flow() {
    for sender in senders() {
        let about = About::default();
        let first = udp(1);
        // The same ends in the same place of memory: also the same id where it is a hash.
        let mut run = Run::new();
        run.event(BEGAN_NS, &sender.begun(&first, about));
        run.event(READ_NS, &sender.destroy(&dying(&first)));
        run.event(READ_NS, &sender.begun(&first, about));
        let both = vec![
            ended(&sender, &dying(&first)),
            live(&sender, &first, READ_NS, READ_NS),
        ];
        assert_flows(run.flows(), both.clone(), &format!("{sender:?}"));
        // What comes later is about the second.
        let answered = Entry {
            status: CONFIRMED | SEEN_REPLY,
            ..first.clone()
        };
        run.event(READ_NS + 5, &sender.update(&answered, about));
        let second = live(&sender, &answered, READ_NS, READ_NS + 5);
        assert_flows(
            run.flows(),
            vec![both[0].clone(), second],
            &format!("{sender:?}"),
        );
        run.event(READ_NS + 9, &sender.destroy(&dying(&answered)));
        assert!(run.flows().iter().all(|flow| flow["state"] == "ended"));
        assert_eq!(run.flows().len(), 2);
        // Other ends in the same place.
        let other = Entry {
            address: first.address,
            ..tcp()
        };
        run.event(READ_NS + 10, &sender.begun(&other, about));
        run.event(READ_NS + 11, &sender.destroy(&dying(&other)));
        let ids: Vec<_> = run.flows().iter().map(|flow| flow["id"].clone()).collect();
        assert_eq!(ids.len(), 3);
        assert!(ids.iter().all(|id| *id == sender.id(&first).to_string()));
        run.assert_clean();
    }
}

/// The events between were lost, so only the kernel's stamp says that the same id is another flow.
#[test]
fn a_beginning_that_is_later_than_what_was_heard_is_of_another_flow() {
    for sender in senders() {
        let heard = |run: &mut Run| run.event(BEGAN_NS, &sender.begun(&tcp(), About::default()));
        let again_ns = BEGAN_NS + 1_000_000_000;
        let again = Entry {
            start_ns: Some(again_ns),
            ..tcp()
        };
        let gone = Fields::from_iter(live(&sender, &tcp(), BEGAN_NS, BEGAN_NS).into_iter().map(
            |(name, value)| {
                if name == "state" {
                    (name, "gone".to_owned())
                } else {
                    (name, value)
                }
            },
        ));
        let mut run = Run::new();
        heard(&mut run);
        run.dump(
            READ_NS,
            DumpPass::Resync,
            &sender.dump(from_ref(&again), 4096),
        );
        let both = vec![gone.clone(), found(&sender, &again)];
        assert_flows(run.flows(), both, sender.kernel.release);
        let mut run = Run::new();
        heard(&mut run);
        run.event(READ_NS, &sender.destroy(&dying(&again)));
        let life = Life {
            state: "ended",
            start_ns: Some(again_ns),
            first_ns: STOPPED_NS,
            last_ns: STOPPED_NS,
            end_ns: Some(STOPPED_NS),
        };
        let both = vec![gone, expected::fields(&sender, &dying(&again), &life)];
        assert_flows(run.flows(), both, sender.kernel.release);
        // A stamp that is still to come is of before the clock was set back, and says nothing.
        let future = Entry {
            start_ns: Some(READ_NS + 1_000_000_000),
            ..tcp()
        };
        let mut run = Run::new();
        heard(&mut run);
        run.dump(READ_NS, DumpPass::Resync, &sender.dump(&[future], 4096));
        assert_eq!(run.flows().len(), 1);
        // What began before it was first heard of is the same flow.
        let same = Entry {
            start_ns: Some(BEGAN_NS - 1000),
            ..tcp()
        };
        let mut run = Run::new();
        heard(&mut run);
        run.dump(
            READ_NS,
            DumpPass::Resync,
            &sender.dump(from_ref(&same), 4096),
        );
        let mut expected = found(&sender, &same);
        expected.insert("first_seen".to_owned(), rfc3339(BEGAN_NS));
        assert_flows(run.flows(), vec![expected], sender.kernel.release);
    }
}

#[test]
fn the_end_of_a_flow_whose_beginning_was_not_heard_is_a_flow() {
    for sender in senders() {
        let mut run = Run::new();
        let first = udp(1);
        run.event(BEGAN_NS, &sender.begun(&first, About::default()));
        run.event(CHANGED_NS, &sender.destroy(&dying(&first)));
        // Another life of the same id, of which only the end was heard.
        let counted = Entry {
            counters: Some([(1, 60), (0, 0)]),
            ..dying(&first)
        };
        run.event(READ_NS, &sender.destroy(&counted));
        let flows = run.flows();
        assert_eq!(flows.len(), 2);
        let unheard = flows
            .iter()
            .find(|flow| flow.contains_key("original.packets"))
            .unwrap();
        assert_eq!(unheard["end"], rfc3339(READ_NS));
        assert!(!unheard.contains_key("start"), "nobody knows when it began");
        run.assert_clean();
    }
}

/// No kernel from 3.10 on leaves the id out, but the reader does not depend on it.
#[test]
fn records_without_an_id_are_one_flow_without_an_id() {
    let no_id = |message: Vec<u8>| without(&message, 12);
    let unnamed = |mut fields: Fields| {
        fields.remove("id").unwrap();
        fields
    };
    for kernel in KERNELS {
        let sender = Sender::plain(kernel);
        let (begun, about) = (tcp(), About::default());
        let mut run = Run::new();
        run.event(BEGAN_NS, &no_id(sender.begun(&begun, about)));
        run.event(CHANGED_NS, &no_id(sender.update(&begun, about)));
        assert_flows(
            run.flows(),
            vec![unnamed(live(&sender, &begun, BEGAN_NS, CHANGED_NS))],
            sender.kernel.release,
        );
        run.event(READ_NS, &no_id(sender.destroy(&dying(&begun))));
        assert_flows(
            run.flows(),
            vec![unnamed(ended(&sender, &dying(&begun)))],
            sender.kernel.release,
        );
        // Where one record names the flow and another does not, it is still one flow.
        let mut run = Run::new();
        run.event(BEGAN_NS, &no_id(sender.begun(&begun, about)));
        run.dump(
            CHANGED_NS,
            DumpPass::Resync,
            &sender.dump(from_ref(&begun), 4096),
        );
        assert_flows(
            run.flows(),
            vec![live(&sender, &begun, BEGAN_NS, CHANGED_NS)],
            sender.kernel.release,
        );
        run.event(READ_NS, &no_id(sender.destroy(&dying(&begun))));
        assert_flows(
            run.flows(),
            vec![ended(&sender, &dying(&begun))],
            sender.kernel.release,
        );
        assert_eq!(run.counters().stale, 0);
        run.assert_clean();
    }
}

#[test]
fn an_end_without_counts_leaves_those_that_were_told_before() {
    for kernel in KERNELS {
        let sender = Sender::plain(kernel);
        let counted = Entry {
            counters: Some([(4, 400), (3, 300)]),
            ..tcp()
        };
        let mut run = Run::new();
        run.dump(
            BEGAN_NS,
            DumpPass::Initial,
            &sender.dump(from_ref(&counted), 4096),
        );
        let uncounted = Entry {
            counters: None,
            ..dying(&counted)
        };
        run.event(READ_NS, &sender.destroy(&uncounted));
        let mut expected = ended(&sender, &dying(&counted));
        expected.remove("start").unwrap();
        assert_flows(run.flows(), vec![expected], sender.kernel.release);
        run.assert_clean();
    }
}

#[test]
fn an_entry_without_a_status_has_none_in_the_report() {
    for kernel in KERNELS {
        let sender = Sender::plain(kernel);
        let message = without(&sender.dumped(&tcp()), 3);
        let end = super::bytes::done(7, 4711);
        let mut run = Run::new();
        run.dump(READ_NS, DumpPass::Initial, &[message, end]);
        let mut expected = found(&sender, &tcp());
        assert!(expected.remove("status").is_some() && expected.remove("status_bits").is_some());
        assert_flows(run.flows(), vec![expected], sender.kernel.release);
        assert_eq!(run.lines(), expected::lines(&tcp()));
        run.assert_clean();
    }
}

/// "old 32bit counters, unused": what the header still names is read.
#[test]
fn counters_of_32_bits_are_counts() {
    let entry = tcp();
    let side = |kind, packets, bytes| nested(kind, &[be32(3, packets), be32(4, bytes)]);
    let message = |counters: &[Vec<u8>]| {
        let plain = Sender::plain(KERNELS[0]).dumped(&entry);
        let head = Head {
            subsystem: 1,
            message: 0,
            flags: MULTI,
            sequence: 7,
            port: 4711,
            family: family(&entry.original),
            resource: 0,
        };
        netfilter(head, &[plain[20..].to_vec(), counters.concat()])
    };
    let report = |counters: &[Vec<u8>]| {
        let mut run = Run::new();
        let end = super::bytes::done(7, 4711);
        run.dump(READ_NS, DumpPass::Initial, &[message(counters), end]);
        run.assert_clean();
        run.flows()
    };
    let counted = Entry {
        counters: Some([(7, 700), (u64::from(u32::MAX), 1)]),
        ..entry.clone()
    };
    let expected = found(&Sender::plain(KERNELS[0]), &counted);
    let narrow = report(&[side(9, 7, 700), side(10, u32::MAX, 1)]);
    assert_flows(narrow, vec![expected.clone()], "32 bits");
    // Where both are there, the wide ones count: the narrow ones have wrapped around.
    let wide = |kind, packets, bytes| {
        let counts = [
            be32(3, 1),
            be32(4, 2),
            be64(1, packets, None),
            be64(2, bytes, None),
        ];
        nested(kind, &counts)
    };
    let both = report(&[wide(9, 7, 700), wide(10, u64::from(u32::MAX), 1)]);
    assert_flows(both, vec![expected], "both");
}

/// A count that cannot be read is no count, and says nothing of the other direction's.
#[test]
fn a_count_that_cannot_be_read_is_not_zero() {
    let sender = Sender::plain(KERNELS[0]);
    let counted = Entry {
        counters: Some([(4, 400), (3, 300)]),
        ..tcp()
    };
    let mut message = sender.dumped(&counted);
    let packets = 3u64.to_be_bytes();
    let at = message
        .windows(8)
        .position(|bytes| bytes == packets)
        .unwrap();
    message[at - 2] = 9; // nla_type of CTA_COUNTERS_PACKETS: something else
    let mut run = Run::new();
    let end = super::bytes::done(7, 4711);
    run.dump(READ_NS, DumpPass::Initial, &[message, end]);
    let mut expected = found(&sender, &counted);
    assert!(expected.remove("reply.packets").is_some() && expected.remove("reply.bytes").is_some());
    assert_flows(run.flows(), vec![expected], sender.kernel.release);
    assert_eq!(run.counters().flaws, 1);
}

/// A dump begins a bucket again when the entry that it stood at is gone (`goto restart`).
#[test]
fn an_entry_that_a_dump_has_twice_is_one_flow() {
    for sender in senders() {
        let entries = [tcp(), udp(2), tcp()];
        let mut run = Run::new();
        run.dump(
            READ_NS,
            DumpPass::Initial,
            &sender.dump(&entries, ROOM_FOR_TWO),
        );
        assert_eq!(run.counters().dumped, 3);
        let expected = entries[..2]
            .iter()
            .map(|entry| found(&sender, entry))
            .collect();
        assert_flows(run.flows(), expected, sender.kernel.release);
        run.assert_clean();
    }
}

const ROOM_FOR_TWO: usize = 400;

/// 3.10 knows SCTP, DCCP, UDP-Lite and GRE by modules. Where one is not loaded, the generic tracker
/// takes the packets and knows no ports: it sends none, and the report must not make zeros of them.
#[test]
fn a_protocol_whose_module_is_not_loaded_has_no_ports() {
    let sender = Sender::plain(KERNELS[0]);
    let entries = [33, 47, 132, 136].map(|proto| Entry {
        status: CONFIRMED | SEEN_REPLY,
        ..bare(
            "10.1.0.6",
            "192.0.2.80",
            Layer4::Nothing(proto),
            address(proto.into()),
        )
    });
    let mut run = Run::new();
    run.dump(READ_NS, DumpPass::Initial, &sender.dump(&entries, 4096));
    let expected = entries.iter().map(|entry| found(&sender, entry)).collect();
    assert_flows(run.flows(), expected, sender.kernel.release);
    let mut lines: Vec<_> = entries.iter().flat_map(expected::lines).collect();
    lines.sort_unstable();
    assert_eq!(run.lines(), lines);
    run.assert_clean();
}
