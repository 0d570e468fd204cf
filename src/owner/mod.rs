//! Who is behind a flow: processes, their users and their sockets, from /proc and sock_diag, which any
//! kernel has.

pub mod addresses;
mod exchange;
mod holders;
pub mod process;
pub mod sockets;
mod tables;
pub mod users;
