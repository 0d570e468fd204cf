//! The flow table of a run, if the machine can hold it.

use crate::error::{Error, Result};
use crate::flow::table::Table;
use crate::limits::BYTES_PER_FLOW;
use crate::sys::machine;

/// An empty table; one that the machine cannot hold is refused before it is used up.
pub(super) fn new_table(capacity: u32) -> Result<Table> {
    let needed = u64::from(capacity) * BYTES_PER_FLOW as u64;
    let memory = machine::memory_bytes();
    if needed > memory {
        let cause = format!(
            "it needs {} MiB and the machine has {}",
            needed >> 20,
            memory >> 20
        );
        return Err(Error::failed(
            "making the flow table",
            cause,
            "see --capacity",
        ));
    }
    // A limit below the machine's memory shows here, and not as an abort.
    let mut trial: Vec<u8> = Vec::new();
    if let Err(error) = trial.try_reserve_exact(capacity as usize * BYTES_PER_FLOW) {
        return Err(Error::failed(
            "making the flow table",
            error,
            "see --capacity",
        ));
    }
    drop(trial);
    let seed = machine::random::<16>()
        .map_err(|error| Error::failed("asking the kernel for random numbers", error, ""))?;
    let seed = u128::from_ne_bytes(seed);
    Ok(Table::new(capacity, [seed as u64, (seed >> 64) as u64]))
}
