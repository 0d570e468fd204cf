//! What a `kill -9` would leave behind, written down before it is made, so that the next start, or
//! the watchdog, can remove it: one small file under /run for each network namespace, gone while
//! there is nothing. What the kernel removes by itself (an owned table) is not in it.
//!
//! A namespace is named by its inode, which another may have later, also after a reboot: so the
//! file says which boot it is from, and what it names is removed only where it is as we made it.

use super::legacy::{Chain, Purpose};
use super::nf_log::LogBinding;
use crate::error::{Error, Result};
use crate::sys::machine;
use crate::sys::place::Place;
use rustix::fs::{Access, AtFlags, accessat};
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;

/// Something to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// Our plain nf_tables table in this family (NFPROTO_*).
    NftTable(u8),
    /// Our plain nf_tables table that makes packets traced, in this family (NFPROTO_*).
    TraceTable(u8),
    /// Our chain in a legacy table.
    LegacyChain(Chain),
    /// Where the lines of the legacy tables go.
    LogBinding(LogBinding),
}

impl Leftover {
    /// Whether it has packets traced.
    pub fn traces(&self) -> bool {
        match self {
            Leftover::TraceTable(_) => true,
            Leftover::LegacyChain(chain) => chain.purpose == Purpose::Trace,
            Leftover::NftTable(_) | Leftover::LogBinding(_) => false,
        }
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leftover::NftTable(_) => write!(out, "nf_tables table {}", super::nft::TABLE),
            Leftover::TraceTable(_) => write!(out, "nf_tables table {}", super::instrument::TABLE),
            Leftover::LegacyChain(chain) => {
                let family = if chain.ipv6 { "IPv6" } else { "IPv4" };
                write!(
                    out,
                    "chain {} in the legacy {family} table {}",
                    chain.purpose.chain(),
                    chain.table
                )
            }
            Leftover::LogBinding(binding) => write!(out, "{binding}"),
        }
    }
}

/// The file of the namespace that we are in.
#[derive(Debug)]
pub struct StateFile {
    place: Place,
}

impl StateFile {
    /// Names the file; touches nothing.
    pub fn of_this_namespace() -> io::Result<StateFile> {
        let namespace = fs::metadata("/proc/self/ns/net")?.ino();
        Ok(StateFile {
            place: Place::in_run(&format!("conntracker-{namespace}.state"))?,
        })
    }

    /// What was written down and not removed.
    pub fn read(&self) -> io::Result<Vec<Leftover>> {
        let Some(file) = self.place.open_to_read()? else {
            return Ok(Vec::new());
        };
        let text = io::read_to_string(file)?;
        let mut lines = text.lines();
        let this_boot = lines.next().is_some_and(|boot| boot == boot_id());
        Ok(if this_boot {
            lines.filter_map(parse).collect()
        } else {
            Vec::new()
        })
    }

    /// Writes down what is about to be made, besides what is written down already.
    pub fn add(&self, leftovers: &[Leftover]) -> io::Result<()> {
        let mut all = self.read()?;
        for leftover in leftovers {
            if !all.contains(leftover) {
                all.push(leftover.clone());
            }
        }
        self.replace(&all)
    }

    /// These are removed.
    pub fn remove(&self, leftovers: &[Leftover]) -> io::Result<()> {
        let mut all = self.read()?;
        all.retain(|leftover| !leftovers.contains(leftover));
        self.replace(&all)
    }

    /// Nothing but these is left to remove. Whoever reads the file sees all of it, or that of before.
    pub fn replace(&self, leftovers: &[Leftover]) -> io::Result<()> {
        if leftovers.is_empty() {
            return self.place.remove();
        }
        let lines: Vec<String> = leftovers.iter().map(line).collect();
        // Always the same name, so that those of a hundred killed runs do not pile up.
        let draft = self.place.beside(".draft")?;
        draft.remove()?;
        let mut file = draft.create_new()?;
        file.write_all(format!("{}\n{}\n", boot_id(), lines.join("\n")).as_bytes())?;
        draft.move_to(&self.place)
    }
}

/// Writes down what is about to be made, in the file of this namespace.
pub fn write_down(leftovers: &[Leftover]) -> Result<()> {
    let file = StateFile::of_this_namespace();
    file.and_then(|file| file.add(leftovers)).map_err(unwritten)
}

fn unwritten(error: io::Error) -> Error {
    let doing = "writing down under /run what a kill -9 would leave behind";
    Error::failed(doing, error, "")
}

/// Whether `write_down` could do it.
pub fn could_be_written_down() -> Result<()> {
    let access = Access::WRITE_OK | Access::EXEC_OK;
    let file = StateFile::of_this_namespace().map_err(unwritten)?;
    let accessible = accessat(file.place.folder(), ".", access, AtFlags::EACCESS);
    accessible.map_err(|errno| unwritten(errno.into()))
}

/// Whether an earlier run has left this, which the next start removes before anything else.
pub fn is_written_down(leftover: &Leftover) -> bool {
    let left = StateFile::of_this_namespace().and_then(|file| file.read());
    left.is_ok_and(|left| left.contains(leftover))
}

/// What `write_down` is told to do, for people.
pub fn told(leftover: &Leftover) -> String {
    let file = StateFile::of_this_namespace();
    let path = file.map_or("a file under /run".to_owned(), |file| {
        file.place.shown().to_owned()
    });
    format!("write down in {path} that there is {leftover}, for the next start after a kill -9")
}

/// These are removed, or were never made.
pub fn cross_out(leftovers: &[Leftover]) -> Result<()> {
    let file = StateFile::of_this_namespace();
    file.and_then(|file| file.remove(leftovers))
        .map_err(|error| Error::failed("clearing our file under /run", error, ""))
}

fn boot_id() -> String {
    machine::sysctl("kernel.random.boot_id").unwrap_or_default()
}

/// As it stands in the file.
pub(super) fn line(leftover: &Leftover) -> String {
    match leftover {
        Leftover::NftTable(family) => format!("nft-table {family}"),
        Leftover::TraceTable(family) => format!("nft-trace-table {family}"),
        Leftover::LegacyChain(chain) => {
            let kind = match chain.purpose {
                Purpose::Activate => "legacy-chain",
                Purpose::Trace => "legacy-trace-chain",
            };
            let family = if chain.ipv6 { "ipv6" } else { "ipv4" };
            format!(
                "{kind} {family} {} {}",
                chain.table,
                chain.program.display()
            )
        }
        Leftover::LogBinding(binding) => format!("nf-log {}", binding.words()),
    }
}

/// What a line of the file says; `None` where that cannot be ours.
pub(super) fn parse(line: &str) -> Option<Leftover> {
    let mut words = line.splitn(4, ' ');
    let kind = words.next()?;
    match (kind, words.next()?, words.next(), words.next()) {
        ("nft-table", family, None, None) => Some(Leftover::NftTable(family.parse().ok()?)),
        ("nft-trace-table", family, None, None) => Some(Leftover::TraceTable(family.parse().ok()?)),
        ("nf-log", family, Some(old), Some(ours)) => {
            LogBinding::recorded(family.parse().ok()?, old, ours).map(Leftover::LogBinding)
        }
        (kind, family, Some(table), Some(program)) => {
            let purpose = match kind {
                "legacy-chain" => Purpose::Activate,
                "legacy-trace-chain" => Purpose::Trace,
                _ => return None,
            };
            Chain::recorded(purpose, family == "ipv6", table, program).map(Leftover::LegacyChain)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_of_each() -> Vec<Leftover> {
        let chain = |purpose, ipv6, program: &str| {
            Leftover::LegacyChain(Chain {
                purpose,
                program: program.into(),
                ipv6,
                table: "raw".to_owned(),
            })
        };
        vec![
            Leftover::NftTable(10),
            Leftover::TraceTable(1),
            chain(Purpose::Activate, true, "/usr/sbin/ip6tables-legacy"),
            chain(Purpose::Trace, false, "/sbin/iptables"),
            Leftover::LogBinding(LogBinding::recorded(2, "nf_log_ipv4", "NONE").unwrap()),
            Leftover::LogBinding(LogBinding::recorded(10, "NONE", "nfnetlink_log").unwrap()),
        ]
    }

    #[test]
    fn what_is_written_down_can_be_read() {
        for leftover in some_of_each() {
            assert_eq!(parse(&line(&leftover)), Some(leftover));
        }
    }

    #[test]
    fn lines_come_and_go_one_by_one() {
        let name = format!("conntracker-state-test-{}.state", std::process::id());
        let path = std::env::temp_dir().join(name);
        let place = Place::find(&path).unwrap();
        let file = StateFile { place };
        let all = some_of_each();
        let (first, rest) = all.split_at(2);
        file.add(first).unwrap();
        file.add(&all).unwrap();
        assert_eq!(file.read().unwrap(), all);
        file.remove(first).unwrap();
        assert_eq!(file.read().unwrap(), rest);
        file.remove(rest).unwrap();
        assert!(!path.exists() && file.read().unwrap().is_empty());
        fs::write(&path, "another boot\nnft-table 1\n").unwrap();
        assert!(file.read().unwrap().is_empty());
        file.replace(&[]).unwrap();
        let link = |name| std::os::unix::fs::symlink("/etc/hostname", name).unwrap();
        link(&path);
        assert!(file.read().is_err() && file.add(first).is_err());
        file.replace(&[]).unwrap();
        let hostname = fs::read("/etc/hostname").unwrap();
        link(&path.with_extension("state.draft"));
        file.add(first).unwrap();
        assert_eq!(file.read().unwrap(), first);
        assert_eq!(fs::read("/etc/hostname").unwrap(), hostname);
        file.replace(&[]).unwrap();
        assert!(!path.with_extension("state.draft").exists());
    }

    #[test]
    fn what_cannot_be_ours_is_not_run() {
        for line in [
            "something else",
            "nft-table x",
            "nft-trace-table 1 2",
            "legacy-chain ipv4 raw /tmp/evil",
            "legacy-chain ipv4 raw /sbin/reboot",
            "legacy-chain ipv4 raw /sbin/../tmp/iptables",
            "legacy-chain ipv6 raw /sbin/iptables",
            "legacy-chain ipv4 none /sbin/iptables",
            "legacy-trace-chain ipv4 raw /tmp/evil",
            "another-chain ipv4 raw /sbin/iptables",
            "nf-log 2 ../../kernel NONE",
            "nf-log 2 nf_log_ipv4 b",
            "nf-log 2 nf_log_ipv4",
            "nf-log 2  NONE",
            "nf-log 7 nf_log_ipv4 NONE",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
