//! What an event, an entry of a dump, a line of a report and a trace message cost, in instructions of the
//! static binary: unlike times these are the same on a busy machine. tests/bench/instructions runs this
//! (so does scripts/test), and holds the numbers to those of tests/bench/instructions.txt.
//!
//! Each number is the difference of two replays under callgrind, of which one has more of something to do,
//! so that start and end cancel out. The datagrams are those of the fixtures, of as many other addresses.

use conntracker::event::DumpPass;
use conntracker::run::input::{Input, What};
use conntracker::run::recording::{Recorder, Recording};
use conntracker::run::trace_input::TraceInput;
use conntracker::wire::kernel::*;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

const NUMBERS: &str = "tests/bench/instructions.txt";
const BLESS: &str = "tests/bench/instructions --bless";
/// More than the number in the repository by this share is too much.
const GROWTH_PERCENT: u64 = 10;
/// Between two of the repeated inputs; a packet of which nothing was heard for so long is at its end.
const PAUSE_NS: u64 = 1_000_000_000;

const FEW: u32 = 2000;
const MANY: u32 = 10_000;
const FEW_ROUNDS: u32 = 5;
const MANY_ROUNDS: u32 = 30;

/// Attributes: the netlink and netfilter headers lie before the first.
const HEADERS_LEN: usize = 20;

// ---------------------------------------------------------------- recordings

/// A recording that is gone with this.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The program; `CONNTRACKER_RUN` has the static one.
fn tool() -> String {
    let tool = std::env::var("CONNTRACKER_RUN").ok();
    tool.unwrap_or_else(|| env!("CARGO_BIN_EXE_conntracker").to_owned())
}

fn fixture(name: &str) -> Recording<std::io::BufReader<fs::File>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    Recording::open(&folder.join(name)).expect("a fixture can be read")
}

fn record(name: &str, fill: impl FnOnce(&mut Recorder)) -> Temporary {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    let name = format!("conntracker-instructions-{process}-{name}-{serial}");
    let path = std::env::temp_dir().join(name);
    let _ = fs::remove_file(&path);
    let mut recorder = Recorder::create(&path).expect("a recording can be made");
    let made = Temporary(path);
    fill(&mut recorder);
    recorder.finish().expect("a recording can be written");
    made
}

fn write(recorder: &mut Recorder, at_ns: u64, what: What<'_>) {
    let input = Input { at_ns, what };
    recorder.write(&input).expect("a recording can be written");
}

fn write_event(recorder: &mut Recorder, bytes: &[u8]) {
    let what = What::Events {
        bytes,
        truncated: false,
        netns: None,
    };
    write(recorder, PAUSE_NS, what);
}

/// The payload of an attribute, by the kinds of those around it and its own.
fn attribute<'a>(mut bytes: &'a mut [u8], path: &[u16]) -> Option<&'a mut [u8]> {
    let (wanted, inner) = path.split_first()?;
    while bytes.len() >= 4 {
        let len = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]) & !NLA_F_NESTED;
        if kind == *wanted {
            let payload = &mut bytes[4..len];
            return match inner {
                [] => Some(payload),
                inner => attribute(payload, inner),
            };
        }
        assert!(len >= 4, "the fixture is framed soundly");
        let next = len.next_multiple_of(4).min(bytes.len());
        bytes = &mut bytes[next..];
    }
    None
}

fn shift_address(address: &mut [u8], by: u32) {
    address[1] = address[1].wrapping_add(by as u8);
    address[2] = address[2].wrapping_add((by >> 8) as u8);
}

fn shift_packet(packet: &mut [u8], by: u32) {
    let (first, len) = if packet[0] >> 4 == 4 {
        (12, 4)
    } else {
        (8, 16)
    };
    for at in [first, first + len] {
        shift_address(&mut packet[at..at + len], by);
    }
}

fn shift_number(number: &mut [u8], by: u32) {
    let value = u32::from_be_bytes(number.as_ref().try_into().unwrap());
    number.copy_from_slice(&value.wrapping_add(by << 8).to_be_bytes());
}

/// The same datagram about other addresses, other for each number; the ids of flows and packets too.
fn varied(datagram: &[u8], by: u32) -> Vec<u8> {
    let mut datagram = datagram.to_vec();
    let mut rest = datagram.as_mut_slice();
    while rest.len() > HEADERS_LEN {
        let len = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
        let subsystem = rest[5]; // little-endian: the high byte of nlmsg_type
        let (message, after) = rest.split_at_mut(len.next_multiple_of(4).min(rest.len()));
        let attributes = &mut message[HEADERS_LEN..];
        let tuples = [CTA_TUPLE_ORIG, CTA_TUPLE_REPLY];
        let is_event = u16::from(subsystem) == NFNL_SUBSYS_CTNETLINK;
        for tuple in tuples.into_iter().filter(|_| is_event) {
            for side in [CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST] {
                let found = attribute(attributes, &[tuple, CTA_TUPLE_IP, side]);
                if let Some(address) = found {
                    shift_address(address, by);
                }
            }
        }
        let (packet, numbers): (u16, &[u16]) = match u16::from(subsystem) {
            NFNL_SUBSYS_CTNETLINK => (u16::MAX, &[CTA_ID]),
            NFNL_SUBSYS_NFTABLES => (
                NFTA_TRACE_NETWORK_HEADER,
                &[NFTA_TRACE_CT_ID, NFTA_TRACE_ID],
            ),
            _ => (NFULA_PAYLOAD, &[]),
        };
        if let Some(packet) = attribute(attributes, &[packet]) {
            shift_packet(packet, by);
        }
        for number in numbers {
            if let Some(number) = attribute(attributes, &[*number]) {
                shift_number(number, by);
            }
        }
        rest = after;
    }
    datagram
}

/// The event of this kind about the one UDP flow of the fixture, as a kernel sent it.
fn real_event(message: u16) -> Vec<u8> {
    let mut source = fixture("plain.ctrecord");
    while let Some(input) = source.read().unwrap() {
        if let What::Events { bytes, .. } = input.what {
            let udp = [CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, CTA_PROTO_NUM];
            let mut bytes = bytes.to_vec();
            let is_udp = attribute(&mut bytes[HEADERS_LEN..], &udp).is_some_and(|it| it == [17]);
            if u16::from(bytes[4]) == message && is_udp && bytes[16] == AF_INET {
                return bytes;
            }
        }
    }
    panic!("the fixture has none");
}

/// Flows that begin and end, one after the other.
fn events(flows: u32) -> Temporary {
    let (begin, end) = (
        real_event(IPCTNL_MSG_CT_NEW),
        real_event(IPCTNL_MSG_CT_DELETE),
    );
    record("events", |recorder| {
        for flow in 0..flows {
            write_event(recorder, &varied(&begin, flow));
            write_event(recorder, &varied(&end, flow));
        }
        write(recorder, PAUSE_NS, What::Finished);
    })
}

/// As many records of the same length that say nothing: what replaying costs, and a capture does not pay.
fn nothing(records: u32) -> Temporary {
    let mut bytes = real_event(IPCTNL_MSG_CT_NEW);
    bytes[4..6].copy_from_slice(&1u16.to_ne_bytes()); // NLMSG_NOOP
    record("nothing", |recorder| {
        for _ in 0..records {
            write_event(recorder, &bytes);
        }
        write(recorder, PAUSE_NS, What::Finished);
    })
}

/// So many flows, all of them in each of so many dumps.
fn dumps(flows: u32, passes: u32) -> Temporary {
    const ENTRIES: usize = 100; // in a datagram, as in 32 KiB of the kernel's
    let mut entry = real_event(IPCTNL_MSG_CT_NEW);
    entry[6..8].copy_from_slice(&2u16.to_ne_bytes()); // NLM_F_MULTI
    let status = attribute(&mut entry[HEADERS_LEN..], &[CTA_STATUS]);
    let status = status.expect("an event has a status");
    status[3] |= 2; // IPS_SEEN_REPLY: a line for each direction
    let entries: Vec<_> = (0..flows).map(|flow| varied(&entry, flow)).collect();
    record("dumps", |recorder| {
        for pass in 0..passes {
            let pass = if pass == 0 {
                DumpPass::Initial
            } else {
                DumpPass::Resync
            };
            write(recorder, PAUSE_NS, What::DumpBegan(pass));
            for entries in entries.chunks(ENTRIES) {
                let what = What::Dump {
                    bytes: &entries.concat(),
                    truncated: false,
                };
                write(recorder, PAUSE_NS, what);
            }
            write(recorder, PAUSE_NS, What::DumpEnded);
            write(recorder, PAUSE_NS, What::CaughtUp);
        }
        write(recorder, PAUSE_NS, What::Finished);
    })
}

/// The traced packets of the fixture until its rules change, and their flows' events, in so many rounds.
fn traces(rounds: u32) -> Temporary {
    let mut repeated: Vec<(bool, TraceInput<'static>, Vec<u8>)> = Vec::new();
    record("traces", |recorder| {
        let mut source = fixture("traced.ctrecord");
        while let Some(input) = source.read().unwrap() {
            match input.what {
                // The ruleset is loaded anew: what was told before would have no rules.
                What::Trace(TraceInput::Nft(bytes)) if u16::from(bytes[4]) != NFT_MSG_TRACE => {
                    break;
                }
                What::Trace(TraceInput::Nft(bytes)) => {
                    repeated.push((false, TraceInput::Nft(&[]), bytes.to_vec()));
                }
                What::Trace(TraceInput::Log(bytes)) => {
                    repeated.push((false, TraceInput::Log(&[]), bytes.to_vec()));
                }
                What::Trace(TraceInput::Quiet) => {
                    repeated.push((false, TraceInput::Quiet, Vec::new()));
                }
                What::Events { bytes, .. } => {
                    repeated.push((true, TraceInput::Quiet, bytes.to_vec()));
                }
                _ => {}
            }
            write(recorder, input.at_ns, input.what);
        }
        let began_ns = 1_900_000_000_000_000_000; // later than the fixture
        for round in 1..=rounds {
            let at_ns = began_ns + u64::from(round) * PAUSE_NS;
            for (is_event, input, bytes) in &repeated {
                let bytes = &varied(bytes, round);
                match input {
                    _ if *is_event => write_event(recorder, bytes),
                    TraceInput::Nft(_) => {
                        write(recorder, at_ns, What::Trace(TraceInput::Nft(bytes)));
                    }
                    TraceInput::Log(_) => {
                        write(recorder, at_ns, What::Trace(TraceInput::Log(bytes)));
                    }
                    _ => write(recorder, at_ns, What::Trace(TraceInput::Quiet)),
                }
            }
            let quiet = What::Trace(TraceInput::Quiet);
            write(recorder, at_ns + PAUSE_NS / 2, quiet);
        }
        write(recorder, began_ns * 2, What::Trace(TraceInput::Ended));
        write(recorder, began_ns * 2, What::Finished);
    })
}

// ---------------------------------------------------------------- counting

/// Where a report goes: all of it, or no more than what finds the device full (64 KiB of it).
#[derive(Clone, Copy)]
enum Report {
    Whole,
    CutOff,
}

fn replay(recording: &Temporary, options: &[&str]) -> Vec<String> {
    let mut line = vec!["replay".to_owned(), recording.0.display().to_string()];
    line.extend(options.iter().map(|option| (*option).to_owned()));
    line
}

/// The instructions of one replay.
fn count(recording: &Temporary, options: &[&str], report: Report) -> u64 {
    let (device, status) = match report {
        Report::Whole => ("/dev/null", 0),
        Report::CutOff => ("/dev/full", 1),
    };
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(tool())
        .args(replay(recording, options))
        .args(["-o", device])
        .stdin(Stdio::null())
        .output()
        .expect("valgrind runs (scripts/need bench installs it)");
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let (_, instructions) = collected.unwrap_or_else(|| panic!("callgrind counts: {said}"));
    assert_eq!(output.status.code(), Some(status), "{said}");
    instructions.trim().parse().expect("a number")
}

/// A number of the last line of the report in JSON: `"name":` behind `"within":{`.
fn stat(recording: &Temporary, options: &[&str], within: &str, name: &str) -> u64 {
    let output = Command::new(tool())
        .args(replay(recording, options))
        .args(["-o", "-", "--format", "json"])
        .output()
        .expect("the tool runs");
    let report = String::from_utf8(output.stdout).expect("a report is UTF-8");
    let stats = report.lines().last().unwrap_or_default();
    let inner = stats
        .split_once(&format!("\"{within}\":{{"))
        .and_then(|(_, rest)| rest.split_once('}'));
    let number = inner
        .and_then(|(inner, _)| inner.split_once(&format!("\"{name}\":")))
        .map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect());
    let number: String = number.unwrap_or_else(|| panic!("{within}.{name}: {stats}"));
    number.parse().expect("a number")
}

/// Instructions of each of what the one has more of than the other.
fn each(few: u64, many: u64, more: u64) -> u64 {
    assert!(many > few && more > 0, "{few} to {many} for {more} more");
    (many - few) / more
}

fn of_an_event() -> u64 {
    let options = ["--capacity", "1024"]; // full soon: ended flows make room, as in any long life
    let (few, many) = (events(FEW), events(MANY));
    for (recording, flows) in [(&few, FEW), (&many, MANY)] {
        assert_eq!(stat(recording, &options, "events", "new"), flows.into());
        assert_eq!(stat(recording, &options, "events", "destroy"), flows.into());
    }
    let more = 2 * u64::from(MANY - FEW);
    let (nothing_few, nothing_many) = (nothing(FEW), nothing(2 * FEW));
    let empty = |recording| count(recording, &options, Report::Whole);
    let replaying = each(empty(&nothing_few), empty(&nothing_many), FEW.into());
    let count = |recording| count(recording, &options, Report::CutOff);
    each(count(&few), count(&many), more) - replaying
}

fn of_a_dumped_entry() -> u64 {
    let (few, many) = (dumps(FEW, 1), dumps(FEW, 5));
    let more = u64::from(4 * FEW);
    assert_eq!(stat(&many, &[], "events", "dumped"), 5 * u64::from(FEW));
    assert_eq!(stat(&many, &[], "table", "flows"), u64::from(FEW));
    let count = |recording| count(recording, &[], Report::CutOff);
    each(count(&few), count(&many), more)
}

/// Of one flow in the report; in text it has two lines.
fn of_a_report(format: &str) -> u64 {
    let (few, many) = (dumps(FEW, 1), dumps(MANY, 1));
    let options = ["--format", format];
    let writing = |recording| {
        let count = |report| count(recording, &options, report);
        count(Report::Whole) - count(Report::CutOff)
    };
    each(writing(&few), writing(&many), (MANY - FEW).into())
}

fn of_a_trace_message() -> u64 {
    let (few, many) = (traces(FEW_ROUNDS), traces(MANY_ROUNDS));
    let stat = |recording, name| stat(recording, &[], "trace", name);
    let more = stat(&many, "messages") - stat(&few, "messages");
    assert!(more > 10_000, "{more}");
    assert_eq!(stat(&many, "unresolved"), stat(&few, "unresolved"));
    assert_eq!(
        stat(&many, "paths"),
        stat(&few, "paths"),
        "paths are interned"
    );
    let count = |recording| count(recording, &[], Report::CutOff);
    each(count(&few), count(&many), more)
}

// ---------------------------------------------------------------- the numbers in the repository

/// What compiled the tool: another compiler makes other instructions.
fn compiler() -> String {
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()))
        .arg("-V")
        .output();
    let version = output.expect("rustc says its version").stdout;
    let version = String::from_utf8_lossy(&version).trim().to_owned();
    format!("{version}, {}", std::env::consts::ARCH)
}

fn numbers_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(NUMBERS)
}

fn bless(counted: &[(&str, u64)]) {
    let mut text = format!(
        "# Instructions of the static binary for each; written by {BLESS}\n# {}\n",
        compiler()
    );
    for (name, instructions) in counted {
        writeln!(text, "{name}: {instructions}").unwrap();
    }
    fs::write(numbers_file(), text).expect("the numbers can be written");
}

fn too_many(counted: &[(&str, u64)]) -> Vec<String> {
    let known = fs::read_to_string(numbers_file()).expect("there are numbers to compare with");
    let of = |name: &str| {
        let line = known
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}: ")));
        let number = line.and_then(|number| number.parse::<u64>().ok());
        number.unwrap_or_else(|| panic!("{NUMBERS} has no number for {name:?}; {BLESS}"))
    };
    let compiler = compiler();
    if !known.contains(&compiler) {
        println!("{NUMBERS} is by another compiler than {compiler}");
    }
    let mut grown = Vec::new();
    for (name, instructions) in counted {
        let (before, limit) = (of(name), of(name) * (100 + GROWTH_PERCENT) / 100);
        let line = format!("{name}: {instructions} instructions, were {before}, limit {limit}");
        println!("{line}");
        if *instructions > limit {
            grown.push(line);
        } else if instructions * (100 + GROWTH_PERCENT) / 100 < before {
            println!("  much fewer: hold on to that by {BLESS}");
        }
    }
    grown
}

#[test]
#[ignore = "counts instructions of the release build; tests/bench/instructions runs it"]
fn nothing_costs_more_instructions_than_it_did() {
    if cfg!(debug_assertions) {
        panic!("not the release build: tests/bench/instructions runs this");
    }
    let counted = [
        ("event", of_an_event()),
        ("entry of a dump", of_a_dumped_entry()),
        ("flow in a text report", of_a_report("text")),
        ("flow in a JSON report", of_a_report("json")),
        ("trace message", of_a_trace_message()),
    ];
    if std::env::var_os("BLESS").is_some() {
        bless(&counted);
    }
    let grown = too_many(&counted);
    assert!(
        grown.is_empty(),
        "grown by more than {GROWTH_PERCENT} in 100 against {NUMBERS} ({BLESS} takes the new numbers):\n{}",
        grown.join("\n")
    );
}
