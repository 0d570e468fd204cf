//! Which flows a capture is about, as asked for on the command line.
//!
//! Conditions of different kinds must all hold; of several values of one kind, any. An address or
//! port matches wherever the flow has it: source or destination, before or after translation.

use crate::wire::conntrack::{Entry, Tuple};

/// A network in CIDR notation; IPv4 in the first four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Network address.
    pub address: [u8; 16],
    /// How many leading bits count.
    pub prefix_bits: u8,
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
}

impl Network {
    fn contains(&self, address: &[u8; 16], ipv6: bool) -> bool {
        let shift = 128 - u32::from(self.prefix_bits);
        let difference = u128::from_be_bytes(*address) ^ u128::from_be_bytes(self.address);
        ipv6 == self.ipv6 && difference.checked_shr(shift).unwrap_or(0) == 0
    }
}

/// The conditions; an empty list or `None` asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// IPv6 only (true), IPv4 only (false).
    pub ipv6: Option<bool>,
    /// Protocol numbers.
    pub protocols: Vec<u8>,
    /// One of these networks takes part.
    pub networks: Vec<Network>,
    /// None of these networks takes part.
    pub not_networks: Vec<Network>,
    /// One of these port ranges (first and last) takes part.
    pub ports: Vec<(u16, u16)>,
}

impl Filter {
    /// Whether the capture is about this entry.
    #[cfg_attr(small, optimize(speed))]
    pub fn admits(&self, entry: &Entry) -> bool {
        let original = &entry.original;
        self.ipv6.is_none_or(|ipv6| ipv6 == original.ipv6)
            && (self.protocols.is_empty() || self.protocols.contains(&original.proto))
            && (self.networks.is_empty() || takes_part(&self.networks, entry))
            && (self.not_networks.is_empty() || !takes_part(&self.not_networks, entry))
            && (self.ports.is_empty() || self.has_port(original) || self.has_port(&entry.reply))
    }

    fn has_port(&self, tuple: &Tuple) -> bool {
        let inside = |port: u16| {
            self.ports
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&port))
        };
        tuple.has_ports() && (inside(tuple.sport) || inside(tuple.dport))
    }
}

fn takes_part(networks: &[Network], entry: &Entry) -> bool {
    let (original, reply) = (&entry.original, &entry.reply);
    let addresses = [&original.src, &original.dst, &reply.src, &reply.dst];
    networks.iter().any(|network| {
        addresses
            .iter()
            .any(|address| network.contains(address, original.ipv6))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(a: u8, b: u8, c: u8, d: u8) -> [u8; 16] {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[a, b, c, d]);
        address
    }

    fn entry() -> Entry {
        let original = Tuple {
            proto: 6,
            src: v4(10, 0, 0, 1),
            dst: v4(192, 0, 2, 1),
            sport: 40000,
            dport: 80,
            ..Tuple::default()
        };
        // Destination translated to 10.9.0.7:8080.
        let reply = Tuple {
            src: v4(10, 9, 0, 7),
            dst: v4(10, 0, 0, 1),
            sport: 8080,
            dport: 40000,
            ..original
        };
        Entry {
            original,
            reply,
            ..Entry::default()
        }
    }

    fn network(address: [u8; 16], prefix_bits: u8) -> Network {
        Network {
            address,
            prefix_bits,
            ipv6: false,
        }
    }

    #[test]
    fn a_network_matches_before_and_after_translation() {
        for (address, bits, expected) in [
            (v4(10, 9, 0, 0), 16, true),
            (v4(192, 0, 2, 1), 32, true),
            (v4(10, 8, 0, 0), 16, false),
            (v4(0, 0, 0, 0), 0, true),
        ] {
            let filter = Filter {
                networks: vec![network(address, bits)],
                ..Filter::default()
            };
            assert_eq!(filter.admits(&entry()), expected, "{address:?}/{bits}");
            let filter = Filter {
                not_networks: vec![network(address, bits)],
                ..Filter::default()
            };
            assert_eq!(filter.admits(&entry()), !expected, "not {address:?}/{bits}");
        }
    }

    #[test]
    fn all_kinds_must_hold() {
        let filter = Filter {
            protocols: vec![6, 17],
            ports: vec![(1, 79), (8080, 8080)],
            ipv6: Some(false),
            ..Filter::default()
        };
        assert!(filter.admits(&entry()));
        assert!(
            !Filter {
                ipv6: Some(true),
                ..filter.clone()
            }
            .admits(&entry())
        );
        assert!(
            !Filter {
                protocols: vec![17],
                ..filter.clone()
            }
            .admits(&entry())
        );
        assert!(
            !Filter {
                ports: vec![(81, 8079)],
                ..filter
            }
            .admits(&entry())
        );
    }

    #[test]
    fn every_ipv6_network_leaves_ipv4_out() {
        let everything = Network {
            address: [0; 16],
            prefix_bits: 0,
            ipv6: true,
        };
        assert!(
            !Filter {
                networks: vec![everything],
                ..Filter::default()
            }
            .admits(&entry())
        );
    }
}
