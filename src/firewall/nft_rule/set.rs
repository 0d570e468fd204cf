//! Sets and maps: what a rule's text needs of them.

use crate::event::step::Verdict;
use crate::wire::attr::Attributes;
use crate::wire::kernel::*;
use crate::wire::kernel_nft::*;

use super::names;
use super::nest::Nest;
use super::value::{self, Kind, Type, number};
use super::verdict;

/// More elements than these are not kept: nobody reads such a rule.
const ELEMENTS_MAX: usize = 64;

/// NFT_DATA_VALUE_MAXLEN (include/uapi/linux/netfilter/nf_tables.h): what fits the registers.
const VALUE_BYTES_MAX: usize = 64;

#[derive(Clone, Debug)]
enum Value {
    None,
    Bytes(Vec<u8>),
    Verdict(Option<Verdict>),
    Object(String),
}

#[derive(Clone, Debug)]
struct Element {
    key: Vec<u8>,
    key_end: Option<Vec<u8>>,
    interval_end: bool,
    catch_all: bool,
    value: Value,
}

/// How to read one component of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub of: Type,
    /// The value stands this many bits above the lowest.
    pub shift: u32,
    /// Bytes in the key, without padding.
    pub bytes: usize,
}

/// What a map's values are.
pub(super) struct Data {
    pub types: Vec<Type>,
    pub bytes: usize,
}

impl Data {
    /// Of a map that is not known.
    pub fn unknown() -> Data {
        Data {
            types: vec![Type::network(Kind::Hex, 32)],
            bytes: 4,
        }
    }

    /// The type of the first component.
    pub fn first_type(&self) -> Type {
        let unknown = Type::network(Kind::Hex, 32);
        self.types.first().copied().unwrap_or(unknown)
    }
}

/// Elements of a set, as far as they are needed for a rule's text.
#[derive(Clone, Debug)]
pub struct Set {
    family: u8,
    table: String,
    name: String,
    flags: u32,
    key_bytes: usize,
    data_type: u32,
    data_bytes: usize,
    /// The values are numbers in host order.
    data_host: bool,
    object: u32,
    size: Option<u32>,
    elements: Vec<Element>,
    /// There are more elements than are kept.
    too_large: bool,
}

impl Set {
    /// From the attributes of one NFT_MSG_NEWSET message (enum nft_set_attributes,
    /// include/uapi/linux/netfilter/nf_tables.h). `None` where its keys or values are longer than any:
    /// values are written in their whole length.
    pub fn new(set: Attributes<'_>) -> Option<Set> {
        let set = Nest(set);
        let bytes = |kind| usize::try_from(set.be32(kind)?).ok();
        let data_bytes = bytes(NFTA_SET_DATA_LEN).unwrap_or(0);
        let key_bytes = bytes(NFTA_SET_KEY_LEN)?;
        if key_bytes.max(data_bytes) > VALUE_BYTES_MAX {
            return None;
        }
        let description = set.nest(NFTA_SET_DESC);
        Some(Set {
            family: AF_UNSPEC,
            table: set.text(NFTA_SET_TABLE)?,
            name: set.text(NFTA_SET_NAME)?,
            flags: set.be32(NFTA_SET_FLAGS).unwrap_or(0),
            key_bytes,
            data_type: set.be32(NFTA_SET_DATA_TYPE).unwrap_or(0),
            data_bytes,
            data_host: set.get(NFTA_SET_USERDATA).is_some_and(host_order),
            object: set.be32(NFTA_SET_OBJ_TYPE).unwrap_or(0),
            size: description.and_then(|nest| nest.be32(NFTA_SET_DESC_SIZE)),
            elements: Vec::new(),
            too_large: false,
        })
    }

    /// The same set with the family of its message's header (`nfgen_family`, NFPROTO_*).
    pub fn with_family(self, family: u8) -> Set {
        Set { family, ..self }
    }

    /// NFPROTO_*; 0 unless `with_family` said it.
    pub fn family(&self) -> u8 {
        self.family
    }

    /// The table that it is in.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Its name; of an anonymous set the kernel's, `__set3`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it belongs to one rule only, whose text shows its elements.
    pub fn is_anonymous(&self) -> bool {
        self.flags & NFT_SET_ANONYMOUS != 0
    }

    /// How many elements it may hold (NFTA_SET_DESC_SIZE); nft(8) gives a constant set's exactly.
    pub fn size(&self) -> Option<u32> {
        self.size
    }

    /// Takes the attributes of one NFT_MSG_NEWSETELEM message (enum nft_set_elem_list_attributes).
    /// Elements beyond 64 are not kept, and the set is then too large to show.
    pub fn take_elements(&mut self, elements: Attributes<'_>) {
        let Some(list) = Nest(elements).nest(NFTA_SET_ELEM_LIST_ELEMENTS) else {
            return;
        };
        for (_, element) in list.all() {
            if self.elements.len() >= ELEMENTS_MAX {
                self.too_large = true;
                return;
            }
            self.elements.push(element_of(Nest::new(element)));
        }
    }

    /// The length of a key; components of a concatenation are padded to four bytes each.
    pub(super) fn key_bytes(&self) -> usize {
        self.key_bytes
    }

    /// The type of the objects of an object map (NFT_OBJECT_*).
    pub(super) fn object(&self) -> u32 {
        self.object
    }

    /// The key of the element that comes first.
    pub(super) fn first(&self) -> Option<&[u8]> {
        let keys = self
            .elements
            .iter()
            .filter(|e| !e.interval_end && !e.catch_all);
        keys.map(|element| element.key.as_slice()).min()
    }

    /// What the values of this map are.
    pub(super) fn data(&self) -> Data {
        let mut types = Vec::new();
        let mut rest = self.data_type;
        // Each six bits are one component, the last in the lowest.
        while rest != 0 {
            types.insert(0, self.data_type(rest & 0x3f));
            rest >>= 6;
        }
        Data {
            types,
            bytes: self.data_bytes,
        }
    }

    fn data_type(&self, number: u32) -> Type {
        let bits = u32::try_from(self.data_bytes)
            .unwrap_or(0)
            .saturating_mul(8);
        let of = data_type(number);
        match of.kind {
            Kind::Hex if number == TYPE_INTEGER => Type {
                kind: Kind::Integer,
                host: self.data_host,
                bits,
            },
            Kind::Hex => Type { bits, ..of },
            _ => of,
        }
    }

    fn value(&self, value: &Value) -> String {
        let bytes = match value {
            Value::None => return String::new(),
            Value::Verdict(verdict) => {
                let text = verdict.as_ref().map(verdict::text);
                return format!(" : {}", text.unwrap_or("<verdict>".to_owned()));
            }
            Value::Object(name) => return format!(" : \"{name}\""),
            Value::Bytes(bytes) => bytes,
        };
        let types = self.data().types;
        let whole: usize = types.iter().map(|of| of.bytes().next_multiple_of(4)).sum();
        if whole > 0 && bytes.len() == whole * 2 {
            let (first, last) = bytes.split_at(whole);
            if let [of] = types[..] {
                return format!(" : {}", value::write_range(of, first, last));
            }
        }
        let mut at = 0;
        let mut texts = Vec::new();
        for of in &types {
            let end = (at + of.bytes()).min(bytes.len());
            let part = bytes.get(at..end).unwrap_or_default();
            texts.push(value::write(*of, part, false));
            at += of.bytes().next_multiple_of(4);
        }
        format!(" : {}", texts.join(" . "))
    }

    /// The elements in braces, sorted.
    fn inline(&self, parts: &[Part]) -> String {
        if self.too_large {
            return "{ ... }".to_owned();
        }
        let mut elements: Vec<&Element> = self.elements.iter().collect();
        let ranges = self.flags & NFT_SET_INTERVAL != 0;
        let by = |e: &&Element| (e.catch_all, order(&e.key, parts, ranges), !e.interval_end);
        elements.sort_by_cached_key(by);
        let mut texts = Vec::new();
        for (at, element) in elements.iter().enumerate() {
            if element.interval_end {
                continue;
            }
            let key = if element.catch_all {
                "*".to_owned()
            } else if ranges && element.key_end.is_none() {
                let next = elements.get(at + 1).filter(|next| !next.catch_all);
                interval(parts, &element.key, next.map(|next| next.key.as_slice()))
            } else {
                key_text(parts, &element.key, element.key_end.as_deref())
            };
            texts.push(format!("{key}{}", self.value(&element.value)));
        }
        format!("{{ {} }}", texts.join(", "))
    }
}

/// How a rule refers to a set: `@name`, or the elements of an anonymous one.
pub(super) fn reference(set: Option<&Set>, name: &str, parts: &[Part]) -> String {
    match set {
        Some(set) if set.is_anonymous() => set.inline(parts),
        None if is_anonymous_name(name) => format!("<{name}>"),
        _ => format!("@{name}"),
    }
}

/// Whether the kernel made the name: `__set3`, `__map3`.
pub(super) fn is_anonymous_name(name: &str) -> bool {
    let number = name.strip_prefix("__set").or(name.strip_prefix("__map"));
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// enum nft_set_elem_attributes.
fn element_of(element: Nest<'_>) -> Element {
    let bytes = |kind| {
        let data = element
            .nest(kind)
            .and_then(|data| data.get(NFTA_DATA_VALUE));
        data.map(<[u8]>::to_vec)
    };
    let flags = element.be32(NFTA_SET_ELEM_FLAGS).unwrap_or(0);
    let data = element.nest(NFTA_SET_ELEM_DATA);
    let value = if let Some(name) = element.text(NFTA_SET_ELEM_OBJREF) {
        Value::Object(name)
    } else if let Some(verdict) = data.and_then(|data| data.nest(NFTA_DATA_VERDICT)) {
        Value::Verdict(verdict::read(verdict))
    } else {
        bytes(NFTA_SET_ELEM_DATA).map_or(Value::None, Value::Bytes)
    };
    Element {
        key: bytes(NFTA_SET_ELEM_KEY).unwrap_or_default(),
        key_end: bytes(NFTA_SET_ELEM_KEY_END),
        interval_end: flags & NFT_SET_ELEM_INTERVAL_END != 0,
        catch_all: flags & NFT_SET_ELEM_CATCHALL != 0,
        value,
    }
}

/// The components of a key, each with how to read it.
fn components<'k>(parts: &'k [Part], key: &'k [u8]) -> impl Iterator<Item = (&'k Part, &'k [u8])> {
    let alone = parts.len() == 1;
    let mut at = 0;
    parts.iter().map(move |part| {
        let start = at;
        at += part.bytes.next_multiple_of(4);
        let end = if alone { key.len() } else { start + part.bytes };
        let end = end.min(key.len());
        (part, key.get(start..end).unwrap_or_default())
    })
}

/// By what keys are sorted: host-order numbers from their highest byte on. Ranges of names are in
/// the order of the dictionary, names alone are to nft(8) numbers like others.
fn order(key: &[u8], parts: &[Part], ranges: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (part, component) in components(parts, key) {
        let name = ranges && part.of.kind == Kind::Name;
        if part.of.host && !name && cfg!(target_endian = "little") {
            bytes.extend(component.iter().rev());
        } else {
            bytes.extend(component);
        }
    }
    bytes
}

fn one(part: &Part, bytes: &[u8]) -> Vec<u8> {
    let Some(value) = number(bytes, part.of.host).filter(|_| part.shift > 0) else {
        return bytes.to_vec();
    };
    let shifted = (value.checked_shr(part.shift).unwrap_or(0)).to_be_bytes();
    let start = shifted.len().saturating_sub(part.of.bytes());
    shifted.get(start..).unwrap_or_default().to_vec()
}

fn key_text(parts: &[Part], key: &[u8], end: Option<&[u8]>) -> String {
    let last = components(parts, end.unwrap_or(key));
    let texts = components(parts, key)
        .zip(last)
        .map(|((part, from), (_, to))| {
            value::write_range(part.of, &one(part, from), &one(part, to))
        });
    let texts: Vec<_> = texts.collect();
    texts.join(" . ")
}

/// From `from` to before `next`, or to the last value there is.
fn interval(parts: &[Part], from: &[u8], next: Option<&[u8]>) -> String {
    let last = match next.and_then(|next| number(next, false)) {
        Some(next) => {
            let wide = next.wrapping_sub(1).to_be_bytes();
            let start = wide.len().saturating_sub(from.len());
            wide.get(start..).unwrap_or_default().to_vec()
        }
        None => vec![0xff; from.len()],
    };
    let Some(part) = parts.first() else {
        return String::new();
    };
    value::write_range(part.of, &one(part, from), &one(part, &last))
}

/// Among the types of nft(8): a number of any length.
const TYPE_INTEGER: u32 = 4;

/// Whether a set's user data, which nft(8) writes for itself, says that the values are in host order:
/// triples of a type (1 is the byte order of values), a length and a number (1 is the host's).
fn host_order(mut data: &[u8]) -> bool {
    while let [kind, len, rest @ ..] = data {
        let Some((of, after)) = rest.split_at_checked(usize::from(*len)) else {
            return false;
        };
        if *kind == 1 {
            return of == 1u32.to_ne_bytes();
        }
        data = after;
    }
    false
}

/// The types of nft(8), by which it remembers what a map's values are.
fn data_type(number: u32) -> Type {
    use Type as T;
    match number {
        2 => T::host(Kind::Word(names::NFPROTOS), 8),
        5 | 41 => T::host(Kind::Name, 128),
        7 => T::network(Kind::Ipv4, 32),
        8 => T::network(Kind::Ipv6, 128),
        9 => T::network(Kind::Ether, 48),
        10 => T::network(Kind::EtherType, 16),
        12 => T::network(Kind::Word(names::PROTOCOLS), 8),
        13 => T::network(Kind::Integer, 16),
        14 => T::network(Kind::Word(names::ICMP_TYPES), 8),
        18 => T::host(Kind::Milliseconds, 64),
        19 => T::host(Kind::Mark, 32),
        20 | 22 | 24 | 25 | 35 => T::host(Kind::Integer, 32),
        23 => T::host(Kind::Class, 32),
        29 => T::network(Kind::Word(names::ICMPV6_TYPES), 8),
        31 => T::host(Kind::Word(names::PACKET_TYPES), 8),
        36 => T::network(Kind::HexWord(names::DSCP), 8),
        _ => T::network(Kind::Hex, 32),
    }
}
