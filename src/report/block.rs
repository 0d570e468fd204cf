//! Bytes of a report, gathered before they are handed on. Most of a line are literals and numbers of
//! a few bytes. Their length is known when this is compiled, or they are copied as if they were as
//! long as they can be: memcpy(3) of a static binary takes longer to begin than to copy them.

use super::time::Written;

/// Gathered bytes. Grows where a line is longer than what there is room for.
#[derive(Debug, Default)]
pub struct Block {
    /// Those that are written, and the room behind them.
    bytes: Vec<u8>,
    len: usize,
    /// The time that was written last.
    pub(super) time: Written,
}

/// A word of at most 16 bytes, which is copied as if it had 16.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    bytes: [u8; 16],
    len: u8,
}

impl Word {
    /// A word made of pieces, when this is compiled.
    pub const fn new(pieces: [&str; 3]) -> Word {
        let mut word = Word {
            bytes: [0; 16],
            len: 0,
        };
        let mut piece = 0;
        while piece < pieces.len() {
            let mut at = 0;
            while at < pieces[piece].len() {
                word.bytes[word.len as usize] = pieces[piece].as_bytes()[at];
                word.len += 1;
                at += 1;
            }
            piece += 1;
        }
        word
    }
}

impl Block {
    /// A block with room for `capacity` bytes.
    pub fn new(capacity: usize) -> Block {
        Block {
            bytes: vec![0; capacity],
            len: 0,
            time: Written::default(),
        }
    }

    /// Appends the first `len` bytes; all are copied.
    #[inline(always)]
    pub fn short<const N: usize>(&mut self, bytes: &[u8; N], len: usize) {
        loop {
            let room = self.bytes.get_mut(self.len..);
            if let Some(room) = room.and_then(|room| room.first_chunk_mut()) {
                *room = *bytes;
                break;
            }
            self.grow(N);
        }
        self.len += len.min(N);
    }

    /// Appends bytes of a known length.
    #[inline(always)]
    pub fn put<const N: usize>(&mut self, bytes: &[u8; N]) {
        self.short(bytes, N);
    }

    /// Appends a byte.
    #[inline(always)]
    pub fn push(&mut self, byte: u8) {
        self.put(&[byte]);
    }

    /// Appends a word.
    #[inline(always)]
    pub fn word(&mut self, word: &Word) {
        self.short(&word.bytes, usize::from(word.len));
    }

    /// Appends bytes of any length.
    #[cfg_attr(small, optimize(speed))]
    pub fn slice(&mut self, bytes: &[u8]) {
        if self.bytes.len() - self.len < bytes.len() {
            self.grow(bytes.len());
        }
        self.bytes[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Takes off what is behind the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// What was gathered.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// How much that is.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self, wanted: usize) {
        let len = (self.len + wanted).max(2 * self.bytes.len());
        self.bytes.resize(len, 0);
    }
}

/// What `write` appends to a block, for tests.
#[cfg(test)]
pub(super) fn written(write: impl FnOnce(&mut Block)) -> String {
    let mut block = Block::new(0);
    write(&mut block);
    String::from_utf8(block.bytes().to_vec()).unwrap()
}

/// Numbers of all lengths, the same in each run (xorshift64*), for tests.
#[cfg(test)]
pub(super) fn random() -> impl Iterator<Item = u64> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    std::iter::repeat_with(move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let number = state.wrapping_mul(0x2545_f491_4f6c_dd1d);
        number >> ((state >> 8) & 63)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_append_and_grow() {
        const WORD: Word = Word::new(["\"", "fixed_timeout", "\","]);
        for capacity in 0..100 {
            let mut block = Block::new(capacity);
            block.push(b'a');
            block.put(b"bc");
            block.short(b"def...", 3);
            block.word(&WORD);
            block.slice(b"");
            block.slice(&[b'x'; 50]);
            block.put(b"yz");
            let expected = format!("abcdef\"fixed_timeout\",{}yz", "x".repeat(50));
            assert_eq!(block.bytes(), expected.as_bytes());
            assert_eq!((block.len(), block.is_empty()), (expected.len(), false));
            block.truncate(3);
            block.truncate(100);
            block.push(b'!');
            assert_eq!(block.bytes(), b"abc!");
        }
    }
}
