//! Bytes to values, and values to request bytes. Pure and total: no I/O, no clock, no panic; the
//! parsers allocate nothing. Whatever the kernel sends, a parser answers with a value or an error.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::cast_possible_truncation,
        clippy::panic
    )
)]

pub mod address;
pub mod attr;
pub mod conntrack;
pub mod kernel;
pub mod kernel_nft;
pub mod kernel_trace;
pub mod message;
pub mod nflog;
pub mod nflog_config;
pub mod nftables;
pub mod nftrace;
pub mod packet;
mod ports;
pub mod probe;
pub mod proc_net;
pub mod request;
pub mod sock_diag;
pub mod socket_filter;
mod tuple_layout;
pub mod xtables;
pub mod zone;
