//! What tracing brings in, and how a recording holds it: a kind, a short head, and bytes.

/// The inputs of tracing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceInput<'a> {
    /// Tracing is on; `everything` also keeps flows that conntrack never confirms.
    Began {
        /// Whether those are kept.
        everything: bool,
        /// Whether packets of settled flows are let go behind conntrack.
        lets_go: bool,
    },
    /// A datagram from nf_tables: hits, or changes of the ruleset.
    Nft(&'a [u8]),
    /// A datagram from NFLOG group 0: lines of the legacy tables.
    Log(&'a [u8]),
    /// A dump of the nf_tables ruleset of this generation begins.
    RulesBegan(Option<u32>),
    /// A datagram of it, or of sets that were wanted.
    Rules(&'a [u8]),
    /// It came to its end; whether all of it is of one generation.
    RulesEnded {
        /// Whether it is.
        whole: bool,
    },
    /// The sets that were wanted were read.
    SetsRead,
    /// A legacy table as the kernel hands it out.
    Legacy {
        /// IPv6 rather than IPv4.
        ipv6: bool,
        /// Its name.
        name: &'a str,
        /// `RawTable::to_bytes`.
        content: &'a [u8],
    },
    /// The text of its rules, as its own program saves them.
    Saved {
        /// IPv6 rather than IPv4.
        ipv6: bool,
        /// Its name.
        name: &'a str,
        /// What the program wrote.
        text: &'a [u8],
    },
    /// Nothing is queued: packets of which nothing was heard for a while are at their end.
    Quiet,
    /// How many trace messages the kernel says that it could not queue, in all so far.
    LostTotal(u64),
    /// It lost an unknown number.
    LostUnknown,
    /// How many packets the cap left untraced, in all so far.
    Untraced(u64),
    /// Nothing more comes.
    Ended,
}

/// The first kind of a record that tracing uses; as many follow as there are inputs.
pub const KIND_FIRST: u8 = 32;

const NAME_LEN_MAX: usize = 255;

/// Kind, head, bytes.
pub fn encode<'a>(input: &TraceInput<'a>) -> (u8, Vec<u8>, &'a [u8]) {
    let named = |ipv6: bool, name: &str| {
        let name = &name.as_bytes()[..name.len().min(NAME_LEN_MAX)];
        [&[u8::from(ipv6), name.len() as u8], name].concat()
    };
    let (kind, head, bytes): (u8, Vec<u8>, &[u8]) = match *input {
        TraceInput::Began {
            everything,
            lets_go,
        } => (0, vec![u8::from(everything), u8::from(lets_go)], &[]),
        TraceInput::Nft(bytes) => (1, Vec::new(), bytes),
        TraceInput::Log(bytes) => (2, Vec::new(), bytes),
        TraceInput::RulesBegan(Some(generation)) => (3, generation.to_le_bytes().to_vec(), &[]),
        TraceInput::RulesBegan(None) => (3, Vec::new(), &[]),
        TraceInput::Rules(bytes) => (4, Vec::new(), bytes),
        TraceInput::RulesEnded { whole } => (5, vec![u8::from(whole)], &[]),
        TraceInput::SetsRead => (6, Vec::new(), &[]),
        TraceInput::Legacy {
            ipv6,
            name,
            content,
        } => (7, named(ipv6, name), content),
        TraceInput::Saved { ipv6, name, text } => (8, named(ipv6, name), text),
        TraceInput::Quiet => (9, Vec::new(), &[]),
        TraceInput::LostTotal(total) => (10, total.to_le_bytes().to_vec(), &[]),
        TraceInput::LostUnknown => (11, Vec::new(), &[]),
        TraceInput::Untraced(total) => (12, total.to_le_bytes().to_vec(), &[]),
        TraceInput::Ended => (13, Vec::new(), &[]),
    };
    (KIND_FIRST + kind, head, bytes)
}

/// The input that a record holds; `None` where it is damaged or of no kind of tracing.
pub fn decode(kind: u8, payload: &[u8]) -> Option<TraceInput<'_>> {
    let total = || <[u8; 8]>::try_from(payload).ok().map(u64::from_le_bytes);
    let flag = || match payload {
        [flag @ (0 | 1)] => Some(*flag == 1),
        _ => None,
    };
    Some(match kind.checked_sub(KIND_FIRST)? {
        0 => match payload {
            [everything @ (0 | 1), lets_go @ (0 | 1)] => TraceInput::Began {
                everything: *everything == 1,
                lets_go: *lets_go == 1,
            },
            _ => return None,
        },
        1 => TraceInput::Nft(payload),
        2 => TraceInput::Log(payload),
        3 if payload.is_empty() => TraceInput::RulesBegan(None),
        3 => TraceInput::RulesBegan(Some(u32::from_le_bytes(payload.try_into().ok()?))),
        4 => TraceInput::Rules(payload),
        5 => TraceInput::RulesEnded { whole: flag()? },
        6 => TraceInput::SetsRead,
        7 => {
            let (ipv6, name, content) = named(payload)?;
            TraceInput::Legacy {
                ipv6,
                name,
                content,
            }
        }
        8 => {
            let (ipv6, name, text) = named(payload)?;
            TraceInput::Saved { ipv6, name, text }
        }
        9 => TraceInput::Quiet,
        10 => TraceInput::LostTotal(total()?),
        11 => TraceInput::LostUnknown,
        12 => TraceInput::Untraced(total()?),
        13 => TraceInput::Ended,
        _ => return None,
    })
}

fn named(payload: &[u8]) -> Option<(bool, &str, &[u8])> {
    let ([ipv6, len], rest) = payload.split_first_chunk::<2>()?;
    let (name, bytes) = rest.split_at_checked(usize::from(*len))?;
    Some((*ipv6 != 0, std::str::from_utf8(name).ok()?, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_can_be_read() {
        let inputs = [
            TraceInput::Began {
                everything: true,
                lets_go: false,
            },
            TraceInput::Nft(b"x"),
            TraceInput::Log(b"y"),
            TraceInput::RulesBegan(Some(7)),
            TraceInput::RulesBegan(None),
            TraceInput::Rules(b"z"),
            TraceInput::RulesEnded { whole: false },
            TraceInput::SetsRead,
            TraceInput::Legacy {
                ipv6: true,
                name: "filter",
                content: b"c",
            },
            TraceInput::Saved {
                ipv6: false,
                name: "raw",
                text: b"",
            },
            TraceInput::Quiet,
            TraceInput::LostTotal(1 << 40),
            TraceInput::LostUnknown,
            TraceInput::Untraced(9),
            TraceInput::Ended,
        ];
        for input in inputs {
            let (kind, head, bytes) = encode(&input);
            let payload = [&head, bytes].concat();
            assert_eq!(decode(kind, &payload), Some(input));
        }
        assert_eq!(decode(KIND_FIRST + 7, &[0, 9, b'x']), None);
        assert_eq!(decode(0, &[]), None);
    }
}
