//! A rule on its way to text: registers, context, and the statements so far.

use std::rc::Rc;

use crate::event::step::Verdict;

use super::context::{Context, Dependency, Tested};
use super::extension;
use super::protocol::{Field, Protocol};
use super::register::{Expr, Registers};
use super::set::{Part, Set};
use super::value::{self, Kind, Type, cut, number};

/// A comparison that may turn out to be one end of a range.
pub(super) struct Bound {
    pub statement: usize,
    pub left: String,
    pub of: Type,
    pub op: u32,
    pub data: Vec<u8>,
}

/// A rule, as far as it has been read.
pub(super) struct Rule<'a, 's> {
    pub find: &'a dyn Fn(&str) -> Option<&'s Set>,
    pub registers: Registers,
    pub context: Context,
    /// Empty where a later one implies it.
    pub statements: Vec<String>,
    /// Of all statements, in bytes.
    length: usize,
    pub bound: Option<Bound>,
    /// What the key of the map looked up last implied, in case it turns out not to.
    pub hidden: Option<(usize, String)>,
    pub verdict: Option<Verdict>,
    pub comment: Option<String>,
    /// It has a match or target of x_tables.
    pub xtables: bool,
}

/// The rest of a longer rule is not shown.
const LENGTH_MAX: usize = 64 << 10;

/// The short name of a base, as in `@nh,0,8`.
fn base_name(base: u32) -> &'static str {
    match base {
        0 => "ll",
        1 => "nh",
        2 => "th",
        _ => "ih",
    }
}

/// Where a mask's bits begin and how many they are, if they are one run.
pub(super) fn run_of(mask: &[u8]) -> Option<(u32, u32)> {
    let value = number(mask, false)?;
    let width = u32::try_from(mask.len()).ok()? * 8;
    if value == 0 {
        return None;
    }
    let bits = value.count_ones();
    let low = value.trailing_zeros();
    let solid = bits == 128 || (value >> low) == (1u128 << bits) - 1;
    solid.then(|| (width - low - bits, bits))
}

impl<'a, 's> Rule<'a, 's> {
    /// An empty rule of a table of `family`.
    pub fn new(family: u8, find: &'a dyn Fn(&str) -> Option<&'s Set>) -> Self {
        Rule {
            find,
            registers: Registers::new(),
            context: Context::new(family),
            statements: Vec::new(),
            length: 0,
            bound: None,
            hidden: None,
            verdict: None,
            comment: None,
            xtables: false,
        }
    }

    /// Appends a test.
    pub fn test(&mut self, text: String) -> usize {
        self.bound = None;
        self.length = self.length.saturating_add(text.len());
        if self.length <= LENGTH_MAX {
            self.statements.push(text);
        } else {
            self.statements.push("<...>".to_owned());
        }
        self.statements.len() - 1
    }

    /// Appends a statement that is no test.
    pub fn act(&mut self, text: String) {
        self.context.settle();
        self.test(text);
    }

    /// Blanks a statement that is implied.
    pub fn drop_statement(&mut self, at: Option<usize>) {
        let Some(at) = at else { return };
        if let Some(statement) = self.statements.get_mut(at) {
            self.hidden = Some((at, std::mem::take(statement)));
        }
    }

    /// Shows again what the map looked up last implied.
    pub fn show_hidden(&mut self) {
        let Some((at, text)) = self.hidden.take() else {
            return;
        };
        if let Some(statement) = self.statements.get_mut(at) {
            *statement = text;
        }
    }

    /// Looks at a field: what it implies goes.
    pub fn use_field(&mut self, header: &'static Protocol, field: &Field, key: bool) {
        let implied = self.context.imply_by_field(header, field, key);
        self.drop_statement(implied);
    }

    /// Notes that statement `statement` tests a header's key field.
    pub fn note_key(&mut self, header: &'static Protocol, value: u128, stmt: usize, stacked: bool) {
        let dependency = Dependency {
            statement: stmt,
            tested: Tested::Header(header),
            value,
        };
        self.context.note_field(dependency, header, stacked);
    }

    /// The words for bits of the packet, and their type.
    fn payload(&mut self, base: u32, offset: u32, bits: u32) -> (String, Type) {
        if let Some((header, field)) = self.context.field(base, offset, |len| len == bits) {
            self.use_field(header, field, false);
            let text = format!("{} {}", header.name, field.name);
            return (text, Type::network(field.kind, bits));
        }
        raw_payload(base, offset, bits)
    }

    /// The words for an expression and the type of its value.
    pub fn name(&mut self, expr: &Expr) -> (String, Type) {
        let hex = |bits| Type::network(Kind::Hex, bits);
        match expr {
            Expr::Payload { base, offset, bits } => self.payload(*base, *offset, *bits),
            Expr::Extension {
                op,
                of,
                offset,
                bits,
            } => {
                if matches!(*op, 0 | 2) {
                    let implied = self.context.release(1);
                    self.drop_statement(implied);
                } else if *op == 1 {
                    let implied = self.context.release(2);
                    self.drop_statement(implied);
                }
                extension::name(*op, *of, *offset, *bits)
            }
            Expr::Named { text, of, .. } => (text.clone(), *of),
            Expr::Data(bytes) => (value::write(hex(0), bytes, false), hex(0)),
            Expr::Bitwise { of, mask, xor } => {
                let (left, of) = self.name(of);
                (binary(&left, of, mask, xor), of)
            }
            Expr::Shift { of, left, by } => {
                let (text, of) = self.name(of);
                let sign = if *left { "<<" } else { ">>" };
                (format!("{text} {sign} {by}"), of)
            }
            Expr::Swapped(of) => {
                let (text, of) = self.name(of);
                (text, Type { host: false, ..of })
            }
            Expr::Concat(parts) => {
                let texts: Vec<_> = parts.iter().map(|part| self.name(part).0).collect();
                (texts.join(" . "), hex(0))
            }
            Expr::Unknown(what) => (format!("<{what}>"), hex(0)),
        }
    }

    /// The words for the right side of an assignment to something of type `of`.
    pub fn operand(&mut self, expr: &Expr, of: Type) -> String {
        match expr {
            Expr::Data(bytes) => match (of.kind, number(bytes, of.host)) {
                (Kind::Bits(table), Some(value)) => value::words_of_bits(table, value, ","),
                _ => value::write(of, bytes, false),
            },
            other => self.name(other).0,
        }
    }

    /// The words for a set's key, and how to read the keys of its elements.
    pub fn key(&mut self, expr: &Expr) -> (String, Vec<Part>) {
        if let Expr::Concat(parts) = expr {
            let (texts, parts): (Vec<_>, Vec<_>) =
                parts.iter().map(|part| self.key_part(part)).unzip();
            return (texts.join(" . "), parts);
        }
        let (text, part) = self.key_part(expr);
        (text, vec![part])
    }

    fn key_part(&mut self, expr: &Expr) -> (String, Part) {
        let (masked, shifted) = match expr {
            Expr::Shift {
                of, left: false, ..
            } => (of.as_ref(), true),
            other => (other, false),
        };
        if let Expr::Bitwise { of, mask, xor } = masked {
            let run = run_of(mask).filter(|_| xor.iter().all(|b| *b == 0));
            if let Some((text, of)) = run.and_then(|run| self.narrowed(of, run)) {
                let low = number(mask, false).unwrap_or(0).trailing_zeros();
                let shift = if shifted { 0 } else { low };
                let part = Part {
                    of,
                    shift,
                    bytes: mask.len(),
                };
                return (text, part);
            }
        }
        let (text, of) = self.name(expr);
        let part = Part {
            of,
            shift: 0,
            bytes: of.bytes(),
        };
        (text, part)
    }

    /// The words for the bits of a field that begin `run.0` bits behind an expression's start.
    pub fn narrowed(&mut self, expr: &Expr, (lead, run): (u32, u32)) -> Option<(String, Type)> {
        match expr {
            Expr::Payload { base, offset, .. } => {
                let at = offset.checked_add(lead)?;
                self.context.field(*base, at, |len| len == run)?;
                Some(self.payload(*base, at, run))
            }
            Expr::Extension { op, of, offset, .. } => {
                let at = offset.checked_add(lead)?;
                extension::field(*op, *of, at, run)?;
                let narrow = Expr::Extension {
                    op: *op,
                    of: *of,
                    offset: at,
                    bits: run,
                };
                Some(self.name(&narrow))
            }
            _ => None,
        }
    }

    /// Reads a register that must hold `bytes` bytes.
    pub fn read(&mut self, register: Option<u32>, bytes: Option<usize>) -> Rc<Expr> {
        match register {
            Some(register) => self.registers.read(register, bytes),
            None => Rc::new(Expr::Unknown("register".to_owned())),
        }
    }
}

/// Bits of the packet that are no field we know.
pub(super) fn raw_payload(base: u32, offset: u32, bits: u32) -> (String, Type) {
    let port = |name: &str| (name.to_owned(), Type::network(Kind::Integer, 16));
    match (base, offset, bits) {
        (2, 0, 16) => port("th sport"),
        (2, 16, 16) => port("th dport"),
        _ => {
            let text = format!("@{},{offset},{bits}", base_name(base));
            (text, Type::network(Kind::Hex, bits))
        }
    }
}

/// `left & mask ^ xor`, with bits that are set whatever they were as `|`.
fn binary(left: &str, of: Type, mask: &[u8], xor: &[u8]) -> String {
    let pairs = || mask.iter().zip(xor);
    let or: Vec<u8> = pairs().map(|(m, x)| !m & x).collect();
    let and: Vec<u8> = pairs().map(|(m, x)| m | (!m & x)).collect();
    let flip: Vec<u8> = pairs().map(|(m, x)| m & x).collect();
    let mut text = left.to_owned();
    let mut add = |sign: &str, bytes: &[u8]| {
        let operand = match of.kind {
            Kind::Bits(table) => {
                let bits = number(bytes, of.host).unwrap_or(0);
                let words = value::words_of_bits(table, bits, " | ");
                if bits.count_ones() > 1 && sign == "&" {
                    format!("({words})")
                } else {
                    words
                }
            }
            _ => value::write(of, bytes, true),
        };
        text.push_str(&format!(" {sign} {operand}"));
    };
    if and.iter().any(|b| *b != 0xff) {
        add("&", &and);
    }
    if flip.iter().any(|b| *b != 0) {
        add("^", &flip);
    }
    if or.iter().any(|b| *b != 0) {
        add("|", &or);
    }
    text
}

/// Some bits of some bytes as a value of its own.
pub(super) fn piece(data: &[u8], from: u32, bits: u32) -> Vec<u8> {
    cut(data, from, bits)
}
