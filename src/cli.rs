//! The command line as plain values; opens nothing, reads nothing.

use crate::error::{Error, Result};
use crate::features;
pub use crate::firewall::activation::Activation;
pub use crate::firewall::instrument::Rung;
use crate::flow::filter::Filter;
use crate::limits::{CAPACITY_DEFAULT, TRACE_RATE_DEFAULT};
pub use crate::owner::ladder::Wish as OwnerRung;
pub use crate::report::Format;
use lexopt::prelude::*;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use value::*;

mod built;
mod value;

/// What `--help` prints.
pub const HELP: &str = include_str!("help.txt");

/// What `--version` prints: also what this build lacks.
pub fn version() -> String {
    let mut text = concat!("conntracker ", env!("CARGO_PKG_VERSION"), "\n").to_owned();
    let left_out: Vec<&str> = features::left_out().collect();
    if !left_out.is_empty() {
        text += &format!("built without the features {}\n", left_out.join(", "));
    }
    text
}

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
    /// Report what such a capture could do on this machine.
    Check(Options),
}

/// Where the report goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output (`-`).
    Stdout,
    /// A file.
    File(PathBuf),
}

/// `--rotate`: when a file that grows makes way for a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotate {
    /// Bytes that a file may have.
    pub bytes: u64,
    /// Files of before that are kept.
    pub count: u32,
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
    /// `-f`
    pub foreground: bool,
    /// `-d`
    pub daemon: bool,
    /// `--pidfile`
    pub pidfile: Option<PathBuf>,
    /// `--every`
    pub every: Option<Duration>,
    /// `--rotate`
    pub rotate: Option<Rotate>,
    /// `--status`
    pub status: Option<PathBuf>,
    /// `--dry-run`
    pub dry_run: bool,
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
            foreground: false,
            daemon: false,
            pidfile: None,
            every: None,
            rotate: None,
            status: None,
            dry_run: false,
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
    Check,
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
                if let (Word::Capture, Some(word)) = (&command, word.to_str()) {
                    built::allow(word)?;
                }
                command = command.take(word, &mut options)?;
                continue;
            }
        };
        built::allow(&name)?;
        match name.as_str() {
            "-h" | "--help" => return Ok(Command::Help),
            "-V" | "--version" => return Ok(Command::Version),
            name if report_option(name, &mut parser, &mut options)? => {
                output_named |= matches!(name, "-o" | "--output");
            }
            name if capture_option(name, &mut parser, &mut options)? => {
                only_capture = Some(name.to_owned())
            }
            _ => return Err(Error::usage(format_args!("unknown option {name}"))),
        }
    }
    if (options.blame || matches!(command, Word::Check)) && !output_named {
        options.output = Output::Stdout; // who asks, looks
    }
    contradictions(&options)?;
    match (command, only_capture) {
        (Word::Check, _) => Ok(Command::Check(options)),
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
            Word::Capture if word == "check" => Ok(Word::Check),
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
    life(options)
}

/// The same of what a long life needs.
fn life(options: &Options) -> Result<()> {
    let is_stdout = options.output == Output::Stdout;
    if options.daemon && is_stdout {
        return Err(Error::usage(
            "-d has no standard output: name a file with -o",
        ));
    }
    if options.daemon && options.foreground {
        return Err(Error::usage("-d and -f contradict each other"));
    }
    if options.pidfile.is_some() && !options.daemon {
        return Err(Error::usage("--pidfile needs -d"));
    }
    if options.rotate.is_some() && (!options.follow || is_stdout) {
        return Err(Error::usage(
            "--rotate needs --follow and -o FILE: other reports take the place of the one before",
        ));
    }
    if options.every.is_some() && options.follow && is_stdout {
        return Err(Error::usage(
            "--every and --follow need -o FILE: the report is written beside it, to FILE.report",
        ));
    }
    let Output::File(report) = &options.output else {
        return Ok(());
    };
    if options.status.as_ref() == Some(report) || options.pidfile.as_ref() == Some(report) {
        return Err(Error::usage(
            "-o, --status and --pidfile name the same file",
        ));
    }
    Ok(())
}

/// Options of every report. Says whether it was one.
fn report_option(name: &str, parser: &mut lexopt::Parser, options: &mut Options) -> Result<bool> {
    let filter = &mut options.filter;
    match name {
        "-o" | "--output" => options.output = output(argument(parser)?)?,
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
        "-f" | "--foreground" => options.foreground = true, // what happens anyway
        "-d" | "--daemon" => options.daemon = true,
        "--pidfile" => options.pidfile = Some(file(name, argument(parser)?)?),
        "--status" => options.status = Some(file(name, argument(parser)?)?),
        "--every" => options.every = Some(every(&word(parser)?)?),
        "--rotate" => options.rotate = Some(rotate(&word(parser)?)?),
        "--dry-run" => options.dry_run = true,
        "--for" => options.duration = Some(duration(name, &word(parser)?)?),
        "--buffer" => options.buffer_bytes = Some(buffer(&word(parser)?)?),
        "--all-netns" => options.all_netns = true,
        "--activate" => options.activation = activation(&word(parser)?)?,
        "-t" | "--trace" => options.trace = true,
        "-e" | "--everything" => options.everything = true,
        "--trace-rate" => options.trace_rate = trace_rate(&word(parser)?)?,
        "--trace-rung" => options.trace_rung = trace_rung(&word(parser)?)?,
        "-b" | "--bpf" => options.owners = true,
        "--owner" => options.owner_rung = owner_rung(&word(parser)?)?,
        "--btf" => options.btf = Some(PathBuf::from(argument(parser)?)),
        "--record" => options.record = Some(PathBuf::from(argument(parser)?)),
        _ => return Ok(false),
    }
    Ok(true)
}

fn argument(parser: &mut lexopt::Parser) -> Result<OsString> {
    parser.value().map_err(Error::usage)
}

fn word(parser: &mut lexopt::Parser) -> Result<String> {
    argument(parser)?
        .into_string()
        .map_err(|word| Error::usage(format_args!("{word:?} is not text")))
}

#[cfg(all(
    test,
    feature = "owners",
    feature = "trace",
    feature = "daemon",
    feature = "record",
    feature = "check"
))]
mod tests;
