//! The legacy tables (iptables, ip6tables) as the kernel has them. Only tables that are loaded are
//! asked for: asking for another one would load it.

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const SO_GET_INFO: libc::c_int = 64;
const SO_GET_ENTRIES: libc::c_int = 65;
const NAME_LEN: usize = 32;
/// struct ipt_getinfo: name, valid_hooks, hook_entry and underflow of 5, num_entries, size.
const INFO_LEN: usize = NAME_LEN + 4 + 20 + 20 + 4 + 4;
const INFO_SIZE_OFFSET: usize = INFO_LEN - 4;
/// struct ipt_get_entries: name, size, padding; then the entries.
const ENTRIES_OFFSET: usize = NAME_LEN + 8;

/// The names of the tables that are loaded in this namespace.
pub fn loaded_tables(ipv6: bool) -> Vec<String> {
    let listing = if ipv6 {
        "/proc/net/ip6_tables_names"
    } else {
        "/proc/net/ip_tables_names"
    };
    let names = fs::read_to_string(listing).unwrap_or_default(); // no file: no legacy tables
    names.lines().map(str::to_owned).collect()
}

/// The entries of a loaded table, one behind the other.
pub fn entries(ipv6: bool, table: &str) -> io::Result<Vec<u8>> {
    let family = if ipv6 {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let level = if ipv6 {
        libc::IPPROTO_IPV6
    } else {
        libc::IPPROTO_IP
    };
    for _ in 0..10 {
        let mut info = named(table, INFO_LEN);
        get(&socket, level, SO_GET_INFO, &mut info)?;
        let size = &info[INFO_SIZE_OFFSET..];
        let size_bytes = [size[0], size[1], size[2], size[3]];
        let len = u32::from_ne_bytes(size_bytes) as usize;
        let mut entries = named(table, ENTRIES_OFFSET + len);
        entries[NAME_LEN..NAME_LEN + 4].copy_from_slice(&size_bytes);
        match get(&socket, level, SO_GET_ENTRIES, &mut entries) {
            Ok(()) => return Ok(entries.split_off(ENTRIES_OFFSET)),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {} // replaced meanwhile
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

fn named(table: &str, len: usize) -> Vec<u8> {
    let mut buffer = vec![0; len];
    let name = table.as_bytes();
    let name_len = name.len().min(NAME_LEN - 1);
    buffer[..name_len].copy_from_slice(&name[..name_len]);
    buffer
}

fn get(
    socket: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    buffer: &mut [u8],
) -> io::Result<()> {
    let mut len =
        libc::socklen_t::try_from(buffer.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads and writes at most `len` bytes of the buffer.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
