//! What would come of a ladder, without climbing it: the same rungs in the same order, each judged by
//! what can be seen from below.

use super::legacy::Chain;
use super::state::{self, Leftover};
use std::fmt;

/// How well a prospect is founded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The kernel was asked to check it, and would take it.
    Tried,
    /// All that can be seen speaks for it; only doing it would prove it.
    Expected,
    /// There is nothing to do.
    Given,
}

impl fmt::Display for Basis {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Basis::Tried => "tried",
            Basis::Expected => "expected",
            Basis::Given => "as it is",
        })
    }
}

/// The rung that would be taken, and what that means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prospect {
    /// As the report calls it.
    pub rung: &'static str,
    /// How well that is known.
    pub basis: Basis,
    /// Why no better one would be taken.
    pub refused: Vec<String>,
    /// What would be done for it, in order.
    pub deeds: Vec<String>,
    /// What would be undone at the end, and by whom after a `kill -9`.
    pub undoing: Vec<String>,
}

impl Prospect {
    /// One that takes nothing.
    pub fn of(rung: &'static str, basis: Basis) -> Prospect {
        Prospect {
            rung,
            basis,
            refused: Vec::new(),
            deeds: Vec::new(),
            undoing: Vec::new(),
        }
    }

    /// A chain of ours would be made; `who` says who removes it.
    pub fn foresee_chain(&mut self, chain: Chain, who: &str) {
        let program = chain.program.display().to_string();
        let what = Leftover::LegacyChain(chain);
        self.deeds.push(state::told(&what));
        self.deeds.push(format!(
            "make {what}, by {program} (loads the table where it is not)"
        ));
        self.undoing.push(format!("{what}: {who}"));
    }
}
