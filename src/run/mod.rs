//! The commands: what opens things, waits, and puts the other rooms together.

pub mod capture;
mod dump;
mod ending;
pub mod follow;
pub mod input;
mod intake;
pub mod log;
pub mod output;
pub mod pipeline;
pub mod recording;
pub mod replay;
mod source;
mod status;
mod table;
