//! Legacy rules as a real kernel handed them out (tests/fixtures/record_legacy_tables), against what
//! iptables-legacy-save printed of them and what the kernel's trace said.

use conntracker::event::step::{StepKind, Verdict};
use conntracker::firewall::legacy_rules::{LegacyTable, Resolved};
use conntracker::firewall::rules::Book;
use conntracker::flow::path::Ways;
use conntracker::sys::xtables::RawTable;
use conntracker::wire::nflog::{Line, LineKind};
use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// What iptables prints and we do not, and what we have there: the data of these matches and targets is
/// not read, only their names are.
const DEVIATIONS: [(&str, &str); 23] = [
    (
        " -m conntrack --ctstate RELATED,ESTABLISHED",
        " -m conntrack",
    ),
    (" -m conntrack --ctstate NEW", " -m conntrack"),
    // state is conntrack under its old name, which only a bit in its data says
    (" -m state --state INVALID", " -m conntrack"),
    (" -m icmp --icmp-type 8", " -m icmp"),
    (" -m icmp6 --icmpv6-type 128", " -m icmp6"),
    (" -m limit --limit 5/sec", " -m limit"),
    (" -m multiport --dports 80,443", " -m multiport"),
    (" -j LOG --log-prefix \"forward \\\"x\\\": \"", " -j LOG"),
    (" -j NFLOG --nflog-group 5", " -j NFLOG"),
    (" -j NFQUEUE --queue-num 3", " -j NFQUEUE"),
    (" -j MARK --set-xmark 0x1/0xffffffff", " -j MARK"),
    (
        " -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
        " -j CONNMARK",
    ),
    (
        " -j TPROXY --on-port 1234 --on-ip 127.0.0.1 --tproxy-mark 0x1/0x1",
        " -j TPROXY",
    ),
    (" -j TCPMSS --clamp-mss-to-pmtu", " -j TCPMSS"),
    (" -j DSCP --set-dscp 0x0a", " -j DSCP"),
    (" -j HL --hl-set 64", " -j HL"),
    (" -j SNAT --to-source 198.51.100.7", " -j SNAT"),
    (" -j DNAT --to-destination 10.0.0.2:80", " -j DNAT"),
    (" -j DNAT --to-destination [fd00::2]:80", " -j DNAT"),
    (" -j REDIRECT --to-ports 80", " -j REDIRECT"),
    (" -j NETMAP --to 10.0.9.0/24", " -j NETMAP"),
    (" -j CT --notrack", " -j CT"),
    // CT under its old name, which only a bit in its data says
    (" -j NOTRACK", " -j CT"),
];

struct Recorded {
    ipv6: bool,
    name: String,
    raw: RawTable,
    saved: String,
    saved_with_counters: String,
    traced: String,
}

fn recorded() -> Vec<Recorded> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/legacy_tables.bin");
    let bytes = fs::read(path).unwrap();
    let mut rest = bytes.as_slice();
    let mut pieces = Vec::new();
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let (piece, after) = after.split_at(u32::from_ne_bytes(*len) as usize);
        pieces.push(piece);
        rest = after;
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let tables: Vec<_> = pieces
        .chunks_exact(7)
        .map(|pieces| Recorded {
            ipv6: pieces[0] == b"6",
            name: text(pieces[1]),
            raw: RawTable::from_bytes(pieces[2]).unwrap(),
            saved: text(pieces[3]),
            saved_with_counters: text(pieces[4]),
            traced: text(pieces[5]),
        })
        .collect();
    assert_eq!(tables.len(), 8);
    tables
}

impl Recorded {
    fn parsed(&self) -> LegacyTable {
        LegacyTable::parse(self.ipv6, &self.name, &self.raw).unwrap()
    }

    /// Each chain's policy and rules, read from the listing in the simplest way.
    fn listed(&self) -> HashMap<&str, (&str, Vec<String>)> {
        let mut chains = HashMap::new();
        let mut last = "";
        for line in self.saved.lines() {
            if let Some(chain) = line.strip_prefix(':') {
                let mut fields = chain.split(' ');
                let name = fields.next().unwrap();
                chains.insert(name, (fields.next().unwrap(), Vec::<String>::new()));
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let name = rule.split(' ').next().unwrap();
                let rules = &mut chains.get_mut(name).unwrap().1;
                if last.ends_with("Grüße") {
                    let open = rules.last_mut().unwrap(); // the comment with a line break in it
                    *open = format!("{open}\n{line}");
                } else {
                    rules.push(line.to_owned());
                }
            }
            last = line;
        }
        chains
    }
}

/// What the kernel calls a rule in its trace.
fn traced_as(rule: &str, chain: &str, is_user_chain: bool) -> StepKind {
    let condition_and_target = rule.strip_prefix(&format!("-A {chain}")).unwrap();
    match condition_and_target {
        " -j ACCEPT" | " -j DROP" | " -j RETURN" | " -j QUEUE" if is_user_chain => StepKind::Return,
        " -j ACCEPT" | " -j DROP" | " -j RETURN" | " -j QUEUE" => StepKind::Policy,
        _ => StepKind::Rule,
    }
}

/// What is at a place, whatever the kernel calls it.
fn found(table: &LegacyTable, chain: &str, number: u32) -> Option<(StepKind, Resolved)> {
    let kinds = [StepKind::Rule, StepKind::Policy, StepKind::Return];
    let mut found = kinds.into_iter().filter_map(|kind| {
        let resolved = table.resolve(chain.as_bytes(), kind, number)?;
        Some((kind, resolved))
    });
    let first = found.next();
    assert_eq!(found.next(), None, "{chain} {number}: two kinds");
    first
}

fn rule(table: &LegacyTable, chain: &str, number: u32) -> Option<Resolved> {
    found(table, chain, number).map(|(_, resolved)| resolved)
}

/// What a rule decides, by what iptables printed.
fn expected_verdict(rule: &str) -> Option<Verdict> {
    let chain = |name: &str| name.split(' ').next().unwrap().into();
    if let Some((_, with)) = rule.rsplit_once("--reject-with ") {
        return Some(Verdict::Reject(match with {
            "icmp-net-unreachable" => "icmp net-unreachable",
            "icmp-host-unreachable" => "icmp host-unreachable",
            "icmp-proto-unreachable" => "icmp proto-unreachable",
            "icmp-port-unreachable" => "icmp port-unreachable",
            "icmp-net-prohibited" => "icmp net-prohibited",
            "icmp-host-prohibited" => "icmp host-prohibited",
            "icmp-admin-prohibited" => "icmp admin-prohibited",
            "tcp-reset" => "tcp reset",
            "icmp6-no-route" => "icmpv6 no-route",
            "icmp6-adm-prohibited" => "icmpv6 admin-prohibited",
            "icmp6-addr-unreachable" => "icmpv6 addr-unreachable",
            "icmp6-port-unreachable" => "icmpv6 port-unreachable",
            "icmp6-policy-fail" => "icmpv6 policy-fail",
            "icmp6-reject-route" => "icmpv6 reject-route",
            other => panic!("{other}"),
        }));
    }
    if let Some((_, to)) = rule.rsplit_once(" -g ") {
        return Some(Verdict::Goto(chain(to)));
    }
    let Some((_, target)) = rule.rsplit_once(" -j ") else {
        return Some(Verdict::Continue);
    };
    Some(match target.split(' ').next().unwrap() {
        "ACCEPT" | "DNAT" | "SNAT" | "MASQUERADE" | "REDIRECT" | "NETMAP" | "TPROXY" => {
            Verdict::Accept
        }
        "DROP" => Verdict::Drop,
        "RETURN" => Verdict::Return,
        "QUEUE" | "NFQUEUE" => Verdict::Queue,
        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TRACE" | "CT" | "NOTRACK" | "TCPMSS" | "DSCP"
        | "HL" => Verdict::Continue,
        to => Verdict::Jump(chain(to)),
    })
}

#[test]
fn every_rule_is_the_one_that_iptables_prints_at_that_place() {
    for recorded in recorded() {
        let mut table = recorded.parsed();
        assert!(table.take_saved(&recorded.saved));
        let mut rules_seen = 0;
        for (chain, (policy, rules)) in recorded.listed() {
            for (number, line) in (1..).zip(&rules) {
                let (kind, found) = found(&table, chain, number).unwrap();
                assert_eq!(kind, traced_as(line, chain, policy == "-"), "{line}");
                assert_eq!(found.kind, StepKind::Rule, "{line}");
                assert_eq!(found.position, Some(number), "{line}");
                assert_eq!(&found.text.text, line);
                assert_eq!(found.text.verdict, expected_verdict(line), "{line}");
                rules_seen += 1;
            }
            let end = rules.len() as u32 + 1;
            let foot = rule(&table, chain, end).unwrap();
            assert_eq!(foot.position, None);
            if policy == "-" {
                assert_eq!(foot.kind, StepKind::Return);
                assert_eq!(foot.text.verdict, Some(Verdict::Return));
                assert_eq!(foot.text.text, "");
            } else {
                assert_eq!(foot.kind, StepKind::Policy);
                assert_eq!(foot.text.text, format!("-P {chain} {policy}"));
                let verdict = foot.text.verdict.unwrap();
                assert_eq!(verdict.name(), policy.to_lowercase());
            }
            assert_eq!(rule(&table, chain, end + 1), None);
            assert_eq!(rule(&table, chain, 0), None);
        }
        assert!(rules_seen >= 2, "{}", recorded.name);
    }
}

#[test]
fn in_our_own_words_a_rule_is_the_same_but_for_what_only_iptables_knows() {
    let mut met = [false; DEVIATIONS.len()];
    let mut differ = Vec::new();
    for recorded in recorded() {
        let table = recorded.parsed();
        for (chain, (_, rules)) in recorded.listed() {
            for (number, line) in (1..).zip(&rules) {
                let ours = rule(&table, chain, number).unwrap().text.text;
                let mut expected = line.clone();
                for ((theirs, ours), met) in DEVIATIONS.iter().zip(&mut met) {
                    *met |= expected.contains(theirs);
                    expected = expected.replace(theirs, ours);
                }
                if ours != expected {
                    differ.push(format!("{ours}\n  rather than {expected}"));
                }
            }
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    assert!(met.iter().all(|met| *met), "one is in no rule: {met:?}");
}

#[test]
fn the_trace_of_the_kernel_is_understood() {
    let (mut policies, mut rules_called_otherwise) = (0, 0);
    for recorded in recorded() {
        let mut table = recorded.parsed();
        table.take_saved(&recorded.saved);
        let listed = recorded.listed();
        assert!(!recorded.traced.is_empty());
        for line in recorded.traced.lines() {
            let fields: Vec<_> = line.split(':').collect();
            let (chain, number) = (fields[2], fields[4].parse::<u32>().unwrap());
            let kind = match fields[3] {
                "rule" => StepKind::Rule,
                "policy" => StepKind::Policy,
                "return" => StepKind::Return,
                other => panic!("{other}"),
            };
            let found = table.resolve(chain.as_bytes(), kind, number).unwrap();
            let rule = listed[chain].1.get(number as usize - 1);
            assert_eq!(found.kind == StepKind::Rule, rule.is_some(), "{line}");
            if let Some(rule) = rule {
                assert_eq!(&found.text.text, rule, "{line}");
                rules_called_otherwise += u32::from(kind != StepKind::Rule);
            } else {
                assert_eq!(found.kind, kind);
                policies += 1;
            }
        }
    }
    assert!(policies >= 10 && rules_called_otherwise >= 4);
}

#[test]
fn comments_stand_apart() {
    let recorded = recorded();
    let comment = |ipv6, table: &str, chain, number| {
        let recorded = recorded
            .iter()
            .find(|recorded| (recorded.ipv6, recorded.name.as_str()) == (ipv6, table));
        let found = rule(&recorded.unwrap().parsed(), chain, number);
        found.unwrap().text.comment
    };
    let two_lines = "Grüße\n-A FORWARD -j ACCEPT";
    assert_eq!(
        comment(false, "raw", "untracked", 2).as_deref(),
        Some("says \"hello\", it's c:\\ & 100%")
    );
    assert_eq!(
        comment(false, "filter", "FORWARD", 3).as_deref(),
        Some(two_lines)
    );
    assert_eq!(
        comment(true, "filter", "FORWARD", 3).as_deref(),
        Some(two_lines)
    );
    assert_eq!(
        comment(false, "filter", "FORWARD", 4).as_deref(),
        Some("ssh")
    );
    assert_eq!(comment(false, "filter", "FORWARD", 1), None);
}

#[test]
fn jumps_to_a_chain_are_found() {
    let recorded = recorded();
    let filter = recorded
        .iter()
        .find(|recorded| !recorded.ipv6 && recorded.name == "filter")
        .unwrap();
    let rules = &filter.listed()["FORWARD"].1;
    let to_deny = (1..)
        .zip(rules)
        .filter(|(_, rule)| rule.ends_with("-j deny") || rule.ends_with("-g deny"))
        .map(|(number, _)| number);
    let to_deny: Vec<u32> = to_deny.collect();
    assert_eq!(to_deny.len(), 3);
    let table = filter.parsed();
    assert_eq!(table.positions_of_jumps_to("FORWARD", "deny"), to_deny);
    assert_eq!(table.positions_of_jumps_to("INPUT", "empty"), [2]);
    assert_eq!(table.positions_of_jumps_to("deny", "deny"), []);
    assert_eq!(table.positions_of_jumps_to("none", "deny"), []);
}

#[test]
fn a_listing_of_another_content_is_refused() {
    for recorded in recorded() {
        let mut table = recorded.parsed();
        let plain = |table: &LegacyTable| rule(table, "OUTPUT", 1).unwrap();
        let before = plain(&table);
        let saved = &recorded.saved;
        let first_rule = saved.find("\n-A ").unwrap();
        let last_rule = saved.rfind("\n-A ").unwrap();
        let end = saved.find("\nCOMMIT").unwrap();
        for other in [
            format!("{}{}", &saved[..last_rule], &saved[end..]), // a rule less
            format!(
                "{}\n:new - [0:0]{}",
                &saved[..first_rule],
                &saved[first_rule..]
            ),
            saved.replacen(":OUTPUT ACCEPT", ":OUTPUT DROP", 1),
            saved.replacen(":OUTPUT ACCEPT", ":OTHER ACCEPT", 1),
            saved.replacen('*', "*of-another-", 1),
            String::new(),
        ] {
            assert!(!table.take_saved(&other), "{other}");
            assert_eq!(plain(&table), before);
        }
        assert!(table.take_saved(&recorded.saved_with_counters));
        let with_counters = plain(&table);
        assert!(table.take_saved(saved));
        assert_eq!(plain(&table), with_counters);
    }
}

#[test]
fn the_content_is_all_but_the_counters() {
    for recorded in recorded() {
        let content = recorded.parsed().content();
        let header = if recorded.ipv6 { 168 } else { 112 };
        let counters = header - 16;
        let mut raw = recorded.raw.clone();
        raw.entries[counters..header].fill(0xaa);
        let changed = |raw: &RawTable| {
            LegacyTable::parse(recorded.ipv6, &recorded.name, raw).map(|table| table.content())
        };
        assert_eq!(changed(&raw), Ok(content));
        raw.entries[0] ^= 1; // the source of the first rule
        assert_ne!(changed(&raw), Ok(content));
        raw.entries[0] ^= 1;
        let last = raw.entries.len() - 1;
        raw.entries[last] ^= 1; // data of the last entry
        assert_ne!(changed(&raw), Ok(content));
    }
}

/// Whatever the bytes are, there is an answer; and an answer for every place that it has.
fn look_everywhere(ipv6: bool, raw: &RawTable, chains: &[&str]) {
    if let Ok(table) = LegacyTable::parse(ipv6, "filter", raw) {
        for chain in chains {
            for number in 0..3 {
                for kind in [StepKind::Rule, StepKind::Policy, StepKind::Return] {
                    let _ = table.resolve(chain.as_bytes(), kind, number);
                }
            }
            let _ = table.positions_of_jumps_to(chain, "deny");
        }
    }
}

#[test]
fn every_truncation_and_change_has_an_answer() {
    for recorded in recorded() {
        let listed = recorded.listed();
        let chains: Vec<_> = listed.keys().copied().collect();
        let mut raw = recorded.raw.clone();
        for len in 0..raw.entries.len() {
            let cut = RawTable {
                entries: raw.entries[..len].to_vec(),
                ..raw
            };
            assert!(LegacyTable::parse(recorded.ipv6, &recorded.name, &cut).is_err());
        }
        for at in 0..raw.entries.len() {
            let value = raw.entries[at];
            for changed in [0, 1, 0x7f, 0xff, value ^ 0x10] {
                raw.entries[at] = changed;
                look_everywhere(recorded.ipv6, &raw, &chains);
            }
            raw.entries[at] = value;
        }
        let bytes = raw.to_bytes();
        for at in 0..52 {
            for changed in [0, 1, 0x70, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = changed;
                if let Some(raw) = RawTable::from_bytes(&bytes) {
                    look_everywhere(recorded.ipv6, &raw, &chains);
                }
            }
        }
    }
}

/// The table with one rule's verdict turned from DROP to ACCEPT, and where that rule is.
fn with_another_verdict(of: &Recorded) -> (LegacyTable, Vec<u8>, u32) {
    let (drop, accept) = ((-1i32).to_ne_bytes(), (-2i32).to_ne_bytes());
    let table = LegacyTable::parse(of.ipv6, &of.name, &of.raw).unwrap();
    for at in (0..of.raw.entries.len()).step_by(4) {
        let mut raw = RawTable::from_bytes(&of.raw.to_bytes()).unwrap();
        if raw.entries.get(at..at + 4) != Some(&drop[..]) {
            continue;
        }
        raw.entries[at..at + 4].copy_from_slice(&accept);
        let Ok(changed) = LegacyTable::parse(of.ipv6, &of.name, &raw) else {
            continue;
        };
        for number in 1..20 {
            let same = |number| changed.means_the_same(&table, b"FORWARD", StepKind::Rule, number);
            let dropped = table.resolve(b"FORWARD", StepKind::Rule, number);
            let drops = dropped.is_some_and(|rule| rule.text.verdict == Some(Verdict::Drop));
            if drops && !same(number) {
                return (changed, b"FORWARD".to_vec(), number);
            }
        }
    }
    panic!("the recorded table has no rule that drops in FORWARD");
}

#[test]
fn a_line_that_may_be_of_the_content_before_is_not_guessed() {
    const MS: u64 = 1_000_000;
    let recorded = recorded();
    let filter = recorded
        .iter()
        .find(|table| table.name == "filter" && !table.ipv6);
    let filter = filter.unwrap();
    let (changed, chain, number) = with_another_verdict(filter);
    let (mut book, mut ways) = (Book::default(), Ways::default());
    let first = LegacyTable::parse(false, "filter", &filter.raw).unwrap();
    book.take_legacy(false, "filter", first, 0);
    let line = |number| Line {
        ipv6: false,
        hook: 2,
        table: b"filter",
        chain: &chain,
        kind: LineKind::Rule,
        number,
        head: None,
        ct_id: None,
        ct_reply: None,
        uid: None,
    };
    let before = book.resolve_legacy(&line(number), 500 * MS, &mut ways);
    assert!(before.known && before.denies);
    book.take_legacy(false, "filter", changed, 1000 * MS);
    let in_doubt = book.resolve_legacy(&line(number), 1001 * MS, &mut ways);
    assert!(!in_doubt.known && !in_doubt.denies, "drop or accept?");
    let unchanged = if number == 1 { 2 } else { 1 };
    assert!(
        book.resolve_legacy(&line(unchanged), 1001 * MS, &mut ways)
            .known
    );
    let after = book.resolve_legacy(&line(number), 1100 * MS, &mut ways);
    assert!(after.known && !after.denies);
}
