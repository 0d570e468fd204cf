//! Writes the seeds: seeds FIXTURES SEEDS makes a folder for each target in SEEDS.

use conntracker::event::DumpPass;
use conntracker::run::input::{Input, What};
use conntracker::run::recording::Recording;
use conntracker::sys::xtables::RawTable;
use conntracker::wire::kernel::*;
use conntracker::wire::message::Messages;
use conntracker::wire::nftables::{ct_state, text_of};
use conntracker::wire::request::Request;
use conntracker_fuzz::rules::{Legacy, NfTables};
use conntracker_fuzz::{made, steps};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

fn main() -> io::Result<()> {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [fixtures, seeds] = paths.as_slice() else {
        return Err(io::Error::other("usage: seeds FIXTURES SEEDS"));
    };
    for entry in fs::read_dir(fixtures)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "ctrecord") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let bytes = fs::read(&path)?;
            write(seeds, "recording", &name, &bytes)?;
            datagrams(seeds, &name, &bytes)?;
            traces(seeds, &name, &bytes)?;
        }
    }
    meetings(seeds)?;
    traced_meetings(seeds)?;
    rules(seeds)?;
    nft_texts(seeds, &fs::read(fixtures.join("nft_rules.bin"))?)?;
    legacy_texts(seeds, &fs::read(fixtures.join("legacy_tables.bin"))?)?;
    command_lines(seeds)
}

fn write(seeds: &Path, target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = seeds.join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)
}

/// A recording as a whole and each of its datagrams alone; of those of one length, few.
fn datagrams(seeds: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    const ALIKE_MAX: usize = 3;
    let unreadable = |error| io::Error::other(format!("{name}: {error}"));
    let mut recording = Recording::new(bytes).map_err(unreadable)?;
    let mut whole = vec![0];
    let mut lens = Vec::new();
    let mut clock = 0u8;
    while let Some(input) = recording.read().map_err(unreadable)? {
        clock = clock.saturating_add(1);
        steps::append(&mut whole, &input, clock);
        if let What::Events { bytes, .. } | What::Dump { bytes, .. } = input.what {
            if lens.iter().filter(|len| **len == bytes.len()).count() < ALIKE_MAX {
                let mut alone = vec![0];
                steps::append(&mut alone, &input, clock);
                write(seeds, "datagram", &format!("{name}-{}", lens.len()), &alone)?;
                lens.push(bytes.len());
            }
        }
    }
    write(seeds, "datagram", name, &whole)
}

/// What a recording has of traces, with what stands between: some steps at a time, since the longest
/// input is short of a recording. Rules are known, but those that come are alone.
fn traces(seeds: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    const LEN_MAX: usize = 3000;
    const SETUP: u8 = 3; // the largest of the small tables
    let unreadable = |error| io::Error::other(format!("{name}: {error}"));
    let mut recording = Recording::new(bytes).map_err(unreadable)?;
    let (mut seed, mut count) = (vec![SETUP], 0);
    let (mut clock, mut is_traced) = (0u8, false);
    while let Some(input) = recording.read().map_err(unreadable)? {
        is_traced |= matches!(input.what, What::Trace(_));
        if !is_traced {
            continue;
        }
        clock = clock.wrapping_add(1);
        let mut step = Vec::new();
        steps::append(&mut step, &input, clock);
        if seed.len() + step.len() > LEN_MAX {
            write(seeds, "trace", &format!("{name}-{count}"), &seed)?;
            (seed, count) = (vec![SETUP], count + 1);
        }
        seed.extend(step);
    }
    if is_traced {
        write(seeds, "trace", &format!("{name}-{count}"), &seed)?;
    }
    Ok(())
}

/// Flows that are traced before conntrack tells of them, after, and never; more than a table holds.
fn traced_meetings(seeds: &Path) -> io::Result<()> {
    use made::{hit_of, kind};
    for setup in 0..64 {
        let mut seed = vec![setup];
        for sport in 0..24u8 {
            let hosts = 0b1010;
            let event = [kind::NEW, hosts, sport, 0, sport, 2, 7, 0];
            if sport % 3 == 0 {
                steps::append_made(&mut seed, event, sport);
            }
            for (source, place, rule) in [
                (0, 0b0000_0000, 1),
                (hit_of::LEGACY, 0, 1),
                (0, 0b0000_0010 | (sport & 1) << 3, sport),
            ] {
                let what = hit_of::HEAD | source;
                let hit = [what, hosts, sport, 0, sport, place, rule, sport];
                steps::append_hit(&mut seed, hit, sport);
            }
            if sport % 3 == 1 {
                steps::append_made(&mut seed, event, sport);
            }
        }
        write(seeds, "trace", &format!("made-{setup}"), &seed)?;
    }
    Ok(())
}

/// A recorded set of nf_tables.
struct RecordedSet<'a> {
    /// Its table's and its own.
    names: [&'a [u8]; 2],
    /// NFT_MSG_NEWSET and NFT_MSG_NEWSETELEM.
    messages: [&'a [u8]; 2],
}

/// Each recorded rule of nf_tables with the first set of its table that it names.
fn nft_texts(seeds: &Path, bytes: &[u8]) -> io::Result<()> {
    const NFTA_SET_NAME: u16 = 2; // also of the list of its elements
    let mut sets: Vec<RecordedSet<'_>> = Vec::new();
    let mut rules = Vec::new();
    for message in Messages::new(bytes) {
        let broken = |_| io::Error::other("nft_rules.bin is damaged");
        let message = message.map_err(broken)?;
        let (family, attributes) = message.netfilter().map_err(broken)?;
        let table = text_of(attributes, NFTA_TABLE_NAME).unwrap_or_default();
        let names = [
            table,
            text_of(attributes, NFTA_SET_NAME).unwrap_or_default(),
        ];
        let body = &message.body[4..];
        match message.kind & 0xff {
            NFT_MSG_NEWSET => sets.push(RecordedSet {
                names,
                messages: [body, &[]],
            }),
            NFT_MSG_NEWSETELEM => {
                let known = sets.iter_mut().find(|set| set.names == names);
                known.into_iter().for_each(|set| set.messages[1] = body);
            }
            NFT_MSG_NEWRULE => rules.push((family, table, body)),
            _ => {}
        }
    }
    for (at, (family, table, rule)) in rules.into_iter().enumerate() {
        let named = |set: &&RecordedSet<'_>| {
            let name = [set.names[1], b"\0"].concat();
            set.names[0] == table && rule.windows(name.len()).any(|part| part == name)
        };
        let found = sets.iter().find(named);
        let [set, elements] = found.map_or([&[][..]; 2], |set| set.messages);
        let seed = NfTables {
            family,
            set,
            elements,
            rule,
        };
        write(seeds, "rule_texts", &format!("nft-{at}"), &seed.write())?;
    }
    Ok(())
}

/// Each recorded legacy table.
fn legacy_texts(seeds: &Path, bytes: &[u8]) -> io::Result<()> {
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let (piece, after) = after.split_at(u32::from_ne_bytes(*len) as usize);
        pieces.push(piece);
        rest = after;
    }
    for (at, pieces) in pieces.chunks_exact(7).enumerate() {
        let damaged = || io::Error::other("legacy_tables.bin is damaged");
        let raw = RawTable::from_bytes(pieces[2]).ok_or_else(damaged)?;
        let mut words = [raw.valid_hooks; 11];
        words[1..6].copy_from_slice(&raw.hook_entry);
        words[6..].copy_from_slice(&raw.underflow);
        let seed = Legacy {
            ipv6: pieces[0] == b"6",
            words,
            saved: pieces[3],
            entries: &raw.entries,
        };
        write(seeds, "rule_texts", &format!("legacy-{at}"), &seed.write())?;
    }
    Ok(())
}

/// Flows that meet: more of one client's ports than a table holds; they end, and come again.
fn meetings(seeds: &Path) -> io::Result<()> {
    use made::kind::*;
    for setup in 0..16 {
        let mut seed = vec![setup];
        for kind in [NEW, UPDATE, DUMPED, DESTROY, NEW] {
            let around = |seed: &mut Vec<u8>, inputs: &[What<'_>]| {
                for what in inputs.iter().filter(|_| kind == DUMPED) {
                    steps::append(
                        seed,
                        &Input {
                            at_ns: 0,
                            what: *what,
                        },
                        0,
                    );
                }
            };
            around(&mut seed, &[What::DumpBegan(DumpPass::Resync)]);
            for sport in 0..20 {
                steps::append_made(&mut seed, [kind, 0b1010, sport, 0, sport, 2, 7, 0], sport);
            }
            around(&mut seed, &[What::DumpEnded, What::CaughtUp]);
        }
        write(seeds, "datagram", &format!("made-{setup}"), &seed)?;
    }
    Ok(())
}

fn rules(seeds: &Path) -> io::Result<()> {
    let mut rule = Request::new(0, 0, 0, 0);
    rule.put_str(NFTA_RULE_TABLE, "t");
    rule.nest(NFTA_RULE_EXPRESSIONS, |expressions| {
        ct_state(expressions);
        expressions.nest(NFTA_LIST_ELEM, |element| {
            element.put_str(NFTA_EXPR_NAME, "nat");
            element.nest(NFTA_EXPR_DATA, |nat| {
                nat.put_be32(NFTA_NAT_FAMILY, u32::from(NFPROTO_IPV4));
            });
        });
        for (kind, name) in [("match", "conntrack"), ("target", "MASQUERADE")] {
            expressions.nest(NFTA_LIST_ELEM, |element| {
                element.put_str(NFTA_EXPR_NAME, kind);
                element.nest(NFTA_EXPR_DATA, |data| data.put_str(NFTA_MATCH_NAME, name));
            });
        }
    });
    // The attributes stand behind struct nlmsghdr and struct nfgenmsg.
    write(seeds, "rules", "nftables", &rule.bytes()[20..])?;
    // Where struct ipt_entry and struct ip6t_entry have target_offset, and how long they are.
    for (name, target_offset, len) in [("ipv4", 88, 112), ("ipv6", 140, 168)] {
        let mut table = Vec::new();
        for matches in [&[][..], &["conntrack"], &["tcp", "state"]] {
            let mut entry = vec![0; len];
            let mut extension = |name: &str| {
                let at = entry.len();
                entry.extend(40u16.to_ne_bytes());
                entry.extend(name.as_bytes());
                entry.resize(at + 40, 0);
                at as u16
            };
            matches.iter().for_each(|name| {
                extension(name);
            });
            let target = extension("MASQUERADE");
            let next = entry.len() as u16;
            entry[target_offset..][..2].copy_from_slice(&target.to_ne_bytes());
            entry[target_offset + 2..][..2].copy_from_slice(&next.to_ne_bytes());
            table.extend(entry);
        }
        write(seeds, "rules", name, &table)?;
    }
    Ok(())
}

/// Every option of the help, alone and with each value that some option takes.
fn command_lines(seeds: &Path) -> io::Result<()> {
    const VALUES: [&str; 12] = [
        "-",
        "text",
        "json",
        "legacy",
        "off",
        "1000",
        "64m",
        "0.5h",
        "tcp,17",
        "10.0.0.0/8,::1",
        "fd00::/8",
        "80,8000-8080",
    ];
    let separators = |c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']' | '|' | '=' | '\'');
    let mut options: Vec<&str> = conntracker::cli::HELP
        .split(separators)
        .filter(|word| word.starts_with('-') && word.len() > 1)
        .collect();
    options.sort_unstable();
    options.dedup();
    for (at, option) in options.iter().enumerate() {
        write(
            seeds,
            "command_line",
            &format!("option-{at}"),
            option.as_bytes(),
        )?;
        for (value_at, value) in VALUES.iter().enumerate() {
            let line = format!("{option}\0{value}");
            write(
                seeds,
                "command_line",
                &format!("option-{at}-{value_at}"),
                line.as_bytes(),
            )?;
        }
    }
    for (name, words) in [
        (
            "replay",
            &[
                "replay",
                "file",
                "-o",
                "-",
                "--format=json",
                "--net",
                "10.0.0.0/8",
                "--port=80-90",
            ][..],
        ),
        (
            "capture",
            &[
                "-fo-",
                "--follow",
                "--for",
                "1.5m",
                "--record=r",
                "--activate",
                "nft",
                "--buffer=8k",
            ],
        ),
    ] {
        write(seeds, "command_line", name, words.join("\0").as_bytes())?;
    }
    Ok(())
}
