//! Which packets an entry is for, before its matches are asked (struct ipt_ip, struct ip6t_ip6).

use super::{Entry, Layout, until_nul};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const INTERFACE_LEN: usize = 16;

const INVERTED_INCOMING: u8 = 0x01;
const INVERTED_OUTGOING: u8 = 0x02;
const INVERTED_SOURCE: u8 = 0x08;
const INVERTED_DESTINATION: u8 = 0x10;
const INVERTED_FRAGMENT: u8 = 0x20;
const INVERTED_PROTOCOL: u8 = 0x40;

const IPV4_FRAGMENT: u8 = 0x01;
const IPV4_GOTO: u8 = 0x02;
const IPV6_PROTOCOL: u8 = 0x01;
const IPV6_GOTO: u8 = 0x04;

/// An address under a mask, which need not be that of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The address.
    pub address: IpAddr,
    /// Which of its bits count.
    pub mask: IpAddr,
    /// All others are meant.
    pub inverted: bool,
}

/// An interface by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface<'a> {
    /// The name, or how it begins; empty for every interface.
    pub name: &'a [u8],
    /// The name may go on.
    pub is_prefix: bool,
    /// All others are meant.
    pub inverted: bool,
}

/// Which packets an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selector<'a> {
    /// Where from.
    pub source: Network,
    /// Where to.
    pub destination: Network,
    /// Came in through.
    pub incoming: Interface<'a>,
    /// Goes out through.
    pub outgoing: Interface<'a>,
    /// 0 for every protocol.
    pub protocol: u16,
    /// All other protocols are meant.
    pub protocol_inverted: bool,
    /// Fragments from the second on only (IPv4).
    pub fragment: bool,
    /// All but those.
    pub fragment_inverted: bool,
    /// What the target jumps to does not come back here.
    pub goto: bool,
}

impl<'a> Entry<'a> {
    /// Which packets it is for.
    pub fn selector(&self) -> Option<Selector<'a>> {
        let selector = self.header.get(..Layout::of(self.ipv6).selector_len)?;
        if self.ipv6 {
            ipv6(selector)
        } else {
            ipv4(selector)
        }
    }
}

fn ipv4(bytes: &[u8]) -> Option<Selector<'_>> {
    let address =
        |offset| array::<4>(bytes, offset).map(|octets| IpAddr::from(Ipv4Addr::from(octets)));
    let flags = *bytes.get(82)?;
    let inverted = *bytes.get(83)?;
    Some(Selector {
        source: Network {
            address: address(0)?,
            mask: address(8)?,
            inverted: inverted & INVERTED_SOURCE != 0,
        },
        destination: Network {
            address: address(4)?,
            mask: address(12)?,
            inverted: inverted & INVERTED_DESTINATION != 0,
        },
        incoming: interface(bytes, 16, 48, inverted & INVERTED_INCOMING != 0)?,
        outgoing: interface(bytes, 32, 64, inverted & INVERTED_OUTGOING != 0)?,
        protocol: u16::from_ne_bytes(array(bytes, 80)?),
        protocol_inverted: inverted & INVERTED_PROTOCOL != 0,
        fragment: flags & IPV4_FRAGMENT != 0,
        fragment_inverted: inverted & INVERTED_FRAGMENT != 0,
        goto: flags & IPV4_GOTO != 0,
    })
}

fn ipv6(bytes: &[u8]) -> Option<Selector<'_>> {
    let address =
        |offset| array::<16>(bytes, offset).map(|octets| IpAddr::from(Ipv6Addr::from(octets)));
    let flags = *bytes.get(131)?;
    let inverted = *bytes.get(132)?;
    let has_protocol = flags & IPV6_PROTOCOL != 0;
    Some(Selector {
        source: Network {
            address: address(0)?,
            mask: address(32)?,
            inverted: inverted & INVERTED_SOURCE != 0,
        },
        destination: Network {
            address: address(16)?,
            mask: address(48)?,
            inverted: inverted & INVERTED_DESTINATION != 0,
        },
        incoming: interface(bytes, 64, 96, inverted & INVERTED_INCOMING != 0)?,
        outgoing: interface(bytes, 80, 112, inverted & INVERTED_OUTGOING != 0)?,
        protocol: u16::from_ne_bytes(array(bytes, 128)?) & if has_protocol { !0 } else { 0 },
        protocol_inverted: inverted & INVERTED_PROTOCOL != 0,
        fragment: false,
        fragment_inverted: false,
        goto: flags & IPV6_GOTO != 0,
    })
}

/// The mask has a byte for each byte of the name that counts; where the NUL behind the name counts,
/// the name is a whole one.
fn interface(bytes: &[u8], name: usize, mask: usize, inverted: bool) -> Option<Interface<'_>> {
    let name = bytes.get(name..)?.get(..INTERFACE_LEN)?;
    let mask = bytes.get(mask..)?.get(..INTERFACE_LEN)?;
    let counted = mask.iter().take_while(|byte| **byte != 0).count();
    let counting = name.get(..counted)?;
    let is_prefix = counted < INTERFACE_LEN && counting.last().is_some_and(|byte| *byte != 0);
    Some(Interface {
        name: until_nul(counting),
        is_prefix,
        inverted,
    })
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPT: i32 = -2;

    fn field(bytes: &mut Vec<u8>, content: &[u8], len: usize) {
        let end = bytes.len() + len;
        bytes.extend(content);
        bytes.resize(end, 0);
    }

    /// An entry that accepts, behind the fields of its selector.
    fn entry(mut bytes: Vec<u8>, matches: u16) -> Vec<u8> {
        field(&mut bytes, &[], 4); //                              nfcache
        field(&mut bytes, &matches.to_ne_bytes(), 2); //           target_offset
        field(&mut bytes, &(matches + 40).to_ne_bytes(), 2); //    next_offset
        bytes.resize(usize::from(matches), 0); //                  comefrom, counters
        field(&mut bytes, &40u16.to_ne_bytes(), 2); //             target: size
        field(&mut bytes, &[], 30); //                             name, revision
        field(&mut bytes, &ACCEPT.to_ne_bytes(), 8); //            verdict
        bytes
    }

    fn network(address: &str, mask: &str, inverted: bool) -> Network {
        Network {
            address: address.parse().unwrap(),
            mask: mask.parse().unwrap(),
            inverted,
        }
    }

    fn interface(name: &str, is_prefix: bool, inverted: bool) -> Interface<'_> {
        Interface {
            name: name.as_bytes(),
            is_prefix,
            inverted,
        }
    }

    #[test]
    fn every_field_of_ipv4() {
        let mut bytes = Vec::new();
        field(&mut bytes, &[10, 1, 2, 3], 4); //           source
        field(&mut bytes, &[10, 0, 0, 0], 4); //           destination
        field(&mut bytes, &[255, 255, 255, 255], 4); //    source mask
        field(&mut bytes, &[255, 0, 255, 0], 4); //        destination mask
        field(&mut bytes, b"eth0", 16); //                 incoming
        field(&mut bytes, b"ppp", 16); //                  outgoing
        field(&mut bytes, &[0xff; 5], 16); //              incoming: the NUL counts
        field(&mut bytes, &[0xff; 3], 16); //              outgoing: it does not
        field(&mut bytes, &6u16.to_ne_bytes(), 2); //      protocol
        field(&mut bytes, &[0x03], 1); //                  flags: fragment, goto
        field(&mut bytes, &[0x10 | 0x01 | 0x20], 1); //    inverted: destination, incoming, fragment
        let bytes = entry(bytes, 112);
        let entry = Entry::at(&bytes, false, 0).unwrap();
        assert!(!entry.is_bare_verdict());
        assert_eq!(
            entry.selector(),
            Some(Selector {
                source: network("10.1.2.3", "255.255.255.255", false),
                destination: network("10.0.0.0", "255.0.255.0", true),
                incoming: interface("eth0", false, true),
                outgoing: interface("ppp", true, false),
                protocol: 6,
                protocol_inverted: false,
                fragment: true,
                fragment_inverted: true,
                goto: true,
            })
        );
    }

    #[test]
    fn every_field_of_ipv6() {
        let mut bytes = Vec::new();
        field(&mut bytes, &[0x20, 0x01, 0x0d, 0xb8], 16); //   source
        field(&mut bytes, &[], 16); //                         destination
        field(&mut bytes, &[0xff; 4], 16); //                  source mask
        field(&mut bytes, &[], 16); //                         destination mask
        field(&mut bytes, b"fifteen-letters", 16); //          incoming
        field(&mut bytes, &[], 16); //                         outgoing
        field(&mut bytes, &[0xff; 16], 16); //                 incoming: all of it counts
        field(&mut bytes, &[], 16); //                         outgoing: nothing does
        field(&mut bytes, &17u16.to_ne_bytes(), 2); //         protocol
        field(&mut bytes, &[], 1); //                          type of service
        field(&mut bytes, &[0x01], 1); //                      flags: the protocol counts
        field(&mut bytes, &[0x40 | 0x08 | 0x02], 4); //        inverted: protocol, source, outgoing
        let mut bytes = entry(bytes, 168);
        let expected = Selector {
            source: network("2001:db8::", "ffff:ffff::", true),
            destination: network("::", "::", false),
            incoming: interface("fifteen-letters", false, false),
            outgoing: interface("", false, true),
            protocol: 17,
            protocol_inverted: true,
            fragment: false,
            fragment_inverted: false,
            goto: false,
        };
        let selector =
            |bytes: &[u8]| format!("{:?}", Entry::at(bytes, true, 0).unwrap().selector());
        assert_eq!(selector(&bytes), format!("{:?}", Some(expected)));
        bytes[131] = 0x04; // goto, and the protocol does not count
        let expected = Selector {
            protocol: 0,
            goto: true,
            ..expected
        };
        assert_eq!(selector(&bytes), format!("{:?}", Some(expected)));
    }

    #[test]
    fn an_entry_for_every_packet_is_a_bare_verdict() {
        for (ipv6, selector_len, matches) in [(false, 84, 112), (true, 136, 168)] {
            let bytes = entry(vec![0; selector_len], matches);
            assert!(Entry::at(&bytes, ipv6, 0).unwrap().is_bare_verdict());
            for at in 0..selector_len {
                let mut changed = bytes.clone();
                changed[at] = 1;
                assert!(
                    !Entry::at(&changed, ipv6, 0).unwrap().is_bare_verdict(),
                    "{at}"
                );
            }
            let mut jump = bytes.clone();
            let verdict = jump.len() - 8;
            jump[verdict..][..4].copy_from_slice(&0i32.to_ne_bytes());
            assert!(!Entry::at(&jump, ipv6, 0).unwrap().is_bare_verdict());
        }
    }
}
