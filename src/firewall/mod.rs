//! What we ask of the firewall, and give back: nothing of anybody else's is touched.

pub mod activation;
pub mod legacy;
pub mod nft;
pub mod state;
pub mod usage;
