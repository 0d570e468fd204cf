//! The command line as plain values; opens nothing, reads nothing.

use crate::error::{Error, Result};
pub use crate::firewall::activation::Activation;
pub use crate::firewall::instrument::Rung;
use crate::flow::filter::{Filter, Network};
use crate::limits::{
    CAPACITY_DEFAULT, CAPACITY_MAX, DURATION_MAX_S, RECEIVE_BUFFER, TRACE_RATE_DEFAULT,
    TRACE_RATE_MAX,
};
pub use crate::owner::ladder::Wish as OwnerRung;
pub use crate::report::Format;
use lexopt::prelude::*;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What `--help` prints.
pub const HELP: &str = include_str!("help.txt");

/// Where the report goes when `-o` does not say.
pub const OUTPUT_DEFAULT: &str = "/tmp/conntracker.log";

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Print the help.
    Help,
    /// Print the version.
    Version,
    /// Capture from the kernel.
    Capture(Options),
    /// Report from a recording.
    Replay(PathBuf, Options),
    /// Report which rules denied flows, from a capture.
    Blame(Options),
    /// The same from a JSON report that was written before.
    BlameReport(PathBuf, Options),
}

/// Where the report goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output (`-`).
    Stdout,
    /// A file.
    File(PathBuf),
}

/// The options of a capture or a replay.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// `-o`
    pub output: Output,
    /// `--format`
    pub format: Format,
    /// `--follow`
    pub follow: bool,
    /// `--for`
    pub duration: Option<Duration>,
    /// `--capacity`, in flows.
    pub capacity: u32,
    /// `--buffer`, in bytes; `None` is the default, bounded by the machine's memory.
    pub buffer_bytes: Option<u32>,
    /// `--all-netns`
    pub all_netns: bool,
    /// `--activate`
    pub activation: Activation,
    /// `--record`
    pub record: Option<PathBuf>,
    /// `-t`
    pub trace: bool,
    /// `-e`
    pub everything: bool,
    /// `--trace-rate`, packets in a second.
    pub trace_rate: u32,
    /// `--trace-rung`
    pub trace_rung: Rung,
    /// `-b`
    pub owners: bool,
    /// `--owner`
    pub owner_rung: OwnerRung,
    /// `--btf`
    pub btf: Option<PathBuf>,
    /// Guilty rules are reported, not flows.
    pub blame: bool,
    /// `--proto`, `--net`, `--not-net`, `--port`, `-4`, `-6`
    pub filter: Filter,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            output: Output::File(PathBuf::from(OUTPUT_DEFAULT)),
            format: Format::Text,
            follow: false,
            duration: None,
            capacity: CAPACITY_DEFAULT,
            buffer_bytes: None,
            all_netns: false,
            activation: Activation::Auto,
            record: None,
            trace: false,
            everything: false,
            trace_rate: TRACE_RATE_DEFAULT,
            trace_rung: Rung::Auto,
            owners: false,
            owner_rung: OwnerRung::Auto,
            btf: None,
            blame: false,
            filter: Filter::default(),
        }
    }
}

/// Which report, as the first word says.
enum Word {
    Capture,
    Replay(Option<PathBuf>),
    Blame(Option<PathBuf>),
}

/// Reads the command line (without the program's name).
pub fn parse(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Command> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut options = Options::default();
    let mut command = Word::Capture;
    let (mut only_capture, mut output_named) = (None, false);
    while let Some(argument) = parser.next().map_err(Error::usage)? {
        let name = match argument {
            Short(letter) => format!("-{letter}"),
            Long(name) => format!("--{name}"),
            Value(word) => {
                command = command.take(word, &mut options)?;
                continue;
            }
        };
        match name.as_str() {
            "-h" | "--help" => return Ok(Command::Help),
            "-V" | "--version" => return Ok(Command::Version),
            "-d" | "--daemon" => {
                let version = env!("CARGO_PKG_VERSION");
                return Err(Error::usage(format_args!(
                    "{name} is not part of conntracker {version}"
                )));
            }
            name if report_option(name, &mut parser, &mut options)? => {
                output_named |= matches!(name, "-o" | "--output");
            }
            name if capture_option(name, &mut parser, &mut options)? => {
                only_capture = Some(name.to_owned())
            }
            _ => return Err(Error::usage(format_args!("unknown option {name}"))),
        }
    }
    contradictions(&options)?;
    if options.blame && !output_named {
        options.output = Output::Stdout; // who asks, looks
    }
    match (command, only_capture) {
        (Word::Capture, _) => Ok(Command::Capture(options)),
        (Word::Blame(None), _) => Ok(Command::Blame(options)),
        (Word::Replay(None), _) => Err(Error::usage("replay: which file?")),
        (Word::Replay(_), Some(name)) => Err(Error::usage(format_args!(
            "replay: {name} is for a capture"
        ))),
        (Word::Blame(_), Some(name)) => Err(Error::usage(format_args!(
            "blame of a report: {name} is for a capture"
        ))),
        (Word::Replay(Some(file)), None) => Ok(Command::Replay(file, options)),
        (Word::Blame(Some(file)), None) => Ok(Command::BlameReport(file, options)),
    }
}

impl Word {
    /// Takes a word that belongs to no option.
    fn take(self, word: OsString, options: &mut Options) -> Result<Word> {
        match self {
            Word::Capture if word == "replay" => Ok(Word::Replay(None)),
            Word::Capture if word == "blame" => {
                options.blame = true;
                (options.trace, options.everything) = (true, true);
                Ok(Word::Blame(None))
            }
            Word::Replay(None) => Ok(Word::Replay(Some(PathBuf::from(word)))),
            Word::Blame(None) => Ok(Word::Blame(Some(PathBuf::from(word)))),
            _ => Err(Error::usage(format_args!("unexpected argument {word:?}"))),
        }
    }
}

/// Options that do not go together.
fn contradictions(options: &Options) -> Result<()> {
    if matches!((&options.output, &options.record), (Output::File(report), Some(record)) if report == record)
    {
        return Err(Error::usage("-o and --record name the same file"));
    }
    if options.everything && !options.trace {
        return Err(Error::usage(
            "-e needs -t: what is dropped is only seen by tracing",
        ));
    }
    if !options.trace
        && (options.trace_rate, options.trace_rung) != (TRACE_RATE_DEFAULT, Rung::Auto)
    {
        return Err(Error::usage("--trace-rate and --trace-rung need -t"));
    }
    if !options.owners && (options.owner_rung != OwnerRung::Auto || options.btf.is_some()) {
        return Err(Error::usage("--owner and --btf need -b"));
    }
    if options.blame && options.follow {
        return Err(Error::usage("blame: --follow is for flows"));
    }
    Ok(())
}

/// Options of every report. Says whether it was one.
fn report_option(name: &str, parser: &mut lexopt::Parser, options: &mut Options) -> Result<bool> {
    let filter = &mut options.filter;
    match name {
        "-o" | "--output" => options.output = output(parser.value().map_err(Error::usage)?)?,
        "--format" => options.format = format(&word(parser)?)?,
        "--follow" => options.follow = true,
        "--capacity" => options.capacity = capacity(&word(parser)?)?,
        "--proto" => list(&word(parser)?, &mut filter.protocols, protocol)?,
        "--net" => list(&word(parser)?, &mut filter.networks, network)?,
        "--not-net" => list(&word(parser)?, &mut filter.not_networks, network)?,
        "--port" => list(&word(parser)?, &mut filter.ports, ports)?,
        "-4" | "--ipv4" => family(filter, false)?,
        "-6" | "--ipv6" => family(filter, true)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Options that only a capture has. Says whether it was one.
fn capture_option(name: &str, parser: &mut lexopt::Parser, options: &mut Options) -> Result<bool> {
    match name {
        "-f" | "--foreground" => {} // what happens anyway
        "--for" => options.duration = Some(duration(&word(parser)?)?),
        "--buffer" => options.buffer_bytes = Some(buffer(&word(parser)?)?),
        "--all-netns" => options.all_netns = true,
        "--activate" => options.activation = activation(&word(parser)?)?,
        "-t" | "--trace" => options.trace = true,
        "-e" | "--everything" => options.everything = true,
        "--trace-rate" => options.trace_rate = trace_rate(&word(parser)?)?,
        "--trace-rung" => options.trace_rung = trace_rung(&word(parser)?)?,
        "-b" | "--bpf" => options.owners = true,
        "--owner" => options.owner_rung = owner_rung(&word(parser)?)?,
        "--btf" => options.btf = Some(PathBuf::from(parser.value().map_err(Error::usage)?)),
        "--record" => options.record = Some(PathBuf::from(parser.value().map_err(Error::usage)?)),
        _ => return Ok(false),
    }
    Ok(true)
}

fn word(parser: &mut lexopt::Parser) -> Result<String> {
    parser
        .value()
        .map_err(Error::usage)?
        .into_string()
        .map_err(|word| Error::usage(format_args!("{word:?} is not text")))
}

fn list<T>(words: &str, values: &mut Vec<T>, parse: fn(&str) -> Result<T>) -> Result<()> {
    for word in words.split(',') {
        values.push(parse(word)?);
    }
    Ok(())
}

fn output(file: OsString) -> Result<Output> {
    match file.to_str() {
        Some("-") => Ok(Output::Stdout),
        Some("") => Err(Error::usage("-o: the file's name is empty")),
        _ => Ok(Output::File(PathBuf::from(file))),
    }
}

fn format(word: &str) -> Result<Format> {
    match word {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err(Error::usage(format_args!(
            "--format: {word:?} is neither text nor json"
        ))),
    }
}

fn activation(word: &str) -> Result<Activation> {
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

fn trace_rung(word: &str) -> Result<Rung> {
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

fn owner_rung(word: &str) -> Result<OwnerRung> {
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

fn trace_rate(word: &str) -> Result<u32> {
    match word.parse() {
        Ok(rate) if (1..=TRACE_RATE_MAX).contains(&rate) => Ok(rate),
        _ => Err(Error::usage(format_args!(
            "--trace-rate: {word:?} is not a number of packets in a second, from 1 to {TRACE_RATE_MAX}"
        ))),
    }
}

fn capacity(word: &str) -> Result<u32> {
    match word.parse() {
        Ok(flows) if (1..=CAPACITY_MAX).contains(&flows) => Ok(flows),
        _ => Err(Error::usage(format_args!(
            "--capacity: {word:?} is not a number from 1 to {CAPACITY_MAX}"
        ))),
    }
}

/// Bytes, with a suffix k or m for KiB or MiB.
fn buffer(word: &str) -> Result<u32> {
    let (digits, unit) = match word.to_ascii_lowercase() {
        word if word.ends_with('k') => (word[..word.len() - 1].to_owned(), 1 << 10),
        word if word.ends_with('m') => (word[..word.len() - 1].to_owned(), 1 << 20),
        word => (word, 1),
    };
    let bytes = digits
        .parse::<u32>()
        .ok()
        .and_then(|number| number.checked_mul(unit));
    match bytes {
        Some(bytes) if (1..=1 << 30).contains(&bytes) => Ok(bytes),
        _ => Err(Error::usage(format_args!(
            "--buffer: {word:?} is not a size from 1 to 1024m (the default is {}m)",
            RECEIVE_BUFFER >> 20
        ))),
    }
}

/// Seconds, whole or with up to three decimals, or with a suffix s, m or h.
fn duration(word: &str) -> Result<Duration> {
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
            "--for: {word:?} is not a time such as 10, 0.5, 90s, 5m or 2h"
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

fn family(filter: &mut Filter, ipv6: bool) -> Result<()> {
    if filter.ipv6.is_some_and(|other| other != ipv6) {
        return Err(Error::usage("-4 and -6 together leave nothing"));
    }
    filter.ipv6 = Some(ipv6);
    Ok(())
}

fn protocol(word: &str) -> Result<u8> {
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

fn network(word: &str) -> Result<Network> {
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

fn ports(word: &str) -> Result<(u16, u16)> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err(Error::usage(format_args!(
            "--port: {word:?} is not a port (0 to 65535) or a range such as 8000-8080"
        ))),
    }
}

#[cfg(test)]
mod tests;
