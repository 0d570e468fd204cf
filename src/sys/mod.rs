//! The kernel's side: sockets, signals, clocks. The only folder with unsafe code; each block says
//! why it is sound. Knows nothing of formats or flows.

pub mod alloc;
#[cfg(feature = "bpf")]
pub mod bpf;
pub mod cache;
pub mod clock;
#[cfg(feature = "bpf")]
pub mod inflate;
pub mod instance;
pub mod landlock;
pub mod machine;
pub mod modules;
pub mod mounts;
pub mod netlink;
pub mod networks;
pub mod pages;
pub mod place;
pub mod privileges;
pub mod process;
pub mod rights;
pub mod seccomp;
pub mod signal;
pub mod watchdog;
pub mod xtables;
