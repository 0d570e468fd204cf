//! Life in the background. The process forks before it opens anything, since sockets, locks and
//! children belong to the process that makes them; whoever called waits until all of it is in place.
//! So a start that fails is the caller's exit status, and one line on its stderr.

use super::log;
use crate::cli::Options;
use crate::error::{Error, Result};
use crate::features;
use crate::sys::instance::{self, Instance};
use crate::sys::place::Place;
use crate::sys::process::{self, Forked, Starter};
use std::fs::File;

/// A daemon that starts, and then runs.
#[derive(Debug)]
pub(super) struct Daemon {
    starter: Starter,
    is_told: bool,
    pidfile: Option<Instance>,
    /// Opened before writing is confined to a few folders.
    null: File,
}

impl Daemon {
    /// Does `work` in the background. Returns the exit status: to the caller, how the start went.
    pub(super) fn run(
        built: features::Daemon,
        work: impl FnOnce(&mut Daemon) -> Result<u8>,
    ) -> Result<u8> {
        const STARTING: &str = "starting the daemon";
        let null = process::open_null();
        let null = null.map_err(|error| Error::failed("opening /dev/null", error, ""))?;
        let forked = process::daemon().map_err(|error| Error::failed(STARTING, error, ""))?;
        let starter = match forked {
            Forked::Caller(Some(exit_status)) => return Ok(exit_status),
            Forked::Caller(None) => {
                return Err(Error::failed(STARTING, "it died before it was ready", ""));
            }
            Forked::Daemon(starter) => starter,
        };
        let mut daemon = Daemon {
            starter,
            is_told: false,
            pidfile: None,
            null,
        };
        let outcome = log::to_syslog(built)
            .map_err(|error| Error::failed("opening a socket to syslog", error, ""))
            .and_then(|()| work(&mut daemon));
        let exit_status = outcome.unwrap_or_else(|error| {
            log::failure(format_args!("{error}"));
            error.exit_status()
        });
        if !daemon.is_told {
            let _ = daemon.starter.tell(exit_status); // it went away: nobody asks any more
        }
        Ok(exit_status)
    }

    /// Takes the pidfile. What it says is written when the start has succeeded.
    pub(super) fn lock(&mut self, options: &Options) -> Result<()> {
        let place = match &options.pidfile {
            Some(path) => Place::find(path),
            None => Place::in_run("conntracker.pid"),
        };
        let place = place
            .map_err(|unfit| Error::failed("opening the pidfile", unfit.cause, unfit.advice))?;
        let doing = format!("taking the pidfile {}", place.shown());
        match instance::lock(place) {
            Ok(Ok(pidfile)) => self.pidfile = Some(pidfile),
            Ok(Err(holder)) => {
                return Err(Error::failed(
                    doing,
                    format_args!(
                        "it is that of conntracker in another namespace, process {holder}"
                    ),
                    "name another with --pidfile",
                ));
            }
            Err(unfit) => return Err(Error::failed(doing, unfit.cause, unfit.advice)),
        }
        Ok(())
    }

    /// Everything is in place: writes the pidfile, lets go of the caller's folder and terminal, and
    /// lets it go on.
    pub(super) fn ready(&mut self) -> Result<()> {
        const DOING: &str = "detaching from the caller";
        if let Some(pidfile) = &mut self.pidfile {
            pidfile
                .name_us()
                .map_err(|error| Error::failed("writing the pidfile", error, ""))?;
        }
        // Before the last word: what comes behind it must not fail.
        process::settle(&self.null).map_err(|error| Error::failed(DOING, error, ""))?;
        self.starter
            .tell(0)
            .map_err(|error| Error::failed(DOING, format_args!("it is gone: {error}"), ""))?;
        self.is_told = true;
        Ok(())
    }
}
