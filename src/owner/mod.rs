//! Who is behind a flow: processes, their users and their sockets, from /proc and sock_diag, which any
//! kernel has.

pub mod addresses;
mod exchange;

pub mod process;

pub mod users;
