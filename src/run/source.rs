//! The socket that conntrack events come from.

use super::input::What;
use super::intake::Intake;
use crate::cli::Options;
use crate::error::{Error, Result};
use crate::flow::filter::Filter;
use crate::limits::{
    BATCH_DATAGRAMS, BATCHES_IN_A_ROW, EVENT_DATAGRAM_LEN, RECEIVE_BUFFER,
    RECEIVE_BUFFER_MEMORY_SHARE,
};
use crate::sys::netlink::{Batch, DropCounter, Socket};
use crate::sys::{clock, machine};
use crate::wire::kernel::{
    AF_INET, AF_INET6, NFNLGRP_CONNTRACK_DESTROY, NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_UPDATE,
};
use crate::wire::socket_filter;
use std::os::fd::BorrowedFd;

/// NEW and DESTROY say all that a report needs; a TCP flow makes five UPDATEs on top of them.
const GROUPS: [u32; 2] = [NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_DESTROY];

/// Other namespaces are not dumped, so that a flow there was answered is only said by an UPDATE.
const GROUPS_ALL_NETNS: [u32; 3] = [
    NFNLGRP_CONNTRACK_NEW,
    NFNLGRP_CONNTRACK_UPDATE,
    NFNLGRP_CONNTRACK_DESTROY,
];

/// What a round of reading found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// The queue was emptied.
    Empty,
    /// There may be more.
    MoreWaits,
}

/// The event socket and its buffers.
#[derive(Debug)]
pub struct EventSource {
    socket: Socket,
    batch: Batch,
    drops: Option<DropCounter>,
    /// A loss is counted that the kernel has not told of yet.
    is_counted: bool,
    groups: &'static [u32],
    /// Receive buffer as the kernel set it.
    pub buffer_bytes: u32,
    /// Whether the limit for users was in its way.
    pub buffer_limited: bool,
}

impl EventSource {
    /// Opens the socket and sets it up; nothing is heard before `join`.
    pub fn open(options: &Options) -> Result<EventSource> {
        let doing = "opening a netlink socket to netfilter";
        let socket = Socket::open().map_err(|error| {
            Error::failed(
                doing,
                error,
                "this kernel may lack nfnetlink: modprobe nfnetlink",
            )
        })?;
        let wanted = wanted_buffer(options);
        let (buffer_bytes, buffer_limited) =
            socket.set_receive_buffer(wanted).map_err(|error| {
                Error::failed("setting the socket's receive buffer", error, "see --buffer")
            })?;
        if options.all_netns {
            socket.listen_all_namespaces().map_err(|error| {
                Error::failed(
                    "listening to all network namespaces",
                    error,
                    "needs Linux 4.2 and CAP_NET_BROADCAST",
                )
            })?;
        }
        filter_in_kernel(&socket, &options.filter);
        let drops = DropCounter::open(&socket).ok();
        let groups = groups(options);
        let batch = Batch::new(BATCH_DATAGRAMS, EVENT_DATAGRAM_LEN);
        Ok(EventSource {
            socket,
            batch,
            drops,
            is_counted: false,
            groups,
            buffer_bytes,
            buffer_limited,
        })
    }

    /// Whether losses can be counted exactly.
    pub fn counts_losses(&mut self) -> bool {
        self.drops.as_mut().and_then(DropCounter::read).is_some()
    }

    /// Begins to hear events.
    pub fn join(&self) -> Result<()> {
        for group in self.groups {
            self.socket.join(*group).map_err(|error| {
                Error::failed(
                    "joining the conntrack events",
                    error,
                    "this kernel may lack them: modprobe nf_conntrack_netlink",
                )
            })?;
        }
        Ok(())
    }

    /// Hears no more; what is queued stays.
    pub fn leave(&self) {
        for group in self.groups {
            let _ = self.socket.leave(*group); // a group that was joined can be left
        }
    }

    /// Readable while something is queued.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.fd()
    }

    /// Reads what is queued, a bounded number of batches. Says whether events were lost. What `before`
    /// takes in goes before each batch, and was there when the batch was received.
    pub fn read(
        &mut self,
        intake: &mut Intake<'_>,
        before: &mut dyn FnMut(&mut Intake<'_>),
    ) -> Result<(Queue, bool)> {
        let mut lost = false;
        for _ in 0..BATCHES_IN_A_ROW {
            match self.socket.receive(&mut self.batch) {
                Ok(received) => {
                    before(intake);
                    let at_ns = clock::realtime_ns();
                    let events = self.batch.datagrams().map(|datagram| What::Events {
                        bytes: datagram.bytes,
                        truncated: datagram.truncated,
                        netns: datagram.netns,
                    });
                    intake.take_batch(at_ns, events);
                    if received < self.batch.size() {
                        return Ok((Queue::Empty, lost));
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    lost = true;
                    self.note_loss(intake, true);
                }
                Err(error) => return Err(Error::failed("reading conntrack events", error, "")),
            }
        }
        Ok((Queue::MoreWaits, lost))
    }

    /// Takes the kernel's count of what was lost. `told` is whether it said so just now: then a count
    /// that cannot be read, or that stands still (it had no memory for an event), is a loss too.
    pub fn note_loss(&mut self, intake: &mut Intake<'_>, told: bool) {
        let at_ns = clock::realtime_ns();
        match self.drops.as_mut().and_then(DropCounter::read) {
            Some(total) if total != intake.pipeline.counters.lost => {
                intake.take(at_ns, What::LostTotal(total));
                self.is_counted = !told;
            }
            // Counted already, before the kernel came to say so.
            _ if told && std::mem::take(&mut self.is_counted) => {}
            _ if told => {
                intake.take(at_ns, What::LostUnknown);
            }
            _ => {}
        }
    }
}

/// What is asked for.
pub(super) fn wanted_buffer(options: &Options) -> u32 {
    options
        .buffer_bytes
        .unwrap_or_else(|| default_buffer(machine::memory_bytes()))
}

/// The groups that are joined.
pub(super) fn groups(options: &Options) -> &'static [u32] {
    if options.all_netns {
        &GROUPS_ALL_NETNS
    } else {
        &GROUPS
    }
}

/// The buffer to ask for: never so large that a full queue would take the machine's memory.
fn default_buffer(memory_bytes: u64) -> u32 {
    let share = memory_bytes / RECEIVE_BUFFER_MEMORY_SHARE;
    u32::try_from(share).unwrap_or(u32::MAX).min(RECEIVE_BUFFER)
}

/// Family and protocol can be judged before an event is queued; networks and ports are judged by us,
/// since they count on both sides of a translation. A kernel that refuses leaves all of it to us.
fn filter_in_kernel(socket: &Socket, filter: &Filter) {
    let family = filter
        .ipv6
        .map(|ipv6| if ipv6 { AF_INET6 } else { AF_INET });
    if let Some(program) = socket_filter::program(family, &filter.protocols) {
        let _ = socket.attach_filter(program.into_iter().map(|op| (op.code, op.jt, op.jf, op.k)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_machine_gets_a_small_buffer() {
        assert_eq!(default_buffer(64 << 20), 2 << 20); // the kernel doubles it: a sixteenth
        assert_eq!(default_buffer(24 << 30), 64 << 20);
    }
}
