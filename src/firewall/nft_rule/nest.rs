//! Attributes looked up by type.

use crate::wire::attr::{Attributes, be16_of, be32_of, be64_of, u8_of};

use super::value;

/// The attributes of one expression, object or list.
#[derive(Clone, Copy)]
pub(super) struct Nest<'a>(pub Attributes<'a>);

impl<'a> Nest<'a> {
    /// What a nested attribute holds.
    pub fn new(bytes: &'a [u8]) -> Self {
        Nest(Attributes::new(bytes))
    }

    /// All attributes up to where the framing breaks.
    pub fn all(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        self.0.map_while(Result::ok)
    }

    /// The payload of the first attribute of a type.
    pub fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.all()
            .find(|(of, _)| *of == kind)
            .map(|(_, payload)| payload)
    }

    /// The attributes within an attribute.
    pub fn nest(self, kind: u16) -> Option<Nest<'a>> {
        self.get(kind).map(Nest::new)
    }

    /// One byte.
    pub fn u8(self, kind: u16) -> Option<u8> {
        self.get(kind).and_then(u8_of)
    }

    /// A big-endian number.
    pub fn be16(self, kind: u16) -> Option<u16> {
        self.get(kind).and_then(be16_of)
    }

    /// A big-endian number.
    pub fn be32(self, kind: u16) -> Option<u32> {
        self.get(kind).and_then(be32_of)
    }

    /// A big-endian number.
    pub fn be64(self, kind: u16) -> Option<u64> {
        self.get(kind).and_then(be64_of)
    }

    /// A string.
    pub fn text(self, kind: u16) -> Option<String> {
        self.get(kind).map(value::text)
    }
}
