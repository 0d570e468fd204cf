//! Questions to the kernel and their answers, over one socket for many of them.

use crate::limits::{ANSWER_TIMEOUT, DUMP_DATAGRAM_LEN};
use crate::sys::netlink::{Batch, Family, Socket};
use crate::wire::kernel::{NLMSG_DONE, NLMSG_ERROR};
use crate::wire::message::{Message, Messages};
use crate::wire::request::Request;
use std::io;

/// How much comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// One message, or an error.
    One,
    /// Messages up to the one that says that it was the last.
    Dump,
}

/// A socket that asks. After a failure that may leave an answer behind, the next question goes over a
/// socket of its own.
#[derive(Debug)]
pub struct Exchange {
    family: Family,
    socket: Option<Socket>,
    buffers: Batch,
}

impl Exchange {
    /// Opens nothing yet.
    pub fn new(family: Family) -> Exchange {
        Exchange {
            family,
            socket: None,
            buffers: Batch::new(1, DUMP_DATAGRAM_LEN),
        }
    }

    /// Asks, and hands each message of the answer to `take`. An error is the kernel's (ENOENT where
    /// there is no such thing), or TimedOut.
    pub fn ask(
        &mut self,
        request: &Request,
        answer: Answer,
        take: &mut dyn FnMut(&Message<'_>),
    ) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => Socket::open_family(self.family)?,
        };
        socket.send(request.bytes())?;
        loop {
            socket.receive_within(&mut self.buffers, ANSWER_TIMEOUT)?;
            for datagram in self.buffers.datagrams() {
                if let Some(errno) = ended(datagram.bytes, answer, take)? {
                    self.socket = Some(socket);
                    return match errno {
                        0 => Ok(()),
                        errno => Err(io::Error::from_raw_os_error(errno)),
                    };
                }
            }
        }
    }
}

/// Reads one datagram; says how the answer ended where it did: 0, or an errno.
fn ended(
    datagram: &[u8],
    answer: Answer,
    take: &mut dyn FnMut(&Message<'_>),
) -> io::Result<Option<i32>> {
    for message in Messages::new(datagram) {
        let message = message.map_err(|_| io::ErrorKind::InvalidData)?;
        match message.kind {
            // What ends a dump may carry an error as well.
            NLMSG_ERROR | NLMSG_DONE => return Ok(Some(message.errno().unwrap_or(0))),
            _ => take(&message),
        }
        if answer == Answer::One {
            return Ok(Some(0));
        }
    }
    Ok(None)
}
