//! The flow table: which flows there are, under fixed memory.

pub mod assembly;
mod chains;
mod claims;
pub mod entry;
pub mod filter;
mod fit;
mod index;
pub mod key;
#[cfg(test)]
mod model_tests;
pub mod notes;
mod open;
pub mod owned;
#[cfg(test)]
mod owned_tests;
pub mod owner;
pub mod path;
mod reach;
mod reclaim;
mod same;
#[cfg(test)]
mod step_tests;
pub mod sweep;
pub mod table;
pub mod traced;
#[cfg(test)]
mod traced_model_tests;
