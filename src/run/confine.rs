//! After the start this process gives up what it will not need any more, so that whoever finds a hole
//! in it gets little: capabilities and the right to get new ones, system calls, and files to change.
//!
//! What is missing on this machine is named, and the capture goes on without it. What only a privileged
//! process can do later, run iptables, is the watchdog's.

use super::log;
use super::output::Destination;
use super::trace_source::TraceSource;
use crate::cli::Options;
use crate::features::TraceOnly;
use crate::firewall::{activation, watchdog};
use crate::sys::landlock::{self, Rights};
use crate::sys::privileges::{self, Capabilities};
use crate::sys::seccomp;
use std::fmt::Display;
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What was given up, and what could not be.
#[derive(Default)]
struct Confinement {
    by: Vec<String>,
    not_by: Vec<String>,
}

impl Confinement {
    fn note<T, E: Display>(&mut self, what: &str, result: Result<T, E>) {
        match result {
            Ok(_) => self.by.push(what.to_owned()),
            Err(error) => self.not_by.push(format!("{what} ({error})")),
        }
    }
}

/// Gives up all that this run needs no more, and says what. To be called when everything is open and
/// everything that is made at the start is made; `activation` is the rung that was taken for it.
pub fn confine(
    options: &Options,
    destination: &Destination,
    activation: &str,
    trace: Option<&TraceOnly<TraceSource>>,
) {
    let is_handed_over = watchdog::hand_over();
    let programs = needs_programs(activation, trace) && !is_handed_over;
    let folders = folders(options, destination);
    let wanted = capabilities(options, destination, &folders, programs);
    let mut confinement = Confinement::default();
    let bounded = privileges::bound(wanted);
    match privileges::keep(wanted) {
        Ok(kept) => {
            let names = privileges::names(kept);
            confinement.note(&format!("capabilities ({names})"), Ok::<_, io::Error>(()));
        }
        Err(error) => confinement.note::<(), _>("capabilities", Err(error)),
    }
    confinement.note("bounding set", bounded);
    confinement.note("no_new_privs", privileges::no_new());
    let _ = privileges::hide(); // on top of the rest
    const RUNS_IPTABLES: &str = "no watchdog that runs iptables";
    if programs {
        confinement.note::<(), _>("Landlock, seccomp", Err(RUNS_IPTABLES));
    } else {
        confinement.note("Landlock", lock_files(options, &folders));
        confinement.note("seccomp", lock_calls());
    }
    let by = confinement.by.join(", ");
    match confinement.not_by.join(", ") {
        none if none.is_empty() => log::line(format_args!("confined by {by}")),
        not_by => log::line(format_args!("confined by {by}; not by {not_by}")),
    }
}

/// Whether iptables programs may have to be run until the end: to read the text of legacy rules, to
/// remove a chain.
fn needs_programs(activation: &str, trace: Option<&TraceOnly<TraceSource>>) -> bool {
    let traces = trace
        .is_some_and(|trace| trace.instrument.log.is_some() || trace.instrument.rung == "legacy");
    activation == "legacy" || traces
}

/// The capabilities that are needed until the end. `programs` says that this process itself still runs
/// iptables.
fn capabilities(
    options: &Options,
    destination: &Destination,
    folders: &[PathBuf],
    programs: bool,
) -> Capabilities {
    let mut wanted = Capabilities::NET_ADMIN; // each question to the kernel over netlink
    if programs {
        wanted |= Capabilities::NET_RAW; // the socket that iptables asks through
    }
    if options.owners {
        wanted |= Capabilities::SYS_PTRACE | Capabilities::DAC_READ_SEARCH; // /proc/PID of others
    }
    // A file that is written on and on may be given to somebody else by whoever rotates it.
    let is_appended = options.follow && !destination.is_stdout();
    if is_appended || folders.iter().any(|folder| is_of_others(folder)) {
        wanted |= Capabilities::DAC_OVERRIDE | Capabilities::FOWNER;
    }
    wanted
}

/// The folders of ours in which files are still made, replaced or removed.
fn folders(options: &Options, destination: &Destination) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Destination::File(place) = destination {
        folders.push(format!("/proc/self/fd/{}", place.folder().as_raw_fd()).into());
    }
    let files = [&options.status, &options.record, &options.pidfile];
    for file in files.into_iter().flatten() {
        let folder = file
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        folders.push(folder.unwrap_or(Path::new(".")).to_owned());
    }
    folders
}

/// Whether its mode alone does not let us work in it. The sticky bit of a folder of root's is no matter.
fn is_of_others(folder: &Path) -> bool {
    const OWNER_MAY_WRITE: u32 = 0o300;
    let is_ours = |found: Metadata| {
        found.uid() == rustix::process::geteuid().as_raw()
            && found.mode() & OWNER_MAY_WRITE == OWNER_MAY_WRITE
    };
    !fs::metadata(folder).is_ok_and(is_ours)
}

/// Leaves the system calls that are still needed.
fn lock_calls() -> Result<(), String> {
    seccomp::restrict().map_err(|error| match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EINVAL) => "this kernel has no filters".to_owned(),
        _ => error.to_string(),
    })
}

/// Leaves files to be changed in those folders, and where we give back and clean up.
fn lock_files(options: &Options, folders: &[PathBuf]) -> Result<(), String> {
    if options.owners {
        return Err("it would hide the processes that -b looks for".to_owned());
    }
    const RUN: [&str; 2] = ["/run", "/var/run"];
    let edit = Rights::WRITE | Rights::MAKE | Rights::REMOVE;
    // There lies our lock, and what is written down there is crossed out at the end.
    let in_run = match activation::is_anything_left() {
        true => edit,
        false => Rights::REMOVE,
    };
    let mut places: Vec<(&Path, Rights)> = folders.iter().map(|folder| (&**folder, edit)).collect();
    places.extend(RUN.map(|run| (Path::new(run), in_run)));
    if options.trace {
        places.push((Path::new("/proc/sys/net/netfilter/nf_log"), Rights::WRITE));
    }
    match landlock::restrict(&places) {
        Ok(held) => {
            std::mem::forget(held); // until the process ends
            Ok(())
        }
        Err(error) => Err(match error.raw_os_error() {
            Some(libc::ENOSYS) => "this kernel has none: Linux 5.13 can".to_owned(),
            Some(libc::EOPNOTSUPP) => {
                "it is switched off: lsm= on the kernel's command line".to_owned()
            }
            _ => error.to_string(),
        }),
    }
}
