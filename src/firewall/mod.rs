//! What we ask of the firewall, and give back: nothing of anybody else's is touched.

pub mod activation;
pub mod instrument;
pub mod legacy;
pub mod legacy_rules;
pub mod nf_log;
pub mod nft;
pub mod nft_rule;
pub mod prospect;
pub mod rules;
pub mod ruleset;
pub mod state;
pub mod trace_target;
pub mod usage;
pub mod watchdog;

/// What became of something of ours that was to be removed. An error means that it may still be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It is removed.
    Removed,
    /// It was not there.
    NotThere,
    /// It is not as we made it: somebody else's by now, and left as it is.
    NotOurs,
}
