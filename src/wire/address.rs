//! The addresses of this machine: RTM_GETADDR and its answers (include/uapi/linux/rtnetlink.h,
//! include/uapi/linux/if_addr.h).

use super::attr::Attributes;
use super::kernel::{
    AF_INET, AF_INET6, AF_UNSPEC, IFA_ADDRESS, IFA_LOCAL, NLM_F_DUMP, NLM_F_REQUEST, RTM_GETADDR,
    RTM_NEWADDR,
};
use super::message::Message;
use super::request::Request;

/// An address of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// The address in network byte order; IPv4 in the first four bytes, the rest zero.
    pub address: [u8; 16],
}

/// Asks for the addresses of both families.
pub fn dump_request(sequence: u32) -> Request {
    let body = [
        AF_UNSPEC, // ifa_family
        0,         // ifa_prefixlen
        0,         // ifa_flags
        0,         // ifa_scope
        0, 0, 0, 0, // ifa_index
    ];
    Request::plain(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, sequence, &body)
}

/// Reads an answer (`struct ifaddrmsg` and its attributes). On a point-to-point link IFA_ADDRESS is
/// the other end's, and IFA_LOCAL ours; IPv6 leaves the latter out where there is no other end. `None`
/// where it is no address, or broken.
pub fn parse(message: &Message<'_>) -> Option<Address> {
    if message.kind != RTM_NEWADDR {
        return None;
    }
    let (header, attributes) = message.body.split_first_chunk::<8>()?;
    let [family, ..] = *header;
    let ipv6 = match family {
        AF_INET => false,
        AF_INET6 => true,
        _ => return None,
    };
    let (mut local, mut address) = (None, None);
    for attribute in Attributes::new(attributes) {
        match attribute.ok()? {
            (IFA_LOCAL, payload) => local = padded(ipv6, payload),
            (IFA_ADDRESS, payload) => address = padded(ipv6, payload),
            _ => {}
        }
    }
    let address = local.or(address)?;
    Some(Address { ipv6, address })
}

fn padded(ipv6: bool, payload: &[u8]) -> Option<[u8; 16]> {
    if ipv6 {
        return payload.try_into().ok();
    }
    let [a, b, c, d] = payload.try_into().ok()?;
    Some([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::super::message::Messages;
    use super::*;

    fn answer(family: u8, attributes: &[(u16, &[u8])]) -> Option<Address> {
        let mut body = vec![family, 24, 0, 0]; // ifa_family, _prefixlen, _flags, _scope
        body.extend(2u32.to_ne_bytes()); //        ifa_index
        for (kind, payload) in attributes {
            let len = u16::try_from(payload.len() + 4).unwrap();
            body.extend(len.to_ne_bytes()); //     nla_len
            body.extend(kind.to_ne_bytes()); //    nla_type
            body.extend(*payload);
        }
        let message = |body| Message {
            kind: RTM_NEWADDR,
            flags: 0,
            body,
        };
        for len in 0..body.len() {
            parse(&message(&body[..len]));
        }
        parse(&message(&body))
    }

    #[test]
    fn ours_goes_before_the_other_ends() {
        let ours = answer(AF_INET, &[(1, &[10, 0, 0, 2]), (2, &[10, 0, 0, 1])]).unwrap();
        assert_eq!(
            (ours.ipv6, &ours.address[..5]),
            (false, &[10, 0, 0, 1, 0][..])
        );
        let alone = answer(AF_INET6, &[(1, &[7; 16])]).unwrap();
        assert_eq!((alone.ipv6, alone.address), (true, [7; 16]));
    }

    #[test]
    fn what_is_no_address_is_none() {
        assert_eq!(answer(AF_INET, &[]), None);
        assert_eq!(answer(AF_INET, &[(2, &[1, 2, 3])]), None);
        assert_eq!(answer(AF_INET6, &[(1, &[10, 0, 0, 1])]), None);
        assert_eq!(answer(7, &[(1, &[10, 0, 0, 1])]), None);
    }

    #[test]
    fn the_question_is_a_dump_of_both_families() {
        let request = dump_request(3);
        let message = Messages::new(request.bytes()).next().unwrap().unwrap();
        assert_eq!((message.kind, message.flags), (22, 0x301));
        assert_eq!(message.body, [0; 8]);
    }
}
