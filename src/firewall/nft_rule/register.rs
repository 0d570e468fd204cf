//! The registers of the nf_tables machine, as expressions of what a rule has put there.

use std::rc::Rc;

use super::value::Type;

/// What a register holds.
#[derive(Debug)]
pub(super) enum Expr {
    /// Bits of the packet; `base` is enum nft_payload_bases.
    Payload { base: u32, offset: u32, bits: u32 },
    /// Bits of an extension header or option (enum nft_exthdr_op and the header's type).
    Extension {
        op: u32,
        of: u8,
        offset: u32,
        bits: u32,
    },
    /// Anything that nft(8) has words for.
    Named {
        text: String,
        of: Type,
        /// Its key (enum nft_meta_keys), if it is that.
        meta: Option<u32>,
    },
    /// A constant.
    Data(Vec<u8>),
    /// `(of & mask) ^ xor`.
    Bitwise {
        of: Rc<Expr>,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    /// Shifted by a number of bits, to the left or to the right.
    Shift { of: Rc<Expr>, left: bool, by: u32 },
    /// In the other byte order.
    Swapped(Rc<Expr>),
    /// One behind the other, each from a new word on.
    Concat(Vec<Rc<Expr>>),
    /// What we do not know, by the name of the expression.
    Unknown(String),
}

impl Expr {
    /// A named one.
    pub fn named(text: String, of: Type) -> Expr {
        // Texts within texts could double with each expression of a rule that means harm.
        if text.len() > 4096 {
            return Expr::Unknown("too long".to_owned());
        }
        Expr::Named {
            text,
            of,
            meta: None,
        }
    }

    /// Whether so much has been done to a value that nobody would write it.
    pub fn is_deep(&self) -> bool {
        let mut expr = self;
        for _ in 0..16 {
            expr = match expr {
                Expr::Bitwise { of, .. } | Expr::Shift { of, .. } | Expr::Swapped(of) => of,
                _ => return false,
            };
        }
        true
    }
}

#[derive(Clone)]
struct Cell {
    expr: Rc<Expr>,
    bytes: usize,
    fresh: bool,
}

/// The data registers: 16 words of four bytes behind the verdict register.
pub(super) struct Registers {
    words: [Option<Cell>; 20],
}

const WORDS: usize = 20;

/// The word that a register begins with: NFT_REG_1.. have four words each, NFT_REG32_00.. one.
fn word_of(register: u32) -> Option<usize> {
    let register = usize::try_from(register).ok()?;
    match register {
        0..=4 => Some(register * 4),
        8..=23 => Some(register - 4),
        _ => None,
    }
}

impl Registers {
    /// All empty.
    pub fn new() -> Self {
        Registers {
            words: [const { None }; WORDS],
        }
    }

    /// Puts an expression of so many bytes into a register.
    pub fn write(&mut self, register: u32, expr: Expr, bytes: usize) {
        let Some(start) = word_of(register) else {
            return;
        };
        let words = bytes.div_ceil(4).clamp(1, WORDS);
        for word in self.words.iter_mut().skip(start).take(words) {
            *word = None;
        }
        if let Some(word) = self.words.get_mut(start) {
            *word = Some(Cell {
                expr: Rc::new(expr),
                bytes,
                fresh: true,
            });
        }
    }

    /// What stands in a register, up to `bytes` bytes; `None` for all that was put there since it was
    /// last read.
    pub fn read(&mut self, register: u32, bytes: Option<usize>) -> Rc<Expr> {
        let mut parts: Vec<Rc<Expr>> = Vec::new();
        let mut covered = 0;
        let mut at = word_of(register).unwrap_or(WORDS);
        while covered < bytes.unwrap_or(usize::MAX) {
            let Some(Some(cell)) = self.words.get_mut(at) else {
                break;
            };
            if bytes.is_none() && !cell.fresh && !parts.is_empty() {
                break;
            }
            cell.fresh = false;
            parts.push(Rc::clone(&cell.expr));
            let words = cell.bytes.div_ceil(4).max(1);
            covered += words * 4;
            at += words;
        }
        if bytes.is_some_and(|bytes| covered < bytes) {
            return Rc::new(Expr::Unknown("register".to_owned()));
        }
        match parts.len() {
            0 => Rc::new(Expr::Unknown("register".to_owned())),
            1 => parts.swap_remove(0),
            _ => Rc::new(Expr::Concat(parts)),
        }
    }

    /// The expression that begins in a register, if one does; and not the inside of a longer one.
    pub fn begins(&mut self, register: u32) -> Option<Rc<Expr>> {
        let cell = self.words.get_mut(word_of(register)?)?.as_mut()?;
        cell.fresh = false;
        Some(Rc::clone(&cell.expr))
    }
}
