//! What both commands do at their end.

use super::follow::Follow;
use super::output::Destination;
use crate::cli::Options;
use crate::error::{Error, Result};
use crate::features;
use crate::flow::table::Table;
use crate::report::blame::{self, Blame};
use crate::report::summary::Summary;
use crate::report::{self, Books};
use crate::sys::signal::Signals;

/// Writes the report, or the end of one that was followed.
pub(super) fn write_report(
    table: &Table,
    books: Books<'_>,
    follow: Option<Follow<'_>>,
    summary: &Summary<'_>,
    options: &Options,
    destination: &Destination,
    signals: &Signals,
) -> Result<()> {
    let written = match follow {
        Some(follow) => follow.finish(summary),
        None => {
            let mut sink = destination.sink(signals)?;
            let written = if features::Trace::built().is_some() && options.blame {
                let blame = Blame::of_table(table, books);
                blame::write(&blame, Some(summary), options.format, &mut sink)
            } else {
                report::write(table, books, summary, options.format, &mut sink)
            };
            written.and_then(|()| sink.finish())
        }
    };
    written.map_err(|error| Error::failed(destination.doing(), error, ""))
}
