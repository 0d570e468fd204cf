//! Dumps of the conntrack table: at the start, after a loss, at the end. They come over a socket of
//! their own, so that events keep the whole receive buffer, and are read between batches of events.

use super::input::What;
use super::intake::Intake;
use super::pipeline::DumpProgress;
use crate::error::{Error, Result};
use crate::event::DumpPass;
use crate::limits::{DUMP_DATAGRAM_LEN, DUMP_TIMEOUT, RESYNC_PAUSE_FIRST, RESYNC_PAUSE_LONGEST};
use crate::sys::clock;
use crate::sys::netlink::{Batch, Socket};
use crate::wire::conntrack::dump_request;
use crate::wire::request::Request;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Makes dumps, one at a time.
#[derive(Debug)]
pub struct Dumper {
    socket: Socket,
    batch: Batch,
    request: Request,
    going: Option<Going>,
    resync: Resync,
}

#[derive(Clone, Copy, Debug)]
struct Going {
    pass: DumpPass,
    since: Duration,
}

/// When the next dump after a loss may be made: a receiver that is too slow is not helped by work.
#[derive(Clone, Copy, Debug)]
struct Resync {
    wanted: bool,
    not_before: Duration,
    pause: Duration,
}

impl Resync {
    fn new() -> Resync {
        Resync {
            wanted: false,
            not_before: Duration::ZERO,
            pause: RESYNC_PAUSE_FIRST,
        }
    }

    fn want(&mut self) {
        self.wanted = true;
    }

    fn due(&self) -> Option<Duration> {
        self.wanted.then_some(self.not_before)
    }

    /// A dump begins. Soon after the one before, the pause grows; after a quiet time it is short again.
    fn begin(&mut self, now: Duration) {
        let quiet = now.saturating_sub(self.not_before) > 2 * self.pause;
        self.pause = if quiet {
            RESYNC_PAUSE_FIRST
        } else {
            (2 * self.pause).min(RESYNC_PAUSE_LONGEST)
        };
        self.not_before = now + self.pause;
        self.wanted = false;
    }
}

impl Dumper {
    /// Opens the socket. `family` limits the dumps to AF_INET or AF_INET6; AF_UNSPEC is both.
    pub fn open(family: u8) -> Result<Dumper> {
        Ok(Dumper {
            socket: open_socket()?,
            batch: Batch::new(1, DUMP_DATAGRAM_LEN),
            request: dump_request(family, 1),
            going: None,
            resync: Resync::new(),
        })
    }

    /// Readable while a part of a dump is queued.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.fd()
    }

    /// Whether a dump is going on.
    pub fn is_going(&self) -> bool {
        self.going.is_some()
    }

    /// Asks for a dump after a loss, as soon as the pause allows.
    pub fn want_resync(&mut self) {
        self.resync.want();
    }

    /// When there is something to do without anything to read.
    pub fn next(&self) -> Option<Duration> {
        match self.going {
            Some(going) => Some(going.since + DUMP_TIMEOUT),
            None => self.resync.due(),
        }
    }

    /// Begins a dump after a loss when it is due; gives up one that is stuck.
    pub fn tick(&mut self, now: Duration, intake: &mut Intake<'_>) -> Result<()> {
        match self.going {
            Some(going) if now >= going.since + DUMP_TIMEOUT => {
                self.failed(intake, going.pass, libc::ETIMEDOUT)
            }
            None if self.resync.due().is_some_and(|due| now >= due) => {
                self.resync.begin(now);
                self.begin(DumpPass::Resync, now, intake)
            }
            _ => Ok(()),
        }
    }

    /// Begins a dump.
    pub fn begin(&mut self, pass: DumpPass, now: Duration, intake: &mut Intake<'_>) -> Result<()> {
        intake.take(clock::realtime_ns(), What::DumpBegan(pass));
        self.going = Some(Going { pass, since: now });
        match self.socket.send(self.request.bytes()) {
            Ok(()) => Ok(()),
            Err(error) => self.failed(intake, pass, error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    /// Reads the next part of the dump that is going on.
    pub fn read(&mut self, intake: &mut Intake<'_>) -> Result<()> {
        let Some(going) = self.going else {
            return Ok(());
        };
        match self.socket.receive(&mut self.batch) {
            Ok(_) => {}
            Err(error) => {
                return self.failed(
                    intake,
                    going.pass,
                    error.raw_os_error().unwrap_or(libc::EIO),
                );
            }
        }
        let at_ns = clock::realtime_ns();
        let mut progress = DumpProgress::Going;
        for datagram in self.batch.datagrams() {
            let (bytes, truncated) = (datagram.bytes, datagram.truncated);
            progress = intake.take(at_ns, What::Dump { bytes, truncated });
        }
        match progress {
            DumpProgress::Going => {}
            DumpProgress::Done => {
                self.going = None;
                intake.take(at_ns, What::DumpEnded);
            }
            DumpProgress::Failed(errno) => return self.failed(intake, going.pass, errno),
        }
        Ok(())
    }

    /// A capture that cannot read the table at all does not start; later, a failure is counted.
    fn failed(&mut self, intake: &mut Intake<'_>, pass: DumpPass, errno: i32) -> Result<()> {
        self.going = None;
        self.socket = open_socket()?; // what may still come of this dump goes with the old one
        intake.take(clock::realtime_ns(), What::DumpFailed);
        match pass {
            DumpPass::Initial => {
                let missing = [libc::EINVAL, libc::EOPNOTSUPP, libc::ENOENT].contains(&errno);
                let advice = if missing {
                    "this kernel may lack conntrack netlink: modprobe nf_conntrack_netlink"
                } else {
                    ""
                };
                Err(Error::failed(
                    "reading the conntrack table",
                    io::Error::from_raw_os_error(errno),
                    advice,
                ))
            }
            DumpPass::Resync | DumpPass::Report | DumpPass::Final => Ok(()),
        }
    }
}

fn open_socket() -> Result<Socket> {
    Socket::open().map_err(|error| Error::failed("opening a netlink socket for dumps", error, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_between_dumps_grows_while_losses_go_on_and_shrinks_after_a_quiet_time() {
        let mut resync = Resync::new();
        let mut now = Duration::from_secs(100);
        resync.want();
        assert_eq!(
            resync.due(),
            Some(Duration::ZERO),
            "the first comes at once"
        );
        resync.begin(now);
        assert_eq!(resync.due(), None);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            resync.want();
            let due = resync.due().unwrap();
            pauses.push((due - now).as_secs());
            now = due;
            resync.begin(now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 64]);
        resync.want();
        now += Duration::from_secs(1000);
        resync.begin(now);
        resync.want();
        assert_eq!(resync.due(), Some(now + RESYNC_PAUSE_FIRST));
    }
}
