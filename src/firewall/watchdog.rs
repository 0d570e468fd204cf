//! A `kill -9` lets nobody clean up: a child process does, the moment that we are gone.

use super::activation;
use crate::sys::instance;
use crate::sys::watchdog;
use std::io;

/// Sees to it that what is written down under /run is removed when this process is killed.
#[derive(Debug)]
pub struct Watchdog(watchdog::Watchdog);

impl Watchdog {
    /// Starts it. To be called before any socket, lock or table is opened: the process forks.
    pub fn start() -> io::Result<Watchdog> {
        watchdog::Watchdog::start(sweep_for_the_dead).map(Watchdog)
    }

    /// Everything is given back: it ends without doing anything.
    pub fn dismiss(self) -> io::Result<()> {
        self.0.dismiss()
    }
}

/// Where the next run has started already, that one sweeps.
fn sweep_for_the_dead() {
    if let Ok(Ok(mut instance)) = instance::acquire() {
        let _ = instance.hold_for_a_moment(); // else a next run just now is refused
        activation::sweep();
    }
}
