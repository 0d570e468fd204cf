//! What attribution brings in, and how a recording holds it.

/// The inputs of attribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerInput<'a> {
    /// Attribution is on.
    Began {
        /// The rung that probes are of.
        rung: &'a str,
    },
    /// Records back to back (wire/probe.rs).
    Records {
        /// What is to be added to their times to have the time since 1970, in nanoseconds.
        clock_offset_ns: u64,
        /// The records.
        bytes: &'a [u8],
    },
    /// What /proc says of a process, from here on.
    Process(Told<'a>),
    /// A process is gone, or its number is another one's by now.
    Gone(u32),
    /// The name of a user.
    User {
        /// The user.
        uid: u32,
        /// The name.
        name: &'a str,
    },
    /// The addresses of this machine: 17 bytes each, the first is 1 for IPv6.
    Addresses(&'a [u8]),
    /// Flows that were first seen before then should have their process by now.
    Settle {
        /// Nanoseconds since 1970.
        before_ns: u64,
    },
    /// The end is near: all flows should.
    SettleAll,
    /// How many records were lost, in all so far.
    LostTotal(u64),
    /// Processes are told anew from here on.
    Forget,
}

/// A process as /proc shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told<'a> {
    /// Its number.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// When it was started, in clock ticks.
    pub started_ticks: u64,
    /// The inode number of its network namespace; 0 where it cannot be read.
    pub netns: u64,
    /// Task name, command line, executable, cgroup.
    pub texts: [&'a str; 4],
}

/// The first kind of a record that attribution uses.
pub const KIND_FIRST: u8 = 64;

/// Kind, head, bytes.
pub fn encode<'a>(input: &OwnerInput<'a>) -> (u8, Vec<u8>, &'a [u8]) {
    let (kind, head, bytes): (u8, Vec<u8>, &[u8]) = match *input {
        OwnerInput::Began { rung } => (0, Vec::new(), rung.as_bytes()),
        OwnerInput::Records {
            clock_offset_ns,
            bytes,
        } => (1, clock_offset_ns.to_le_bytes().to_vec(), bytes),
        OwnerInput::Process(told) => (2, told.to_bytes(), &[]),
        OwnerInput::Gone(pid) => (3, pid.to_le_bytes().to_vec(), &[]),
        OwnerInput::User { uid, name } => (4, uid.to_le_bytes().to_vec(), name.as_bytes()),
        OwnerInput::Addresses(bytes) => (5, Vec::new(), bytes),
        OwnerInput::Settle { before_ns } => (6, before_ns.to_le_bytes().to_vec(), &[]),
        OwnerInput::SettleAll => (7, Vec::new(), &[]),
        OwnerInput::LostTotal(total) => (8, total.to_le_bytes().to_vec(), &[]),
        OwnerInput::Forget => (9, Vec::new(), &[]),
    };
    (KIND_FIRST + kind, head, bytes)
}

/// The input that a record holds; `None` where it is damaged or of no kind of attribution.
pub fn decode(kind: u8, payload: &[u8]) -> Option<OwnerInput<'_>> {
    let u64_of = || Some(u64::from_le_bytes(payload.try_into().ok()?));
    Some(match kind.checked_sub(KIND_FIRST)? {
        0 => OwnerInput::Began {
            rung: std::str::from_utf8(payload).ok()?,
        },
        1 => {
            let mut rest = Rest(payload);
            OwnerInput::Records {
                clock_offset_ns: rest.u64()?,
                bytes: rest.0,
            }
        }
        2 => OwnerInput::Process(Told::from_bytes(payload)?),
        3 => OwnerInput::Gone(u32::from_le_bytes(payload.try_into().ok()?)),
        4 => {
            let (uid, name) = payload.split_first_chunk()?;
            OwnerInput::User {
                uid: u32::from_le_bytes(*uid),
                name: std::str::from_utf8(name).ok()?,
            }
        }
        5 => OwnerInput::Addresses(payload),
        6 => OwnerInput::Settle {
            before_ns: u64_of()?,
        },
        7 if payload.is_empty() => OwnerInput::SettleAll,
        8 => OwnerInput::LostTotal(u64_of()?),
        9 if payload.is_empty() => OwnerInput::Forget,
        _ => return None,
    })
}

impl<'a> Told<'a> {
    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = [self.pid, self.parent].map(u32::to_le_bytes).concat();
        bytes.extend(
            [self.started_ticks, self.netns]
                .map(u64::to_le_bytes)
                .concat(),
        );
        for text in self.texts {
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Told<'_>> {
        let mut rest = Rest(bytes);
        let told = Told {
            pid: rest.u32()?,
            parent: rest.u32()?,
            started_ticks: rest.u64()?,
            netns: rest.u64()?,
            texts: [rest.text()?, rest.text()?, rest.text()?, rest.text()?],
        };
        rest.0.is_empty().then_some(told)
    }
}

/// What is not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn u32(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*number))
    }

    fn u64(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = self.u32()? as usize;
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_can_be_read() {
        let told = Told {
            pid: 7,
            parent: 1,
            started_ticks: 99,
            netns: 4_026_531_840,
            texts: ["nc", "nc -l 80", "", "/system.slice"],
        };
        let inputs = [
            OwnerInput::Began { rung: "cgroup" },
            OwnerInput::Records {
                clock_offset_ns: 1 << 60,
                bytes: b"records",
            },
            OwnerInput::Process(told),
            OwnerInput::Gone(7),
            OwnerInput::User {
                uid: 1000,
                name: "user",
            },
            OwnerInput::Addresses(&[1; 17]),
            OwnerInput::Settle { before_ns: 3 },
            OwnerInput::SettleAll,
            OwnerInput::LostTotal(2),
            OwnerInput::Forget,
        ];
        for input in inputs {
            let (kind, head, bytes) = encode(&input);
            let payload = [&head, bytes].concat();
            assert_eq!(decode(kind, &payload), Some(input));
        }
        let (kind, mut head, _) = encode(&OwnerInput::Process(told));
        head[24] = 0xff; // the first text is longer than what is there
        assert_eq!(decode(kind, &head), None);
        assert_eq!(decode(0, &[]), None);
    }
}
