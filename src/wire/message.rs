//! Netlink messages (`struct nlmsghdr`) and the header behind them that all netfilter subsystems
//! share (`struct nfgenmsg`); include/uapi/linux/netlink.h and linux/netfilter/nfnetlink.h.

use super::attr::{Attributes, BrokenFraming};

const NLMSG_HDRLEN: usize = 16;
const NFGENMSG_LEN: usize = 4;

/// One message of a datagram, header fields in host byte order.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// `nlmsg_type`: subsystem in the high byte, message number in the low one, or a control type.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// What follows the header.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Splits a netfilter body into its address family (`nfgen_family`) and its attributes.
    #[cfg_attr(small, optimize(speed))]
    pub fn netfilter(&self) -> Result<(u8, Attributes<'a>), BrokenFraming> {
        let (header, attributes) = self
            .body
            .split_first_chunk::<NFGENMSG_LEN>()
            .ok_or(BrokenFraming)?;
        let [family, _version, _res0, _res1] = *header;
        Ok((family, Attributes::new(attributes)))
    }

    /// nfgenmsg.res_id: a group, or the low bits of a generation.
    pub fn resource(&self) -> Option<u16> {
        let (header, _) = self.body.split_first_chunk::<NFGENMSG_LEN>()?;
        let [_, _, high, low] = *header;
        Some(u16::from_be_bytes([high, low]))
    }

    /// Reads an NLMSG_ERROR body: 0 is an acknowledgement, else a positive errno.
    pub fn errno(&self) -> Result<i32, BrokenFraming> {
        let (code, _) = self.body.split_first_chunk::<4>().ok_or(BrokenFraming)?;
        i32::from_ne_bytes(*code).checked_neg().ok_or(BrokenFraming)
    }
}

/// Iterates over the messages of one datagram; yields `Err` once where the framing breaks.
#[derive(Clone, Copy, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// Reads messages from the start of a datagram.
    #[cfg_attr(small, optimize(speed))]
    pub fn new(datagram: &'a [u8]) -> Self {
        Messages { rest: datagram }
    }

    #[cfg_attr(small, optimize(speed))]
    #[inline]
    fn step(&mut self) -> Option<Message<'a>> {
        let (header, after) = self.rest.split_first_chunk::<NLMSG_HDRLEN>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, ..] = *header;
        let len = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let body = after.get(..len.checked_sub(NLMSG_HDRLEN)?)?;
        // nlmsg_len need not be a multiple of four; the next message begins at one that is.
        self.rest = self
            .rest
            .get(len.checked_next_multiple_of(4)?..)
            .unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            body,
        })
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, BrokenFraming>;

    #[cfg_attr(small, optimize(speed))]
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let item = self.step().ok_or(BrokenFraming);
        if item.is_err() {
            self.rest = &[];
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(len: u32, kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = len.to_ne_bytes().to_vec(); // nlmsg_len
        bytes.extend(kind.to_ne_bytes()); //           nlmsg_type
        bytes.extend(0u16.to_ne_bytes()); //           nlmsg_flags
        bytes.extend(7u32.to_ne_bytes()); //           nlmsg_seq
        bytes.extend(0u32.to_ne_bytes()); //           nlmsg_pid
        bytes.extend(body);
        bytes
    }

    #[test]
    fn an_odd_length_is_followed_by_an_aligned_message() {
        let mut bytes = message(17, 1, &[9, 0, 0, 0]);
        bytes.extend(message(16, 2, &[]));
        let kinds: Vec<_> = Messages::new(&bytes)
            .map(|m| m.map(|m| (m.kind, m.body.len())))
            .collect();
        assert_eq!(kinds, [Ok((1, 1)), Ok((2, 0))]);
    }

    #[test]
    fn a_length_that_lies_breaks_once() {
        for len in [0, 15, 21, u32::MAX] {
            let bytes = message(len, 1, &[0; 4]);
            let items: Vec<_> = Messages::new(&bytes).map(|m| m.map(|m| m.kind)).collect();
            assert_eq!(items, [Err(BrokenFraming)], "length {len}");
        }
    }

    #[test]
    fn an_error_carries_a_positive_errno() {
        let body = (-22i32).to_ne_bytes(); // -EINVAL
        let message = Message {
            kind: 2,
            flags: 0,
            body: &body,
        };
        assert_eq!(message.errno(), Ok(22));
        assert_eq!(
            Message {
                body: &body[..3],
                ..message
            }
            .errno(),
            Err(BrokenFraming)
        );
        let lowest = i32::MIN.to_ne_bytes();
        assert_eq!(
            Message {
                body: &lowest,
                ..message
            }
            .errno(),
            Err(BrokenFraming)
        );
    }
}
