//! Tests of the reader of conntrack entries.

use super::*;

/// Lays out a tuple the way the kernel does.
fn put_tuple(request: &mut Request, kind: u16, addresses: &[(u16, &[u8])], proto: &[(u16, &[u8])]) {
    request.nest(kind, |tuple| {
        tuple.nest(CTA_TUPLE_IP, |ip| {
            addresses
                .iter()
                .for_each(|(kind, bytes)| ip.put(*kind, bytes))
        });
        tuple.nest(CTA_TUPLE_PROTO, |l4| {
            proto.iter().for_each(|(kind, bytes)| l4.put(*kind, bytes))
        });
    });
}

fn parse(fill: impl FnOnce(&mut Request)) -> Result<Entry, Rejected> {
    let mut request = Request::new(0, 0, 0, 0);
    fill(&mut request);
    Entry::parse(Attributes::new(&request.bytes()[20..]))
}

const V4: [(u16, &[u8]); 2] = [
    (CTA_IP_V4_SRC, &[10, 0, 0, 1]),
    (CTA_IP_V4_DST, &[10, 0, 0, 2]),
];

#[test]
fn a_tcp_entry_with_its_tuples_and_state() {
    let entry = parse(|r| {
        put_tuple(
            r,
            CTA_TUPLE_ORIG,
            &V4,
            &[
                (CTA_PROTO_NUM, &[6]),
                (CTA_PROTO_SRC_PORT, &[0x9c, 0x40]),
                (CTA_PROTO_DST_PORT, &[0, 22]),
            ],
        );
        put_tuple(
            r,
            CTA_TUPLE_REPLY,
            &V4,
            &[
                (CTA_PROTO_NUM, &[6]),
                (CTA_PROTO_SRC_PORT, &[0, 22]),
                (CTA_PROTO_DST_PORT, &[0x9c, 0x40]),
            ],
        );
        r.put(CTA_ID, &7u32.to_be_bytes());
        r.nest(CTA_PROTOINFO, |info| {
            info.nest(CTA_PROTOINFO_TCP, |tcp| {
                tcp.put(CTA_PROTOINFO_TCP_STATE, &[3])
            })
        });
    })
    .unwrap();
    assert_eq!(
        (
            entry.original.sport,
            entry.original.dport,
            entry.original.proto
        ),
        (40000, 22, 6)
    );
    assert_eq!(entry.original.src[..4], [10, 0, 0, 1]);
    assert_eq!(
        (entry.id, entry.tcp_state, entry.mark, entry.flaws),
        (Some(7), Some(3), None, 0)
    );
}

/// Whatever is changed in a tuple of the usual layout, reading it in one go says what the walk
/// over its attributes says, or nothing.
#[test]
fn the_usual_layout_is_read_as_the_walk_reads_it() {
    let l4: [(u16, &[u8]); 3] = [
        (CTA_PROTO_NUM, &[17]),
        (CTA_PROTO_SRC_PORT, &[0x9c, 0x40]),
        (CTA_PROTO_DST_PORT, &[0, 53]),
    ];
    let v6: [(u16, &[u8]); 2] = [(CTA_IP_V6_SRC, &[7; 16]), (CTA_IP_V6_DST, &[8; 16])];
    for addresses in [V4, v6] {
        let mut request = Request::new(0, 0, 0, 0);
        put_tuple(&mut request, CTA_TUPLE_ORIG, &addresses, &l4);
        let whole = &request.bytes()[24..];
        assert!(usual(whole, &mut Tuple::default()).is_some());
        let mut read_in_one_go = 0;
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut changed = whole.to_vec();
                changed[at] ^= 1 << bit;
                let mut read = Tuple::default();
                if usual(&changed, &mut read).is_none() {
                    continue;
                }
                let mut walked = Entry::default();
                let by_walk = tuple(&changed, &mut walked, ZoneDirection::Original);
                assert_eq!((Ok(read), walked.flaws), (by_walk, 0), "{changed:?}");
                read_in_one_go += 1;
            }
            assert_eq!(usual(&whole[..at], &mut Tuple::default()), None);
        }
        // Each bit of the addresses, the ports, the protocol, and the seven bytes of padding.
        let fields = 2 * addresses[0].1.len() + 2 * 2 + 1 + 7;
        assert_eq!(read_in_one_go, 8 * fields);
    }
}

/// Reads an entry attribute by attribute.
fn walk(bytes: &[u8]) -> Result<Entry, Rejected> {
    let (mut entry, mut tuples) = (Entry::default(), Tuples::default());
    for attribute in Attributes::new(bytes) {
        entry.attribute(attribute?, &mut tuples);
    }
    entry.finish(&tuples)?;
    Ok(entry)
}

/// Whatever is changed in an entry or missing at its end: looking for what most have, first, says
/// what the walk over its attributes says.
#[test]
fn an_entry_is_read_as_the_walk_reads_it() {
    let l4: [(u16, &[u8]); 3] = [
        (CTA_PROTO_NUM, &[17]),
        (CTA_PROTO_SRC_PORT, &[0x9c, 0x40]),
        (CTA_PROTO_DST_PORT, &[0, 53]),
    ];
    let mut request = Request::new(0, 0, 0, 0);
    put_tuple(&mut request, CTA_TUPLE_ORIG, &V4, &l4);
    put_tuple(&mut request, CTA_TUPLE_REPLY, &V4, &l4);
    request.put(CTA_ID, &7u32.to_be_bytes());
    request.put(CTA_STATUS, &8u32.to_be_bytes());
    request.put(CTA_TIMEOUT, &9u32.to_be_bytes());
    request.put(CTA_ZONE, &3u16.to_be_bytes());
    request.put(CTA_MARK, &10u32.to_be_bytes());
    let whole = &request.bytes()[20..];
    let read = Entry::parse(Attributes::new(whole)).unwrap();
    assert_eq!(
        (read.id, read.status, read.mark),
        (Some(7), Some(8), Some(10))
    );
    for at in 0..whole.len() {
        assert_eq!(
            Entry::parse(Attributes::new(&whole[..at])),
            walk(&whole[..at])
        );
        for bit in 0..8 {
            let mut changed = whole.to_vec();
            changed[at] ^= 1 << bit;
            let read = Entry::parse(Attributes::new(&changed));
            assert_eq!(read, walk(&changed), "{changed:?}");
        }
    }
}

#[test]
fn icmp_type_and_code_are_single_bytes() {
    let entry = parse(|r| {
        let echo: [(u16, &[u8]); 4] = [
            (CTA_PROTO_NUM, &[1]),
            (CTA_PROTO_ICMP_ID, &[0x12, 0x34]),
            (CTA_PROTO_ICMP_TYPE, &[8]),
            (CTA_PROTO_ICMP_CODE, &[0]),
        ];
        put_tuple(r, CTA_TUPLE_ORIG, &V4, &echo);
    })
    .unwrap();
    assert_eq!(entry.original.icmp(), (8, 0, 0x1234));
    assert_eq!(
        (entry.reply.icmp(), entry.flaws),
        ((0, 0, 0x1234), 1),
        "a missing reply tuple is a flaw"
    );
}

#[test]
fn a_zone_of_one_direction() {
    let entry = parse(|r| {
        r.nest(CTA_TUPLE_ORIG, |tuple| {
            tuple.nest(CTA_TUPLE_IP, |ip| {
                V4.iter().for_each(|(kind, bytes)| ip.put(*kind, bytes))
            });
            tuple.nest(CTA_TUPLE_PROTO, |l4| l4.put(CTA_PROTO_NUM, &[99]));
            tuple.put(CTA_TUPLE_ZONE, &6u16.to_be_bytes());
        });
    })
    .unwrap();
    assert_eq!(
        entry.zone,
        Zone {
            id: 6,
            direction: ZoneDirection::Original
        }
    );
}

#[test]
fn old_kernels_count_in_32_bits() {
    let entry = parse(|r| {
        put_tuple(r, CTA_TUPLE_ORIG, &V4, &[(CTA_PROTO_NUM, &[17])]);
        r.nest(CTA_COUNTERS_ORIG, |c| {
            c.put(CTA_COUNTERS32_PACKETS, &5u32.to_be_bytes());
            c.put(CTA_COUNTERS32_BYTES, &600u32.to_be_bytes());
        });
    })
    .unwrap();
    assert_eq!(
        entry.traffic_original,
        Some(Traffic {
            packets: 5,
            bytes: 600
        })
    );
    assert_eq!(entry.traffic_reply, None, "absent is not zero");
}

#[test]
fn an_odd_optional_field_is_a_flaw_and_the_entry_stays() {
    let entry = parse(|r| {
        put_tuple(r, CTA_TUPLE_ORIG, &V4, &[(CTA_PROTO_NUM, &[17])]);
        put_tuple(r, CTA_TUPLE_REPLY, &V4, &[(CTA_PROTO_NUM, &[17])]);
        r.put(CTA_MARK, &[1, 2, 3]);
    })
    .unwrap();
    assert_eq!((entry.mark, entry.flaws), (None, 1));
}

#[test]
fn without_a_whole_original_tuple_there_is_no_entry() {
    assert_eq!(parse(|_| ()), Err(Rejected::NoTuple));
    assert_eq!(
        parse(|r| put_tuple(r, CTA_TUPLE_ORIG, &V4, &[])),
        Err(Rejected::NoTuple)
    );
    let mixed: [(u16, &[u8]); 2] = [(CTA_IP_V4_SRC, &[10, 0, 0, 1]), (CTA_IP_V6_DST, &[0; 16])];
    assert_eq!(
        parse(|r| put_tuple(r, CTA_TUPLE_ORIG, &mixed, &[(CTA_PROTO_NUM, &[6])])),
        Err(Rejected::NoTuple)
    );
}

#[test]
fn a_reply_turns_addresses_ports_and_icmp_type_round() {
    let echo = Tuple {
        proto: 58,
        ipv6: true,
        sport: 9,
        dport: 128 << 8,
        ..Tuple::default()
    };
    assert_eq!(echo.inverse().icmp(), (129, 0, 9));
    let tcp = Tuple {
        proto: 6,
        src: [1; 16],
        dst: [2; 16],
        sport: 1,
        dport: 2,
        ..Tuple::default()
    };
    assert_eq!(
        tcp.inverse(),
        Tuple {
            src: [2; 16],
            dst: [1; 16],
            sport: 2,
            dport: 1,
            ..tcp
        }
    );
}
