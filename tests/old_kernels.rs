//! Kernels that could not be had (before 5.10): what 3.10, 4.4, 4.9 and 4.15 send is built here by hand
//! from their sources' rules, replayed, and compared with the finished report field by field. What a
//! kernel does not send must be missing there: absence is not zero.

#[path = "old_kernels/bytes.rs"]
mod bytes;
#[path = "old_kernels/conntrack.rs"]
mod conntrack;
#[path = "old_kernels/decoder.rs"]
mod decoder;
#[path = "old_kernels/entries.rs"]
mod entries;
#[path = "old_kernels/expected.rs"]
mod expected;
#[path = "old_kernels/kernels.rs"]
mod kernels;
#[path = "old_kernels/lives.rs"]
mod lives;
#[path = "old_kernels/mangled.rs"]
mod mangled;
#[path = "old_kernels/paths.rs"]
mod paths;
#[path = "old_kernels/run.rs"]
mod run;
#[path = "old_kernels/sockets.rs"]
mod sockets;
#[path = "old_kernels/trace.rs"]
mod trace;

use bytes::MULTI;
use conntrack::{About, Entry, Sender};
use conntracker::event::DumpPass;
use conntracker::report::json_value::Value;
use conntracker::run::input::{Input, What};
use conntracker::run::recording::Recorder;
use expected::{BASE_NS, Fields, Life};
use kernels::{CONNTRACK, KERNELS, Kernel};
use run::{Run, assert_flows, flows_of, stats_of};
use std::collections::BTreeSet;
use std::process::Command;

/// When the dump is read.
const READ_NS: u64 = BASE_NS + 5_000_000_000;
/// Room of a dump's datagram: a few entries, so that there are several of each.
const ROOM: usize = 900;

/// Each kernel as it was released, on a machine that aligns, and with its stable tree's ids.
fn senders() -> Vec<Sender> {
    let of = |kernel: Kernel| {
        [(false, false), (true, false), (false, true)].map(|(aligns, hashes)| Sender {
            kernel,
            aligns,
            hashes,
        })
    };
    KERNELS.into_iter().flat_map(of).collect()
}

/// The flow of an entry that a dump at the beginning had.
fn found(sender: &Sender, entry: &Entry) -> Fields {
    let life = Life {
        state: "live",
        start_ns: entry.start_ns,
        first_ns: READ_NS,
        last_ns: READ_NS,
        end_ns: None,
    };
    expected::fields(sender, entry, &life)
}

#[test]
fn a_dump_is_in_the_report_field_by_field() {
    for sender in senders() {
        let entries = entries::all(sender.kernel);
        let datagrams = sender.dump(&entries, ROOM);
        assert!(datagrams.len() > 2 && datagrams.iter().any(|datagram| datagram.len() > ROOM / 2));
        let mut run = Run::new();
        run.dump(READ_NS, DumpPass::Initial, &datagrams);
        run.assert_clean();
        assert_eq!(run.counters().dumped, entries.len() as u64);
        let expected = entries.iter().map(|entry| found(&sender, entry)).collect();
        assert_flows(run.flows(), expected, &format!("{sender:?}"));
        let mut lines: Vec<_> = entries.iter().flat_map(expected::lines).collect();
        lines.sort_unstable();
        assert_eq!(run.lines(), lines, "{sender:?}");
    }
}

/// The second reader finds in the datagrams what the table of kernels says, in the kernel's order, and
/// each of the values that were put in.
#[test]
fn each_kernel_sends_what_the_table_says_and_nothing_else() {
    for kernel in KERNELS {
        let sender = Sender {
            aligns: true,
            ..Sender::plain(kernel)
        };
        let entries = entries::all(kernel);
        let mut sent = BTreeSet::new();
        let dumped: Vec<_> = sender
            .dump(&entries, ROOM)
            .iter()
            .flat_map(|d| decoder::decode(d))
            .collect();
        let (end, dumped) = dumped.split_last().unwrap();
        assert_eq!((end.kind, end.flags), (3, MULTI));
        assert_eq!(dumped.len(), entries.len());
        for (message, entry) in dumped.iter().zip(&entries) {
            assert_eq!((message.kind, message.flags), (0x100, MULTI));
            let value = |name: &str| {
                let found = message.attributes.iter().find(|(known, _)| known == name);
                found.map(|(_, value)| value.clone())
            };
            assert_eq!(value("STATUS"), Some(entry.status.to_be_bytes().to_vec()));
            assert_eq!(
                value("ID"),
                Some((entry.address as u32).to_be_bytes().to_vec())
            );
            let start = entry
                .start_ns
                .map(|start_ns| start_ns.to_be_bytes().to_vec());
            assert_eq!(value("TIMESTAMP/START"), start);
            let packets = entry
                .counters
                .map(|sides| sides[1].0.to_be_bytes().to_vec());
            assert_eq!(value("COUNTERS_REPLY/PACKETS"), packets);
            sent.extend(message.names().into_iter().map(str::to_owned));
        }
        let ended = Entry {
            stop_ns: Some(READ_NS),
            ..entries::rich()
        };
        let destroyed = decoder::decode(&sender.destroy(&ended));
        let names = destroyed[0].names();
        assert!(
            !names.contains(&"TIMEOUT") && !names.contains(&"PROTOINFO"),
            "{names:?}"
        );
        sent.extend(names.into_iter().map(str::to_owned));
        // The reply's are the original's again, and the master's those of a tuple.
        let again = |name: &String| {
            let reply = name.starts_with("REPLY/") && name != "REPLY/ZONE";
            let in_nests = ["MASTER/", "COUNTERS_REPLY/", "HELP/", "SECCTX/", "SEQ_ADJ_"];
            let is_again = reply || name == "REPLY" || name == "COUNTERS_REPLY";
            is_again
                || in_nests
                    .iter()
                    .any(|nest| name.starts_with(nest) && name.contains('/'))
        };
        let sent: Vec<_> = sent.into_iter().filter(|name| !again(name)).collect();
        assert_eq!(sent, kernel.all(CONNTRACK), "{}", kernel.release);
    }
}

#[test]
fn a_dump_of_a_kernel_begins_as_its_source_says() {
    let entry = entries::rich();
    let names = |bytes: &[u8]| -> Vec<String> {
        let message = &decoder::decode(bytes)[0];
        let names = message
            .names()
            .into_iter()
            .filter(|name| !name.contains('/'));
        names.map(str::to_owned).collect()
    };
    for kernel in KERNELS {
        let sender = Sender::plain(kernel);
        let dumped = [
            "ORIG",
            "REPLY",
            "STATUS",
            "TIMEOUT",
            "COUNTERS_ORIG",
            "COUNTERS_REPLY",
            "TIMESTAMP",
            "PROTOINFO",
            "HELP",
            "MARK",
            "SECCTX",
            "LABELS",
            "ID",
            "USE",
            "SEQ_ADJ_ORIG",
            "SEQ_ADJ_REPLY",
        ];
        assert_eq!(names(&sender.dumped(&entry)), dumped);
        let destroyed = [
            "ORIG",
            "REPLY",
            "ID",
            "STATUS",
            "COUNTERS_ORIG",
            "COUNTERS_REPLY",
            "TIMESTAMP",
            "MARK",
        ];
        assert_eq!(names(&sender.destroy(&entry)), destroyed);
        let begun = [
            "ORIG", "REPLY", "ID", "STATUS", "TIMEOUT", "HELP", "SECCTX", "MARK",
        ];
        assert_eq!(names(&sender.begun(&entry, About::default())), begun);
    }
}

/// The message as a kernel would send it that does not mark what holds others.
fn unmarked(message: &[u8]) -> Vec<u8> {
    fn clear(bytes: &mut [u8], cleared: &mut u32) {
        let mut at = 0;
        while at < bytes.len() {
            let len = usize::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
            let kind = u16::from_ne_bytes([bytes[at + 2], bytes[at + 3]]);
            if kind & 0x8000 != 0 {
                bytes[at + 2..at + 4].copy_from_slice(&(kind & 0x7fff).to_ne_bytes());
                *cleared += 1;
                clear(&mut bytes[at + 4..at + len], cleared);
            }
            at += len.next_multiple_of(4);
        }
    }
    let (mut bytes, mut cleared) = (message.to_vec(), 0);
    clear(&mut bytes[20..], &mut cleared);
    assert!(cleared >= 6, "two tuples with what is in them");
    bytes
}

/// ctnetlink of these kernels marks nests, nf_tables does not: the reader goes by the type.
#[test]
fn nests_are_read_without_their_mark() {
    for kernel in KERNELS {
        let sender = Sender::plain(kernel);
        let entries = entries::all(kernel);
        let mut datagrams: Vec<_> = entries
            .iter()
            .map(|e| unmarked(&sender.dumped(e)))
            .collect();
        datagrams.push(bytes::done(7, 4711));
        let mut run = Run::new();
        run.dump(READ_NS, DumpPass::Initial, &datagrams);
        run.assert_clean();
        let expected = entries.iter().map(|entry| found(&sender, entry)).collect();
        assert_flows(run.flows(), expected, kernel.release);
    }
}

/// The whole product: a recording of what an old kernel sent, replayed by the program.
#[test]
fn the_program_replays_what_an_old_kernel_sent() {
    for sender in senders() {
        let entries = entries::all(sender.kernel);
        let name = format!("conntracker-old-{}-{:?}", std::process::id(), sender);
        let name: String = name
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
            .collect();
        let path = std::env::temp_dir().join(name);
        let mut recorder = Recorder::create(&path).unwrap();
        let mut write = |what: What<'_>| {
            recorder
                .write(&Input {
                    at_ns: READ_NS,
                    what,
                })
                .unwrap()
        };
        write(What::DumpBegan(DumpPass::Initial));
        let truncated = false;
        let datagrams = sender.dump(&entries, ROOM);
        for bytes in &datagrams {
            write(What::Dump { bytes, truncated });
        }
        write(What::DumpEnded);
        write(What::Finished);
        recorder.finish().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_conntracker"));
        command
            .arg("replay")
            .arg(&path)
            .args(["-o", "-", "--format", "json"]);
        let output = command.output().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(output.status.code(), Some(0));
        let report = String::from_utf8(output.stdout).unwrap();
        let expected = entries.iter().map(|entry| found(&sender, entry)).collect();
        assert_flows(flows_of(&report), expected, &format!("{sender:?}"));
        let stats = stats_of(&report);
        assert_eq!(stats.get("complete").and_then(Value::as_bool), Some(true));
    }
}
