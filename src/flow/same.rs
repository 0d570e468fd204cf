//! Whether two records of one key are of one flow: by the kernel's id, and by its stamp of the beginning.

use super::entry::Flow;
use crate::event::Event;
use crate::limits::STAMP_DOUBT;

impl Flow {
    /// Whether the kernel's stamp says that the entry of an event began after this flow was last heard of.
    /// One that is known already, or still to come, is of before the clock was set back.
    pub(super) fn is_before(&self, event: &Event) -> bool {
        let heard_ns = self
            .last_seen_ns()
            .saturating_add(STAMP_DOUBT.as_nanos() as u64);
        let start_ns = event.entry.start_ns;
        let later = start_ns.is_some_and(|start_ns| start_ns > heard_ns && start_ns <= event.at_ns);
        later && start_ns != self.start_ns()
    }

    /// Whether the ids allow that an event of the same key is of this flow.
    pub(super) fn may_be(&self, event: &Event) -> bool {
        match (self.id(), event.entry.id) {
            (Some(id), Some(its)) if its != 0 => id == its,
            _ => true,
        }
    }
}
