//! The programs in the kernel and their reader must mean the same record: bpf/record.h is read here as
//! text, and compared with what src/wire/probe.rs reads and writes.

use conntracker::wire::conntrack::Tuple;
use conntracker::wire::probe::{Moment, RECORD_LEN, Record, Source, comm};
use std::collections::BTreeMap;

const HEADER: &str = include_str!("../bpf/record.h");

/// The constants of the header whose names begin like this.
fn defined(prefix: &str) -> BTreeMap<String, u8> {
    let defines = HEADER
        .lines()
        .filter_map(|line| line.strip_prefix("#define "));
    defines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (name, value) = (words.next()?, words.next()?);
            let value = value.parse().ok()?;
            name.starts_with(prefix).then(|| (name.to_owned(), value))
        })
        .collect()
}

/// Where the header says that the fields are.
fn offsets() -> BTreeMap<&'static str, usize> {
    let asserts = HEADER.split("__builtin_offsetof(struct record, ").skip(1);
    asserts
        .map(|text| {
            let (name, rest) = text.split_once(") == ").unwrap();
            (name, rest.split_once(',').unwrap().0.parse().unwrap())
        })
        .collect()
}

fn record() -> Record {
    Record {
        at_ns: 0x0102_0304_0506_0708,
        cookie: Some(0x1112_1314_1516_1718),
        netns: Some(0x2122_2324_2526_2728),
        pid: Some(0x3132_3334),
        uid: Some(0x4142_4344),
        source: Source::Sockets,
        moment: Moment::Confirm,
        ends: Tuple {
            ipv6: true,
            proto: 58,
            src: [0x51; 16],
            dst: [0x61; 16],
            sport: 0x7172,
            dport: 0x8182,
        },
        inherited: false,
        comm: comm(b"somebody"),
    }
}

/// PacketOut: PACKET_OUT.
fn in_capitals(name: &str) -> String {
    let mut capitals = String::new();
    for (at, letter) in name.char_indices() {
        if at > 0 && letter.is_uppercase() {
            capitals.push('_');
        }
        capitals.push(letter.to_ascii_uppercase());
    }
    capitals
}

/// All numbers that the reader knows at an offset, by the name that it gives them.
fn known(prefix: &str, offset: usize, name: impl Fn(Record) -> String) -> BTreeMap<String, u8> {
    let read = |value| {
        let mut bytes = record().to_bytes();
        bytes[offset] = value;
        let record = Record::parse(&bytes)?;
        Some((prefix.to_owned() + &in_capitals(&name(record)), value))
    };
    (0..=u8::MAX).filter_map(read).collect()
}

#[test]
fn numbers_mean_the_same_on_both_sides() {
    let sources = known("SOURCE_", 32, |record| format!("{:?}", record.source));
    assert_eq!(sources, defined("SOURCE_"));
    let moments = known("MOMENT_", 33, |record| format!("{:?}", record.moment));
    assert_eq!(moments, defined("MOMENT_"));
}

#[test]
fn flags_mean_the_same_on_both_sides() {
    let flags = |record: Record| record.to_bytes()[35];
    let mut plain = record();
    plain.ends.ipv6 = false;
    assert_eq!(flags(plain), 0);
    let without_uid = Record { uid: None, ..plain };
    let inherited = Record {
        inherited: true,
        ..plain
    };
    let written = [
        ("RECORD_IPV6", flags(record())),
        ("RECORD_NO_UID", flags(without_uid)),
        ("RECORD_INHERITED", flags(inherited)),
    ];
    let written = written.map(|(name, flag)| (name.to_owned(), flag));
    assert_eq!(BTreeMap::from(written), defined("RECORD_"));
}

#[test]
fn fields_lie_at_the_same_places() {
    let record = record();
    let bytes = record.to_bytes();
    assert!(HEADER.contains(&format!("sizeof(struct record) == {RECORD_LEN},")));
    let fields: [(&str, &[u8]); 12] = [
        ("cookie", &0x1112_1314_1516_1718_u64.to_ne_bytes()),
        ("netns", &0x2122_2324_2526_2728_u64.to_ne_bytes()),
        ("pid", &0x3132_3334_u32.to_ne_bytes()),
        ("uid", &0x4142_4344_u32.to_ne_bytes()),
        ("source", &[2]),
        ("moment", &[7]),
        ("proto", &[58]),
        ("flags", &[1]),
        ("local_port", &0x7172_u16.to_ne_bytes()),
        ("remote_port", &0x8182_u16.to_ne_bytes()),
        ("local", &[0x51; 16]),
        ("remote", &[0x61; 16]),
    ];
    let mut offsets = offsets();
    for (name, value) in fields {
        let offset = offsets.remove(name).unwrap();
        assert_eq!(&bytes[offset..offset + value.len()], value, "{name}");
    }
    assert_eq!(
        offsets.remove("comm").map(|at| &bytes[at..]),
        Some(&record.comm[..])
    );
    assert!(offsets.is_empty(), "{offsets:?}");
    assert_eq!(bytes[..8], record.at_ns.to_ne_bytes());
    assert_eq!(Record::parse(&bytes), Some(record));
}
