//! Numbers and addresses as text, without loops over digits and without allocating.

use super::block::Block;
use crate::wire::conntrack::Tuple;

const EIGHT_DIGITS: u64 = 100_000_000;
const ZEROS: u64 = u64::from_le_bytes(*b"00000000");

/// Appends a decimal number.
#[cfg_attr(small, optimize(speed))]
pub fn decimal(out: &mut Block, value: u64) {
    if value < 10 {
        out.push(b'0' + value as u8);
    } else if value < EIGHT_DIGITS {
        // Without the zeros at its front.
        let digits = eight_digits(value);
        let skipped = (digits ^ ZEROS).trailing_zeros() / 8;
        out.short(
            &(digits >> (8 * skipped)).to_le_bytes(),
            8 - skipped as usize,
        );
    } else {
        long_decimal(out, value);
    }
}

#[inline(never)]
fn long_decimal(out: &mut Block, value: u64) {
    decimal(out, value / EIGHT_DIGITS);
    out.put(&eight_digits(value % EIGHT_DIGITS).to_le_bytes());
}

/// Eight digits of a number below 10^8, the first one in the lowest byte. Divides all halves of the
/// number at once, then all quarters, then all eighths, each in its own bits of one word.
#[cfg_attr(small, optimize(speed))]
#[inline]
pub fn eight_digits(value: u64) -> u64 {
    let halves = (value / 10_000) | ((value % 10_000) << 32);
    let hundreds = (halves * 10_486) >> 20 & 0x7f_0000_007f;
    let quarters = hundreds | (halves - 100 * hundreds) << 16;
    let tens = (quarters * 103) >> 10 & 0x000f_000f_000f_000f;
    ZEROS | tens | (quarters - 10 * tens) << 8
}

/// Appends a decimal number right-aligned in `width` columns, 20 at most; a longer one grows.
#[cfg_attr(small, optimize(speed))]
#[inline]
pub fn padded(out: &mut Block, value: u64, width: usize, pad: u8) {
    let len = value.checked_ilog10().map_or(1, |log| log as usize + 1);
    out.short(&[pad; 20], width.saturating_sub(len));
    decimal(out, value);
}

/// Appends an address of a tuple.
#[cfg_attr(small, optimize(speed))]
pub fn address(out: &mut Block, tuple: &Tuple, bytes: &[u8; 16]) {
    match bytes {
        _ if tuple.ipv6 => ipv6(out, bytes),
        [a, b, c, d, ..] => ipv4(out, [*a, *b, *c, *d]),
    }
}

/// Appends an IPv4 address.
#[cfg_attr(small, optimize(speed))]
#[inline]
pub fn ipv4(out: &mut Block, [a, b, c, d]: [u8; 4]) {
    let put = |out: &mut Block, (first, first_len), (second, second_len): (u64, u32), less| {
        let text: u64 = first | second << (8 * first_len);
        out.short(
            &text.to_le_bytes(),
            (first_len + second_len - less) as usize,
        );
    };
    put(out, octet(a), octet(b), 0);
    put(out, octet(c), octet(d), 1); // but for the last point
}

/// The digits of a byte with a point behind them, and how many bytes these are.
#[cfg_attr(small, optimize(speed))]
#[inline]
fn octet(value: u8) -> (u64, u32) {
    let text = OCTETS[usize::from(value)];
    let len = 2 + u32::from(value >= 10) + u32::from(value >= 100);
    (u64::from(text), len)
}

/// Of each byte.
static OCTETS: [u32; 256] = {
    let mut octets = [0; 256];
    let mut value = 0;
    while value < 256 {
        let (hundreds, tens, ones) = (value / 100, value / 10 % 10, value % 10);
        let digits = hundreds | tens << 8 | ones << 16 | u32::from_le_bytes(*b"000.");
        let skipped = 1 - (value >= 100) as u32 + 1 - (value >= 10) as u32;
        octets[value as usize] = digits >> (8 * skipped);
        value += 1;
    }
    octets
};

/// Appends an IPv6 address as inet_ntop(3) writes it.
pub fn ipv6(out: &mut Block, bytes: &[u8; 16]) {
    if let [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] = *bytes {
        out.put(b"::ffff:");
        return ipv4(out, [a, b, c, d]);
    }
    let group = |at: usize| u16::from_be_bytes([bytes[2 * at], bytes[2 * at + 1]]);
    let zeros = (0..8).fold(0, |zeros, at| zeros | u32::from(group(at) == 0) << at);
    let (start, end) = longest_run(zeros);
    let mut at = 0;
    while at < 8 {
        if at == start {
            out.short(b"::", if at == 0 { 2 } else { 1 });
            at = end;
        } else {
            hex(out, group(at));
            at += 1;
        }
    }
    if end != 8 {
        out.truncate(out.len() - 1); // the last colon
    }
}

/// Where the first of the longest runs of at least two bits lies; nowhere, where there is none.
fn longest_run(bits: u32) -> (usize, usize) {
    let (mut starts, mut len) = (bits, 1);
    while starts & bits >> len != 0 {
        starts &= bits >> len;
        len += 1;
    }
    match (len, starts.trailing_zeros() as usize) {
        (1, _) => (usize::MAX, usize::MAX),
        (len, start) => (start, start + len),
    }
}

/// Appends a hexadecimal number without zeros at its front, and a colon.
fn hex(out: &mut Block, value: u16) {
    let value = u32::from(value);
    let digits = value >> 12 | (value & 0xf00) | (value & 0xf0) << 12 | (value & 0xf) << 24;
    let letters = (digits + 0x0606_0606) >> 4 & 0x0101_0101;
    let text = digits + u32::from_le_bytes(*b"0000") + letters * 39; // from '9' + 1 to 'a'
    let skipped = (digits.trailing_zeros() / 8).min(3);
    let text = (u64::from(text) | u64::from(b':') << 32) >> (8 * skipped);
    out.short(&text.to_le_bytes(), 5 - skipped as usize);
}

#[cfg(test)]
mod tests {
    use super::super::block::{random, written};
    use super::*;
    use std::net::Ipv6Addr;

    #[test]
    fn numbers_as_format_writes_them() {
        let powers = (0..20).map(|exponent| 10u64.pow(exponent));
        let edges = powers.flat_map(|power| [power - 1, power, power + 1, power.saturating_mul(9)]);
        let edges = edges.chain([u64::MAX, u64::MAX - 1, u64::from(u32::MAX)]);
        for value in edges.chain(0..1_000).chain(random().take(20_000)) {
            assert_eq!(written(|out| decimal(out, value)), value.to_string());
            for width in [0, 3, 9, 12, 20] {
                let text = written(|out| padded(out, value, width, b' '));
                assert_eq!(text, format!("{value:width$}"));
                let text = written(|out| padded(out, value, width, b'0'));
                assert_eq!(text, format!("{value:0width$}"));
            }
        }
    }

    #[test]
    fn addresses_as_inet_ntop_writes_them() {
        let v4 = Tuple::default();
        for octet in 0..=255u8 {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&[octet, 250, !octet, 1]);
            let text = written(|out| address(out, &v4, &bytes));
            assert_eq!(text, format!("{octet}.250.{}.1", !octet));
        }
        let v6 = Tuple { ipv6: true, ..v4 };
        let known = [
            "::",
            "::1",
            "2001:db8::1",
            "::ffff:10.250.0.1",
            "::10.1.2.3",
        ];
        let known = known.map(|text| text.parse::<Ipv6Addr>().unwrap().to_bits());
        // All places where zeros can be, between groups of all lengths.
        let mut random = random();
        let masked = (0..256u32).flat_map(|mask| {
            let groups = [(); 8].map(|()| random.next().unwrap() as u16 | 1);
            let zeroed = (0..8).map(|at| if mask >> at & 1 == 0 { groups[at] } else { 0 });
            let zeroed: Vec<u16> = zeroed.collect();
            let small = zeroed.iter().map(|group| group & 0xf).collect();
            [zeroed, small].map(|groups: Vec<u16>| {
                groups
                    .iter()
                    .fold(0, |bits, group| bits << 16 | u128::from(*group))
            })
        });
        for bits in masked.chain(known) {
            let expected = Ipv6Addr::from_bits(bits).to_string();
            assert_eq!(
                written(|out| address(out, &v6, &bits.to_be_bytes())),
                expected
            );
        }
        for group in 0..=u16::MAX {
            assert_eq!(written(|out| hex(out, group)), format!("{group:x}:"));
        }
    }
}
