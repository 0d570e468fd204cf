//! Numbers and addresses as text, appended to a block of bytes without allocating.

use crate::wire::conntrack::Tuple;
use std::io::Write;
use std::net::Ipv6Addr;

/// Appends a decimal number.
pub fn decimal(out: &mut Vec<u8>, value: u64) {
    padded(out, value, 1, b' ');
}

/// Appends a decimal number right-aligned in `width` columns; a longer one grows.
pub fn padded(out: &mut Vec<u8>, value: u64, width: usize, pad: u8) {
    let mut digits = [pad; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at.min(digits.len() - width.min(20))..]);
}

/// Appends an address of a tuple as inet_ntop(3) writes it.
pub fn address(out: &mut Vec<u8>, tuple: &Tuple, bytes: &[u8; 16]) {
    if tuple.ipv6 {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{}", Ipv6Addr::from(*bytes));
    } else {
        for (at, byte) in bytes[..4].iter().enumerate() {
            if at > 0 {
                out.push(b'.');
            }
            decimal(out, u64::from(*byte));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_align_right_and_grow() {
        assert_eq!(written(|out| decimal(out, 0)), "0");
        assert_eq!(written(|out| decimal(out, u64::MAX)), u64::MAX.to_string());
        assert_eq!(written(|out| padded(out, 7, 12, b' ')), format!("{:12}", 7));
        assert_eq!(written(|out| padded(out, 7, 9, b'0')), "000000007");
        assert_eq!(written(|out| padded(out, 123_456, 3, b' ')), "123456");
    }

    #[test]
    fn addresses_as_inet_ntop_writes_them() {
        let v4 = Tuple::default();
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&[10, 250, 0, 1]);
        assert_eq!(written(|out| address(out, &v4, &bytes)), "10.250.0.1");
        let v6 = Tuple { ipv6: true, ..v4 };
        let documentation: Ipv6Addr = "2001:db8::1".parse().unwrap();
        assert_eq!(
            written(|out| address(out, &v6, &documentation.octets())),
            "2001:db8::1"
        );
    }
}
