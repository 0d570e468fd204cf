//! The values of options, from words to plain values.

use super::{Activation, Format, Output, OwnerRung, Rotate, Rung};
use crate::error::{Error, Result};
use crate::flow::filter::{Filter, Network};
use crate::limits::{
    CAPACITY_MAX, DURATION_MAX_S, EVERY_MIN, RECEIVE_BUFFER, ROTATE_COUNT_MAX, ROTATE_LEN_MIN,
    TRACE_RATE_MAX,
};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub(super) fn list<T>(
    words: &str,
    values: &mut Vec<T>,
    parse: fn(&str) -> Result<T>,
) -> Result<()> {
    for word in words.split(',') {
        values.push(parse(word)?);
    }
    Ok(())
}

pub(super) fn output(file: OsString) -> Result<Output> {
    match file.to_str() {
        Some("-") => Ok(Output::Stdout),
        Some("") => Err(Error::usage("-o: the file's name is empty")),
        _ => Ok(Output::File(PathBuf::from(file))),
    }
}

pub(super) fn format(word: &str) -> Result<Format> {
    match word {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err(Error::usage(format_args!(
            "--format: {word:?} is neither text nor json"
        ))),
    }
}

pub(super) fn activation(word: &str) -> Result<Activation> {
    match word {
        "auto" => Ok(Activation::Auto),
        "nft" => Ok(Activation::Nft),
        "legacy" => Ok(Activation::Legacy),
        "off" => Ok(Activation::Off),
        _ => Err(Error::usage(format_args!(
            "--activate: {word:?} is not one of auto, nft, legacy, off"
        ))),
    }
}

pub(super) fn trace_rung(word: &str) -> Result<Rung> {
    match word {
        "auto" => Ok(Rung::Auto),
        "nft-owned" => Ok(Rung::NftOwned),
        "nft" => Ok(Rung::Nft),
        "legacy" => Ok(Rung::Legacy),
        _ => Err(Error::usage(format_args!(
            "--trace-rung: {word:?} is not one of auto, nft-owned, nft, legacy"
        ))),
    }
}

pub(super) fn owner_rung(word: &str) -> Result<OwnerRung> {
    match word {
        "auto" => Ok(OwnerRung::Auto),
        "trace" => Ok(OwnerRung::Trace),
        "cgroup" => Ok(OwnerRung::Cgroup),
        "kprobe" => Ok(OwnerRung::Kprobe),
        "legacy" => Ok(OwnerRung::Legacy),
        "procfs" => Ok(OwnerRung::Procfs),
        _ => Err(Error::usage(format_args!(
            "--owner: {word:?} is not one of auto, trace, cgroup, kprobe, legacy, procfs"
        ))),
    }
}

pub(super) fn trace_rate(word: &str) -> Result<u32> {
    match word.parse() {
        Ok(rate) if (1..=TRACE_RATE_MAX).contains(&rate) => Ok(rate),
        _ => Err(Error::usage(format_args!(
            "--trace-rate: {word:?} is not a number of packets in a second, from 1 to {TRACE_RATE_MAX}"
        ))),
    }
}

pub(super) fn capacity(word: &str) -> Result<u32> {
    match word.parse() {
        Ok(flows) if (1..=CAPACITY_MAX).contains(&flows) => Ok(flows),
        _ => Err(Error::usage(format_args!(
            "--capacity: {word:?} is not a number from 1 to {CAPACITY_MAX}"
        ))),
    }
}

/// `--buffer`
pub(super) fn buffer(word: &str) -> Result<u32> {
    match size(word).and_then(|bytes| u32::try_from(bytes).ok()) {
        Some(bytes) if (1..=1 << 30).contains(&bytes) => Ok(bytes),
        _ => Err(Error::usage(format_args!(
            "--buffer: {word:?} is not a size from 1 to 1024m (the default is {}m)",
            RECEIVE_BUFFER >> 20
        ))),
    }
}

/// Bytes, with a suffix k, m or g for KiB, MiB or GiB.
fn size(word: &str) -> Option<u64> {
    let (digits, unit) = match word.as_bytes().last()?.to_ascii_lowercase() {
        b'k' => (&word[..word.len() - 1], 1 << 10),
        b'm' => (&word[..word.len() - 1], 1 << 20),
        b'g' => (&word[..word.len() - 1], 1 << 30),
        _ => (word, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Seconds, whole or with up to three decimals, or with a suffix s, m or h.
pub(super) fn duration(option: &str, word: &str) -> Result<Duration> {
    let (number, unit_s) = match word.as_bytes().last() {
        Some(b's') => (&word[..word.len() - 1], 1),
        Some(b'm') => (&word[..word.len() - 1], 60),
        Some(b'h') => (&word[..word.len() - 1], 3600),
        _ => (word, 1),
    };
    let milliseconds = thousandths(number).and_then(|number| number.checked_mul(unit_s));
    match milliseconds {
        Some(milliseconds) if (1..=DURATION_MAX_S * 1000).contains(&milliseconds) => {
            Ok(Duration::from_millis(milliseconds))
        }
        _ => Err(Error::usage(format_args!(
            "{option}: {word:?} is not a time such as 10, 0.5, 90s, 5m or 2h"
        ))),
    }
}

/// A decimal number with at most three decimals, in thousandths.
fn thousandths(number: &str) -> Option<u64> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || decimals.len() > 3 {
        return None;
    }
    let scale = [100, 10, 1][decimals.len() - 1];
    let decimals: u64 = decimals.parse().ok()?;
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(1000)?
        .checked_add(decimals * scale)
}

pub(super) fn family(filter: &mut Filter, ipv6: bool) -> Result<()> {
    if filter.ipv6.is_some_and(|other| other != ipv6) {
        return Err(Error::usage("-4 and -6 together leave nothing"));
    }
    filter.ipv6 = Some(ipv6);
    Ok(())
}

pub(super) fn protocol(word: &str) -> Result<u8> {
    let by_name = crate::wire::kernel::PROTOCOL_NAMES
        .iter()
        .find(|(_, name)| word.eq_ignore_ascii_case(name));
    match by_name {
        Some((number, _)) => Ok(*number),
        None => word.parse().map_err(|_| {
            Error::usage(format_args!(
                "--proto: {word:?} is no protocol name or number"
            ))
        }),
    }
}

pub(super) fn network(word: &str) -> Result<Network> {
    let wrong = || {
        Error::usage(format_args!(
            "{word:?} is not a network such as 10.0.0.0/8 or fd00::/8"
        ))
    };
    let (address, bits) = match word.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (word, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let (bytes, bits_max) = match address {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            (bytes, 32)
        }
        IpAddr::V6(address) => (address.octets(), 128),
    };
    let prefix_bits = match bits {
        Some(bits) => bits
            .parse()
            .ok()
            .filter(|bits| *bits <= bits_max)
            .ok_or_else(wrong)?,
        None => bits_max,
    };
    Ok(Network {
        address: bytes,
        prefix_bits,
        ipv6: address.is_ipv6(),
    })
}

pub(super) fn ports(word: &str) -> Result<(u16, u16)> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err(Error::usage(format_args!(
            "--port: {word:?} is not a port (0 to 65535) or a range such as 8000-8080"
        ))),
    }
}

/// `--every`: as `--for`, but not so often that reports are all that is done.
pub(super) fn every(word: &str) -> Result<Duration> {
    match duration("--every", word)? {
        time if time < EVERY_MIN => Err(Error::usage(format_args!(
            "--every: {word:?} is less than {} s",
            EVERY_MIN.as_secs()
        ))),
        time => Ok(time),
    }
}

/// `--rotate`: how long the file may grow, and how many of before are kept.
pub(super) fn rotate(word: &str) -> Result<Rotate> {
    let (bytes, count) = word.split_once(',').unwrap_or((word, "1"));
    match (size(bytes), count.parse()) {
        (Some(bytes), Ok(count))
            if bytes >= ROTATE_LEN_MIN && (1..=ROTATE_COUNT_MAX).contains(&count) =>
        {
            Ok(Rotate { bytes, count })
        }
        _ => Err(Error::usage(format_args!(
            "--rotate: {word:?} is not SIZE[,COUNT], a size from {}k and 1 to {ROTATE_COUNT_MAX} files of before (1m,4)",
            ROTATE_LEN_MIN >> 10
        ))),
    }
}

/// A file that is not standard output.
pub(super) fn file(option: &str, word: OsString) -> Result<PathBuf> {
    match word.to_str() {
        Some("" | "-") => Err(Error::usage(format_args!(
            "{option}: {word:?} is not the name of a file"
        ))),
        _ => Ok(PathBuf::from(word)),
    }
}
