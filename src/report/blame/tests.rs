//! Rules, who is one of them, and how their lines read.

use super::*;
use crate::report::Format;

const SECOND: u64 = 1_000_000_000;
const NOON: u64 = 1_795_348_800 * SECOND; // 2026-11-22T12:00:00Z

fn v4(address: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&address);
    bytes
}

fn tuple(proto: u8, src: [u8; 4], dport: u16) -> Tuple {
    Tuple {
        proto,
        src: v4(src),
        dst: v4([10, 77, 2, 2]),
        sport: 40000,
        dport,
        ..Tuple::default()
    }
}

fn denied(proto: u8, src: [u8; 4], dport: u16) -> Denied {
    Denied::new(&tuple(proto, src, dport), 1, 1, [NOON, NOON])
}

fn legacy() -> Rule {
    Rule {
        firewall: "iptables-legacy".into(),
        table: "filter".into(),
        chain: "FORWARD".into(),
        kind: "rule".into(),
        text: "-A FORWARD -p udp -m udp --dport 666 -j DROP".into(),
        verdict: "drop".into(),
        ..Rule::default()
    }
}

fn nft(text: &str) -> Rule {
    Rule {
        firewall: "nft".into(),
        table: "inet fw".into(),
        chain: "forward".into(),
        kind: "rule".into(),
        text: text.into(),
        verdict: "drop".into(),
        ..Rule::default()
    }
}

fn at(position: u32) -> Place {
    Place {
        position: Some(position),
        ..Place::default()
    }
}

fn with_handle(position: u32, handle: u64) -> Place {
    Place {
        handle: Some(handle),
        ..at(position)
    }
}

fn written(blame: &Blame, format: Format) -> Vec<String> {
    let mut out = Vec::new();
    write(blame, None, format, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn text(blame: &Blame) -> Vec<String> {
    written(blame, Format::Text)
}

/// What stands behind the times.
fn who(blame: &Blame) -> Vec<String> {
    let end = |line: String| line.split_once("Z: ").unwrap().1.to_owned();
    text(blame).into_iter().map(end).collect()
}

#[test]
fn a_line_says_who_whom_when_and_how_often() {
    let mut blame = Blame::default();
    for (proto, host, dport, second) in [
        (6, 9, 443, 9),
        (17, 2, 53, 1),
        (6, 9, 80, 2),
        (17, 100, 443, 3),
    ] {
        let tuple = tuple(proto, [10, 77, 1, host], dport);
        let when = NOON + second * SECOND;
        blame.add(&legacy(), at(3), &Denied::new(&tuple, 3, 10, [when, when]));
    }
    assert_eq!(
        text(&blame),
        [
            "12 flows, 40 attempts, from 10.77.1.2,10.77.1.9,10.77.1.100 to 10.77.2.2 \
             port tcp/80,tcp/443,udp/53,udp/443, \
             2026-11-22T12:00:01Z to 2026-11-22T12:00:09Z: drop by iptables-legacy filter FORWARD rule 3: \
             -A FORWARD -p udp -m udp --dport 666 -j DROP"
        ]
    );
    assert_eq!(
        written(&blame, Format::Json),
        ["{\"v\":1,\"type\":\"blame\",\"flows\":12,\"attempts\":40,\
             \"sources\":[\"10.77.1.2\",\"10.77.1.9\",\"10.77.1.100\"],\"destinations\":[\"10.77.2.2\"],\
             \"ports\":[\"tcp/80\",\"tcp/443\",\"udp/53\",\"udp/443\"],\
             \"first\":\"2026-11-22T12:00:01.000000000Z\",\"last\":\"2026-11-22T12:00:09.000000000Z\",\
             \"verdict\":\"drop\",\"blame\":{\"firewall\":\"iptables-legacy\",\"table\":\"filter\",\
             \"chain\":\"FORWARD\",\"kind\":\"rule\",\"position\":3,\
             \"rule\":\"-A FORWARD -p udp -m udp --dport 666 -j DROP\"}}"]
    );
}

#[test]
fn verdicts_policies_handles_and_comments() {
    let policy = Rule {
        kind: "policy".into(),
        text: "".into(),
        verdict: "policy drop".into(),
        ..legacy()
    };
    let reject = Rule {
        verdict: "reject".into(),
        reject_with: Some("tcp reset".into()),
        comment: "no \"web\"\u{1b}[2J".into(),
        ..nft("tcp dport 80 reject with tcp reset")
    };
    let bare = Rule {
        comment: "bare".into(),
        ..nft("")
    };
    let commented = Rule {
        comment: "twice".into(),
        text: "-A FORWARD -m comment --comment twice -j DROP".into(),
        ..legacy()
    };
    for (rule, place, expected) in [
        (
            &policy,
            Place::default(),
            "policy drop by iptables-legacy filter FORWARD policy",
        ),
        (
            &reject,
            with_handle(2, 7),
            "reject (tcp reset) by nft inet fw forward rule 2 (handle 7): \
             tcp dport 80 reject with tcp reset comment \"no \"web\"\\u{1b}[2J\"",
        ),
        (
            &bare,
            with_handle(4, 9),
            "drop by nft inet fw forward rule 4 (handle 9): comment \"bare\"",
        ),
        (
            &commented,
            at(1),
            "drop by iptables-legacy filter FORWARD rule 1: -A FORWARD -m comment --comment twice -j DROP",
        ),
        (
            &nft("drop"),
            Place::default(),
            "drop by nft inet fw forward rule: drop",
        ),
    ] {
        let mut blame = Blame::default();
        blame.add(rule, place, &denied(6, [10, 77, 1, 2], 80));
        assert_eq!(who(&blame), [expected]);
        assert!(text(&blame)[0].starts_with("1 flow, 1 attempt, from 10.77.1.2 to"));
    }
}

#[test]
fn ports_are_what_the_protocol_has() {
    let v6 = |proto, dport| Tuple {
        ipv6: true,
        ..tuple(proto, [0; 4], dport)
    };
    for (tuple, expected) in [
        (tuple(6, [0; 4], 443), "tcp/443"),
        (tuple(132, [0; 4], 9), "sctp/9"),
        (tuple(1, [0; 4], 8 << 8), "icmp/8/0"),
        (tuple(1, [0; 4], 3 << 8 | 13), "icmp/3/13"),
        (v6(58, 128 << 8), "icmpv6/128/0"),
        (v6(1, 8 << 8), "icmp"),
        (tuple(58, [0; 4], 128 << 8), "icmpv6"),
        (tuple(47, [0; 4], 7), "gre"),
        (tuple(50, [0; 4], 0), "esp"),
        (tuple(99, [0; 4], 0), "99"),
    ] {
        let mut blame = Blame::default();
        let denied = Denied::new(&tuple, 1, 1, [NOON, NOON]);
        blame.add(&legacy(), at(1), &denied);
        let port = format!(" port {expected}, 2026-");
        assert!(text(&blame)[0].contains(&port), "{}", text(&blame)[0]);
    }
}

#[test]
fn a_rule_that_moved_or_was_loaded_again_is_the_same() {
    let mut blame = Blame::default();
    let later = Denied {
        last_ns: NOON + 5,
        ..denied(6, [10, 77, 1, 2], 80)
    };
    let generation = |place, generation| Place {
        generation: Some(generation),
        ..place
    };
    let rule = nft("tcp dport 80 drop");
    blame.add(&rule, generation(with_handle(4, 12), 3), &later);
    let before = denied(6, [10, 77, 1, 3], 80);
    blame.add(&rule, generation(with_handle(2, 7), 1), &before);
    assert_eq!(
        who(&blame),
        ["drop by nft inet fw forward rule 4 (handle 12): tcp dport 80 drop"]
    );
    let json = &written(&blame, Format::Json)[0];
    assert!(json.contains("\"flows\":2,"), "{json}");
    assert!(json.contains("\"handle\":12,\"rule\":\"tcp dport 80 drop\",\"generation\":3}"));
}

#[test]
fn everything_that_makes_a_rule_another_one() {
    let base = legacy();
    let boxed = |text: &str| Box::<str>::from(text);
    let others = [
        Rule {
            firewall: boxed("iptables-nft"),
            ..base.clone()
        },
        Rule {
            table: boxed("mangle"),
            ..base.clone()
        },
        Rule {
            chain: boxed("INPUT"),
            ..base.clone()
        },
        Rule {
            kind: boxed("policy"),
            ..base.clone()
        },
        Rule {
            text: boxed("-A FORWARD -j DROP"),
            ..base.clone()
        },
        Rule {
            comment: boxed("other"),
            ..base.clone()
        },
        Rule {
            verdict: boxed("reject"),
            ..base.clone()
        },
        Rule {
            reject_with: Some(boxed("tcp reset")),
            ..base.clone()
        },
    ];
    let mut blame = Blame::default();
    let denied = denied(6, [10, 77, 1, 2], 80);
    for rule in others.iter().chain([&base, &base]) {
        blame.add(rule, at(1), &denied);
    }
    assert_eq!(blame.guilts.len(), others.len() + 1);
}

#[test]
fn rules_without_text_are_told_apart_by_where_they_stand() {
    let mut blame = Blame::default();
    let denied = denied(6, [10, 77, 1, 2], 80);
    for place in [with_handle(1, 4), with_handle(2, 4), with_handle(1, 5)] {
        blame.add(&nft(""), place, &denied); // the second has moved
    }
    let legacy = Rule {
        text: "".into(),
        ..legacy()
    };
    for place in [at(1), at(2), at(2)] {
        blame.add(&legacy, place, &denied);
    }
    let policy = Rule {
        kind: "policy".into(),
        ..legacy
    };
    for place in [at(8), at(9)] {
        blame.add(&policy, place, &denied); // rules were added before it
    }
    assert_eq!(
        who(&blame),
        [
            "drop by iptables-legacy filter FORWARD policy 9",
            "drop by iptables-legacy filter FORWARD rule 2",
            "drop by nft inet fw forward rule 2 (handle 4)",
            "drop by iptables-legacy filter FORWARD rule 1",
            "drop by nft inet fw forward rule 1 (handle 5)",
        ]
    );
}

#[test]
fn most_flows_first_then_most_attempts_then_by_text() {
    let mut blame = Blame::default();
    for (name, flows, attempts) in [
        ("b", 1, 1),
        ("c", 1, 9),
        ("a", 1, 1),
        ("d", 2, 2),
        ("e", 10, 10),
    ] {
        let denied = Denied {
            flows,
            attempts,
            ..denied(6, [10, 77, 1, 2], 80)
        };
        blame.add(&nft(name), at(1), &denied);
    }
    let last = |line: String| line.chars().last().unwrap();
    let order: String = who(&blame).into_iter().map(last).collect();
    assert_eq!(order, "edcab");
}

#[test]
fn eight_are_shown_and_the_rest_is_counted() {
    for (hosts, expected) in [
        (8, "10.0.0.8 to "),
        (9, "10.0.0.8,... (1 more) to "),
        (1024, "10.0.0.8,... (1016 more) to "),
        (1025, "10.0.0.8,... (at least 1017 more) to "),
        (60000, "10.0.0.8,... (at least 1017 more) to "),
    ] {
        let mut blame = Blame::default();
        for host in 1..=hosts {
            let [high, low] = u16::to_be_bytes(host);
            let denied = denied(6, [10, 0, high, low], 80);
            blame.add(&legacy(), at(1), &denied);
        }
        let line = &text(&blame)[0];
        assert!(line.starts_with(&format!("{hosts} flows, {hosts} attempts")));
        assert!(line.contains(expected), "{line}");
        assert!(blame.guilts[0].sources.values.len() <= KEPT_MAX);
        let json = &written(&blame, Format::Json)[0];
        let more = json.split_once("\"more_sources\":").map(|(_, more)| more);
        let more = more.map(|more| more.split(',').next().unwrap());
        let expected = match hosts {
            1024 => Some("960"),
            1025.. => Some("961"),
            _ => None,
        };
        assert_eq!(more, expected, "{hosts}");
    }
}

#[test]
fn a_value_that_is_kept_already_is_no_further_one() {
    let mut kept = Kept::default();
    (0..KEPT_MAX).chain([5]).for_each(|value| kept.add(value));
    assert!(!kept.more);
    kept.add(KEPT_MAX);
    assert!(kept.more);
}

#[test]
fn nothing_denied_is_said_to_people_only() {
    let blame = Blame::default();
    assert_eq!(text(&blame), ["no flow was denied"]);
    assert!(written(&blame, Format::Json).is_empty());
}

#[test]
fn sums_saturate_and_what_is_told_again_stays_with_its_rule() {
    let mut blame = Blame::default();
    let most = Denied {
        flows: u64::MAX,
        attempts: u64::MAX,
        ..denied(6, [10, 77, 1, 2], 80)
    };
    let first = blame.add(&legacy(), at(1), &most);
    blame.add(&legacy(), at(1), &most);
    assert_eq!(blame.guilts[first].attempts, u64::MAX);
    blame.add_again(first, &nft("other"), at(7), &most);
    blame.add_again(99, &nft("other"), at(7), &most);
    assert_eq!((blame.guilts.len(), blame.guilts[first].place), (1, at(1)));
    blame.add_again(first, &legacy(), at(2), &most);
    assert_eq!(blame.guilts[first].place, at(2));
}
