//! For kernels without nf_tables: a chain of our own in a legacy table, made by the iptables program
//! at hand. To switch conntrack on nothing needs to jump to it: that its one rule refers to conntrack
//! is enough. To make packets traced, the chains that packets enter raw by jump to it.

use super::Removal;
use super::state::{self, Leftover};
use super::trace_target;
use super::watchdog::{self, Errand};
use crate::error::{Error, Result};
use crate::features;
use crate::limits::{TRACE_KEY_TIMEOUT_MS, TRACE_RATE_LEGACY_MAX};
use crate::sys::clock;
use crate::sys::modules::{IP6TABLE_RAW, IPTABLE_RAW, Presence};
use crate::sys::rights::{self, Right};
use crate::sys::xtables;
use crate::wire::xtables::chains::{Hooks, Places};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fmt::Display;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// The name of the chain that switches conntrack on.
pub const CHAIN: &str = "CONNTRACKER";
/// The name of the chain that makes packets traced.
pub const TRACE_CHAIN: &str = "CONNTRACKER_TRACE";
/// The table that it is in: no other takes the target TRACE.
pub const TRACE_TABLE: &str = "raw";
/// By which the kernel counts flows for that chain: it tells its rule from any other.
const HASHLIMIT: [&str; 2] = ["--hashlimit-name", "conntracker"];

/// What switches conntrack on: a rule that refers to it, and has no target.
const RULE: [&str; 4] = ["-m", "conntrack", "--ctstate", "INVALID"];

/// What a chain of ours is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It switches conntrack on.
    Activate,
    /// It makes packets traced.
    Trace,
}

impl Purpose {
    /// The chain's name.
    pub fn chain(self) -> &'static str {
        match self {
            Purpose::Activate => CHAIN,
            Purpose::Trace => TRACE_CHAIN,
        }
    }

    /// The built-in chains whose first rule jumps to it.
    fn callers(self) -> &'static [&'static str] {
        match self {
            Purpose::Activate => &[],
            Purpose::Trace => &["PREROUTING", "OUTPUT"],
        }
    }

    /// What to do where there is no program to make it with.
    fn without_program(self) -> &'static str {
        match self {
            Purpose::Activate => "install iptables, or use --activate off",
            Purpose::Trace => "install iptables",
        }
    }

    /// Whether the program lists a chain of ours so. Each version has its own way with numbers.
    fn is_ours(self, listing: &str) -> bool {
        let chain = self.chain();
        let mut lines = listing.lines().map(str::trim);
        let rule = format!("-A {chain} {}", RULE.join(" "));
        let is_rule = |line: &str| match self {
            Purpose::Activate => line == rule,
            Purpose::Trace => {
                let words: Vec<&str> = line.split_whitespace().collect();
                words.starts_with(&["-A", chain])
                    && words.windows(2).any(|pair| pair == HASHLIMIT)
                    && words.ends_with(&["-j", "TRACE"])
            }
        };
        lines.next() == Some(&format!("-N {chain}")) && lines.all(is_rule)
    }
}

/// The rule that makes packets traced: of each flow a few, and of all flows together `rate` a second.
fn trace_rule(rate: u32, everything: bool) -> Vec<String> {
    let (each_minute, at_once) = if everything {
        ("6/min", "5")
    } else {
        ("2/min", "3")
    };
    let rate = rate.clamp(1, TRACE_RATE_LEGACY_MAX);
    let (a_second, burst) = (format!("{rate}/s"), rate.to_string());
    let expire = TRACE_KEY_TIMEOUT_MS.to_string();
    let words = [
        &["-m", "hashlimit", "--hashlimit-upto", each_minute][..],
        &["--hashlimit-burst", at_once][..],
        &["--hashlimit-mode", "srcip,srcport,dstip,dstport"][..],
        &HASHLIMIT[..],
        &["--hashlimit-htable-expire", &expire][..],
        &["-m", "limit", "--limit", &a_second][..],
        &["--limit-burst", &burst, "-j", "TRACE"][..],
    ];
    words.concat().into_iter().map(str::to_owned).collect()
}

const PROGRAM_TIMEOUT: Duration = Duration::from_secs(5);

/// More than any rule set: 600,000 rules of a hundred bytes.
pub(super) const OUTPUT_LEN_MAX: usize = 64 << 20;

pub(super) const TABLES: [&str; 5] = ["raw", "mangle", "filter", "nat", "security"];

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
    /// What it is for.
    pub purpose: Purpose,
    /// The iptables program of its family.
    pub program: PathBuf,
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// The table that the chain is in.
    pub table: String,
}

impl Chain {
    /// The place for a chain that switches conntrack on: a table that is loaded already where there is
    /// one, since asking for another would load it for good.
    pub fn place(ipv6: bool) -> Result<Chain> {
        let mut chain = Chain::place_of(Purpose::Activate, ipv6)?;
        let known = |name: &String| TABLES.contains(&name.as_str());
        if let Some(table) = xtables::loaded_tables(ipv6).into_iter().find(known) {
            chain.table = table;
        }
        Ok(chain)
    }

    /// The place for a chain that makes packets traced, which can only be done in raw.
    pub fn place_for_trace(ipv6: bool) -> Result<Chain> {
        Chain::place_of(Purpose::Trace, ipv6)
    }

    fn place_of(purpose: Purpose, ipv6: bool) -> Result<Chain> {
        let names = programs(ipv6);
        if features::Legacy::built().is_none() {
            return Err(left_out(format_args!("looking for {}", names[0])));
        }
        let program = names
            .iter()
            .find_map(|name| find_program(name))
            .ok_or_else(|| {
                let doing = format_args!("looking for {}", names[0]);
                Error::failed(doing, "not found", purpose.without_program())
            })?;
        Ok(Chain {
            purpose,
            program,
            ipv6,
            table: TRACE_TABLE.to_owned(),
        })
    }

    /// The chain of an earlier run, as that wrote it down; `None` where it cannot have been ours.
    pub fn recorded(purpose: Purpose, ipv6: bool, table: &str, program: &str) -> Option<Chain> {
        let table = TABLES.iter().find(|known| **known == table)?;
        let mut known = FOLDERS
            .iter()
            .flat_map(|folder| programs(ipv6).map(|name| Path::new(folder).join(name)));
        known.find(|known| known.as_os_str() == program)?;
        Some(Chain {
            purpose,
            program: program.into(),
            ipv6,
            table: (*table).to_owned(),
        })
    }

    /// Whether there is a chain of that name, whoever made it.
    pub fn exists(&self) -> Result<bool> {
        Ok(self.listing()?.is_some())
    }

    /// Whether it could be made, as far as that can be seen without running the program on the table,
    /// which would load it.
    pub fn could_be_made(&self) -> Result<()> {
        let chain = self.purpose.chain();
        let what = Leftover::LegacyChain(self.clone());
        let doing = format_args!("making {what}");
        let rights = rights::missing(&[Right::NetAdmin, Right::NetRaw]);
        if !rights.is_empty() {
            let cause = format!("it needs {}", rights.join(" and "));
            return Err(Error::failed(doing, cause, "run it as root"));
        }
        state::could_be_written_down()?;
        if self.purpose == Purpose::Trace {
            if let Some(cause) = trace_target::foreseen_refusal() {
                return Err(Error::failed(doing, cause, trace_target::ADVICE));
            }
        }
        if xtables::loaded_tables(self.ipv6).contains(&self.table) {
            let Ok(table) = xtables::table(self.ipv6, &self.table) else {
                return Ok(()); // the program reads it in its own way
            };
            let hooks = Hooks {
                valid: table.valid_hooks,
                entry: table.hook_entry,
                underflow: table.underflow,
            };
            let mut places = Places::new(&table.entries, self.ipv6, hooks).flatten();
            let is_left = state::is_written_down(&what);
            if !is_left && places.any(|place| place.chain.name == chain.as_bytes()) {
                let cause = "there is one already, which is not ours";
                return Err(Error::failed(doing, cause, ""));
            }
            return Ok(());
        }
        let raw = [IPTABLE_RAW, IP6TABLE_RAW][usize::from(self.ipv6)];
        match raw.presence() {
            Presence::Absent => {
                let cause = format!("this kernel has no {}", raw.module);
                Err(Error::failed(doing, cause, ""))
            }
            _ => Ok(()),
        }
    }

    /// Makes the chain and its rule. After an error `remove` removes what was made of it.
    pub fn create(&self) -> Result<()> {
        self.make(&RULE)
    }

    /// Makes the chain that makes packets traced, and lets packets into it. After an error `remove`
    /// removes what was made of it.
    pub fn create_trace(&self, rate: u32, everything: bool) -> Result<()> {
        let rule = trace_rule(rate, everything);
        let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
        self.make(&rule).map_err(|error| {
            let said = error.to_string();
            match trace_target::refusal(&said) {
                Some(cause) => Error::failed(said, cause, trace_target::ADVICE),
                None => error,
            }
        })
    }

    fn make(&self, rule: &[&str]) -> Result<()> {
        let chain = self.purpose.chain();
        self.must(&["-N", chain])?;
        self.must(&[&["-A", chain], rule].concat())?;
        for caller in self.purpose.callers() {
            self.must(&["-I", caller, "1", "-j", chain])?;
        }
        Ok(())
    }

    /// Lets no more packets into the chain, which stays.
    pub fn detach(&self) -> Result<()> {
        match watchdog::ask(&Errand::Detach(self)) {
            Some(answer) => answer.map(drop),
            None => self.detach_here(),
        }
    }

    pub(super) fn detach_here(&self) -> Result<()> {
        const NO_SUCH_RULE: i32 = 1;
        let chain = self.purpose.chain();
        for caller in self.purpose.callers() {
            let check = ["-C", caller, "-j", chain];
            let output = self.run(&check)?;
            match output.status.code() {
                Some(0) => self.must(&["-D", caller, "-j", chain])?,
                Some(NO_SUCH_RULE) => {}
                _ => return Err(self.failed(&check, &output)),
            }
        }
        Ok(())
    }

    /// Removes the chain where it is as we made it; packets are let out of it in any case.
    pub fn remove(&self) -> Result<Removal> {
        if features::Legacy::built().is_none() {
            let what = Leftover::LegacyChain(self.clone());
            return Err(left_out(format_args!("removing {what}")));
        }
        match watchdog::ask(&Errand::Remove(self)) {
            Some(answer) => Ok(match answer?.as_str() {
                "NotThere" => Removal::NotThere,
                "NotOurs" => Removal::NotOurs,
                _ => Removal::Removed,
            }),
            None => self.remove_here(),
        }
    }

    pub(super) fn remove_here(&self) -> Result<Removal> {
        if !xtables::loaded_tables(self.ipv6).contains(&self.table) {
            return Ok(Removal::NotThere); // asking for it would load it
        }
        let Some(listing) = self.listing()? else {
            return Ok(Removal::NotThere);
        };
        self.detach_here()?;
        if !self.purpose.is_ours(&listing) {
            return Ok(Removal::NotOurs);
        }
        self.must(&["-F", self.purpose.chain()])?;
        self.must(&["-X", self.purpose.chain()])?;
        Ok(Removal::Removed)
    }

    /// The chain as rules, `None` where there is none. That the program could not look (it did not get
    /// the lock, say) is an error, and not the same.
    fn listing(&self) -> Result<Option<String>> {
        const NO_SUCH_CHAIN: i32 = 1; // iptables(8): 2 is wrong usage, 3 and 4 are the system's
        let list = ["-S", self.purpose.chain()];
        let output = self.run(&list)?;
        match output.status.code() {
            Some(0) => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
            Some(NO_SUCH_CHAIN) => Ok(None),
            _ => Err(self.failed(&list, &output)),
        }
    }

    fn must(&self, arguments: &[&str]) -> Result<()> {
        let output = self.run(arguments)?;
        if output.status.success() {
            Ok(())
        } else {
            Err(self.failed(arguments, &output))
        }
    }

    fn failed(&self, arguments: &[&str], output: &Output) -> Error {
        let said = String::from_utf8_lossy(&output.stderr);
        Error::failed(
            self.doing(arguments),
            said.lines().next().unwrap_or("no message"),
            "",
        )
    }

    fn doing(&self, arguments: &[&str]) -> String {
        let (program, table) = (self.program.display(), &self.table);
        format!("running {program} -w -t {table} {}", arguments.join(" "))
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        if features::Legacy::built().is_none() {
            return Err(left_out(self.doing(arguments)));
        }
        let child = Command::new(&self.program)
            .args(["-w", "-t", &self.table])
            .args(arguments)
            .env_clear()
            .process_group(0) // a Ctrl-C meant for us must not end it half-way
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        child
            .and_then(bounded)
            .map_err(|error| Error::failed(self.doing(arguments), error, ""))
    }
}

/// The rules of a table as text: what `iptables-legacy-save -t TABLE` prints. `None` where the table is
/// not loaded (asking would load it), or there is no such program, or it fails.
pub fn saved(ipv6: bool, table: &str) -> Option<String> {
    match watchdog::ask(&Errand::Save { ipv6, table }) {
        Some(answer) => answer.ok(),
        None => saved_here(ipv6, table),
    }
}

pub(super) fn saved_here(ipv6: bool, table: &str) -> Option<String> {
    features::Legacy::built()?;
    static PROGRAMS: [OnceLock<Option<PathBuf>>; 2] = [const { OnceLock::new() }; 2];
    if !xtables::loaded_tables(ipv6)
        .iter()
        .any(|name| name == table)
    {
        return None;
    }
    let names = if ipv6 {
        ["ip6tables-legacy-save", "ip6tables-save"]
    } else {
        ["iptables-legacy-save", "iptables-save"]
    };
    let [ipv4_program, ipv6_program] = &PROGRAMS;
    let program = if ipv6 { ipv6_program } else { ipv4_program };
    let find = || names.iter().find_map(|name| find_program(name));
    let child = Command::new(program.get_or_init(find).as_ref()?)
        .args(["-t", table])
        .env_clear()
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let output = child.and_then(bounded).ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success().then(|| text.into_owned())
}

/// What is said where something has to be run that this build does not run.
fn left_out(doing: impl Display) -> Error {
    const LEFT_OUT: &str = "this build runs no iptables (built without the feature `legacy`)";
    Error::failed(doing, LEFT_OUT, "")
}

/// Waits for the program, which itself waits for the lock of all iptables programs; somebody who
/// never lets go of that must not keep us. While it waits it has changed nothing.
fn bounded(mut child: Child) -> io::Result<Output> {
    let until = clock::monotonic() + PROGRAM_TIMEOUT;
    let result = output(&mut child, until);
    if result.is_err() {
        child.kill()?;
        child.wait()?;
    }
    result
}

/// What it prints is read while it runs, since it may be more than a pipe holds; what it complains
/// of is not.
fn output(child: &mut Child, until: Duration) -> io::Result<Output> {
    let mut printed = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        read_all(&mut pipe, &mut printed, until)?;
    }
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        remaining(until)?;
        std::thread::sleep(Duration::from_millis(2));
    };
    let mut complaints = Vec::new();
    if let Some(mut pipe) = child.stderr.take() {
        pipe.read_to_end(&mut complaints)?;
    }
    Ok(Output {
        status,
        stdout: printed,
        stderr: complaints,
    })
}

fn read_all(pipe: &mut ChildStdout, printed: &mut Vec<u8>, until: Duration) -> io::Result<()> {
    let mut chunk = [0; 4096];
    while printed.len() <= OUTPUT_LEN_MAX {
        let timeout = Timespec::try_from(remaining(until)?).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        match pipe.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(len) => printed.extend(chunk.iter().take(len)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

fn remaining(until: Duration) -> io::Result<Duration> {
    until.checked_sub(clock::monotonic()).ok_or_else(|| {
        let cause = "it did not end: does another program hold /run/xtables.lock?";
        io::Error::new(io::ErrorKind::TimedOut, cause)
    })
}

/// The names of the program of a family.
fn programs(ipv6: bool) -> [&'static str; 2] {
    if ipv6 {
        ["ip6tables-legacy", "ip6tables"]
    } else {
        ["iptables-legacy", "iptables"]
    }
}

/// The legacy program of that name: `iptables` may be the one that speaks nf_tables.
fn find_program(name: &str) -> Option<PathBuf> {
    FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|program| {
            let child = Command::new(program)
                .arg("--version")
                .env_clear()
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn();
            child.and_then(bounded).is_ok_and(|output| {
                output.status.success()
                    && !String::from_utf8_lossy(&output.stdout).contains("nf_tables")
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    #[test]
    fn more_than_a_pipe_holds_is_read() {
        let output = bounded(shell("head -c 3000000 /dev/zero; echo no >&2; exit 4")).unwrap();
        assert_eq!(output.stdout, vec![0; 3_000_000]);
        assert_eq!(output.stderr, b"no\n");
        assert_eq!(output.status.code(), Some(4));
    }

    #[test]
    fn a_program_that_does_not_end_is_given_up() {
        for script in ["exec sleep 60", "exec >&-; exec sleep 60", "exec yes"] {
            let mut child = shell(script);
            let until = clock::monotonic() + Duration::from_millis(50);
            let error = output(&mut child, until).unwrap_err();
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{script}");
        }
    }

    #[test]
    fn a_chain_is_ours_with_its_own_rule_and_while_it_is_empty() {
        // As iptables 1.8.9 lists a rule that was made with 3000/s.
        const LISTED: &str = "-A CONNTRACKER_TRACE -m hashlimit --hashlimit-upto 2/min \
            --hashlimit-burst 3 --hashlimit-mode srcip,srcport,dstip,dstport \
            --hashlimit-name conntracker --hashlimit-htable-expire 10000 \
            -m limit --limit 3333/sec --limit-burst 3000 -j TRACE";
        let ours = |lines: &[&str]| Purpose::Trace.is_ours(&lines.join("\n"));
        let new = "-N CONNTRACKER_TRACE";
        assert!(ours(&[new]) && ours(&[new, LISTED]));
        assert!(!ours(&[]) && !ours(&[LISTED]));
        assert!(!ours(&[new, LISTED, "-A CONNTRACKER_TRACE -j DROP"]));
        assert!(!ours(&[new, &LISTED.replace("TRACE", "DROP")]));
        assert!(!Purpose::Activate.is_ours(new));
        let rule = "-A CONNTRACKER -m conntrack --ctstate INVALID";
        assert!(Purpose::Activate.is_ours(&format!("-N CONNTRACKER\n{rule}")));
        assert!(!Purpose::Activate.is_ours(&format!("-N CONNTRACKER\n{rule} -j DROP")));
    }

    #[test]
    fn what_is_advised_is_about_what_was_wanted() {
        assert!(Purpose::Activate.without_program().contains("--activate"));
        assert!(!Purpose::Trace.without_program().contains("--activate"));
    }

    #[test]
    fn the_rate_stays_within_what_the_program_takes() {
        for (asked, taken) in [(0, "1/s"), (2000, "2000/s"), (u32::MAX, "10000/s")] {
            let rule = trace_rule(asked, false);
            let at = rule.iter().position(|word| word == "--limit").unwrap();
            assert_eq!(rule[at + 1], taken);
        }
    }
}
