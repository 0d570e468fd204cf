//! Messages to syslogd: datagrams to /dev/log in the form of RFC 3164, facility daemon. Sending never
//! blocks. What syslogd does not take, because it is not there, not there yet, or stuck, is kept in a
//! bounded memory with the time at which it was said, and offered again; what finds no room there is
//! counted, and the count is said in its place.

use crate::limits::{SYSLOG_BUSY_PAUSE, SYSLOG_KEPT_LEN, SYSLOG_MESSAGE_LEN, SYSLOG_PAUSE};
use crate::sys::clock;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Cursor, Write};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

const SOCKET: &str = "/dev/log";
const FACILITY_DAEMON: u8 = 3 << 3;
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// How grave a message is, as syslog numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Something did not work.
    Error = 3,
    /// What goes on.
    Info = 6,
}

/// The line to syslogd.
#[derive(Debug)]
pub struct Syslog {
    socket: UnixDatagram,
    pid: u32,
    /// Messages that wait, each behind its length (two bytes).
    kept: VecDeque<u8>,
    /// Messages that found no room behind those.
    dropped: u64,
    /// Whether somebody is there who just has enough for the moment.
    is_busy: bool,
}

impl Syslog {
    /// For this process. Nothing is sent yet: syslogd may come later.
    pub fn open() -> io::Result<Syslog> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        clock::local_time(); // reads what it needs before we may read no more
        Ok(Syslog {
            socket,
            pid: std::process::id(),
            kept: VecDeque::with_capacity(SYSLOG_KEPT_LEN),
            dropped: 0,
            is_busy: false,
        })
    }

    /// Says something; one that is too long loses its end.
    pub fn say(&mut self, severity: Severity, message: fmt::Arguments<'_>) {
        let mut datagram = Cursor::new([0u8; SYSLOG_MESSAGE_LEN]);
        let _ = self.write(&mut datagram, severity, message); // what fits
        let len = datagram.position() as usize;
        let datagram = &datagram.get_ref()[..len];
        if self.flush() && self.send(datagram) {
            return;
        }
        if self.dropped > 0 || self.kept.len() + 2 + len > SYSLOG_KEPT_LEN {
            self.dropped += 1;
            return;
        }
        self.kept.extend((len as u16).to_ne_bytes());
        self.kept.extend(datagram);
    }

    /// After what time messages that wait want to be offered again, if any do.
    pub fn next(&self) -> Option<Duration> {
        let pause = if self.is_busy {
            SYSLOG_BUSY_PAUSE
        } else {
            SYSLOG_PAUSE
        };
        let is_waiting = !self.kept.is_empty() || self.dropped > 0;
        is_waiting.then_some(pause)
    }

    /// Offers again what waits. Says whether nothing does any more.
    pub fn flush(&mut self) -> bool {
        let mut datagram = [0u8; SYSLOG_MESSAGE_LEN];
        while let (Some(low), Some(high)) = (self.kept.front(), self.kept.get(1)) {
            let len = usize::from(u16::from_ne_bytes([*low, *high]));
            for (to, from) in datagram.iter_mut().zip(self.kept.range(2..2 + len)) {
                *to = *from;
            }
            if !self.send(&datagram[..len]) {
                return false;
            }
            self.kept.drain(..2 + len);
        }
        if self.dropped == 0 {
            return true;
        }
        let mut line = Cursor::new([0u8; SYSLOG_MESSAGE_LEN]);
        let count = self.dropped;
        let said = format_args!("{count} messages were not kept while nothing took them");
        let _ = self.write(&mut line, Severity::Error, said);
        if self.send(&line.get_ref()[..line.position() as usize]) {
            self.dropped = 0;
        }
        self.dropped == 0
    }

    fn send(&mut self, datagram: &[u8]) -> bool {
        // By name each time: a syslogd that was started anew has another socket there.
        let sent = self.socket.send_to(datagram, SOCKET);
        self.is_busy = matches!(&sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        sent.is_ok()
    }

    fn write(
        &self,
        out: &mut impl Write,
        severity: Severity,
        message: fmt::Arguments<'_>,
    ) -> io::Result<()> {
        let [month, day, hour, minute, second] = clock::local_time();
        let month = MONTHS.get(month as usize).unwrap_or(&MONTHS[0]);
        let priority = FACILITY_DAEMON | severity as u8;
        write!(
            out,
            "<{priority}>{month} {day:2} {hour:02}:{minute:02}:{second:02} conntracker[{}]: {message}",
            self.pid
        )
    }
}
