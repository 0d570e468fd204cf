//! The legacy tables (iptables, ip6tables) as the kernel has them. Only tables that are loaded are
//! asked for: asking for another one would load it.

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const SO_GET_INFO: libc::c_int = 64;
const SO_GET_ENTRIES: libc::c_int = 65;
const NAME_LEN: usize = 32;
const HOOKS: usize = 5;
/// struct ipt_getinfo: name, valid_hooks, hook_entry and underflow of 5, num_entries, size.
const INFO_WORDS: usize = 1 + HOOKS + HOOKS + 2;
const INFO_LEN: usize = NAME_LEN + 4 * INFO_WORDS;
/// struct ipt_get_entries: name, size, padding; then the entries.
const ENTRIES_OFFSET: usize = NAME_LEN + 8;
/// Of an entry's counters, and so of all that is behind them. No field that is read here is a pointer or a
/// long: what has 64 bits and what has 32, as ARM, differ in nothing else.
const ENTRY_ALIGNMENT: usize = 8;

/// A table as the kernel hands it out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawTable {
    /// Which hooks it has a chain for, one bit each.
    pub valid_hooks: u32,
    /// Where the built-in chains begin in `entries`.
    pub hook_entry: [u32; HOOKS],
    /// Where their policies stand in `entries`.
    pub underflow: [u32; HOOKS],
    /// How many entries there are.
    pub entry_count: u32,
    /// The entries, one behind the other.
    pub entries: Vec<u8>,
}

impl RawTable {
    /// The words of struct ipt_getinfo behind the name, in host order, then the entries.
    pub fn to_bytes(&self) -> Vec<u8> {
        let size = u32::try_from(self.entries.len()).unwrap_or(u32::MAX); // the kernel's is a u32
        let words = [self.valid_hooks]
            .into_iter()
            .chain(self.hook_entry)
            .chain(self.underflow)
            .chain([self.entry_count, size]);
        let mut bytes: Vec<u8> = words.flat_map(u32::to_ne_bytes).collect();
        bytes.extend(&self.entries);
        bytes
    }

    /// What `to_bytes` made; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<RawTable> {
        let (words, entries) = bytes.split_at_checked(4 * INFO_WORDS)?;
        let (mut table, size) = head(words)?;
        table.entries = entries.to_vec();
        (table.entries.len() == usize::try_from(size).ok()?).then_some(table)
    }
}

/// The words of struct ipt_getinfo behind the name: a table without its entries yet, and their size.
fn head(bytes: &[u8]) -> Option<(RawTable, u32)> {
    let mut words = bytes.chunks_exact(4).map(|word| {
        let word = <[u8; 4]>::try_from(word).unwrap_or_default();
        u32::from_ne_bytes(word)
    });
    let mut table = RawTable {
        valid_hooks: words.next()?,
        ..RawTable::default()
    };
    for offset in table.hook_entry.iter_mut().chain(&mut table.underflow) {
        *offset = words.next()?;
    }
    table.entry_count = words.next()?;
    Some((table, words.next()?))
}

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
    self::table(ipv6, table).map(|table| table.entries)
}

/// How many entries a loaded table has and how many bytes they are: a cheap way to see most changes.
/// Never ask for a table that `loaded_tables` does not name.
pub fn info(ipv6: bool, name: &str) -> io::Result<(u32, u32)> {
    let (table, size) = Asker::new(ipv6)?.info(name)?;
    Ok((table.entry_count, size))
}

/// A loaded table. Never ask for one that `loaded_tables` does not name.
pub fn table(ipv6: bool, name: &str) -> io::Result<RawTable> {
    if align_of::<u64>() != ENTRY_ALIGNMENT {
        // 32-bit x86, which nothing here reads; a kernel of 64 bits makes them so for such a program, too.
        return Err(io::ErrorKind::Unsupported.into());
    }
    let asker = Asker::new(ipv6)?;
    for _ in 0..10 {
        let (mut table, size) = asker.info(name)?;
        let len = usize::try_from(size).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut entries = named(name, ENTRIES_OFFSET + len);
        entries[NAME_LEN..NAME_LEN + 4].copy_from_slice(&size.to_ne_bytes());
        match asker.get(SO_GET_ENTRIES, &mut entries) {
            Ok(()) => {
                entries.drain(..ENTRIES_OFFSET); // in place: a table may have megabytes
                table.entries = entries;
                // One of the same size may have come in between, with its chains elsewhere.
                let (after, _) = asker.info(name)?;
                if (after.hook_entry, after.underflow) == (table.hook_entry, table.underflow) {
                    return Ok(table);
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {} // replaced meanwhile
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// A socket to ask through.
struct Asker {
    socket: OwnedFd,
    level: libc::c_int,
}

impl Asker {
    fn new(ipv6: bool) -> io::Result<Asker> {
        let (family, level) = if ipv6 {
            (AddressFamily::INET6, libc::IPPROTO_IPV6)
        } else {
            (AddressFamily::INET, libc::IPPROTO_IP)
        };
        let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Asker { socket, level })
    }

    /// A table without its entries, and their size.
    fn info(&self, name: &str) -> io::Result<(RawTable, u32)> {
        let mut info = named(name, INFO_LEN);
        self.get(SO_GET_INFO, &mut info)?;
        head(&info[NAME_LEN..]).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn get(&self, option: libc::c_int, buffer: &mut [u8]) -> io::Result<()> {
        let mut len =
            libc::socklen_t::try_from(buffer.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the kernel reads and writes at most `len` bytes of the buffer.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                self.level,
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
}

fn named(table: &str, len: usize) -> Vec<u8> {
    let mut buffer = vec![0; len];
    let name = table.as_bytes();
    let name_len = name.len().min(NAME_LEN - 1);
    buffer[..name_len].copy_from_slice(&name[..name_len]);
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flat_form_holds_everything_and_nothing_else_is_one() {
        let table = RawTable {
            valid_hooks: 0x0e,
            hook_entry: [0, 1, 2, 3, 4],
            underflow: [5, 6, 7, 8, 9],
            entry_count: 10,
            entries: vec![1, 2, 3],
        };
        let bytes = table.to_bytes();
        assert_eq!(bytes.len(), 13 * 4 + 3);
        assert_eq!(RawTable::from_bytes(&bytes), Some(table));
        for len in 0..bytes.len() {
            assert_eq!(RawTable::from_bytes(&bytes[..len]), None, "{len} bytes");
        }
        assert_eq!(RawTable::from_bytes(&[bytes, vec![0]].concat()), None);
    }
}
