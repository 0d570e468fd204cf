//! Which addresses are this machine's, in our network namespace.

use super::exchange::{Answer, Exchange};
use crate::sys::clock;
use crate::sys::netlink::Family;
use crate::wire::address::{Address, dump_request, parse};
use std::io;
use std::time::Duration;

/// The addresses that interfaces have. What a route alone makes local ("ip route add local") is not
/// among them.
#[derive(Debug)]
pub struct Addresses {
    exchange: Exchange,
    /// In order.
    addresses: Vec<Address>,
    read: Option<Duration>,
}

impl Default for Addresses {
    fn default() -> Self {
        Addresses::new()
    }
}

impl Addresses {
    /// None yet but those of the loopback interface.
    pub fn new() -> Addresses {
        Addresses {
            exchange: Exchange::new(Family::Route),
            addresses: Vec::new(),
            read: None,
        }
    }

    /// Reads the addresses anew where the last time is longer ago than `at_most_every`; says whether it
    /// did. After an error, which is the kernel's, what was known stays.
    pub fn refresh(&mut self, at_most_every: Duration) -> io::Result<bool> {
        let now = clock::monotonic();
        if self.read.is_some_and(|read| now < read + at_most_every) {
            return Ok(false);
        }
        self.read = Some(now);
        let mut addresses = Vec::new();
        self.exchange
            .ask(&dump_request(1), Answer::Dump, &mut |message| {
                addresses.extend(parse(message));
            })?;
        addresses.sort_unstable();
        addresses.dedup();
        self.addresses = addresses;
        Ok(true)
    }

    /// All that are known.
    pub fn iter(&self) -> impl Iterator<Item = &Address> {
        self.addresses.iter()
    }

    /// Whether an address (IPv4 in the first four bytes) is this machine's.
    pub fn is_local(&self, ipv6: bool, address: &[u8; 16]) -> bool {
        const LOOPBACK: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let is_loopback = if ipv6 {
            *address == LOOPBACK
        } else {
            address[0] == 127
        };
        let address = Address {
            ipv6,
            address: *address,
        };
        is_loopback || self.addresses.binary_search(&address).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_always_local_and_the_rest_is_asked_for() {
        let mut addresses = Addresses::new();
        let v4 = |address: [u8; 4]| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address);
            bytes
        };
        assert!(addresses.is_local(false, &v4([127, 9, 9, 9])));
        assert!(!addresses.is_local(true, &v4([127, 0, 0, 1])));
        assert!(!addresses.is_local(false, &v4([192, 0, 2, 1])));
        assert!(addresses.refresh(Duration::from_secs(60)).unwrap());
        assert!(!addresses.refresh(Duration::from_secs(60)).unwrap());
        assert!(!addresses.is_local(false, &v4([192, 0, 2, 1])));
        addresses.addresses = vec![Address {
            ipv6: false,
            address: v4([192, 0, 2, 1]),
        }];
        assert!(addresses.is_local(false, &v4([192, 0, 2, 1])));
        assert!(!addresses.is_local(true, &v4([192, 0, 2, 1])));
    }
}
