//! The dictionary of steps and paths: each different one is kept once, flows hold numbers. Hit
//! counts and blame are then sums over few paths. It grows with what is learned about the rules,
//! up to a limit; numbers begin at 1, and 0 is "none".

use crate::event::step::Step;
use crate::limits::{PATHS_MAX, RULE_TEXT_MAX, STEP_TEXTS_LEN_MAX, STEPS_MAX};
use std::collections::HashMap;
use std::rc::Rc;

/// A step's number.
pub type StepId = u32;

/// A path's number.
pub type PathId = u32;

/// The steps and paths of a run.
#[derive(Debug, Default)]
pub struct Ways {
    steps: Vec<Rc<Step>>,
    step_ids: HashMap<Rc<Step>, StepId>,
    paths: Vec<Rc<[StepId]>>,
    path_ids: HashMap<Rc<[StepId]>, PathId>,
    /// Bytes of the texts of all steps.
    text_len: usize,
    /// Steps and paths that found no room.
    pub refused: u64,
}

impl Ways {
    /// The number of a step. Steps that differ in their generation only are one, of the first.
    pub fn step_id(&mut self, mut step: Step) -> StepId {
        if let Some(text) = shortened(&step.rule) {
            step.rule = text;
        }
        let key = Step {
            generation: None,
            ..step.clone()
        };
        if let Some(id) = self.step_ids.get(&key) {
            return *id;
        }
        let len = step.rule.len() + step.comment.len() + step.table.len() + step.chain.len();
        if self.steps.len() >= STEPS_MAX || self.text_len + len > STEP_TEXTS_LEN_MAX {
            self.refused += 1;
            return 0;
        }
        self.text_len += len;
        self.steps.push(Rc::new(step));
        let id = self.steps.len() as StepId;
        self.step_ids.insert(Rc::new(key), id);
        id
    }

    /// Gives a step that was known by less the rule's text.
    pub fn set_rule(&mut self, id: StepId, rule: &str) {
        let Some(step) = self.steps.get_mut((id as usize).wrapping_sub(1)) else {
            return;
        };
        let key = |step: &Step| Step {
            generation: None,
            ..step.clone()
        };
        self.step_ids.remove(&key(step));
        let step = Rc::make_mut(step);
        step.rule = shortened(rule).unwrap_or_else(|| rule.into());
        self.step_ids.entry(Rc::new(key(step))).or_insert(id);
    }

    /// The number of a path; 0 where there is no room.
    pub fn path_id(&mut self, steps: &[StepId]) -> PathId {
        if let Some(id) = self.path_ids.get(steps) {
            return *id;
        }
        if self.paths.len() >= PATHS_MAX {
            self.refused += 1;
            return 0;
        }
        let path: Rc<[StepId]> = steps.into();
        self.paths.push(path.clone());
        let id = self.paths.len() as PathId;
        self.path_ids.insert(path, id);
        id
    }

    /// A step by its number.
    pub fn step(&self, id: StepId) -> Option<&Step> {
        let at = (id as usize).checked_sub(1)?;
        self.steps.get(at).map(Rc::as_ref)
    }

    /// The steps of a path, in the order of travel; none for 0.
    pub fn path(&self, id: PathId) -> impl Iterator<Item = &Step> {
        let at = (id as usize).wrapping_sub(1);
        let steps = self.paths.get(at).map_or(&[][..], |path| path);
        steps.iter().filter_map(|id| self.step(*id))
    }

    /// How many paths are known.
    pub fn path_count(&self) -> usize {
        self.paths.len()
    }
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
        assert!(ways.refused > 0 && ways.steps.len() > count / 2);
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
