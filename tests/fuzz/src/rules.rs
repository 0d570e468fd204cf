//! The input format of the target `rule_texts`: one byte that says which firewall, then pieces of a
//! length each, and the rest.

/// Bits of the first byte: a table of the legacy kind,
pub const LEGACY: u8 = 1;
/// of IPv6.
pub const IPV6: u8 = 2;

/// The words of struct ipt_getinfo that say where chains are.
const WORDS: usize = 11;

/// A rule of nf_tables and the one set that it may look up, each as attributes.
#[derive(Clone, Copy, Debug)]
pub struct NfTables<'a> {
    /// NFPROTO_*.
    pub family: u8,
    /// Of a NFT_MSG_NEWSET message.
    pub set: &'a [u8],
    /// Of a NFT_MSG_NEWSETELEM message.
    pub elements: &'a [u8],
    /// Of a NFT_MSG_NEWRULE message.
    pub rule: &'a [u8],
}

impl<'a> NfTables<'a> {
    /// Reads what follows the first byte.
    pub fn read(data: &'a [u8]) -> Option<NfTables<'a>> {
        let (family, rest) = data.split_first()?;
        let (set, rest) = piece(rest)?;
        let (elements, rule) = piece(rest)?;
        Some(NfTables {
            family: *family,
            set,
            elements,
            rule,
        })
    }

    /// An input.
    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![0, self.family];
        append(&mut out, self.set);
        append(&mut out, self.elements);
        out.extend(self.rule);
        out
    }
}

/// A legacy table.
#[derive(Clone, Copy, Debug)]
pub struct Legacy<'a> {
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// Which hooks it has, where they begin and where their policies stand.
    pub words: [u32; WORDS],
    /// What its program saved of it.
    pub saved: &'a [u8],
    /// Its entries.
    pub entries: &'a [u8],
}

impl<'a> Legacy<'a> {
    /// Reads what follows the first byte.
    pub fn read(kind: u8, data: &'a [u8]) -> Option<Legacy<'a>> {
        let (bytes, rest) = data.split_at_checked(4 * WORDS)?;
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().ok()?);
        }
        let (saved, entries) = piece(rest)?;
        Some(Legacy {
            ipv6: kind & IPV6 != 0,
            words,
            saved,
            entries,
        })
    }

    /// An input.
    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![if self.ipv6 { LEGACY | IPV6 } else { LEGACY }];
        out.extend(self.words.iter().flat_map(|word| word.to_ne_bytes()));
        append(&mut out, self.saved);
        out.extend(self.entries);
        out
    }
}

fn piece(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = data.split_first_chunk()?;
    let len = usize::from(u16::from_le_bytes(*len));
    Some(rest.split_at(len.min(rest.len())))
}

fn append(out: &mut Vec<u8>, piece: &[u8]) {
    let len = u16::try_from(piece.len()).unwrap_or(u16::MAX);
    out.extend(len.to_le_bytes());
    out.extend(&piece[..usize::from(len)]);
}
