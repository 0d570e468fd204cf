//! Netlink sockets: open, join, send, and receive in batches.

use super::signal;
use rustix::event::PollFlags;
use rustix::net::netlink::{NETFILTER, SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, bind, getsockname, send, socket_with,
    sockopt,
};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr;
use std::time::Duration;

/// Which part of the kernel a socket talks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// NETLINK_NETFILTER.
    Netfilter,
    /// NETLINK_SOCK_DIAG: which sockets there are.
    SockDiag,
    /// NETLINK_ROUTE: addresses, among others.
    Route,
}

/// A netlink socket, non-blocking.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    portid: u32,
}

/// An instruction of a classic BPF program (`struct sock_filter`): code, jt, jf, k.
pub type FilterInstruction = (u16, u8, u8, u32);

impl Socket {
    /// Opens and binds a socket of the netfilter family.
    pub fn open() -> io::Result<Socket> {
        Socket::open_family(Family::Netfilter)
    }

    /// Opens and binds a socket; the kernel chooses its port id. It belongs to the network namespace
    /// that the thread is in.
    pub fn open_family(family: Family) -> io::Result<Socket> {
        let protocol = match family {
            Family::Netfilter => Some(NETFILTER),
            Family::SockDiag => Some(SOCK_DIAG),
            Family::Route => None, // NETLINK_ROUTE is 0
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        let portid = SocketAddrNetlink::try_from(getsockname(&fd)?)?.pid();
        Ok(Socket { fd, portid })
    }

    /// The descriptor, readable while something is queued.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Joins a multicast group. The kernel may load the subsystem's module for it.
    pub fn join(&self, group: u32) -> io::Result<()> {
        self.set(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, &group)
    }

    /// Leaves a multicast group.
    pub fn leave(&self, group: u32) -> io::Result<()> {
        self.set(libc::SOL_NETLINK, libc::NETLINK_DROP_MEMBERSHIP, &group)
    }

    /// Hears all network namespaces that have an id in ours (Linux 4.2).
    pub fn listen_all_namespaces(&self) -> io::Result<()> {
        self.set(libc::SOL_NETLINK, libc::NETLINK_LISTEN_ALL_NSID, &1u32)
    }

    /// Asks for a receive buffer of `bytes`, beyond the limit for users where we may. Returns what
    /// the kernel set (it doubles what is asked for) and whether the limit was in the way.
    pub fn set_receive_buffer(&self, bytes: u32) -> io::Result<(u32, bool)> {
        let forced = sockopt::set_socket_recv_buffer_size_force(&self.fd, bytes as usize).is_ok();
        if !forced {
            sockopt::set_socket_recv_buffer_size(&self.fd, bytes as usize)?;
        }
        let effective = sockopt::socket_recv_buffer_size(&self.fd)?;
        Ok((u32::try_from(effective).unwrap_or(u32::MAX), !forced))
    }

    /// Lets the kernel drop what the program refuses, before it is queued.
    pub fn attach_filter(
        &self,
        program: impl Iterator<Item = FilterInstruction>,
    ) -> io::Result<()> {
        let mut instructions: Vec<libc::sock_filter> = program
            .map(|(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k })
            .collect();
        let len = u16::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let program = libc::sock_fprog {
            len,
            filter: instructions.as_mut_ptr(),
        };
        self.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
    }

    /// Sends one datagram to the kernel.
    pub fn send(&self, datagram: &[u8]) -> io::Result<()> {
        match send(&self.fd, datagram, SendFlags::empty()) {
            Ok(len) if len == datagram.len() => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Receives what is queued, up to the batch's size, without waiting. 0 where nothing is queued;
    /// ENOBUFS where the queue overflowed since the last call (what is queued comes with the next).
    #[cfg_attr(small, optimize(speed))]
    pub fn receive(&self, batch: &mut Batch) -> io::Result<usize> {
        batch.reset();
        let len = batch.headers.len() as libc::c_uint;
        // SAFETY: the headers point into buffers that the batch owns and that never move.
        let received = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                batch.headers.as_mut_ptr(),
                len,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        if received >= 0 {
            batch.received = received.unsigned_abs() as usize;
            return Ok(batch.received);
        }
        match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => Ok(0),
            error => Err(error),
        }
    }

    /// Receives, and waits where nothing is queued; `TimedOut` after `timeout`. The kernel answers most
    /// questions while they are sent, so the first look needs no poll.
    pub fn receive_within(&self, batch: &mut Batch, timeout: Duration) -> io::Result<usize> {
        let mut received = self.receive(batch)?;
        if received == 0 {
            signal::wait([(self.fd(), PollFlags::IN)], Some(timeout))?;
            received = self.receive(batch)?;
        }
        match received {
            0 => Err(io::ErrorKind::TimedOut.into()),
            received => Ok(received),
        }
    }

    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        let len = size_of::<T>() as libc::socklen_t;
        // SAFETY: the kernel reads `len` bytes from `value`, and, for a filter, from what it points to.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                ptr::from_ref(value).cast(),
                len,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// Room for one control message: the namespace id of an event.
const CONTROL_LEN: usize = 64;

/// Buffers for a batch of datagrams, made once.
pub struct Batch {
    headers: Box<[libc::mmsghdr]>,
    _vectors: Box<[libc::iovec]>,
    buffers: Box<[u8]>,
    controls: Box<[[u64; CONTROL_LEN / 8]]>,
    datagram_len: usize,
    received: usize,
}

/// One received datagram.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Its bytes, as far as there was room.
    pub bytes: &'a [u8],
    /// Whether there was not room for all.
    pub truncated: bool,
    /// The id of the namespace that it comes from, where that is not ours.
    pub netns: Option<i32>,
}

impl Batch {
    /// Buffers for `count` datagrams of `datagram_len` bytes.
    pub fn new(count: usize, datagram_len: usize) -> Batch {
        let mut buffers = vec![0u8; count * datagram_len].into_boxed_slice();
        let mut controls = vec![[0u64; CONTROL_LEN / 8]; count].into_boxed_slice();
        let mut vectors: Box<[libc::iovec]> = buffers
            .chunks_exact_mut(datagram_len)
            .map(|buffer| libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            })
            .collect();
        let headers = vectors
            .iter_mut()
            .zip(&mut controls)
            .map(|(vector, control)| {
                // SAFETY: all fields are integers or pointers, for which zero is a value.
                let mut header: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = control.as_mut_ptr().cast();
                header
            })
            .collect();
        Batch {
            headers,
            _vectors: vectors,
            buffers,
            controls,
            datagram_len,
            received: 0,
        }
    }

    /// How many datagrams fit.
    pub fn size(&self) -> usize {
        self.headers.len()
    }

    /// What the last `receive` brought.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        let buffers = self.buffers.chunks_exact(self.datagram_len);
        self.headers
            .iter()
            .zip(buffers)
            .take(self.received)
            .map(|(header, buffer)| Datagram {
                bytes: buffer.get(..header.msg_len as usize).unwrap_or(buffer),
                truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
                netns: namespace_id(&header.msg_hdr),
            })
    }

    /// The kernel has overwritten the lengths; only those of received headers can differ.
    fn reset(&mut self) {
        for header in self.headers.iter_mut() {
            header.msg_hdr.msg_controllen = CONTROL_LEN as _;
        }
        debug_assert_eq!(self.controls.len(), self.headers.len());
        self.received = 0;
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Batch({} of {})", self.received, self.headers.len())
    }
}

fn namespace_id(header: &libc::msghdr) -> Option<i32> {
    if header.msg_controllen == 0 {
        return None;
    }
    // SAFETY: msg_control points to our aligned control buffer, of which the kernel has filled
    // msg_controllen bytes with whole control messages; the macros stay within that.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            if ((*control).cmsg_level, (*control).cmsg_type)
                == (libc::SOL_NETLINK, libc::NETLINK_LISTEN_ALL_NSID)
            {
                return Some(ptr::read_unaligned(libc::CMSG_DATA(control).cast::<i32>()));
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    None
}

/// The kernel's own count of what it could not queue for a socket: the Drops column of
/// /proc/net/netlink. Opened once, read without allocating.
#[derive(Debug)]
pub struct DropCounter {
    file: File,
    portid: u32,
    buffer: Box<[u8]>,
}

impl DropCounter {
    /// The counter of a socket.
    pub fn open(socket: &Socket) -> io::Result<DropCounter> {
        let file = File::open("/proc/net/netlink")?;
        Ok(DropCounter {
            file,
            portid: socket.portid,
            buffer: vec![0; 16 << 10].into_boxed_slice(),
        })
    }

    /// Events dropped so far; `None` where the socket is not listed.
    pub fn read(&mut self) -> Option<u64> {
        let (mut offset, mut kept) = (0, 0);
        loop {
            let len = self.file.read_at(&mut self.buffer[kept..], offset).ok()?;
            let filled = kept + len;
            let whole = self.buffer[..filled]
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            if let Some(drops) = self.buffer[..whole]
                .split(|byte| *byte == b'\n')
                .find_map(|line| drops_of(line, self.portid))
            {
                return Some(drops);
            }
            if len == 0 || (whole == 0 && filled == self.buffer.len()) {
                return None;
            }
            self.buffer.copy_within(whole..filled, 0);
            kept = filled - whole;
            offset += len as u64;
        }
    }
}

/// A line of /proc/net/netlink: sk, Eth (protocol), Pid (port id), Groups, Rmem, Wmem, Dump, Locks,
/// Drops, Inode (net/netlink/af_netlink.c, netlink_native_seq_show).
fn drops_of(line: &[u8], portid: u32) -> Option<u64> {
    const NETLINK_NETFILTER: u64 = 12;
    let mut fields = line
        .split(|byte| *byte == b' ')
        .filter(|field| !field.is_empty());
    let mut number =
        |skip: usize| -> Option<u64> { std::str::from_utf8(fields.nth(skip)?).ok()?.parse().ok() };
    let (protocol, pid) = (number(1)?, number(0)?);
    if protocol != NETLINK_NETFILTER || pid != u64::from(portid) {
        return None;
    }
    number(5) // skips Groups, Rmem, Wmem, Dump, Locks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drops_column_is_found_by_protocol_and_port_id() {
        let line = b"00000000f4e5ae11 12  4242       00000005 0        0        0        2        94874    22137   ";
        assert_eq!(drops_of(line, 4242), Some(94874));
        assert_eq!(drops_of(line, 4243), None);
        assert_eq!(
            drops_of(b"00000000f4e5ae11 15  4242 00000005 0 0 0 2 7 22137", 4242),
            None
        );
        assert_eq!(
            drops_of(b"sk               Eth Pid        Groups   Rmem", 4242),
            None
        );
        assert_eq!(drops_of(b"", 4242), None);
    }
}
