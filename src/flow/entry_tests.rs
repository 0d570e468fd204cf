//! Tests of one flow.

use super::*;

#[test]
fn packets_survive_packing_and_saturate() {
    for value in [0, 1, 0xffff, 0x1_0000, (1 << 48) - 1] {
        assert_eq!(from_u48(to_u48(value)), value);
    }
    assert_eq!(from_u48(to_u48(u64::MAX)), (1 << 48) - 1);
}

#[test]
fn a_zone_of_one_direction_leaves_the_other_side_in_zone_0() {
    let zone = Zone {
        id: 5,
        direction: ZoneDirection::Original,
    };
    let flow = Flow::new(
        &Conntrack {
            zone,
            ..Conntrack::default()
        },
        -1,
        0,
    );
    assert_eq!(
        (flow.key(Side::Original).zone, flow.key(Side::Reply).zone),
        (5, 0)
    );
    assert_eq!(flow.zone(), zone);
}

#[test]
fn what_a_later_record_does_not_say_stays() {
    let first = Conntrack {
        mark: Some(7),
        tcp_state: Some(3),
        status: Some(2),
        ..Conntrack::default()
    };
    let mut flow = Flow::new(&first, -1, 10);
    flow.refresh(&Conntrack::default(), 20);
    assert_eq!(
        (flow.mark(), flow.tcp_state(), flow.seen_reply()),
        (7, Some(3), true)
    );
    assert_eq!(
        (
            flow.first_seen_ns(),
            flow.last_seen_ns(),
            flow.traffic(Side::Original)
        ),
        (10, 20, None)
    );
}
