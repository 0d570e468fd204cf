//! A `kill -9` lets nobody clean up: a child process does, the moment that we are gone. It is also the
//! one that runs the iptables programs, once this process has given up the right to run any: it
//! knows a few errands, and takes no other word.

use super::activation;
use super::legacy::{self, Chain};
use super::state::{self, Leftover};
use crate::error::{Error, Result};
use crate::features;
use crate::sys::instance;
use crate::sys::privileges::{self, Capabilities};
use crate::sys::watchdog::{self, Duties, Line};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the child is asked through, while there is one.
static HELP: Mutex<Help> = Mutex::new(Help {
    line: None,
    handed_over: false,
});

struct Help {
    line: Option<Line>,
    /// This process runs no program itself any more.
    handed_over: bool,
}

fn help() -> MutexGuard<'static, Help> {
    HELP.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sees to it that what is written down under /run is removed when this process is killed.
#[derive(Debug)]
pub struct Watchdog(watchdog::Watchdog);

impl Watchdog {
    /// Starts it. To be called before any socket, lock or table is opened: the process forks.
    pub fn start() -> io::Result<Watchdog> {
        Watchdog::with(sweep_for_the_dead)
    }

    /// Starts one that runs programs and does nothing else, where there is none yet; `None` where that
    /// fails, too: then this process has to go on running them.
    pub fn start_for_programs() -> Option<Watchdog> {
        if help().line.is_some() {
            return None;
        }
        Watchdog::with(|| {}).ok()
    }

    fn with(orphaned: fn()) -> io::Result<Watchdog> {
        features::Legacy::built().ok_or(io::ErrorKind::Unsupported)?; // it runs programs
        let watchdog = watchdog::Watchdog::start(Duties {
            confine,
            serve,
            orphaned,
        })?;
        help().line = Some(watchdog.line()?);
        Ok(Watchdog(watchdog))
    }

    /// Everything is given back: it ends without doing anything.
    pub fn dismiss(self) -> io::Result<()> {
        help().line = None;
        self.0.dismiss()
    }
}

/// From here on the child runs the programs. Says whether there is one; else nothing changes.
pub fn hand_over() -> bool {
    let mut help = help();
    help.handed_over = help.line.is_some();
    help.handed_over
}

/// Something that an iptables program has to be run for.
pub(super) enum Errand<'a> {
    /// The rules of a table as text.
    Save { ipv6: bool, table: &'a str },
    /// Lets no more packets into a chain of ours.
    Detach(&'a Chain),
    /// Removes a chain of ours.
    Remove(&'a Chain),
}

impl Errand<'_> {
    fn request(&self) -> String {
        let chain = |chain: &Chain| state::line(&Leftover::LegacyChain(chain.clone()));
        match self {
            Errand::Save { ipv6, table } => format!("save {} {table}", u8::from(*ipv6)),
            Errand::Detach(it) => format!("detach {}", chain(it)),
            Errand::Remove(it) => format!("remove {}", chain(it)),
        }
    }
}

/// Has the child do it; `None` where programs are run here.
pub(super) fn ask(errand: &Errand<'_>) -> Option<Result<String>> {
    let mut help = help();
    if !help.handed_over {
        return None;
    }
    let request = errand.request();
    let asked = match &mut help.line {
        Some(line) => line.ask(&request, legacy::OUTPUT_LEN_MAX),
        None => Err(io::ErrorKind::NotConnected.into()),
    };
    Some(match asked {
        Ok(answer) => answer.map_err(|said| Error::failed("asking the watchdog", said, "")),
        Err(error) => {
            let doing = format!("asking the watchdog, which runs iptables, to {request}");
            Err(Error::failed(doing, error, "the next start cleans up"))
        }
    })
}

/// What the child does for an errand; in the child.
fn serve(request: &str) -> std::result::Result<String, String> {
    let unknown = || format!("it knows no errand {request:?}");
    let (errand, what) = request.split_once(' ').ok_or_else(unknown)?;
    if errand == "save" {
        let (ipv6, table) = what.split_once(' ').ok_or_else(unknown)?;
        if !legacy::TABLES.contains(&table) {
            return Err(unknown());
        }
        return legacy::saved_here(ipv6 == "1", table).ok_or_else(String::new);
    }
    let Some(Leftover::LegacyChain(chain)) = state::parse(what) else {
        return Err(unknown());
    };
    match errand {
        "detach" => chain.detach_here().map(|()| String::new()),
        "remove" => chain.remove_here().map(|removal| format!("{removal:?}")),
        _ => return Err(unknown()),
    }
    .map_err(|error| error.to_string())
}

/// The child keeps what iptables programs need, and for what else it removes.
fn confine() {
    let kept = Capabilities::NET_ADMIN | Capabilities::NET_RAW;
    let _ = privileges::bound(kept);
    let _ = privileges::keep(kept);
    let _ = privileges::no_new();
    let _ = privileges::hide();
}

/// Where the next run has started already, that one sweeps.
fn sweep_for_the_dead() {
    if let Ok(Ok(mut instance)) = instance::acquire() {
        let _ = instance.hold_for_a_moment(); // else a next run just now is refused
        activation::sweep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::legacy::Purpose;

    #[test]
    fn the_child_takes_no_other_word() {
        let chain = |program: &str| Chain {
            purpose: Purpose::Trace,
            program: program.into(),
            ipv6: false,
            table: "raw".to_owned(),
        };
        let other = chain("/bin/sh");
        for request in [
            "",
            "save",
            "save 0 ../raw",
            "save 0",
            "run /bin/sh",
            "remove",
            "remove nft-table 1",
            "detach nf-log 2 nf_log_ipv4 NONE",
            "flush legacy-chain ipv4 raw /sbin/iptables",
            &Errand::Remove(&other).request(),
        ] {
            let refusal = serve(request).unwrap_err();
            assert!(refusal.contains("no errand"), "{request}: {refusal}");
        }
        let known = chain("/usr/sbin/iptables");
        let request = Errand::Detach(&known).request();
        let line = request.strip_prefix("detach ").unwrap();
        assert_eq!(state::parse(line), Some(Leftover::LegacyChain(known)));
    }

    #[test]
    fn nobody_is_asked_before_it_is_handed_over() {
        let table = "filter";
        assert!(ask(&Errand::Save { ipv6: false, table }).is_none());
        assert!(!hand_over(), "there is no child");
        assert!(ask(&Errand::Save { ipv6: false, table }).is_none());
    }
}
