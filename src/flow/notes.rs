//! What other sources than conntrack know of a flow. Kept beside the flows, where it was asked for.

use super::owned::Owned;
use super::traced::Traced;

/// What is known of a flow besides what conntrack says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Its ways through the rules.
    pub traced: Traced,
    /// The processes at its ends.
    pub owned: Owned,
}
