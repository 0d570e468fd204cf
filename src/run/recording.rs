//! Recordings: the inputs of a run in a file, exactly as they came, so that the run can be had again
//! without the kernel. Numbers of the container are little-endian; the datagrams in it are as the
//! recording machine's kernel wrote them, in its byte order, which the header names.
//!
//! File: "CTRECORD", version (u16), byte order (u16: 0x0102 as the machine writes it), length of the
//! kernel's release (u32), the release. Then records: kind (u8), flags (u8), zero (u16), payload
//! length (u32), time in nanoseconds since 1970 (u64), namespace id (i32), zero (u32), payload.

use super::input::{Input, What};
use super::{owner_input, trace_input};
use crate::error::{Error, Result};
use crate::event::DumpPass;
use crate::limits::{DUMP_DATAGRAM_LEN, RECORD_LEN_MAX};
use crate::sys::machine;
use crate::sys::place::Place;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

const MAGIC: &[u8; 8] = b"CTRECORD";
const VERSION: u16 = 1;
const BYTE_ORDER: u16 = 0x0102;
const RECORD_HEADER_LEN: usize = 24;
const RELEASE_LEN_MAX: usize = 1024;

const KIND_EVENTS: u8 = 1;
const KIND_DUMP: u8 = 2;
const KIND_DUMP_BEGAN: u8 = 3;
const KIND_DUMP_ENDED: u8 = 4;
const KIND_DUMP_FAILED: u8 = 5;
const KIND_LOST_TOTAL: u8 = 6;
const KIND_LOST_UNKNOWN: u8 = 7;
const KIND_FINISHED: u8 = 8;
const KIND_CAUGHT_UP: u8 = 9;
const FLAG_TRUNCATED: u8 = 1;
const FLAG_NETNS: u8 = 2;

/// Writes a recording.
#[derive(Debug)]
pub struct Recorder {
    file: BufWriter<std::fs::File>,
    place: Place,
    used: bool,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if !self.used && self.place.holds(self.file.get_ref()) {
            let _ = self.place.remove(); // the capture did not begin
        }
    }
}

impl Recorder {
    /// Creates the file; one that is there already is not overwritten.
    pub fn create(path: &Path) -> Result<Recorder> {
        let doing = || format!("creating the recording {}", path.display());
        let place =
            Place::find(path).map_err(|unfit| Error::failed(doing(), unfit.cause, unfit.advice))?;
        let file = place.create_new().map_err(|error| {
            Error::failed(
                doing(),
                error,
                "name a file that does not exist yet, in a folder that does",
            )
        })?;
        let mut recorder = Recorder {
            file: BufWriter::with_capacity(64 << 10, file),
            place,
            used: false,
        };
        recorder
            .header()
            .map_err(|error| Error::failed(doing(), error, ""))?;
        Ok(recorder)
    }

    fn header(&mut self) -> io::Result<()> {
        let release = machine::kernel_release();
        self.file.write_all(MAGIC)?;
        self.file.write_all(&VERSION.to_le_bytes())?;
        self.file.write_all(&BYTE_ORDER.to_ne_bytes())?;
        self.file.write_all(&(release.len() as u32).to_le_bytes())?;
        self.file.write_all(release.as_bytes())
    }

    /// Appends one input.
    pub fn write(&mut self, input: &Input<'_>) -> io::Result<()> {
        self.used = true;
        let number;
        let mut head = Vec::new();
        let (kind, flags, netns, payload): (u8, u8, i32, &[u8]) = match input.what {
            What::Events {
                bytes,
                truncated,
                netns,
            } => {
                let flags = (u8::from(truncated) * FLAG_TRUNCATED)
                    | (u8::from(netns.is_some()) * FLAG_NETNS);
                (KIND_EVENTS, flags, netns.unwrap_or(0), bytes)
            }
            What::Dump { bytes, truncated } => {
                (KIND_DUMP, u8::from(truncated) * FLAG_TRUNCATED, 0, bytes)
            }
            What::DumpBegan(pass) => (KIND_DUMP_BEGAN, 0, 0, pass_code(pass)),
            What::DumpEnded => (KIND_DUMP_ENDED, 0, 0, &[]),
            What::DumpFailed => (KIND_DUMP_FAILED, 0, 0, &[]),
            What::LostTotal(total) => {
                number = total.to_le_bytes();
                (KIND_LOST_TOTAL, 0, 0, &number)
            }
            What::LostUnknown => (KIND_LOST_UNKNOWN, 0, 0, &[]),
            What::Finished => (KIND_FINISHED, 0, 0, &[]),
            What::CaughtUp => (KIND_CAUGHT_UP, 0, 0, &[]),
            What::Trace(input) => {
                let (kind, begins, bytes) = trace_input::encode(&input);
                head = begins;
                (kind, 0, 0, bytes)
            }
            What::Owner(input) => {
                let (kind, begins, bytes) = owner_input::encode(&input);
                head = begins;
                (kind, 0, 0, bytes)
            }
        };
        let len = head.len() + payload.len();
        if len > RECORD_LEN_MAX {
            return Err(io::ErrorKind::FileTooLarge.into()); // nothing could read it
        }
        let len = len as u32;
        self.file.write_all(&[kind, flags, 0, 0])?;
        self.file.write_all(&len.to_le_bytes())?;
        self.file.write_all(&input.at_ns.to_le_bytes())?;
        self.file.write_all(&netns.to_le_bytes())?;
        self.file.write_all(&[0; 4])?;
        self.file.write_all(&head)?;
        self.file.write_all(payload)
    }

    /// Writes out what is buffered.
    pub fn finish(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn pass_code(pass: DumpPass) -> &'static [u8] {
    match pass {
        DumpPass::Initial => &[0],
        DumpPass::Resync => &[1],
        DumpPass::Final => &[2],
        DumpPass::Report => &[3],
    }
}

/// Reads a recording.
#[derive(Debug)]
pub struct Recording<R> {
    source: R,
    payload: Vec<u8>,
    /// The release of the kernel that it was recorded on.
    pub kernel_release: String,
}

/// Why a recording cannot be read.
#[derive(Debug)]
pub enum Unreadable {
    /// Reading failed, or the file ends in the middle of a record.
    Io(io::Error),
    /// It is something else, or from another machine or version.
    Format(&'static str),
}

impl Unreadable {
    /// Whether the file ends in the middle of a record.
    pub fn is_cut_short(&self) -> bool {
        matches!(self, Unreadable::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof)
    }
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        Unreadable::Io(error)
    }
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            cut_short if cut_short.is_cut_short() => out.write_str("it is cut short"),
            Unreadable::Io(error) => write!(out, "{error}"),
            Unreadable::Format(what) => out.write_str(what),
        }
    }
}

impl Recording<BufReader<std::fs::File>> {
    /// Opens a recording and reads its header.
    pub fn open(path: &Path) -> std::result::Result<Self, Unreadable> {
        Recording::new(BufReader::new(std::fs::File::open(path)?))
    }
}

impl<R: Read> Recording<R> {
    /// Reads a recording from any source of bytes.
    pub fn new(mut source: R) -> std::result::Result<Self, Unreadable> {
        let mut magic = [0; 8];
        source.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(Unreadable::Format("it is not a conntracker recording"));
        }
        let (mut version, mut order, mut len) = ([0; 2], [0; 2], [0; 4]);
        source.read_exact(&mut version)?;
        source.read_exact(&mut order)?;
        source.read_exact(&mut len)?;
        if u16::from_le_bytes(version) != VERSION {
            return Err(Unreadable::Format(
                "it is of a version that this conntracker does not know",
            ));
        }
        if u16::from_ne_bytes(order) != BYTE_ORDER {
            return Err(Unreadable::Format(
                "it is from a machine of the other byte order",
            ));
        }
        let len = u32::from_le_bytes(len) as usize;
        if len > RELEASE_LEN_MAX {
            return Err(Unreadable::Format("its header is damaged"));
        }
        let mut release = vec![0; len];
        source.read_exact(&mut release)?;
        let kernel_release = String::from_utf8_lossy(&release).replace(char::is_control, "?");
        Ok(Recording {
            source,
            payload: Vec::with_capacity(DUMP_DATAGRAM_LEN),
            kernel_release,
        })
    }

    /// The next input; `None` at the end of the file.
    pub fn read(&mut self) -> std::result::Result<Option<Input<'_>>, Unreadable> {
        let mut header = [0u8; RECORD_HEADER_LEN];
        match self.source.read(&mut header[..1])? {
            0 => return Ok(None),
            _ => self.source.read_exact(&mut header[1..])?,
        }
        let [kind, flags, ..] = header;
        let len = u32::from_le_bytes(field(&header, 4)) as usize;
        let limit = if kind < trace_input::KIND_FIRST {
            DUMP_DATAGRAM_LEN
        } else {
            RECORD_LEN_MAX
        };
        if len > limit {
            return Err(Unreadable::Format(
                "a record in it is longer than any datagram",
            ));
        }
        // As it comes: a length that lies must not take the memory.
        self.payload.clear();
        let read = (&mut self.source)
            .take(len as u64)
            .read_to_end(&mut self.payload)?;
        if read < len {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let at_ns = u64::from_le_bytes(field(&header, 8));
        let truncated = flags & FLAG_TRUNCATED != 0;
        let netns = (flags & FLAG_NETNS != 0).then_some(i32::from_le_bytes(field(&header, 16)));
        let bytes = self.payload.as_slice();
        let what = match (kind, bytes) {
            (KIND_EVENTS, bytes) => What::Events {
                bytes,
                truncated,
                netns,
            },
            (KIND_DUMP, bytes) => What::Dump { bytes, truncated },
            (KIND_DUMP_BEGAN, [0]) => What::DumpBegan(DumpPass::Initial),
            (KIND_DUMP_BEGAN, [1]) => What::DumpBegan(DumpPass::Resync),
            (KIND_DUMP_BEGAN, [2]) => What::DumpBegan(DumpPass::Final),
            (KIND_DUMP_BEGAN, [3]) => What::DumpBegan(DumpPass::Report),
            (KIND_DUMP_ENDED, _) => What::DumpEnded,
            (KIND_DUMP_FAILED, _) => What::DumpFailed,
            (KIND_LOST_TOTAL, bytes) => match bytes.try_into() {
                Ok(total) => What::LostTotal(u64::from_le_bytes(total)),
                Err(_) => return Err(Unreadable::Format("a record in it is damaged")),
            },
            (KIND_LOST_UNKNOWN, _) => What::LostUnknown,
            (KIND_FINISHED, _) => What::Finished,
            (KIND_CAUGHT_UP, _) => What::CaughtUp,
            (kind, bytes) => match (
                trace_input::decode(kind, bytes),
                owner_input::decode(kind, bytes),
            ) {
                (Some(input), _) => What::Trace(input),
                (None, Some(input)) => What::Owner(input),
                (None, None) => return Err(Unreadable::Format("a record in it is damaged")),
            },
        };
        Ok(Some(Input { at_ns, what }))
    }
}

/// The bytes of a field of a record's header.
fn field<const N: usize>(header: &[u8; RECORD_HEADER_LEN], offset: usize) -> [u8; N] {
    std::array::from_fn(|at| header[offset + at])
}
