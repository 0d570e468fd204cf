//! Netlink attributes (`struct nlattr`, include/uapi/linux/netlink.h): a cursor that cannot index.
//!
//! An attribute is a 16-bit length that includes its own four-byte header, a 16-bit type in host
//! byte order, the payload, and padding up to a multiple of four. The cursor yields (type, payload)
//! with the two flag bits taken off the type, since the kernel does not set them reliably
//! (trace verdicts nest without `NLA_F_NESTED`): callers descend by type, never by flag.

/// The bytes do not hold what their own length fields say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokenFraming;

const NLA_HDRLEN: usize = 4;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// The header of an attribute (`nla_len`, which counts the header, and `nla_type`) as one word.
pub const fn header(len: u16, kind: u16) -> u32 {
    let ([l0, l1], [k0, k1]) = (len.to_ne_bytes(), kind.to_ne_bytes());
    u32::from_ne_bytes([l0, l1, k0, k1])
}

/// Iterates over the attributes of `bytes`; yields `Err` once where the framing breaks, then ends.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Reads attributes from the start of `bytes`.
    #[cfg_attr(small, optimize(speed))]
    pub fn new(bytes: &'a [u8]) -> Self {
        Attributes { rest: bytes }
    }

    /// What was not read yet.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The header of the next attribute, and its payload if that is one word.
    #[inline]
    #[cfg_attr(small, optimize(speed))]
    pub fn word(&self) -> Option<(u32, u32)> {
        let ([h0, h1, h2, h3, v0, v1, v2, v3], _) = self.rest.split_first_chunk::<8>()?;
        let (header, value) = ([*h0, *h1, *h2, *h3], [*v0, *v1, *v2, *v3]);
        Some((u32::from_ne_bytes(header), u32::from_be_bytes(value)))
    }

    /// Leaves it behind.
    #[inline]
    #[cfg_attr(small, optimize(speed))]
    pub fn skip_word(&mut self) {
        self.rest = self.rest.get(8..).unwrap_or_default();
    }

    #[inline]
    #[cfg_attr(small, optimize(speed))]
    fn step(&mut self) -> Option<(u16, &'a [u8])> {
        let (header, after) = self.rest.split_first_chunk::<NLA_HDRLEN>()?;
        let [l0, l1, t0, t1] = *header;
        let payload_len = usize::from(u16::from_ne_bytes([l0, l1])).checked_sub(NLA_HDRLEN)?;
        let (payload, after) = after.split_at_checked(payload_len)?;
        // The last attribute may come without its padding.
        let padding_len = payload_len.wrapping_neg() & 3;
        self.rest = after.get(padding_len..).unwrap_or_default();
        Some((u16::from_ne_bytes([t0, t1]) & NLA_TYPE_MASK, payload))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), BrokenFraming>;

    #[inline]
    #[cfg_attr(small, optimize(speed))]
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

/// A payload of exactly one byte.
#[cfg_attr(small, optimize(speed))]
pub fn u8_of(payload: &[u8]) -> Option<u8> {
    <[u8; 1]>::try_from(payload).ok().map(|[b]| b)
}

/// A big-endian payload of exactly two bytes.
#[cfg_attr(small, optimize(speed))]
pub fn be16_of(payload: &[u8]) -> Option<u16> {
    <[u8; 2]>::try_from(payload).ok().map(u16::from_be_bytes)
}

/// A big-endian payload of exactly four bytes.
#[cfg_attr(small, optimize(speed))]
pub fn be32_of(payload: &[u8]) -> Option<u32> {
    <[u8; 4]>::try_from(payload).ok().map(u32::from_be_bytes)
}

/// A big-endian payload of exactly eight bytes.
#[cfg_attr(small, optimize(speed))]
pub fn be64_of(payload: &[u8]) -> Option<u64> {
    <[u8; 8]>::try_from(payload).ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(bytes: &[u8]) -> Vec<Result<(u16, Vec<u8>), BrokenFraming>> {
        Attributes::new(bytes)
            .map(|item| item.map(|(kind, payload)| (kind, payload.to_vec())))
            .collect()
    }

    fn header(len: u16, kind: u16) -> Vec<u8> {
        [len.to_ne_bytes(), kind.to_ne_bytes()].concat()
    }

    #[test]
    fn pads_to_four_and_masks_the_flag_bits() {
        let mut bytes = header(5, 0x8001); // NLA_F_NESTED | 1, one byte of payload
        bytes.extend([0xaa, 0, 0, 0]); //     payload, three bytes of padding
        bytes.extend(header(4, 2)); //        empty payload
        assert_eq!(collect(&bytes), [Ok((1, vec![0xaa])), Ok((2, vec![]))]);
    }

    #[test]
    fn the_last_attribute_may_lack_padding() {
        let mut bytes = header(6, 7);
        bytes.extend([1, 2]);
        assert_eq!(collect(&bytes), [Ok((7, vec![1, 2]))]);
    }

    #[test]
    fn a_length_below_the_header_or_beyond_the_end_breaks_once() {
        for len in [0, 3, 9, u16::MAX] {
            let mut bytes = header(len, 1);
            bytes.extend([0; 4]);
            assert_eq!(collect(&bytes), [Err(BrokenFraming)], "length {len}");
        }
        assert_eq!(collect(&[1, 2, 3]), [Err(BrokenFraming)]);
        assert_eq!(collect(&[]), []);
    }
}
