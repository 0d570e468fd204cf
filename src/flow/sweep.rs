//! Room in the dictionary of steps and paths: what nothing refers to goes.
//!
//! Theory of operation. A firewall whose rules are loaded anew gives its rules new handles, and flows
//! new steps and paths, for as long as it runs. A path is in use while a flow in the table has it; a
//! step, while such a path has it, or a flow names it as the one that denied, or it is of a packet that
//! is under way, or waits for its text. Only when the dictionary is nearly full are those found, by
//! marking all that is in use; what is not marked makes room, and its number is given again. So a sweep
//! comes between two inputs, when nobody else holds a number, and costs what the table and the
//! dictionary cost to walk through. It comes again only after as much was taken as it is meant to spare.

use super::path::{PathId, StepId, Ways, at, key, text_len};
use crate::event::step::{Step, StepKind};
use crate::hashing::HashMap;
use crate::limits::{WAYS_AMPLE_SHARE, WAYS_SPARE_SHARE};
use std::hash::{BuildHasher, Hash, RandomState};

/// What was taken, or asked for in vain, since the last sweep.
#[derive(Debug, Default)]
pub(super) struct Pace {
    pub(super) took: usize,
    pub(super) refused: bool,
}

/// What is in use.
#[derive(Debug)]
pub struct InUse {
    paths: Vec<bool>,
    steps: Vec<bool>,
}

impl InUse {
    /// Marks a path, and so its steps; 0 is none.
    pub fn path(&mut self, id: PathId) {
        mark(&mut self.paths, id);
    }

    /// Marks a step; 0 is none.
    pub fn step(&mut self, id: StepId) {
        mark(&mut self.steps, id);
    }
}

fn mark(marks: &mut [bool], id: u32) {
    if let Some(mark) = at(id).and_then(|at| marks.get_mut(at)) {
        *mark = true;
    }
}

impl Ways {
    /// Whether it is time to look for what is not in use.
    pub fn is_nearly_full(&self) -> bool {
        let spare = self.room.steps.min(self.room.paths) / WAYS_SPARE_SHARE;
        self.pace.took > spare && (self.pace.refused || !self.leaves(WAYS_SPARE_SHARE))
    }

    /// Whether there is so much room that nothing more needs to go.
    pub fn has_ample_room(&self) -> bool {
        self.leaves(WAYS_AMPLE_SHARE)
    }

    /// Whether more than a share of each kind of room is free.
    fn leaves(&self, share: usize) -> bool {
        let is_free = |used: usize, room: usize| used + room / share < room;
        is_free(self.step_count(), self.room.steps)
            && is_free(self.path_count(), self.room.paths)
            && is_free(self.text_len, self.room.text_len)
    }

    /// Nothing is marked yet.
    pub fn unmarked(&self) -> InUse {
        InUse {
            paths: vec![false; self.paths.len()],
            steps: vec![false; self.steps.len()],
        }
    }

    /// Forgets all that is not in use.
    pub fn keep(&mut self, mut in_use: InUse) {
        self.pace = Pace::default();
        for (id, (path, keep)) in (1..).zip(self.paths.iter_mut().zip(&in_use.paths)) {
            if *keep {
                let steps = path.iter().flat_map(|path| path.iter());
                steps.for_each(|step| mark(&mut in_use.steps, *step));
            } else if let Some(path) = path.take() {
                self.path_ids.remove(&path);
                self.free_paths.push(id);
            }
        }
        let mut gone = Vec::new();
        for (id, (known, keep)) in (1..).zip(self.steps.iter_mut().zip(&in_use.steps)) {
            let Some(known) = known.take_if(|_| !keep) else {
                continue;
            };
            self.text_len -= text_len(&known.step);
            let key = key(&known.step);
            if self.step_ids.get(&key) == Some(&id) {
                self.step_ids.remove(&key);
            }
            self.free_steps.push(id);
            if known.hits > 0 {
                gone.push(known);
            }
        }
        // A rule's count must not fall because one of its handles is forgotten: another one inherits.
        let hasher = RandomState::new();
        let mut heirs = HashMap::default();
        if !gone.is_empty() {
            for (at, known) in self.steps.iter().enumerate() {
                let Some(known) = known else { continue };
                heirs.insert(hasher.hash_one(identity(&known.step)), at);
            }
        }
        for gone in gone {
            let heir = heirs.get(&hasher.hash_one(identity(&gone.step)));
            let heir = heir.and_then(|at| self.steps[*at].as_mut());
            match heir.filter(|heir| identity(&heir.step) == identity(&gone.step)) {
                Some(heir) => heir.hits += gone.hits,
                None => self.gone_hits += gone.hits,
            }
        }
    }
}

/// What tells one rule from another, whatever handle and place it has got: as in blame, those only
/// where its text could not be had.
fn identity(step: &Step) -> impl Hash + PartialEq {
    let unread = step.kind == StepKind::Rule && step.rule.is_empty();
    (
        (step.firewall, &step.table, &step.chain, step.kind),
        (&step.verdict, &step.rule, &step.comment),
        unread.then_some((step.position, step.handle)),
    )
}

#[cfg(test)]
#[path = "sweep_tests.rs"]
mod tests;
