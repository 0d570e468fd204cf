//! What a `kill -9` would leave behind, written down before it is made, so that the next start can
//! remove it: one small file under /run for each network namespace, gone while there is nothing.
//! What the kernel removes by itself (an owned table) is not in it.

use super::legacy::Chain;
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
            Ok(text) => Ok(text.lines().filter_map(parse).collect()),
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

fn line(leftover: &Leftover) -> String {
    match leftover {
        Leftover::NftTable(family) => format!("nft-table {family}"),
        Leftover::LegacyChain(chain) => {
            format!("legacy-chain {} {}", chain.table, chain.program.display())
        }
    }
}

fn parse(line: &str) -> Option<Leftover> {
    match line.split_once(' ')? {
        ("nft-table", family) => Some(Leftover::NftTable(family.parse().ok()?)),
        ("legacy-chain", chain) => {
            let (table, program) = chain.split_once(' ')?;
            Some(Leftover::LegacyChain(Chain {
                program: program.into(),
                table: table.to_owned(),
            }))
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
            table: "raw".to_owned(),
        };
        for leftover in [Leftover::NftTable(10), Leftover::LegacyChain(chain)] {
            assert_eq!(parse(&line(&leftover)), Some(leftover));
        }
        assert_eq!(parse("something else"), None);
    }
}
