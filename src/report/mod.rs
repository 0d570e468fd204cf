//! Two renderers over the same table and the same summary: text for people, JSON Lines for
//! programs. Bytes out; where they go is somebody else's business.

pub mod blame;
pub mod checkup;
pub mod json;
pub mod json_value;
mod number;
pub mod numbers;
pub mod order;
mod owner;
pub mod summary;
pub mod text;
mod time;
mod way;

use crate::flow::entry::Flow;
use crate::flow::notes::Notes;
use crate::flow::owner::Owners;
use crate::flow::path::Ways;
use crate::flow::table::{Change, Table};
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

/// Writes the whole report.
pub fn write(
    table: &Table,
    books: Books<'_>,
    summary: &Summary<'_>,
    format: Format,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut block = Vec::with_capacity(BLOCK_LEN + 4096);
    let shown = |place| Shown {
        flow: table.flow(place),
        notes: table.notes(place),
        books,
    };
    match format {
        Format::Text => {
            let mut lines = text::Lines::default();
            for (place, side) in order::lines(table) {
                lines.report(&mut block, &shown(place), side);
                hand_on(&mut block, BLOCK_LEN, out)?;
            }
        }
        Format::Json => {
            for (place, _) in order::flows(table) {
                json::flow(&mut block, &shown(place), None);
                hand_on(&mut block, BLOCK_LEN, out)?;
            }
            json::stats(&mut block, summary);
        }
    }
    hand_on(&mut block, 0, out)
}

/// Writes one change while the capture runs.
pub fn write_change(
    lines: &mut text::Lines,
    format: Format,
    change: Change,
    shown: &Shown<'_>,
    out: &mut Vec<u8>,
) {
    match format {
        Format::Text => lines.follow(out, change, shown),
        Format::Json => json::flow(out, shown, Some(change)),
    }
}

/// Writes what ends a report whose flows were written as they came.
pub fn write_end(summary: &Summary<'_>, format: Format, out: &mut Vec<u8>) {
    if format == Format::Json {
        json::stats(out, summary);
    }
}

/// Appends text that a stranger may have chosen: nothing in it reaches a terminal as a command.
pub fn escaped(out: &mut Vec<u8>, text: &str) {
    for character in text.chars() {
        if steers(character) {
            out.extend(character.escape_default().map(|character| character as u8));
        } else {
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
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

fn hand_on(block: &mut Vec<u8>, limit: usize, out: &mut impl Write) -> io::Result<()> {
    if block.len() > limit {
        out.write_all(block)?;
        block.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_does_not_steer_the_terminal() {
        let turning = (0x200e..=0x200f)
            .chain(0x2028..=0x202e)
            .chain(0x2066..=0x2069);
        for code in (0..0x20).chain(0x7f..0xa0).chain([0x61c]).chain(turning) {
            let character = char::from_u32(code).unwrap();
            let mut out = Vec::new();
            escaped(&mut out, &format!("a{character}b"));
            let text = String::from_utf8(out).unwrap();
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
            let mut out = Vec::new();
            escaped(&mut out, text);
            assert_eq!(out, text.as_bytes());
        }
    }
}
