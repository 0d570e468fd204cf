//! Tests: cmp, range, lookup.

use crate::wire::kernel_nft::*;

use super::context::{Dependency, Tested};
use super::nest::Nest;
use super::register::Expr;
use super::rule::{Bound, Rule, piece, raw_payload, run_of};
use super::set::{self, Data};
use super::value::{self, Kind, Type, number, prefix_length};

fn sign(op: u32) -> &'static str {
    match op {
        NFT_CMP_EQ => "==",
        NFT_CMP_NEQ => "!=",
        NFT_CMP_LT => "<",
        NFT_CMP_LTE => "<=",
        NFT_CMP_GT => ">",
        NFT_CMP_GTE => ">=",
        _ => "<cmp>",
    }
}

/// `left op right`; equality is not written where it goes without saying.
fn relation(left: &str, op: u32, right: &str, explicit: bool) -> String {
    if op == NFT_CMP_EQ && !explicit {
        return format!("{left} {right}");
    }
    format!("{left} {} {right}", sign(op))
}

/// A value that a field is compared with: several bits at once are a number there.
fn exact(of: Type, data: &[u8]) -> String {
    let several = |value: &u128| matches!(of.kind, Kind::Bits(_)) && value.count_ones() > 1;
    match number(data, of.host).filter(several) {
        Some(value) => format!("{value:#x}"),
        None => value::write(of, data, false),
    }
}

/// What a value is compared with; fewer bytes than it has are a prefix.
fn right_side(of: Type, data: &[u8]) -> String {
    let whole = of.bytes();
    if data.len() >= whole || matches!(of.kind, Kind::Name | Kind::Text) {
        let data = match of.kind {
            Kind::Name | Kind::Text => data,
            _ => data.get(..whole.max(1)).unwrap_or(data),
        };
        return value::write(of, data, false);
    }
    let mut padded = data.to_vec();
    padded.resize(whole, 0);
    format!("{}/{}", value::write(of, &padded, false), data.len() * 8)
}

impl Rule<'_, '_> {
    /// enum nft_cmp_attributes.
    pub fn compare(&mut self, cmp: Nest<'_>) {
        let op = cmp.be32(NFTA_CMP_OP).unwrap_or(u32::MAX);
        let data = cmp.nest(NFTA_CMP_DATA).and_then(|d| d.get(NFTA_DATA_VALUE));
        let (Some(register), Some(data)) = (cmp.be32(NFTA_CMP_SREG), data) else {
            self.test("<cmp>".to_owned());
            return;
        };
        let left = self.registers.read(register, Some(data.len()));
        let equality = matches!(op, NFT_CMP_EQ | NFT_CMP_NEQ);
        match left.as_ref() {
            Expr::Payload { base, offset, bits } if equality => {
                let bits = (*bits).min(u32::try_from(data.len()).unwrap_or(0) * 8);
                self.compare_fields(op, (*base, *offset, bits), data, 0);
            }
            Expr::Bitwise { of, mask, xor } if xor.iter().all(|b| *b == 0) => {
                self.compare_masked(op, of, mask, data, &left);
            }
            other => self.compare_value(op, other, data),
        }
    }

    /// A comparison for equality with bits of the packet, which may be several fields.
    fn compare_fields(&mut self, op: u32, place: (u32, u32, u32), data: &[u8], skip: u32) {
        let (base, offset, bits) = place;
        let mut at = offset;
        let end = offset.saturating_add(bits);
        while at < end {
            let left = end - at;
            let from = at - offset + skip;
            // A part of a field is a prefix of it.
            let found = self.context.field(base, at, |len| len <= left || len >= 16);
            let Some((header, field)) = found else {
                let (text, of) = raw_payload(base, at, left);
                let right = value::write(of, &piece(data, from, left), false);
                self.test(relation(&text, op, &right, false));
                return;
            };
            let used = field.bits.min(left);
            let mut bytes = piece(data, from, used);
            let of = Type::network(field.kind, field.bits);
            let known = number(&bytes, false).unwrap_or(0);
            let right = if used < field.bits {
                bytes.resize(of.bytes(), 0);
                format!("{}/{used}", value::write(of, &bytes, false))
            } else {
                exact(of, &bytes)
            };
            let text = format!("{} {}", header.name, field.name);
            let statement = self.test(relation(&text, op, &right, of.is_bits()));
            let key = field.name == header.key;
            let mut stacked = false;
            if op == NFT_CMP_EQ && key {
                self.context.note_icmp(header, field, known);
                stacked = self.context.learn_field(header, known);
            }
            self.use_field(header, field, key);
            if op == NFT_CMP_EQ && key {
                self.note_key(header, known, statement, stacked);
            }
            at += used;
        }
    }

    fn compare_masked(&mut self, op: u32, of: &Expr, mask: &[u8], data: &[u8], whole: &Expr) {
        if let Expr::Payload { base, offset, .. } = of {
            let run = run_of(mask).filter(|run| self.covered(*base, *offset, *run));
            if let Some((lead, bits)) = run.filter(|_| op <= NFT_CMP_NEQ) {
                self.compare_fields(op, (*base, offset.saturating_add(lead), bits), data, lead);
                return;
            }
        }
        if let Some((lead, bits)) = run_of(mask) {
            if let Some((text, of)) = self.narrowed(of, (lead, bits)) {
                self.compare_text(op, text, of, &piece(data, lead, bits), false);
                return;
            }
        }
        let (text, of) = self.name(of);
        let equality = matches!(op, NFT_CMP_EQ | NFT_CMP_NEQ);
        if of.is_bits() && equality {
            let statement = masked_bits(&text, of, op, mask, data);
            self.test(statement);
            return;
        }
        let high = value::highest_first(of, mask);
        if let Some(length) = prefix_length(&high).filter(|_| of.has_prefixes() && equality) {
            let right = format!("{}/{length}", value::write(of, data, false));
            self.test(relation(&text, op, &right, false));
            return;
        }
        let (text, of) = self.name(whole);
        let right = value::write(of, data, false);
        self.test(relation(&text, op, &right, true));
    }

    /// Whether a run of bits is exactly one or more fields, so that its mask need not be shown.
    fn covered(&self, base: u32, offset: u32, (lead, bits): (u32, u32)) -> bool {
        let mut at = offset.saturating_add(lead);
        let end = at.saturating_add(bits);
        while at < end {
            let Some((_, field)) = self.context.field(base, at, |len| len <= end - at) else {
                return false;
            };
            at += field.bits;
        }
        true
    }

    fn compare_value(&mut self, op: u32, left: &Expr, data: &[u8]) {
        let (text, of) = self.name(left);
        let binary = matches!(left, Expr::Bitwise { .. } | Expr::Shift { .. });
        let Some(statement) = self.compare_text(op, text, of, data, binary) else {
            return;
        };
        if let (
            NFT_CMP_EQ,
            Expr::Named {
                meta: Some(key), ..
            },
        ) = (op, left)
        {
            let value = number(data, of.host).unwrap_or(0);
            self.context.learn_meta(*key, value);
            let dependency = Dependency {
                statement,
                tested: Tested::Meta(*key),
                value,
            };
            let implied = self.context.imply_by_meta(*key, dependency);
            self.drop_statement(implied);
        }
    }

    /// A comparison of something that has words, or the second half of one with a range, which then
    /// is no statement of its own.
    fn compare_text(
        &mut self,
        op: u32,
        text: String,
        of: Type,
        data: &[u8],
        binary: bool,
    ) -> Option<usize> {
        if let Some(bound) = self.bound.take() {
            let inside = bound.op == NFT_CMP_GTE && op == NFT_CMP_LTE;
            let outside = bound.op == NFT_CMP_LT && op == NFT_CMP_GT;
            if bound.left == text && bound.of == of && (inside || outside) {
                let last = value::write(of, data, true);
                let range = format!("{}-{last}", value::write(of, &bound.data, true));
                let op = if inside { NFT_CMP_EQ } else { NFT_CMP_NEQ };
                if let Some(statement) = self.statements.get_mut(bound.statement) {
                    *statement = relation(&text, op, &range, false);
                }
                return None;
            }
        }
        let right = right_side(of, data);
        let several = number(data, of.host).is_some_and(|value| value.count_ones() > 1);
        let explicit = binary || of.is_bits() && !several;
        let statement = self.test(relation(&text, op, &right, explicit));
        self.bound = Some(Bound {
            statement,
            left: text,
            of,
            op,
            data: data.to_vec(),
        });
        Some(statement)
    }

    /// enum nft_range_attributes.
    pub fn range(&mut self, range: Nest<'_>) {
        let end = |kind| range.nest(kind).and_then(|d| d.get(NFTA_DATA_VALUE));
        let (Some(from), Some(to)) = (end(NFTA_RANGE_FROM_DATA), end(NFTA_RANGE_TO_DATA)) else {
            self.test("<range>".to_owned());
            return;
        };
        let left = self.read(range.be32(NFTA_RANGE_SREG), Some(from.len()));
        let run = match left.as_ref() {
            Expr::Bitwise { of, mask, xor } if xor.iter().all(|b| *b == 0) => {
                run_of(mask).and_then(|run| Some((run, self.narrowed(of, run)?)))
            }
            _ => None,
        };
        let (text, of, from, to) = match run {
            Some(((lead, bits), (text, of))) => {
                (text, of, piece(from, lead, bits), piece(to, lead, bits))
            }
            None => {
                let (text, of) = self.name(&left);
                (text, of, from.to_vec(), to.to_vec())
            }
        };
        let right = format!(
            "{}-{}",
            value::write(of, &from, true),
            value::write(of, &to, true)
        );
        let op = match range.be32(NFTA_RANGE_OP) {
            Some(NFT_RANGE_EQ) => NFT_CMP_EQ,
            Some(NFT_RANGE_NEQ) => NFT_CMP_NEQ,
            _ => u32::MAX,
        };
        self.test(relation(&text, op, &right, false));
    }

    /// enum nft_lookup_attributes: a test, a verdict map, or a map into a register.
    pub fn lookup(&mut self, lookup: Nest<'_>) {
        let Some(name) = lookup.text(NFTA_LOOKUP_SET) else {
            self.test("<lookup>".to_owned());
            return;
        };
        let found = (self.find)(&name);
        let left = self.read(
            lookup.be32(NFTA_LOOKUP_SREG),
            found.map(|set| set.key_bytes()),
        );
        if let (Expr::Payload { base, offset, bits }, Some(first)) =
            (left.as_ref(), found.and_then(|set| set.first()))
        {
            let field = self.context.field(*base, *offset, |len| len == *bits);
            if let Some((header, field)) = field {
                let value = number(first, false).unwrap_or(0);
                if value != 0 {
                    self.context.note_icmp(header, field, value);
                }
            }
        }
        self.hidden = None;
        let (text, parts) = self.key(&left);
        let elements = set::reference(found, &name, &parts);
        let inverted = lookup.be32(NFTA_LOOKUP_FLAGS).unwrap_or(0) & NFT_LOOKUP_F_INV != 0;
        match lookup.be32(NFTA_LOOKUP_DREG) {
            None if inverted => {
                self.test(format!("{text} != {elements}"));
            }
            None => {
                self.test(format!("{text} {elements}"));
            }
            Some(0) => {
                self.test(format!("{text} vmap {elements}"));
            }
            Some(register) => {
                let data = found.map_or(Data::unknown(), |set| set.data());
                let expr = Expr::named(format!("{text} map {elements}"), data.first_type());
                self.registers.write(register, expr, data.bytes);
            }
        }
    }
}

/// Bits compared under a mask, in the ways that nft(8) has for flags.
fn masked_bits(text: &str, of: Type, op: u32, mask: &[u8], data: &[u8]) -> String {
    let mask_value = number(mask, of.host).unwrap_or(0);
    let value = number(data, of.host).unwrap_or(0);
    let words = |bytes: &[u8]| match of.kind {
        Kind::Bits(table) => {
            let value = number(bytes, of.host).unwrap_or(0);
            value::words_of_bits(table, value, ",")
        }
        _ => value::write(of, bytes, false),
    };
    if value == 0 {
        let not = if op == NFT_CMP_EQ { "! " } else { "" };
        return format!("{text} {not}{}", words(mask));
    }
    if value == mask_value && value.count_ones() == 1 {
        return format!("{text} & {} {} {}", words(mask), sign(op), words(data));
    }
    let not = if op == NFT_CMP_NEQ { "!= " } else { "" };
    format!("{text} {not}{} / {}", words(data), words(mask))
}
