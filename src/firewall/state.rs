//! What a `kill -9` would leave behind, written down before it is made, so that the next start can
//! remove it: one small file under /run for each network namespace, gone while there is nothing.
//! What the kernel removes by itself (an owned table) is not in it.
//!
//! A namespace is named by its inode, which another may have later, also after a reboot: so the
//! file says which boot it is from, and what it names is removed only where it is as we made it.

use super::legacy::Chain;
use crate::sys::machine;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

/// Something to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// Our plain nf_tables table in this family (NFPROTO_*).
    NftTable(u8),
    /// Our chain in a legacy table.
    LegacyChain(Chain),
}

impl fmt::Display for Leftover {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leftover::NftTable(_) => write!(out, "nf_tables table {}", super::nft::TABLE),
            Leftover::LegacyChain(chain) => {
                let family = if chain.ipv6 { "IPv6" } else { "IPv4" };
                write!(
                    out,
                    "chain {} in the legacy {family} table {}",
                    super::legacy::CHAIN,
                    chain.table
                )
            }
        }
    }
}

/// The file of the namespace that we are in.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// Names the file; touches nothing.
    pub fn of_this_namespace() -> io::Result<StateFile> {
        let namespace = fs::metadata("/proc/self/ns/net")?.ino();
        Ok(StateFile {
            path: PathBuf::from(format!("/run/conntracker-{namespace}.state")),
        })
    }

    /// What an earlier run wrote down and did not remove.
    pub fn read(&self) -> io::Result<Vec<Leftover>> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.path);
        match file.and_then(io::read_to_string) {
            Ok(text) => {
                let mut lines = text.lines();
                let this_boot = lines.next().is_some_and(|boot| boot == boot_id());
                Ok(if this_boot {
                    lines.filter_map(parse).collect()
                } else {
                    Vec::new()
                })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Writes down what is about to be made.
    pub fn write(&self, leftovers: &[Leftover]) -> io::Result<()> {
        let flags = libc::O_NOFOLLOW;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(flags)
            .open(&self.path)?;
        writeln!(file, "{}", boot_id())?;
        for leftover in leftovers {
            writeln!(file, "{}", line(leftover))?;
        }
        Ok(())
    }

    /// Nothing is left to remove.
    pub fn clear(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

fn boot_id() -> String {
    machine::sysctl("kernel.random.boot_id").unwrap_or_default()
}

fn line(leftover: &Leftover) -> String {
    match leftover {
        Leftover::NftTable(family) => format!("nft-table {family}"),
        Leftover::LegacyChain(chain) => {
            let family = if chain.ipv6 { "ipv6" } else { "ipv4" };
            format!(
                "legacy-chain {family} {} {}",
                chain.table,
                chain.program.display()
            )
        }
    }
}

fn parse(line: &str) -> Option<Leftover> {
    let mut words = line.splitn(4, ' ');
    match (words.next()?, words.next()?, words.next(), words.next()) {
        ("nft-table", family, None, None) => Some(Leftover::NftTable(family.parse().ok()?)),
        ("legacy-chain", family, Some(table), Some(program)) => {
            Chain::recorded(family == "ipv6", table, program).map(Leftover::LegacyChain)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_can_be_read() {
        let chain = Chain {
            program: "/usr/sbin/ip6tables-legacy".into(),
            ipv6: true,
            table: "raw".to_owned(),
        };
        for leftover in [Leftover::NftTable(10), Leftover::LegacyChain(chain)] {
            assert_eq!(parse(&line(&leftover)), Some(leftover));
        }
    }

    #[test]
    fn what_cannot_be_ours_is_not_run() {
        for line in [
            "something else",
            "nft-table x",
            "legacy-chain ipv4 raw /tmp/evil",
            "legacy-chain ipv4 none /sbin/iptables",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
