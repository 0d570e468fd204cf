//! The place of `probes` in a build without BPF: nothing can be opened.

pub use super::rung::Rung;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

const WHY: &str = "built without BPF";

/// Never there.
#[derive(Debug)]
pub enum Probes {}

/// Says why not.
pub fn could_be_opened(_: Rung, _: Option<&Path>) -> Result<String, String> {
    Err(WHY.to_owned())
}

impl Probes {
    /// Says why not.
    pub fn open(_: Rung, _: Option<&Path>) -> Result<Probes, String> {
        Err(WHY.to_owned())
    }

    /// Never called.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match *self {}
    }

    /// Never called.
    pub fn read(&mut self, _: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        match *self {}
    }

    /// Never called.
    pub fn lost(&self) -> u64 {
        match *self {}
    }

    /// Never called.
    pub fn detail(&self) -> &str {
        match *self {}
    }
}

/// Says why not.
pub fn older_sockets(_: Option<&Path>) -> Result<Vec<u8>, String> {
    Err(WHY.to_owned())
}
