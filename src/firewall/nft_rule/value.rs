//! Values as nft(8) writes them: what kind of thing the bytes are decides.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::names::{self, Table, word};

/// What the bytes of a value mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Integer,
    /// An integer with no meaning known, in hexadecimal.
    Hex,
    Mark,
    Ipv4,
    Ipv6,
    Ether,
    EtherType,
    /// One word for one number.
    Word(&'static Table),
    /// One word for one number, others in hexadecimal with two digits.
    HexWord(&'static Table),
    /// One word for one number, in double quotes.
    Quoted(&'static Table),
    /// One word for each bit.
    Bits(&'static Table),
    /// The number of the highest word's bit stands for the label.
    Labels,
    /// In double quotes.
    Text,
    /// In double quotes; not ended by a NUL it is a prefix, `"eth*"`.
    Name,
    Milliseconds,
    Boolean,
    /// Seconds of the day, UTC.
    Hour,
    /// Nanoseconds since 1970.
    Date,
    /// A traffic class, `1:10`.
    Class,
}

/// The type of an expression's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Type {
    pub kind: Kind,
    /// The bytes stand in host order, not in network order.
    pub host: bool,
    pub bits: u32,
}

impl Type {
    /// A value in network byte order.
    pub fn network(kind: Kind, bits: u32) -> Type {
        Type {
            kind,
            host: false,
            bits,
        }
    }

    /// A value in host byte order.
    pub fn host(kind: Kind, bits: u32) -> Type {
        Type {
            kind,
            host: true,
            bits,
        }
    }

    /// In bytes, rounded up.
    pub fn bytes(self) -> usize {
        usize::try_from(self.bits.div_ceil(8)).unwrap_or(0)
    }

    /// Whether ranges that are prefixes are written `ADDRESS/LENGTH`.
    pub fn has_prefixes(self) -> bool {
        matches!(self.kind, Kind::Ipv4 | Kind::Ipv6 | Kind::Mark)
    }

    /// Whether it is a set of bits.
    pub fn is_bits(self) -> bool {
        matches!(self.kind, Kind::Bits(_) | Kind::Labels)
    }
}

/// The bytes as one number; `None` beyond 16 bytes.
pub(super) fn number(bytes: &[u8], host: bool) -> Option<u128> {
    if bytes.len() > 16 {
        return None;
    }
    let mut wide = [0u8; 16];
    let little = host && cfg!(target_endian = "little");
    let in_order: &mut dyn Iterator<Item = &u8> = if little {
        &mut bytes.iter()
    } else {
        &mut bytes.iter().rev()
    };
    for (to, from) in wide.iter_mut().zip(in_order) {
        *to = *from;
    }
    Some(u128::from_le_bytes(wide))
}

/// `bits` bits from bit `from` on, counted from the first byte's highest; right-aligned.
pub(super) fn cut(bytes: &[u8], from: u32, bits: u32) -> Vec<u8> {
    let bit = |at: u32| {
        let byte = usize::try_from(at / 8).ok().and_then(|i| bytes.get(i));
        byte.copied().unwrap_or(0) >> (7 - at % 8) & 1
    };
    let len = bits.div_ceil(8);
    let lead = (len * 8).saturating_sub(bits);
    (0..len)
        .map(|byte| {
            (0..8).fold(0u8, |value, at| {
                let position = byte * 8 + at;
                let set = position.checked_sub(lead).map_or(0, |i| bit(from + i));
                value << 1 | set
            })
        })
        .collect()
}

/// The bytes up to the first NUL as text.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let short = digits.trim_start_matches('0');
    format!("0x{}", if short.is_empty() { "0" } else { short })
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).to_string());
    }
    let v6 = <[u8; 16]>::try_from(bytes).ok()?;
    Some(Ipv6Addr::from(v6).to_string())
}

/// Words of the bits that are set, ascending, with what has no word as a number at the end.
pub(super) fn words_of_bits(table: &Table, value: u128, between: &str) -> String {
    let mut rest = value;
    let mut words = Vec::new();
    for (bit, word) in table {
        if value & u128::from(*bit) != 0 {
            words.push((*word).to_owned());
            rest &= !u128::from(*bit);
        }
    }
    if rest != 0 || words.is_empty() {
        words.push(format!("{rest:#x}"));
    }
    words.join(between)
}

/// Numbers of the bits that are set.
fn labels(value: u128, between: &str) -> String {
    let set: Vec<_> = (0..128)
        .filter(|bit| value >> bit & 1 == 1)
        .map(|bit: u32| bit.to_string())
        .collect();
    set.join(between)
}

/// Days, hours, minutes, seconds: `1h5m`.
pub(super) fn duration(milliseconds: u64) -> String {
    let mut rest = milliseconds;
    let mut out = String::new();
    for (unit, name) in [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1000, "s"),
        (1, "ms"),
    ] {
        if rest >= unit {
            out.push_str(&format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    out
}

fn hour(seconds: u128) -> String {
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    let end = if seconds == 0 {
        String::new()
    } else {
        format!(":{seconds:02}")
    };
    format!("\"{:02}:{:02}{end}\"", minutes / 60, minutes % 60)
}

/// The date of a day counted from 1970-01-01 (proleptic Gregorian calendar, UTC).
fn date(nanoseconds: u128) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    let (mut day, clock) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    let leap = |y: u32| y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if day < length || year > 2600 {
            break;
        }
        day -= length;
        year += 1;
    }
    let mut month = 1;
    for days in [
        31,
        28 + u128::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
    ] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    let day = day + 1;
    format!("\"{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}\"")
}

fn class(handle: u128) -> String {
    match handle {
        0 => "none".to_owned(),
        0xffff_ffff => "root".to_owned(),
        _ => format!("{:x}:{:x}", handle >> 16 & 0xffff, handle & 0xffff),
    }
}

fn name(bytes: &[u8]) -> String {
    let star = if bytes.contains(&0) || bytes.len() >= 16 {
        ""
    } else {
        "*"
    };
    format!("\"{}{star}\"", text(bytes))
}

/// `bytes` as a value of type `of`. `numeric`: in numbers only, as within a range.
pub(super) fn write(of: Type, bytes: &[u8], numeric: bool) -> String {
    let direct = match of.kind {
        Kind::Ipv4 | Kind::Ipv6 => address(bytes),
        Kind::Ether => {
            let pairs: Vec<_> = bytes.iter().map(|b| format!("{b:02x}")).collect();
            Some(pairs.join(":"))
        }
        Kind::Text => Some(format!("\"{}\"", text(bytes))),
        Kind::Name => Some(name(bytes)),
        _ => None,
    };
    if let Some(direct) = direct {
        return direct;
    }
    let Some(value) = number(bytes, of.host) else {
        return hex(bytes);
    };
    let short = u32::try_from(value).unwrap_or(u32::MAX);
    let named = |table| word(table, short).filter(|_| !numeric && value <= u128::from(short));
    let plain = || value.to_string();
    match of.kind {
        Kind::Mark => format!("{value:#010x}"),
        Kind::Hex => format!("{value:#x}"),
        Kind::Word(table) => named(table).map_or_else(plain, str::to_owned),
        Kind::HexWord(table) => named(table).map_or_else(|| format!("{value:#04x}"), str::to_owned),
        Kind::Quoted(table) => named(table).map_or_else(plain, |word| format!("\"{word}\"")),
        Kind::EtherType => {
            named(names::ETHER_TYPES).map_or_else(|| format!("{value:#06x}"), str::to_owned)
        }
        Kind::Bits(table) => words_of_bits(table, value, " | "),
        Kind::Labels => labels(value, ","),
        Kind::Milliseconds => {
            let value = u64::try_from(value).unwrap_or(u64::MAX);
            if numeric || value == 0 {
                format!("{}s", value / 1000)
            } else {
                duration(value)
            }
        }
        Kind::Boolean => ["missing", "exists"]
            .get(usize::try_from(value).unwrap_or(2))
            .map_or_else(plain, |word| (*word).to_owned()),
        Kind::Hour => hour(value),
        Kind::Date => date(value),
        Kind::Class => class(value),
        _ => plain(),
    }
}

/// The bytes of a value with the highest first.
pub(super) fn highest_first(of: Type, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if of.host && cfg!(target_endian = "little") {
        bytes.reverse();
    }
    bytes
}

/// The length of the prefix that a mask keeps, if it is one; its highest byte comes first.
pub(super) fn prefix_length(mask: &[u8]) -> Option<u32> {
    let ones: u32 = mask.iter().map(|b| b.count_ones()).sum();
    let bits = u32::try_from(mask.len()).ok()?.checked_mul(8)?;
    let mut lead = 0;
    for byte in mask {
        lead += byte.leading_ones();
        if *byte != 0xff {
            break;
        }
    }
    (lead == ones && ones <= bits).then_some(ones)
}

/// Everything from `first` to `last` as `A`, `A/N` or `A-B`.
pub(super) fn write_range(of: Type, first: &[u8], last: &[u8]) -> String {
    if first == last {
        return write(of, first, false);
    }
    if of.kind == Kind::Name {
        return name(text(first).as_bytes());
    }
    if of.has_prefixes() && first.len() == last.len() {
        let (low, high) = (highest_first(of, first), highest_first(of, last));
        let differ: Vec<u8> = low.iter().zip(&high).map(|(a, b)| !(a ^ b)).collect();
        let whole = low.iter().zip(&high).all(|(a, b)| a & (a ^ b) == 0);
        if let Some(length) = prefix_length(&differ).filter(|_| whole) {
            return format!("{}/{length}", write(of, first, false));
        }
    }
    format!("{}-{}", write(of, first, true), write(of, last, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_cut_from_the_left_and_right_aligned() {
        assert_eq!(cut(&[0xb8, 0], 0, 6), [0x2e]);
        assert_eq!(cut(&[0x12, 0x34, 0x56], 4, 12), [0x02, 0x34]);
        assert_eq!(cut(&[0xff], 8, 8), [0]);
    }

    #[test]
    fn ranges_that_are_prefixes_are_written_so() {
        let of = Type::network(Kind::Ipv4, 32);
        assert_eq!(
            write_range(of, &[10, 0, 0, 0], &[10, 255, 255, 255]),
            "10.0.0.0/8"
        );
        assert_eq!(
            write_range(of, &[10, 0, 0, 1], &[10, 0, 0, 9]),
            "10.0.0.1-10.0.0.9"
        );
        assert_eq!(write_range(of, &[0; 4], &[255; 4]), "0.0.0.0/0");
    }

    #[test]
    fn times_and_dates() {
        assert_eq!(duration(3_900_000), "1h5m");
        assert_eq!(date(1_709_164_800_000_000_000), "\"2024-02-29 00:00:00\"");
        assert_eq!(hour(43_261), "\"12:01:01\"");
    }
}
