//! Two renderers over the same table and the same summary: text for people, JSON Lines for
//! programs. Bytes out; where they go is somebody else's business.

pub mod json;
mod number;
pub mod order;
pub mod summary;
pub mod text;
mod time;

use crate::flow::entry::Flow;
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

/// Bytes gathered before they are handed on.
const BLOCK_LEN: usize = 64 << 10;

/// Writes the whole report.
pub fn write(
    table: &Table,
    summary: &Summary<'_>,
    format: Format,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut block = Vec::with_capacity(BLOCK_LEN + 4096);
    match format {
        Format::Text => {
            let mut lines = text::Lines::default();
            for (place, side) in order::lines(table) {
                lines.report(&mut block, table.flow(place), side);
                hand_on(&mut block, BLOCK_LEN, out)?;
            }
        }
        Format::Json => {
            for (place, _) in order::flows(table) {
                json::flow(&mut block, table.flow(place), None);
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
    flow: &Flow,
    out: &mut Vec<u8>,
) {
    match format {
        Format::Text => lines.follow(out, change, flow),
        Format::Json => json::flow(out, flow, Some(change)),
    }
}

/// Writes what ends a report whose flows were written as they came.
pub fn write_end(summary: &Summary<'_>, format: Format, out: &mut Vec<u8>) {
    if format == Format::Json {
        json::stats(out, summary);
    }
}

fn hand_on(block: &mut Vec<u8>, limit: usize, out: &mut impl Write) -> io::Result<()> {
    if block.len() > limit {
        out.write_all(block)?;
        block.clear();
    }
    Ok(())
}
