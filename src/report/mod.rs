//! Two renderers over the same table and the same summary: text for people, JSON Lines for
//! programs. Bytes out; where they go is somebody else's business.

pub mod blame;
pub mod block;
pub mod checkup;
pub mod json;
pub mod json_value;
mod number;
pub mod numbers;
pub mod order;
mod owner;
mod radix;
pub mod summary;
pub mod text;
mod time;
mod way;

use crate::flow::entry::Flow;
use crate::flow::key::Side;
use crate::flow::notes::Notes;
use crate::flow::owner::Owners;
use crate::flow::path::Ways;
use crate::flow::table::{Change, Table};
use block::Block;
use std::hint::black_box;
use std::io::{self, Write};
use summary::Summary;

/// How the report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lines for people.
    Text,
    /// JSON Lines for programs.
    Json,
}

/// A flow with what else is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The flow.
    pub flow: &'a Flow,
    /// Its paths and its owners, by number.
    pub notes: Notes,
    /// What the numbers stand for.
    pub books: Books<'a>,
}

/// What the numbers in notes stand for.
#[derive(Clone, Copy, Debug)]
pub struct Books<'a> {
    /// Steps and paths.
    pub ways: &'a Ways,
    /// Processes.
    pub owners: &'a Owners,
}

/// Bytes gathered before they are handed on.
const BLOCK_LEN: usize = 64 << 10;

/// Lines whose flows are fetched before the first of them is written.
const BATCH_LEN: usize = 32;

/// Writes the whole report.
#[cfg_attr(small, optimize(speed))]
pub fn write(
    table: &Table,
    books: Books<'_>,
    summary: &Summary<'_>,
    format: Format,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut block = Block::new(BLOCK_LEN + 4096);
    let mut lines = text::Lines::default();
    let order = match format {
        Format::Text => order::lines(table),
        Format::Json => order::flows(table),
    };
    for batch in order.batches(BATCH_LEN) {
        fetch(table, batch.clone());
        for (place, side) in batch {
            let shown = Shown {
                flow: table.flow(place),
                notes: table.notes(place),
                books,
            };
            match format {
                Format::Text => lines.report(&mut block, &shown, side),
                Format::Json => json::flow(&mut block, &shown, None),
            }
        }
        hand_on(&mut block, BLOCK_LEN, out)?;
    }
    write_end(summary, format, &mut block);
    hand_on(&mut block, 0, out)
}

/// Touches flows that lie anywhere in memory, so that the processor waits for all of them at once.
#[cfg_attr(small, optimize(speed))]
fn fetch(table: &Table, lines: impl Iterator<Item = (u32, Side)>) {
    for (place, _) in lines {
        let flow = table.flow(place);
        black_box((flow.first_seen_ns(), flow.mark(), flow.is_folded()));
    }
}

/// Writes one change while the capture runs.
pub fn write_change(
    lines: &mut text::Lines,
    format: Format,
    change: Change,
    shown: &Shown<'_>,
    out: &mut Block,
) {
    match format {
        Format::Text => lines.follow(out, change, shown),
        Format::Json => json::flow(out, shown, Some(change)),
    }
}

/// Writes what ends a report whose flows were written as they came.
pub fn write_end(summary: &Summary<'_>, format: Format, out: &mut Block) {
    if format == Format::Json {
        json::stats(out, summary);
    }
}

/// Appends text that a stranger may have chosen: nothing in it reaches a terminal as a command.
pub fn escaped(out: &mut Block, text: &str) {
    as_it_is(out, text, |out, character| {
        if steers(character) {
            character
                .escape_default()
                .for_each(|character| out.push(character as u8));
        } else {
            out.slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
    });
}

/// Appends the letters, digits and most signs of a text; each other character is left to `other`.
fn as_it_is(out: &mut Block, text: &str, other: impl Fn(&mut Block, char)) {
    let mut rest = text;
    loop {
        let is_other = |byte: &u8| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\');
        let end = rest.as_bytes().iter().position(is_other);
        let (now, later) = rest.split_at(end.unwrap_or(rest.len()));
        out.slice(now.as_bytes());
        let mut characters = later.chars();
        let Some(character) = characters.next() else {
            return;
        };
        other(out, character);
        rest = characters.as_str();
    }
}

/// Whether a terminal may take a character for a command, or show what follows in another order or
/// on another line.
pub fn steers(character: char) -> bool {
    let turns_text = matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    turns_text || character.is_control()
}

#[cfg_attr(small, optimize(speed))]
fn hand_on(block: &mut Block, limit: usize, out: &mut impl Write) -> io::Result<()> {
    if block.len() > limit {
        out.write_all(block.bytes())?;
        block.truncate(0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::block::written;
    use super::*;

    #[test]
    fn a_stranger_does_not_steer_the_terminal() {
        let turning = (0x200e..=0x200f)
            .chain(0x2028..=0x202e)
            .chain(0x2066..=0x2069);
        for code in (0..0x20).chain(0x7f..0xa0).chain([0x61c]).chain(turning) {
            let character = char::from_u32(code).unwrap();
            let text = written(|out| escaped(out, &format!("a{character}b")));
            assert!(
                text.is_ascii() && !text.contains(char::is_control),
                "{text:?}"
            );
            assert!(text.starts_with("a\\") && text.ends_with('b'), "{text:?}");
        }
        for text in [
            "a b~",
            "\u{a0}",
            "\u{61b}\u{200d}\u{2027}\u{202f}\u{2065}\u{206a}",
            "\u{fffd}\u{1f9f1}",
        ] {
            assert_eq!(written(|out| escaped(out, text)), text);
        }
    }
}
