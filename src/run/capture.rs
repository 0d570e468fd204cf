//! The capture: from the kernel's events and dumps to the report.
//!
//! Order at the start: everything that can fail for want of rights or room is opened first, then
//! the events are joined, then conntrack is switched on where it was idle, then the table is dumped;
//! so no flow falls between. Order at the end: the events are left, what is queued is read, the
//! table is dumped once more, what was switched on is given back, and only then is the report
//! written, however long its reader takes.

use super::confine;
use super::daemon::Daemon;
use super::log;
use super::output::Destination;
use super::session::{Session, say};
use crate::cli::Options;
use crate::error::{Error, Result};
use crate::features;
use crate::firewall::activation;
use crate::firewall::watchdog::Watchdog;
use crate::sys::instance::{self, Instance};
use crate::sys::machine;
use crate::sys::process::Told;
use crate::sys::signal::{Signals, hear_of_children};

/// Captures until a signal or `--for` ends it, and writes the report. Returns the exit status.
pub fn run(options: &Options, told: &Told) -> Result<u8> {
    if !machine::is_root() {
        return Err(Error::failed(
            "starting a capture",
            "it needs root",
            "replay FILE, --help and --version do not",
        ));
    }
    if let Some(built) = features::Daemon::built().filter(|_| options.daemon) {
        return Daemon::run(built, |daemon| guarded(options, told, Some(daemon)));
    }
    guarded(options, told, None)
}

/// The capture, and what cleans up behind it should it be killed.
fn guarded(options: &Options, told: &Told, mut daemon: Option<&mut Daemon>) -> Result<u8> {
    hear_of_children();
    let watchdog = watchdog(options); // before anything is open that it would hold open
    let place = Destination::open(&options.output).and_then(|destination| {
        let instance = only_instance()?;
        if let Some(daemon) = &mut daemon {
            daemon.lock(options)?;
        }
        Ok((destination, instance))
    });
    let (outcome, is_clean) = match place {
        Ok((destination, _instance)) => {
            let outcome = alone(options, told, &destination, daemon);
            (outcome, !activation::is_anything_left())
        }
        Err(error) => (Err(error), true),
    };
    match watchdog {
        Some(watchdog) if is_clean => {
            let dismissed = watchdog.dismiss();
            let doing = "ending the watchdog";
            outcome.and_then(|status| {
                dismissed.map_err(|error| Error::failed(doing, error, ""))?;
                Ok(status)
            })
        }
        _ => outcome, // it tries again once we are gone
    }
}

/// The capture, where no other one is.
fn alone(
    options: &Options,
    told: &Told,
    destination: &Destination,
    daemon: Option<&mut Daemon>,
) -> Result<u8> {
    let signals = Signals::of_capture()
        .map_err(|error| Error::failed("opening a signal descriptor", error, ""))?;
    for line in activation::sweep() {
        log::line(format_args!("{line}"));
    }
    let mut session = Session::open(options, destination, &signals, told)?;
    say(destination, "Starting to capture conntrack events");
    let idle = activation::idle(options.activation, options.filter.ipv6);
    session.join()?;
    session.begin_owners();
    let mut activated = activation::activate(options.activation, idle)?;
    session.activated(&activated);
    session.begin_traces(idle)?;
    if daemon.is_none() {
        say(
            destination,
            "Foreground mode...<Ctrl-C> or or SIG_TERM to end it.",
        );
    }
    session.open_follow(destination)?;
    confine::confine(options, destination, activated.rung, session.trace());
    session.begin_dump()?;
    session.announce(&activated);
    if let Some(daemon) = daemon {
        daemon.ready()?;
    }
    session.ready();
    let captured = session.capture();
    let given_back = session.end_traces();
    let released = activated.release();
    captured?;
    say(
        destination,
        &format!("Dumping internal data into: {}", destination.shown()),
    );
    let exit_status = session.report(destination)?;
    given_back?;
    released?;
    Ok(exit_status)
}

/// What sees to it that tracing leaves nothing behind, also where this process is killed.
fn watchdog(options: &Options) -> Option<Watchdog> {
    if features::Trace::built().is_none() || !options.trace {
        return None;
    }
    match Watchdog::start() {
        Ok(watchdog) => Some(watchdog),
        Err(error) => {
            log::line(format_args!(
                "no watchdog ({error}): after a kill -9 the next start cleans up"
            ));
            None
        }
    }
}

/// Two instances would not harm each other's captures, but what they switch on and sweep. Where no
/// lock can be had (a read-only /run), that is said, and the capture goes on.
fn only_instance() -> Result<Option<Instance>> {
    const ALONE: &str = "making sure that this is the only instance in this network namespace";
    match instance::acquire() {
        Ok(Ok(instance)) => Ok(Some(instance)),
        Ok(Err(0)) => Err(Error::failed(
            ALONE,
            "what an earlier run left behind is being removed just now",
            "try again in a few seconds",
        )),
        Ok(Err(holder)) => Err(Error::failed(
            ALONE,
            format_args!("conntracker runs already, as process {holder}"),
            "end that one first",
        )),
        Err(error) => {
            log::line(format_args!(
                "no lock against a second instance under /run: {error}"
            ));
            Ok(None)
        }
    }
}
