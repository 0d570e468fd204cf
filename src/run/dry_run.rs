//! `--dry-run`: says what a capture would do to the system, and does nothing.
//!
//! One line each, in the order of `capture`. What would refuse the capture is named as it is met; the
//! capture would end there, so nothing but further refusals follows. What is not known before it is done
//! is called expected. The ladders are those of `check`.

use super::check::foreseen::Foreseen;
use super::check::place::{fitness, process};
use super::source::{groups, wanted_buffer};
use crate::cli::{Activation, Options, Output};
use crate::error::{EXIT_FAILED, Result};
use crate::features;
use crate::firewall::activation::Idle;
use crate::firewall::prospect::Prospect;
use crate::firewall::state::{StateFile, could_be_written_down};
use crate::limits::{BYTES_PER_FLOW, STATUS_FILE_INTERVAL};
use crate::owner::ladder::PROCFS;
use crate::owner::probe_events;
use crate::report::block::Block;
use crate::report::escaped;
use crate::sys::modules::{CTNETLINK, NF_CONNTRACK, NFNETLINK, Presence};
use crate::sys::rights::Right;
use crate::sys::{instance, machine};
use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

/// Prints what would be done, one line each. Returns the exit status.
pub fn run(options: &Options) -> Result<u8> {
    features::Check::needed_by("--dry-run")?;
    let foreseen = Foreseen::of(options);
    let mut plan = Plan::default();
    if !machine::is_root() {
        plan.fail("starting a capture: it needs root");
    }
    before_sockets(options, &mut plan);
    sockets(options, &mut plan);
    owners(options, &foreseen, &mut plan);
    activation(&foreseen, options, &mut plan);
    tracing(options, &foreseen, &mut plan);
    files(options, &mut plan);
    after_the_start(options, &mut plan);
    at_the_end(options, &foreseen, &mut plan);
    super::log::print(&String::from_utf8_lossy(plan.text.bytes()))?;
    Ok(if plan.fails { EXIT_FAILED } else { 0 })
}

/// What would be done, as far as it would come.
#[derive(Debug, Default)]
struct Plan {
    text: Block,
    fails: bool,
}

impl Plan {
    /// A step, unless the capture has ended before it.
    fn step(&mut self, deed: impl Display) {
        if !self.fails {
            self.line(format_args!("would {deed}"));
        }
    }

    /// What is done at the end.
    fn later(&mut self, deed: impl Display) {
        if !self.fails {
            self.line(format_args!("at the end: {deed}"));
        }
    }

    /// What ends the capture before it began.
    fn fail(&mut self, reason: impl Display) {
        self.fails = true;
        self.line(format_args!("would fail: {reason}"));
    }

    /// Names of files and processes are somebody's choice, and may not steer a terminal.
    fn line(&mut self, line: impl Display) {
        escaped(&mut self.text, &line.to_string());
        self.text.push(b'\n');
    }
}

/// What is done while nothing is open yet.
fn before_sockets(options: &Options, plan: &mut Plan) {
    if options.daemon {
        plan.step("go on in the background, and return once the capture has begun");
    }
    if options.trace {
        plan.step(
            "start a child process that removes what is traced after a kill -9 (conntracker-dog)",
        );
    }
    match &options.output {
        Output::Stdout => plan.step("write the report to standard output"),
        Output::File(path) => match fitness(path) {
            Ok(_) => plan.step(format_args!(
                "try with a file without a name whether a report can be written beside {}",
                path.display()
            )),
            Err(reason) => plan.fail(format_args!("opening the report: {reason}")),
        },
    }
    lock(plan);
    plan.step("block the signals that end it, and take them from a descriptor");
    sweep(plan);
}

fn lock(plan: &mut Plan) {
    let path = instance::lock_path();
    let path = path.map_or("a file under /run".to_owned(), |path| {
        path.display().to_string()
    });
    match instance::holder() {
        Ok(Some(pid)) => {
            let who = u32::try_from(pid).map_or_else(|_| "another process".to_owned(), process);
            plan.fail(format_args!(
                "conntracker runs already in this network namespace: {who}"
            ));
        }
        Ok(None) if could_be_written_down().is_err() => {
            plan.step("go on without a lock: /run cannot be written to");
        }
        Ok(None) => plan.step(format_args!("lock {path}, with its process id in it")),
        Err(error) => plan.step(format_args!(
            "lock {path} (whether another has it cannot be seen: {error})"
        )),
    }
}

fn sweep(plan: &mut Plan) {
    let left = StateFile::of_this_namespace().and_then(|file| file.read());
    let left = left
        .unwrap_or_default()
        .into_iter()
        .map(|each| each.to_string());
    for leftover in left.chain(probe_events::left()) {
        plan.step(format_args!(
            "remove what an earlier run left behind: {leftover}"
        ));
    }
}

fn sockets(options: &Options, plan: &mut Plan) {
    for part in [NFNETLINK, NF_CONNTRACK, CTNETLINK] {
        match part.presence() {
            Presence::Absent => plan.fail(format_args!(
                "opening a netlink socket: this kernel has no {}",
                part.module
            )),
            Presence::OnDemand => plan.step(format_args!("have the kernel load {}", part.module)),
            Presence::There | Presence::Unknown => {}
        }
    }
    let limited = if Right::NetAdmin.is_ours() {
        "beyond net.core.rmem_max"
    } else {
        "within net.core.rmem_max"
    };
    plan.step(format_args!(
        "open a netlink socket for conntrack's events and ask for a receive buffer of {} bytes, {limited}; \
         a second one for dumps of its table",
        wanted_buffer(options)
    ));
    if options.all_netns {
        plan.step("hear the events of all network namespaces that have an id here");
    }
    let needed = u64::from(options.capacity) * BYTES_PER_FLOW as u64;
    if needed > machine::memory_bytes() {
        plan.fail(
            "making the flow table: it needs more memory than the machine has (see --capacity)",
        );
    } else {
        plan.step(format_args!(
            "take {} MiB of memory for {} flows",
            needed.div_ceil(1 << 20),
            options.capacity
        ));
    }
    if let Some(path) = &options.record {
        recording(path, plan);
    }
    if !Right::NetAdmin.is_ours() {
        plan.fail("joining the conntrack events: it needs CAP_NET_ADMIN");
    }
}

fn recording(path: &Path, plan: &mut Plan) {
    let shown = path.display();
    match fitness(path) {
        _ if path.symlink_metadata().is_ok() => {
            plan.fail(format_args!("creating the recording {shown}: it exists"))
        }
        Ok(_) => plan.step(format_args!(
            "create the recording {shown}, and write to it what the kernel sends"
        )),
        Err(reason) => plan.fail(format_args!("creating the recording: {reason}")),
    }
}

fn owners(options: &Options, foreseen: &Foreseen, plan: &mut Plan) {
    if options.owners {
        match &foreseen.owners {
            Err(reason) => plan.fail(format_args!("finding the processes behind flows: {reason}")),
            Ok(prospect) => {
                for refused in &prospect.refused {
                    plan.step(format_args!("pass over {refused}"));
                }
                if prospect.rung == PROCFS {
                    plan.step("find processes by procfs: sock_diag and /proc are read");
                } else {
                    plan.step(format_args!(
                        "find processes by {}: bring its programs into the kernel and attach them ({}), and prove them \
                         on traffic of its own in a network namespace made for that and gone with it (expected)",
                        prospect.rung, prospect.detail
                    ));
                }
            }
        }
    }
    plan.step(format_args!(
        "join {} groups of conntrack's events",
        groups(options).len()
    ));
    if options.owners {
        plan.step("read all sockets that there are, and their processes");
    }
}

fn activation(foreseen: &Foreseen, options: &Options, plan: &mut Plan) {
    let told = foreseen.idle.is_told();
    match &foreseen.activation {
        Err(error) => plan.fail(error),
        Ok(_) if foreseen.idle == Idle::default() => {
            plan.step("leave conntrack as it is: a rule uses it");
        }
        Ok(_) if options.activation == Activation::Off => {
            plan.step(format_args!("leave conntrack as it is: {told}"))
        }
        Ok(prospect) => ladder("switch conntrack on", prospect, plan),
    }
}

/// The rung that a ladder would end at, why no better one, and what is done there.
fn ladder(what: &str, prospect: &Prospect, plan: &mut Plan) {
    let mut reasons = vec![prospect.basis.to_string()];
    reasons.extend(prospect.refused.iter().cloned());
    plan.step(format_args!(
        "{what}: rung {} ({})",
        prospect.rung,
        reasons.join("; ")
    ));
    for deed in &prospect.deeds {
        plan.step(deed);
    }
}

fn tracing(options: &Options, foreseen: &Foreseen, plan: &mut Plan) {
    if !options.trace {
        return;
    }
    match &foreseen.trace {
        Err(error) => plan.fail(error),
        Ok(found) => {
            ladder("have packets traced", &found.prospect, plan);
            if let Err(why) = &found.legacy_lines {
                plan.step(format_args!("not hear of legacy tables: {why}"));
            }
        }
    }
}

fn files(options: &Options, plan: &mut Plan) {
    if let (true, Output::File(path)) = (options.follow, &options.output) {
        let shown = path.display();
        match options.daemon {
            true => plan.step(format_args!("append each flow to {shown}")),
            false => plan.step(format_args!(
                "write a file beside {shown}, rename it over that, and write each flow to it"
            )),
        }
    }
    if let Some(rotate) = options.rotate {
        plan.step(format_args!(
            "rename it to .1 and so on after {} bytes each, and keep {} of them",
            rotate.bytes, rotate.count
        ));
    }
    if let Some(every) = options.every {
        plan.step(format_args!(
            "have its table read, and write the report from a child process, every {} s",
            every.as_secs()
        ));
    }
    if options.daemon {
        let default = Path::new("/run/conntracker.pid");
        let path = options.pidfile.as_deref().unwrap_or(default);
        match fitness(path) {
            Ok(_) => plan.step(format_args!("write its process id to {}", path.display())),
            Err(reason) if options.pidfile.is_some() => {
                plan.fail(format_args!("writing the pidfile: {reason}"))
            }
            Err(_) => plan.step("write its process id to /var/run/conntracker.pid"),
        }
    }
    if let Some(path) = &options.status {
        match fitness(path) {
            Ok(_) => plan.step(format_args!(
                "write numbers beside {} and rename them over it, every {} s",
                path.display(),
                STATUS_FILE_INTERVAL.as_secs()
            )),
            Err(reason) => plan.fail(format_args!("writing the status: {reason}")),
        }
    }
}

/// To the millisecond, with no zeros behind: numbers with a point would bring in all that writes any.
fn seconds(duration: Duration) -> String {
    let text = format!("{}.{:03}", duration.as_secs(), duration.subsec_millis());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn after_the_start(options: &Options, plan: &mut Plan) {
    if options.daemon {
        plan.step("send its messages to syslog (/dev/log)");
    }
    plan.step(
        "give up what it needs no more, as far as the kernel can do that: capabilities, new privileges, \
         system calls (seccomp), files to write (Landlock)",
    );
    let until = match options.duration {
        Some(duration) => format!("for {} s, or ", seconds(duration)),
        None => String::new(),
    };
    plan.step(format_args!(
        "capture, {until}until SIGTERM, SIGINT or SIGQUIT"
    ));
}

fn at_the_end(options: &Options, foreseen: &Foreseen, plan: &mut Plan) {
    if let (true, Ok(found)) = (options.trace, &foreseen.trace) {
        undo(&found.prospect, plan);
    }
    if let Ok(prospect) = &foreseen.activation {
        undo(prospect, plan);
    }
    match &options.output {
        Output::File(path) if !options.follow => plan.later(format_args!(
            "the report is written beside {} and renamed over that",
            path.display()
        )),
        _ => {}
    }
    plan.later("its lock is removed");
}

fn undo(prospect: &Prospect, plan: &mut Plan) {
    for undoing in &prospect.undoing {
        plan.later(undoing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_as_it_is_given() {
        for (milliseconds, told) in [
            (10_000, "10"),
            (500, "0.5"),
            (90_250, "90.25"),
            (1, "0.001"),
        ] {
            assert_eq!(seconds(Duration::from_millis(milliseconds)), told);
        }
    }

    #[test]
    fn nothing_is_done_behind_a_refusal() {
        let mut plan = Plan::default();
        plan.step("begin");
        plan.fail("no \u{1b}[2J");
        plan.step("go on");
        plan.fail("nor that");
        let expected = "would begin\nwould fail: no \\u{1b}[2J\nwould fail: nor that\n";
        assert_eq!(String::from_utf8_lossy(plan.text.bytes()), expected);
        assert!(plan.fails);
    }
}
