//! conntracker: which flows pass a Linux firewall.
//!
//! Data goes one way: the kernel's bytes (`sys`) become values (`wire`), values become events
//! (`event`), events change the flow table (`flow`), and the table becomes a report (`report`).
//! `run` puts the pieces together. The dependency rule, which tests/structure.rs checks:
//! `wire` uses nothing of ours; `event` uses `wire`; `flow` uses `event`; `report` uses `flow`; `sys`
//! never uses `wire` or `flow`; `owner` uses `sys` and `wire`; `run` uses everything and nothing uses
//! `run`. So all but `sys`, `firewall`, `owner` and `run` work without a kernel, without root and
//! without a clock.
//!
//! The static build (scripts/build-static) compiles all of it for size (`small`), but for the functions that
//! each event, trace message or line of a report comes through: those that say `optimize(speed)`.
#![cfg_attr(small, feature(optimize_attribute))]

pub mod cli;
pub mod counters;
pub mod error;
pub mod event;
pub mod features;
pub mod firewall;
pub mod flow;
pub mod hashing;
pub mod limits;
pub mod owner;
pub mod report;
pub mod run;
pub mod sys;
pub mod wire;
