//! For kernels without nf_tables: a chain of our own in a legacy table, made by the iptables program
//! at hand. Nothing jumps to the chain; that its one rule refers to conntrack is enough.

use crate::error::{Error, Result};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The name of our chain.
pub const CHAIN: &str = "CONNTRACKER";

/// Where the program may be; what the environment's PATH says does not matter to a root process.
const FOLDERS: [&str; 6] = [
    "/usr/sbin",
    "/sbin",
    "/usr/bin",
    "/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
];

/// A chain of ours, or the place for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The iptables program, IPv4 or IPv6.
    pub program: PathBuf,
    /// The table that the chain is in.
    pub table: String,
}

impl Chain {
    /// Finds the program, and a table that is loaded already where there is one: asking for another
    /// would load it for good.
    pub fn place(ipv6: bool) -> Result<Chain> {
        let (names, listing) = if ipv6 {
            (
                ["ip6tables-legacy", "ip6tables"],
                "/proc/net/ip6_tables_names",
            )
        } else {
            (["iptables-legacy", "iptables"], "/proc/net/ip_tables_names")
        };
        let program = names
            .iter()
            .find_map(|name| find_program(name))
            .ok_or_else(|| {
                Error::failed(
                    format_args!("looking for {}", names[0]),
                    "not found",
                    "install iptables, or use --activate off",
                )
            })?;
        let loaded = fs::read_to_string(listing).unwrap_or_default();
        let known = |name: &&str| ["raw", "mangle", "filter", "nat", "security"].contains(name);
        let table = loaded.lines().find(known).unwrap_or("raw").to_owned();
        Ok(Chain { program, table })
    }

    /// Makes the chain and its rule.
    pub fn create(&self) -> Result<()> {
        self.run(&["-N", CHAIN])?;
        self.run(&["-A", CHAIN, "-m", "conntrack", "--ctstate", "INVALID"])
            .inspect_err(|_| {
                let _ = self.run(&["-X", CHAIN]); // the first error is the one to tell
            })
    }

    /// Removes the chain; one that is not there is fine.
    pub fn remove(&self) -> Result<()> {
        if self.run(&["-F", CHAIN]).is_err() {
            // Not there, or not reachable: removing it tells which.
            return match self.run(&["-n", "-L", CHAIN]) {
                Ok(()) => self.run(&["-X", CHAIN]),
                Err(_) => Ok(()),
            };
        }
        self.run(&["-X", CHAIN])
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let doing = || {
            format!(
                "running {} -w -t {} {}",
                self.program.display(),
                self.table,
                arguments.join(" ")
            )
        };
        let output = Command::new(&self.program)
            .args(["-w", "-t", &self.table])
            .args(arguments)
            .env_clear()
            .process_group(0) // a Ctrl-C meant for us must not end it half-way
            .stdin(Stdio::null())
            .output()
            .map_err(|error| Error::failed(doing(), error, ""))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let first_line = said
            .lines()
            .next()
            .unwrap_or("no message")
            .escape_default()
            .to_string();
        Err(Error::failed(doing(), first_line, ""))
    }
}

/// The legacy program of that name: `iptables` may be the one that speaks nf_tables.
fn find_program(name: &str) -> Option<PathBuf> {
    FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|program| {
            let output = Command::new(program)
                .arg("--version")
                .env_clear()
                .stdin(Stdio::null())
                .output();
            output.is_ok_and(|output| {
                output.status.success()
                    && !String::from_utf8_lossy(&output.stdout).contains("nf_tables")
            })
        })
}
