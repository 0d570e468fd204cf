//! The dictionary of steps and paths: each different one is kept once, flows hold numbers. Hit
//! counts and blame are then sums over few paths. It grows with what is learned about the rules,
//! up to a limit; then what nothing refers to any more makes room (see `sweep`). Numbers begin at 1,
//! and 0 is "none".

use super::sweep::Pace;
use crate::event::step::Step;
use crate::hashing::HashMap;
use crate::limits::{PATHS_MAX, RULE_TEXT_MAX, STEP_TEXTS_LEN_MAX, STEPS_MAX};
use std::collections;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

/// A step's number.
pub type StepId = u32;

/// A path's number.
pub type PathId = u32;

/// How much a dictionary holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Steps.
    pub steps: usize,
    /// Paths.
    pub paths: usize,
    /// Bytes of the texts of all steps.
    pub text_len: usize,
}

/// The steps and paths of a run.
#[derive(Debug)]
pub struct Ways {
    pub(super) steps: Vec<Option<Known>>,
    pub(super) step_ids: HashMap<Rc<Step>, StepId>,
    pub(super) free_steps: Vec<StepId>,
    pub(super) paths: Vec<Option<Rc<[StepId]>>>,
    pub(super) path_ids: collections::HashMap<Rc<[StepId]>, PathId, BuildHasherDefault<PathHasher>>,
    pub(super) free_paths: Vec<PathId>,
    /// Bytes of the texts of all steps.
    pub(super) text_len: usize,
    pub(super) room: Room,
    pub(super) pace: Pace,
    /// Hits of steps that are not in the dictionary any more, or never were.
    pub(super) gone_hits: u64,
    /// Steps, paths and texts that found no room.
    pub refused: u64,
}

/// Mixes the numbers of a path's steps, which come in order of their first hit: whoever sends packets
/// does not choose them.
#[derive(Debug, Default)]
pub(super) struct PathHasher {
    state: u64,
}

impl Hasher for PathHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((word, behind)) = rest.split_first_chunk::<4>() {
            self.write_usize(u32::from_ne_bytes(*word) as usize);
            rest = behind;
        }
        rest.iter()
            .for_each(|byte| self.write_usize(usize::from(*byte)));
    }

    fn write_usize(&mut self, word: usize) {
        let product =
            u128::from(self.state ^ word as u64 ^ 0x243f_6a88_85a3_08d3) * 0x9e37_79b9_7f4a_7c15;
        self.state = (product as u64) ^ ((product >> 64) as u64);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

/// A step, and how many packets came by.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) step: Rc<Step>,
    pub(super) hits: u64,
}

impl Default for Ways {
    fn default() -> Ways {
        Ways::new(Room {
            steps: STEPS_MAX,
            paths: PATHS_MAX,
            text_len: STEP_TEXTS_LEN_MAX,
        })
    }
}

impl Ways {
    /// An empty dictionary.
    pub fn new(room: Room) -> Ways {
        Ways {
            steps: Vec::new(),
            step_ids: HashMap::default(),
            free_steps: Vec::new(),
            paths: Vec::new(),
            path_ids: collections::HashMap::default(),
            free_paths: Vec::new(),
            text_len: 0,
            room,
            pace: Pace::default(),
            gone_hits: 0,
            refused: 0,
        }
    }

    /// The number of a step. Steps that differ in their generation only are one, of the first.
    pub fn step_id(&mut self, mut step: Step) -> StepId {
        if let Some(text) = shortened(&step.rule) {
            step.rule = text;
        }
        let key = key(&step);
        if let Some(id) = self.step_ids.get(&key) {
            return *id;
        }
        let len = text_len(&step);
        if self.step_count() >= self.room.steps || self.text_len + len > self.room.text_len {
            return self.refuse();
        }
        self.text_len += len;
        self.pace.took += 1;
        let known = Some(Known {
            step: Rc::new(step),
            hits: 0,
        });
        let id = place(&mut self.steps, &mut self.free_steps, known);
        self.step_ids.insert(Rc::new(key), id);
        id
    }

    /// Gives a step that was known by less the rule's text.
    pub fn set_rule(&mut self, id: StepId, rule: &str) {
        let Some(known) = at(id).and_then(|at| self.steps.get_mut(at)?.as_mut()) else {
            return;
        };
        let rule = shortened(rule).unwrap_or_else(|| rule.into());
        let text_len = self.text_len - known.step.rule.len() + rule.len();
        if text_len > self.room.text_len {
            self.refuse();
            return;
        }
        self.text_len = text_len;
        // Two steps may come to have one text: then the number is that of the other one.
        let before = key(&known.step);
        if self.step_ids.get(&before) == Some(&id) {
            self.step_ids.remove(&before);
        }
        let step = Rc::make_mut(&mut known.step);
        step.rule = rule;
        self.step_ids.entry(Rc::new(key(step))).or_insert(id);
    }

    /// The number of a path; 0 where there is no room.
    #[cfg_attr(small, optimize(speed))]
    pub fn path_id(&mut self, steps: &[StepId]) -> PathId {
        if let Some(id) = self.path_ids.get(steps) {
            return *id;
        }
        if self.path_count() >= self.room.paths {
            return self.refuse();
        }
        let path: Rc<[StepId]> = steps.into();
        self.pace.took += 1;
        let id = place(&mut self.paths, &mut self.free_paths, Some(path.clone()));
        self.path_ids.insert(path, id);
        id
    }

    /// A step by its number.
    pub fn step(&self, id: StepId) -> Option<&Step> {
        let known = self.steps.get(at(id)?)?.as_ref()?;
        Some(&known.step)
    }

    /// The steps of a path, in the order of travel; none for 0.
    pub fn path(&self, id: PathId) -> impl Iterator<Item = &Step> {
        let path = at(id).and_then(|at| self.paths.get(at)?.as_deref());
        let steps = path.unwrap_or_default();
        steps.iter().filter_map(|id| self.step(*id))
    }

    /// How many paths are known.
    pub fn path_count(&self) -> usize {
        self.paths.len() - self.free_paths.len()
    }

    /// How many steps are known.
    pub fn step_count(&self) -> usize {
        self.steps.len() - self.free_steps.len()
    }

    /// A traced packet came by these steps.
    #[cfg_attr(small, optimize(speed))]
    pub fn count_hits(&mut self, steps: &[StepId]) {
        for id in steps {
            match at(*id).and_then(|at| self.steps.get_mut(at)?.as_mut()) {
                Some(known) => known.hits += 1,
                None => self.gone_hits += 1,
            }
        }
    }

    /// The steps that are known, each with the traced packets that came by. These counts only grow,
    /// but those of a step can begin anew where it was forgotten meanwhile: see `gone_hits`. Steps of
    /// one rule, that differ in its handle or place, have their own counts.
    pub fn hits(&self) -> impl Iterator<Item = (&Step, u64)> {
        let known = self.steps.iter().flatten();
        known.map(|known| (known.step.as_ref(), known.hits))
    }

    /// Traced packets that came by steps which are not known any more, or never were for want of room.
    pub fn gone_hits(&self) -> u64 {
        self.gone_hits
    }

    fn refuse(&mut self) -> u32 {
        self.refused += 1;
        self.pace.took += 1;
        self.pace.refused = true;
        0
    }
}

/// Puts something into a place that is free, or a new one; returns its number.
fn place<T>(places: &mut Vec<Option<T>>, free: &mut Vec<u32>, new: Option<T>) -> u32 {
    match free.pop() {
        Some(id) => {
            places[id as usize - 1] = new;
            id
        }
        None => {
            places.push(new);
            places.len() as u32
        }
    }
}

/// Where something lies by its number.
pub(super) fn at(id: u32) -> Option<usize> {
    (id as usize).checked_sub(1)
}

/// What a step is found by.
pub(super) fn key(step: &Step) -> Step {
    Step {
        generation: None,
        ..step.clone()
    }
}

/// Bytes of a step's texts.
pub(super) fn text_len(step: &Step) -> usize {
    step.rule.len() + step.comment.len() + step.table.len() + step.chain.len()
}

/// What is kept of a text that is too long to be kept.
fn shortened(text: &str) -> Option<Box<str>> {
    if text.len() <= RULE_TEXT_MAX {
        return None;
    }
    let len = (0..=RULE_TEXT_MAX).rfind(|len| text.is_char_boundary(*len))?;
    Some(format!("{}...", text.get(..len)?).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::step::{Firewall, StepKind};

    fn step(chain: &str, generation: u32) -> Step {
        Step {
            firewall: Firewall::Nft,
            table: "inet fw".into(),
            chain: chain.into(),
            kind: StepKind::Rule,
            position: Some(1),
            handle: Some(4),
            verdict: None,
            rule: "drop".into(),
            comment: "".into(),
            generation: Some(generation),
        }
    }

    #[test]
    fn equal_steps_and_paths_are_kept_once() {
        let mut ways = Ways::default();
        let a = ways.step_id(step("a", 1));
        let b = ways.step_id(step("b", 1));
        assert_eq!((a, b, ways.step_id(step("a", 2))), (1, 2, 1));
        assert_eq!(ways.step(a).unwrap().generation, Some(1));
        let path = ways.path_id(&[a, b]);
        assert_eq!((path, ways.path_id(&[b]), ways.path_id(&[a, b])), (1, 2, 1));
        assert_eq!(ways.path(path).count(), 2);
        assert_eq!(ways.path(0).count(), 0);
    }

    #[test]
    fn a_text_without_an_end_is_cut() {
        let long = "ä".repeat(RULE_TEXT_MAX);
        let mut ways = Ways::default();
        let id = ways.step_id(Step {
            rule: long.as_str().into(),
            ..step("a", 1)
        });
        let cut = ways.step(id).unwrap().rule.clone();
        assert_eq!(cut.len(), RULE_TEXT_MAX + "...".len());
        assert!(cut.starts_with("ää") && cut.ends_with("ä..."));
        let id = ways.step_id(step("b", 1));
        ways.set_rule(id, &long);
        assert_eq!(ways.step(id).unwrap().rule, cut);
    }

    #[test]
    fn the_texts_of_all_steps_have_a_limit() {
        let mut ways = Ways::default();
        let long = "x".repeat(RULE_TEXT_MAX);
        let count = STEP_TEXTS_LEN_MAX / RULE_TEXT_MAX;
        for number in 0..count {
            let chain = number.to_string();
            ways.step_id(Step {
                rule: long.as_str().into(),
                ..step(&chain, 1)
            });
        }
        assert!(ways.refused > 0 && ways.step_count() > count / 2);
    }

    #[test]
    fn a_text_that_comes_later_is_the_steps_text() {
        let mut ways = Ways::default();
        let id = ways.step_id(step("a", 1));
        ways.set_rule(id, "tcp dport 1 drop");
        assert_eq!(&*ways.step(id).unwrap().rule, "tcp dport 1 drop");
        let again = Step {
            rule: "tcp dport 1 drop".into(),
            ..step("a", 1)
        };
        assert_eq!(ways.step_id(again), id);
    }
}
