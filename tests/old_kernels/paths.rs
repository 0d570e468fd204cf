//! Traced packets of old kernels: they name no conntrack entry (3.10, and nf_tables before 6.16), so a
//! packet finds its flow by its ends alone; from 4.4 on a line of the TRACE target has its entry, whose
//! id may be that of a flow which has ended.

use super::conntrack::{About, Entry, Layer4, Sender};
use super::decoder;
use super::entries::{self, CONFIRMED, DYING, SEEN_REPLY, address, bare};
use super::expected::{BASE_NS, Fields, rfc3339};
use super::kernels::{KERNELS, Kernel, LOG, NFT_TRACE};
use super::run::Run;
use super::senders;
use super::trace::{self, Met, datagram, init, ipv4, line, nft_trace, syn};
use conntracker::run::trace_input::TraceInput;
use std::collections::BTreeSet;

const CLIENT: [u8; 4] = [10, 1, 0, 6];
const SERVER: [u8; 4] = [192, 0, 2, 80];
const SEEN_NS: u64 = BASE_NS + 3_000_000_000;
const ENDED_NS: u64 = BASE_NS + 5_000_000_000;
const LATER_NS: u64 = BASE_NS + 9_000_000_000;

const ENTRY_IS_NEW: u32 = 2; // IP_CT_NEW
const ANSWERS: u32 = 3; //      IP_CT_ESTABLISHED + IP_CT_IS_REPLY

fn tcp() -> Entry {
    bare(
        "10.1.0.6",
        "192.0.2.80",
        Layer4::Ports(6, 40000, 80),
        address(1),
    )
}

fn udp() -> Entry {
    bare(
        "10.1.0.6",
        "192.0.2.80",
        Layer4::Ports(17, 5353, 53),
        address(2),
    )
}

fn tcp_packet() -> Vec<u8> {
    ipv4(6, CLIENT, SERVER, 1, &syn(40000, 80))
}

fn udp_packet() -> Vec<u8> {
    ipv4(17, CLIENT, SERVER, 2, &datagram(5353, 53))
}

/// Tracing is on, and the rules are known.
pub fn traced() -> Run {
    let mut run = Run::new();
    let (everything, lets_go) = (true, false);
    run.trace(
        BASE_NS,
        TraceInput::Began {
            everything,
            lets_go,
        },
    );
    let (ipv6, name, content) = (false, "filter", &*trace::filter_table());
    run.trace(
        BASE_NS,
        TraceInput::Legacy {
            ipv6,
            name,
            content,
        },
    );
    run.trace(BASE_NS, TraceInput::RulesBegan(Some(3)));
    run.trace(BASE_NS, TraceInput::Rules(&trace::ruleset()));
    run.trace(BASE_NS, TraceInput::RulesEnded { whole: true });
    run
}

/// A packet's one line or message, and then nothing more of it.
fn packet(run: &mut Run, at_ns: u64, input: TraceInput<'_>) {
    run.trace(at_ns, input);
    run.trace(at_ns + 1_000_000_000, TraceInput::Quiet);
}

fn part(flow: &Fields, begins: &str) -> Vec<(String, String)> {
    let fields = flow.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix(begins)?;
        Some((name.to_owned(), value.clone()))
    });
    fields.collect()
}

fn owned(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    let fields = fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    fields.collect()
}

/// FORWARD's rule 2 of the legacy table, which drops TCP.
fn legacy_rule() -> Vec<(String, String)> {
    owned(&[
        ("chain", "FORWARD"),
        ("firewall", "iptables-legacy"),
        ("kind", "rule"),
        ("position", "2"),
        ("rule", "-A FORWARD -p tcp -j DROP"),
        ("table", "filter"),
    ])
}

fn of_state<'a>(flows: &'a [Fields], state: &str) -> &'a Fields {
    let found: Vec<_> = flows.iter().filter(|flow| flow["state"] == state).collect();
    assert_eq!(found.len(), 1, "{state}: {flows:#?}");
    found[0]
}

/// With the entry where the kernel adds it, and without: 3.10, and where it refuses to.
#[test]
fn a_line_of_the_trace_target_finds_its_flow_and_its_rule() {
    for sender in senders() {
        line_finds_its_flow(&sender, true);
        line_finds_its_flow(&sender, false);
    }
}

fn line_finds_its_flow(sender: &Sender, with_entry: bool) {
    let mut run = traced();
    run.event(SEEN_NS, &sender.begun(&udp(), About::default()));
    let log = line(
        sender,
        "TRACE: filter:FORWARD:rule:1 ",
        &udp_packet(),
        with_entry.then_some((&udp(), ENTRY_IS_NEW)),
    );
    packet(&mut run, SEEN_NS, TraceInput::Log(&log));
    let log = line(
        sender,
        "TRACE: filter:FORWARD:rule:2 ",
        &tcp_packet(),
        with_entry.then_some((&tcp(), ENTRY_IS_NEW)),
    );
    packet(&mut run, SEEN_NS, TraceInput::Log(&log));
    let flows = run.flows();
    assert_eq!(flows.len(), 2, "{sender:?}");
    let passed = of_state(&flows, "live");
    let step = [
        ("chain", "FORWARD"),
        ("firewall", "iptables-legacy"),
        ("kind", "rule"),
        ("position", "1"),
        ("rule", "-A FORWARD -p udp -j ACCEPT"),
        ("table", "filter"),
        ("verdict", "accept"),
    ];
    assert_eq!(part(passed, "path.original.0."), owned(&step));
    assert_eq!(
        (passed["verdict"].as_str(), passed["id"].clone()),
        ("accept", sender.id(&udp()).to_string())
    );
    let denied = of_state(&flows, "unconfirmed");
    assert_eq!(part(denied, "blame."), legacy_rule());
    assert_eq!(
        (denied["verdict"].as_str(), denied["attempts"].as_str()),
        ("drop", "1")
    );
    assert_eq!(
        (
            denied["original.sport"].as_str(),
            denied["original.dport"].as_str()
        ),
        ("40000", "80")
    );
    assert!(!denied.contains_key("id") && !denied.contains_key("start"));
    assert_eq!(denied["first_seen"], rfc3339(SEEN_NS));
    assert!(
        run.lines()
            .iter()
            .any(|line| line.ends_with("(verdict=drop, attempts=1)"))
    );
    let counters = run.counters();
    assert_eq!((counters.traced, counters.trace_messages), (2, 2));
    assert_eq!(
        (counters.unjoined, counters.orphans, counters.unresolved),
        (0, 0, 0)
    );
    run.assert_clean();
}

#[test]
fn what_answers_is_the_other_direction_of_its_flow() {
    for sender in senders() {
        let mut run = traced();
        let entry = Entry {
            status: CONFIRMED | SEEN_REPLY,
            ..udp()
        };
        run.event(SEEN_NS, &sender.begun(&entry, About::default()));
        let answer = ipv4(17, SERVER, CLIENT, 3, &datagram(53, 5353));
        let log = line(
            &sender,
            "TRACE: filter:FORWARD:rule:1 ",
            &answer,
            Some((&entry, ANSWERS)),
        );
        packet(&mut run, SEEN_NS, TraceInput::Log(&log));
        let flows = run.flows();
        assert_eq!(flows.len(), 1);
        assert_eq!(flows[0]["path.reply.0.position"], "1");
        assert!(!flows[0].contains_key("path.original.0.position"));
        run.assert_clean();
    }
}

/// A prefix that fills its room comes without a NUL.
#[test]
fn a_prefix_is_read_with_its_nul_and_without() {
    let sender = Sender::plain(KERNELS[0]);
    let whole = line(
        &sender,
        "TRACE: filter:FORWARD:rule:2 ",
        &tcp_packet(),
        None,
    );
    let mut cut = whole.clone();
    let len_at = 20 + 8; // behind nlmsghdr and nfgenmsg, and NFULA_PACKET_HDR
    let len = u16::from_ne_bytes([cut[len_at], cut[len_at + 1]]);
    assert_eq!(len, 4 + 30);
    cut[len_at..len_at + 2].copy_from_slice(&(len - 1).to_ne_bytes());
    cut[len_at + usize::from(len) - 1] = 0xa5; // padding now, and not cleared
    for bytes in [whole, cut] {
        let mut run = traced();
        packet(&mut run, SEEN_NS, TraceInput::Log(&bytes));
        assert_eq!(part(&run.flows()[0], "blame."), legacy_rule());
        run.assert_clean();
    }
}

fn with_nft(kernel: &&Kernel) -> bool {
    kernel.sends(NFT_TRACE, "ID")
}

#[test]
fn a_trace_of_nf_tables_without_an_entry_finds_its_flow_and_its_rule() {
    assert_eq!(KERNELS.iter().filter(with_nft).count(), 2);
    for sender in senders()
        .into_iter()
        .filter(|sender| with_nft(&&sender.kernel))
    {
        let mut run = traced();
        run.event(SEEN_NS, &sender.begun(&udp(), About::default()));
        let accepted = nft_trace(&sender, 0x1111, &Met::Rule(2, 1), &udp_packet());
        packet(&mut run, SEEN_NS, TraceInput::Nft(&accepted));
        let dropped = nft_trace(&sender, 0x2222, &Met::Rule(3, 0), &tcp_packet());
        packet(&mut run, SEEN_NS, TraceInput::Nft(&dropped));
        let flows = run.flows();
        assert_eq!(flows.len(), 2, "{sender:?}");
        let step = |position, handle, rule| {
            owned(&[
                ("chain", "forward"),
                ("firewall", "nft"),
                ("generation", "3"),
                ("handle", handle),
                ("kind", "rule"),
                ("position", position),
                ("rule", rule),
                ("table", "inet fw"),
            ])
        };
        let passed = of_state(&flows, "live");
        let mut met = part(passed, "path.original.0.");
        assert_eq!(met.pop(), Some(("verdict".to_owned(), "accept".to_owned())));
        assert_eq!(met, step("2", "2", "meta l4proto udp accept"));
        let denied = of_state(&flows, "unconfirmed");
        assert_eq!(
            part(denied, "blame."),
            step("1", "3", "meta l4proto tcp drop")
        );
        let counters = run.counters();
        assert_eq!(
            (counters.unjoined, counters.orphans, counters.unresolved),
            (0, 0, 0)
        );
        run.assert_clean();
    }
}

#[test]
fn a_policy_of_nf_tables_has_no_verdict_and_no_handle() {
    for sender in senders()
        .into_iter()
        .filter(|sender| with_nft(&&sender.kernel))
    {
        let mut run = traced();
        let other = ipv4(132, CLIENT, SERVER, 4, &init(5000, 36412));
        let dropped = nft_trace(&sender, 0x3333, &Met::Policy(0), &other);
        packet(&mut run, SEEN_NS, TraceInput::Nft(&dropped));
        let flows = run.flows();
        let denied = of_state(&flows, "unconfirmed");
        assert_eq!(
            (denied["verdict"].as_str(), denied["blame.kind"].as_str()),
            ("policy drop", "policy")
        );
        assert_eq!(
            (
                denied["original.sport"].as_str(),
                denied["original.dport"].as_str()
            ),
            ("5000", "36412")
        );
        run.assert_clean();
    }
}

/// A flow has ended, and its place in memory is another's with the same ends: the same id. What is
/// denied of that is not laid to the flow that was let through.
#[test]
fn what_is_denied_after_a_flow_is_not_blamed_on_it_though_the_id_is_the_same() {
    for sender in senders() {
        let mut run = traced();
        run.event(SEEN_NS, &sender.begun(&tcp(), About::default()));
        let log = line(
            &sender,
            "TRACE: filter:FORWARD:policy:4 ",
            &tcp_packet(),
            Some((&tcp(), ENTRY_IS_NEW)),
        );
        packet(&mut run, SEEN_NS, TraceInput::Log(&log));
        let dying = Entry {
            status: CONFIRMED | DYING,
            ..tcp()
        };
        run.event(ENDED_NS, &sender.destroy(&dying));
        let again = ipv4(6, CLIENT, SERVER, 77, &syn(40000, 80));
        let log = line(
            &sender,
            "TRACE: filter:FORWARD:rule:2 ",
            &again,
            Some((&tcp(), ENTRY_IS_NEW)),
        );
        packet(&mut run, LATER_NS, TraceInput::Log(&log));
        let flows = run.flows();
        assert_eq!(flows.len(), 2, "{sender:?}");
        let ended = of_state(&flows, "ended");
        assert_eq!(ended["verdict"], "accept");
        assert!(part(ended, "blame.").is_empty() && !ended.contains_key("attempts"));
        assert_eq!(
            part(of_state(&flows, "unconfirmed"), "blame."),
            legacy_rule()
        );
        run.assert_clean();
    }
}

/// 3.10 without its SCTP module tracks SCTP without ports; the packets have them.
#[test]
fn a_packet_with_ports_finds_the_flow_that_conntrack_keeps_without() {
    let sender = Sender::plain(KERNELS[0]);
    let sctp = bare("10.1.0.6", "192.0.2.80", Layer4::Nothing(132), address(3));
    let mut run = traced();
    run.event(SEEN_NS, &sender.begun(&sctp, About::default()));
    let forth = ipv4(132, CLIENT, SERVER, 5, &init(5000, 36412));
    let back = ipv4(132, SERVER, CLIENT, 6, &init(36412, 5000));
    for bytes in [forth, back] {
        let log = line(&sender, "TRACE: filter:FORWARD:rule:3 ", &bytes, None);
        packet(&mut run, SEEN_NS, TraceInput::Log(&log));
    }
    let flows = run.flows();
    assert_eq!(flows.len(), 1, "{flows:#?}");
    for direction in ["original", "reply"] {
        assert_eq!(
            flows[0][&format!("path.{direction}.0.rule")],
            "-A FORWARD -p sctp -j ACCEPT"
        );
    }
    assert_eq!(run.counters().unjoined, 0);
    run.assert_clean();
}

#[test]
fn lines_and_traces_have_what_the_table_says() {
    for kernel in KERNELS {
        let sender = Sender::plain(kernel);
        let names = |datagrams: &[Vec<u8>]| {
            let messages = datagrams.iter().flat_map(|bytes| decoder::decode(bytes));
            let names = messages.flat_map(|message| {
                let names = message
                    .names()
                    .into_iter()
                    .filter(|name| !name.contains('/'));
                names.map(str::to_owned).collect::<Vec<_>>()
            });
            names
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
        };
        let prefix = "TRACE: filter:FORWARD:rule:2 ";
        let log = line(
            &sender,
            prefix,
            &tcp_packet(),
            Some((&entries::rich(), ENTRY_IS_NEW)),
        );
        let message = &decoder::decode(&log)[0];
        let (_, with_nul) = &message.attributes[1];
        assert_eq!(with_nul.split_last(), Some((&0, prefix.as_bytes())));
        assert_eq!(names(&[log]), kernel.all(LOG), "{}", kernel.release);
        if with_nft(&&kernel) {
            let met = [Met::Rule(3, 0), Met::Policy(1)];
            let traces = met.map(|met| nft_trace(&sender, 1, &met, &tcp_packet()));
            assert_eq!(names(&traces), kernel.all(NFT_TRACE), "{}", kernel.release);
        } else {
            assert!(kernel.all(NFT_TRACE).is_empty());
        }
    }
}
