//! Rules of nf_tables as text, against what nft(8) itself said of the same rules: the kernel's bytes
//! and `nft -a list ruleset` side by side, recorded by tests/fixtures/record_nft_rules.
//! `UPDATE_GOLDEN=1` writes the expected text of the rules that hold x_tables parts anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use conntracker::event::step::Verdict;
use conntracker::firewall::nft_rule::{Described, Set, anonymous_sets, describe};
use conntracker::wire::attr::{Attributes, be64_of};
use conntracker::wire::message::Messages;
use conntracker::wire::request::Request;

const NFT_MSG_NEWRULE: u16 = 0x0a06;
const NFT_MSG_NEWSET: u16 = 0x0a09;
const NFT_MSG_NEWSETELEM: u16 = 0x0a0c;

/// Where we write something else than nft 1.0.6 does, and why.
const DEVIATIONS: &[(&str, &str, &str)] = &[
    (
        "ct reply ip daddr 0.0.0.10",
        "ct reply ip daddr 10.0.0.0/8",
        PREFIX,
    ),
    ("dup to \"lo\"", "dup to 1", INDEX),
    (
        "dup to 10.0.0.5 device \"lo\"",
        "dup to 10.0.0.5 device 1",
        INDEX,
    ),
    ("fib saddr oif \"lo\"", "fib saddr oif 1", INDEX),
    ("fwd to \"lo\"", "fwd to 1", INDEX),
    (
        "iif != \"lo\" ip daddr 127.0.0.0/8 drop",
        "iif != 1 ip daddr 127.0.0.0/8 drop",
        INDEX,
    ),
    ("iif \"lo\" accept", "iif 1 accept", INDEX),
    (
        "iif . ip saddr { \"lo\" . 10.0.0.1 } accept",
        "iif . ip saddr { 1 . 10.0.0.1 } accept",
        INDEX,
    ),
    (
        "ip daddr 10.0.0.1 fwd ip to 10.0.0.5 device \"lo\"",
        "ip daddr 10.0.0.1 fwd ip to 10.0.0.5 device 1",
        INDEX,
    ),
    ("meta sdif \"lo\"", "meta sdif 1", INDEX),
    (
        "ip dscp >> 2 . ip saddr { cs1 . 10.0.0.1 }",
        "ip dscp . ip saddr { cs1 . 10.0.0.1 }",
        SHIFT,
    ),
    (
        "tcp flags { syn | ack, syn }",
        "tcp flags { syn, syn | ack }",
        ORDER,
    ),
];
const INDEX: &str = "interfaces known by index: nothing here asks the system for their names";
const PREFIX: &str = "nft 1.0.6 takes the first byte of the address for all of it";
const SHIFT: &str = "nft 1.0.6 shows how the field is fetched, which it cannot read back itself";
const ORDER: &str = "nft 1.0.6 sorts elements of several bits apart";

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// Family and table, then chain or set.
type Place = (u8, String);

struct Rule {
    family: u8,
    table: String,
    chain: String,
    handle: u64,
    bytes: Vec<u8>,
}

struct Ruleset {
    sets: BTreeMap<(Place, String), Set>,
    rules: Vec<Rule>,
}

fn string(attributes: Attributes<'_>, kind: u16) -> String {
    let mut found = attributes.map(Result::unwrap).filter(|(k, _)| *k == kind);
    let (_, bytes) = found.next().unwrap();
    String::from_utf8(bytes.strip_suffix(b"\0").unwrap().to_vec()).unwrap()
}

fn ruleset() -> Ruleset {
    let bytes = fs::read(fixture("nft_rules.bin")).unwrap();
    let (mut sets, mut rules) = (BTreeMap::new(), Vec::new());
    for message in Messages::new(&bytes) {
        let message = message.unwrap();
        let (family, attributes) = message.netfilter().unwrap();
        let table = string(attributes, 1);
        match message.kind {
            NFT_MSG_NEWSET => {
                let set = Set::new(attributes).unwrap().with_family(family);
                assert_eq!((set.family(), set.table()), (family, table.as_str()));
                sets.insert(((family, table), set.name().to_owned()), set);
            }
            NFT_MSG_NEWSETELEM => {
                let name = string(attributes, 2);
                let set: &mut Set = sets.get_mut(&((family, table), name)).unwrap();
                set.take_elements(attributes);
            }
            NFT_MSG_NEWRULE => rules.push(Rule {
                family,
                table,
                chain: string(attributes, 2),
                handle: attributes
                    .map(Result::unwrap)
                    .find_map(|(kind, bytes)| be64_of(bytes).filter(|_| kind == 3))
                    .unwrap(),
                bytes: message.body[4..].to_vec(),
            }),
            other => panic!("message {other:#x}"),
        }
    }
    Ruleset { sets, rules }
}

impl Ruleset {
    fn describe(&self, rule: &Rule) -> Described {
        self.describe_bytes(rule, &rule.bytes)
    }

    fn describe_bytes(&self, rule: &Rule, bytes: &[u8]) -> Described {
        let place = (rule.family, rule.table.clone());
        let find = |name: &str| self.sets.get(&(place.clone(), name.to_owned()));
        describe(rule.family, Attributes::new(bytes), &find)
    }
}

fn family_of(name: &str) -> u8 {
    match name {
        "inet" => 1,
        "ip" => 2,
        "arp" => 3,
        "netdev" => 5,
        "bridge" => 7,
        "ip6" => 10,
        other => panic!("family {other}"),
    }
}

/// A line without the numbers of counters, and its comment.
fn normalised(line: &str) -> (String, Option<String>) {
    let words: Vec<&str> = line.split(' ').collect();
    let mut kept: Vec<&str> = Vec::new();
    let mut at = 0;
    while at < words.len() {
        kept.push(words[at]);
        let numbers = words[at] == "counter" && words.get(at + 1) == Some(&"packets");
        at += if numbers { 5 } else { 1 };
    }
    let line = kept.join(" ");
    match line.split_once(" comment \"") {
        Some((rule, comment)) => {
            let comment = comment.strip_suffix('"').unwrap();
            (rule.to_owned(), Some(comment.to_owned()))
        }
        None => (line, None),
    }
}

/// What `nft -a list ruleset` says, by table and handle.
fn listed() -> BTreeMap<(Place, u64), (String, Option<String>)> {
    let text = fs::read_to_string(fixture("nft_rules.txt")).unwrap();
    let mut place = None;
    let mut in_chain = false;
    let mut rules = BTreeMap::new();
    for line in text.lines() {
        if let Some(table) = line.strip_prefix("table ") {
            let mut words = table.split(' ');
            let family = family_of(words.next().unwrap());
            place = Some((family, words.next().unwrap().to_owned()));
        } else if line.starts_with("\tchain ") {
            in_chain = true;
        } else if line == "\t}" {
            in_chain = false;
        } else if in_chain {
            if let Some((rule, handle)) = line.rsplit_once(" # handle ") {
                let rule = rule.strip_prefix("\t\t").unwrap();
                let key = (place.clone().unwrap(), handle.parse().unwrap());
                assert!(rules.insert(key, normalised(rule)).is_none());
            }
        }
    }
    rules
}

#[test]
fn plain_rules_are_written_as_nft_writes_them() {
    let (ruleset, mut listed) = (ruleset(), listed());
    let mut different = Vec::new();
    let (mut plain, mut iptables) = (0, 0);
    for rule in &ruleset.rules {
        let described = ruleset.describe(rule);
        let place = (rule.family, rule.table.clone());
        let (theirs, comment) = listed.remove(&(place, rule.handle)).unwrap();
        let from_iptables = ["filter", "nat", "mangle", "raw"].contains(&rule.table.as_str());
        if from_iptables {
            iptables += 1;
            continue;
        }
        plain += 1;
        assert!(!described.iptables, "{theirs}");
        assert_eq!(described.text.comment, comment, "{theirs}");
        if described.text.text != theirs {
            different.push((theirs, described.text.text));
        }
    }
    assert!(
        listed.is_empty(),
        "listed, but not in the recording: {listed:?}"
    );
    assert!(plain >= 120 && iptables >= 40, "{plain} {iptables}");
    assert!(DEVIATIONS.iter().all(|(_, _, reason)| !reason.is_empty()));
    let mut expected: Vec<(String, String)> = DEVIATIONS
        .iter()
        .map(|(theirs, ours, _)| ((*theirs).to_owned(), (*ours).to_owned()))
        .collect();
    different.sort();
    expected.sort();
    for (theirs, ours) in &different {
        if !expected.contains(&(theirs.clone(), ours.clone())) {
            println!("nft:  {theirs}\nours: {ours}\n");
        }
    }
    assert_eq!(different, expected);
}

const IPTABLES_TABLES: [&str; 4] = ["filter", "nat", "mangle", "raw"];

/// Rules of iptables-nft: the plain parts are as above, what x_tables does is in words of our own,
/// beside what nft(8) with libxtables makes of it.
#[test]
fn rules_of_iptables_are_told_apart_and_written() {
    let (ruleset, listed) = (ruleset(), listed());
    let mut golden = String::new();
    for rule in &ruleset.rules {
        if !IPTABLES_TABLES.contains(&rule.table.as_str()) {
            continue;
        }
        let described = ruleset.describe(rule);
        let base = rule.chain != "USER";
        assert_eq!(described.iptables, base, "{}", described.text.text);
        let (theirs, _) = &listed[&((rule.family, rule.table.clone()), rule.handle)];
        golden.push_str(&format!(
            "nft:     {theirs}\nours:    {}\n",
            described.text.text
        ));
        if let Some(comment) = described.text.comment {
            golden.push_str(&format!("comment: {comment}\n"));
        }
        golden.push_str(&format!("verdict: {:?}\n\n", described.text.verdict));
    }
    let path = fixture("nft_rules_iptables.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &golden).unwrap();
    }
    assert_eq!(golden, fs::read_to_string(&path).unwrap());
}

#[test]
fn verdicts_are_those_of_the_text() {
    let ruleset = ruleset();
    for rule in &ruleset.rules {
        let described = ruleset.describe(rule);
        let text = &described.text.text;
        let expected = match text.rsplit(' ').next().unwrap() {
            "accept" => Some(Verdict::Accept),
            "drop" => Some(Verdict::Drop),
            "continue" => Some(Verdict::Continue),
            "return" => Some(Verdict::Return),
            _ => match &described.text.verdict {
                None => {
                    assert!(
                        !text.contains("reject") && !text.contains("REJECT"),
                        "{text}"
                    );
                    None
                }
                Some(Verdict::Jump(chain)) => {
                    assert!(text.ends_with(&format!("jump {chain}")), "{text}");
                    continue;
                }
                Some(Verdict::Goto(chain)) => {
                    assert!(text.ends_with(&format!("goto {chain}")), "{text}");
                    continue;
                }
                Some(Verdict::Reject(words)) => {
                    let said = text.ends_with(&format!("with {words}"));
                    let default = text.ends_with("reject") && words.ends_with("port-unreachable");
                    assert!(said || default, "{text}: {words}");
                    continue;
                }
                other => panic!("{text}: {other:?}"),
            },
        };
        assert_eq!(described.text.verdict, expected, "{text}");
    }
}

#[test]
fn anonymous_sets_are_found_and_needed() {
    let ruleset = ruleset();
    let mut seen = 0;
    for rule in &ruleset.rules {
        let names = anonymous_sets(Attributes::new(&rule.bytes));
        seen += names.len();
        let without = describe(rule.family, Attributes::new(&rule.bytes), &|_| None);
        for name in names {
            assert!(without.text.text.contains(&format!("<{name}>")), "{name}");
            let set = &ruleset.sets[&((rule.family, rule.table.clone()), name)];
            assert!(set.is_anonymous());
        }
    }
    assert!(seen > 50);
    let sizes: Vec<_> = ruleset.sets.values().filter_map(Set::size).collect();
    assert!(sizes.contains(&1000), "{sizes:?}");
}

#[test]
fn a_set_with_too_many_elements_is_not_shown() {
    let bytes = fs::read(fixture("nft_rules.bin")).unwrap();
    let messages: Vec<_> = Messages::new(&bytes).map(Result::unwrap).collect();
    let ruleset = ruleset();
    let rule = &ruleset
        .rules
        .iter()
        .find(|rule| ruleset.describe(rule).text.text == "tcp dport { 22, 80, 443 } accept")
        .unwrap();
    let name = anonymous_sets(Attributes::new(&rule.bytes)).remove(0);
    let mut set = ruleset.sets[&((rule.family, rule.table.clone()), name.clone())].clone();
    let elements = messages.iter().find(|message| {
        message.kind == NFT_MSG_NEWSETELEM && string(message.netfilter().unwrap().1, 2) == name
    });
    for _ in 0..30 {
        set.take_elements(elements.unwrap().netfilter().unwrap().1);
    }
    let described = describe(rule.family, Attributes::new(&rule.bytes), &|_| Some(&set));
    assert_eq!(described.text.text, "tcp dport { ... } accept");
}

/// Whatever the bytes, there is an answer, and not an endless one.
#[test]
fn no_bytes_are_too_broken() {
    let ruleset = ruleset();
    for rule in &ruleset.rules {
        for end in 0..rule.bytes.len() {
            ruleset.describe_bytes(rule, &rule.bytes[..end]);
        }
        let mut bytes = rule.bytes.clone();
        for at in 0..bytes.len() {
            let was = bytes[at];
            for value in [0, 1, was.wrapping_add(1), was ^ 0x80, 0xff] {
                bytes[at] = value;
                let described = ruleset.describe_bytes(rule, &bytes);
                assert!(described.text.text.len() < 100_000);
                anonymous_sets(Attributes::new(&bytes));
            }
            bytes[at] = was;
        }
    }
}

/// A rule may be built to harm: one value changed a thousand times, concatenations of concatenations.
#[test]
fn no_rule_is_too_deep() {
    let mut request = Request::default();
    request.message(NFT_MSG_NEWRULE, 0, 1, 2, 0);
    request.nest(4, |list| {
        let mut expression = |name: &str, numbers: &[(u16, u32)]| {
            list.nest(1, |element| {
                element.put_str(1, name);
                element.nest(2, |data| {
                    for (kind, number) in numbers {
                        data.put_be32(*kind, *number);
                    }
                });
            });
        };
        expression("meta", &[(1, 1), (2, 3)]);
        for _ in 0..500 {
            expression("byteorder", &[(1, 1), (2, 1), (3, 1), (4, 4), (5, 4)]);
            expression("hash", &[(1, 1), (2, 9), (3, 8), (4, 9)]);
            expression("hash", &[(1, 8), (2, 8), (3, 8), (4, 9)]);
        }
        for _ in 0..100 {
            expression("meta", &[(2, 3), (3, 8)]);
        }
    });
    let bytes = &request.bytes()[20..];
    let described = describe(2, Attributes::new(bytes), &|_| None);
    assert!(described.text.text.len() < 100_000);
}

/// The same for sets and their elements.
#[test]
fn no_set_is_too_broken() {
    let bytes = fs::read(fixture("nft_rules.bin")).unwrap();
    let messages: Vec<_> = Messages::new(&bytes).map(Result::unwrap).collect();
    let ruleset = ruleset();
    let rules: Vec<_> = ruleset.rules.iter().collect();
    let of = |kind| messages.iter().filter(move |message| message.kind == kind);
    let reading = |name: &str| {
        let found = rules.iter().find(|rule| {
            anonymous_sets(Attributes::new(&rule.bytes))
                .iter()
                .any(|other| other == name)
        });
        found.copied()
    };
    let table_and_name = |bytes| {
        let attributes = Attributes::new(bytes);
        (string(attributes, 1), string(attributes, 2))
    };
    let mut tried = 0;
    for elements in of(NFT_MSG_NEWSETELEM) {
        let elements = &elements.body[4..];
        let description = of(NFT_MSG_NEWSET).map(|message| &message.body[4..]);
        let mut description = description.filter(|b| table_and_name(b) == table_and_name(elements));
        let description = description.next().unwrap();
        let name = string(Attributes::new(description), 2);
        let Some(rule) = reading(&name) else { continue };
        tried += 1;
        let show = |description: &[u8], elements: &[u8]| {
            if let Some(mut set) = Set::new(Attributes::new(description)) {
                set.take_elements(Attributes::new(elements));
                describe(rule.family, Attributes::new(&rule.bytes), &|_| Some(&set));
            }
        };
        for (which, bytes) in [(0, description), (1, elements)] {
            let mut changed = bytes.to_vec();
            for at in 0..changed.len() {
                let was = changed[at];
                for value in [0, 1, was ^ 0x80, 0xff] {
                    changed[at] = value;
                    match which {
                        0 => show(&changed, elements),
                        _ => show(description, &changed),
                    }
                }
                changed[at] = was;
            }
        }
    }
    assert!(tried > 50, "{tried}");
}

/// A value is written in its whole length, so a length that no register holds would cost memory at will.
#[test]
fn no_set_has_keys_or_values_longer_than_the_registers() {
    let set = |key_len: u32, data_len: u32| {
        let mut request = Request::default();
        request.message(NFT_MSG_NEWSET, 0, 1, 2, 0);
        request.put_str(1, "t");
        request.put_str(2, "__map0");
        request.put_be32(5, key_len);
        request.put_be32(7, data_len);
        Set::new(Attributes::new(&request.bytes()[20..])).is_some()
    };
    assert!(set(64, 64));
    assert!(!set(65, 4) && !set(4, 65) && !set(4, u32::MAX));
}
