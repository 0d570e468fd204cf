//! What a capture with these options would come to: the ladders, seen from below.

use crate::cli::Options;
use crate::error::Result;
use crate::firewall::activation::{self, Idle};
use crate::firewall::instrument::{self, Rung, TraceProspect, Wishes};
use crate::firewall::prospect::{Basis, Prospect};
use crate::owner::ladder;
use crate::run::trace_source::wishes;

/// What is known beforehand.
#[derive(Debug)]
pub(in crate::run) struct Foreseen {
    /// What no rule uses conntrack for.
    pub idle: Idle,
    /// How conntrack would be switched on.
    pub activation: Result<Prospect>,
    /// Whether the kernel has tables that go when their owner does.
    pub owned_table: std::result::Result<Basis, String>,
    /// How packets would be traced.
    pub trace: Result<TraceProspect>,
    /// Where owners would come from.
    pub owners: std::result::Result<ladder::Prospect, String>,
}

impl Foreseen {
    /// Looks at all of it, whether or not these options ask for it.
    pub(in crate::run) fn of(options: &Options) -> Foreseen {
        let idle = activation::idle_after_sweep(options.filter.ipv6);
        let owned = instrument::prospect(&Wishes {
            rung: Rung::NftOwned,
            ..wishes(options, idle)
        });
        Foreseen {
            owned_table: owned
                .map(|found| found.prospect.basis)
                .map_err(|error| error.to_string()),
            idle,
            activation: activation::prospect(options.activation, idle),
            trace: instrument::prospect(&wishes(options, idle)),
            owners: ladder::prospect(options.owner_rung, options.btf.as_deref()),
        }
    }
}
