//! Who is behind a flow: the process that has the socket at this end of it, and its user.
//!
//! Programs in the kernel tell it as it happens. Which of them a kernel has room for differs, so
//! there is a ladder of them; each rung proves that it tells the truth before it is believed. What is
//! older than they, and all of it where there is none, comes from sock_diag and /proc.

pub mod addresses;
mod exchange;
mod holders;
pub mod ladder;
pub mod process;
pub mod sockets;
mod tables;
pub mod users;

#[cfg(feature = "bpf")]
pub mod probes;
#[cfg(not(feature = "bpf"))]
#[path = "without_probes.rs"]
pub mod probes;

pub mod probe_events;
pub mod rung;
pub mod self_test;

/// A child has its parent's sockets until it executes its program: tests of the one and the other take
/// turns.
#[cfg(test)]
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(|failed| failed.into_inner())
}
