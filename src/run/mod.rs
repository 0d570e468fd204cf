//! The commands: what opens things, waits, and puts the other rooms together.

mod account;
pub mod attributor;
pub mod blame;
pub mod capture;
pub mod check;
#[cfg(all(test, feature = "trace", feature = "owners"))]
mod clock_tests;
mod confine;
mod daemon;
pub mod dry_run;
mod dump;
mod ending;
pub mod follow;
pub mod growing;
pub mod input;
mod intake;
mod legacy_reader;
pub mod log;
mod notify;
pub mod output;
pub mod owner_input;
mod owner_source;
pub mod pipeline;
pub mod recording;
pub mod replay;
mod ruleset_reader;
mod session;
mod source;
mod status;
mod syslog;
mod table;
pub mod trace_input;
mod trace_source;
pub mod tracer;
#[cfg(all(test, feature = "trace"))]
mod ways_tests;
