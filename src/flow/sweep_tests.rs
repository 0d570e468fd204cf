//! The dictionary against a model: small room, flows that come and go, rules that always get new
//! handles, texts that come later. Fixed seeds.

use super::*;
use crate::event::step::Firewall;
use crate::flow::model_tests::Random;
use crate::flow::path::Room;

/// Flows, each with its path and the steps of it.
type Flows = Vec<Option<(PathId, Vec<StepId>)>>;

struct Bench {
    random: Random,
    ways: Ways,
    flows: Flows,
    /// A packet that is under way.
    open: Vec<StepId>,
    /// What each number that is held stands for.
    steps: HashMap<StepId, Step>,
    handle: u64,
    /// Hits, by the rule's identity: here its chain.
    hits: HashMap<Box<str>, u64>,
    sweeps: u32,
}

impl Bench {
    fn new(seed: u64, room: Room, flows: usize) -> Bench {
        Bench {
            random: Random(seed),
            ways: Ways::new(room),
            flows: vec![None; flows],
            open: Vec::new(),
            steps: HashMap::default(),
            handle: 0,
            hits: HashMap::default(),
            sweeps: 0,
        }
    }

    /// A rule that was loaded anew, or one of the last few.
    fn step(&mut self) -> Step {
        self.handle += self.random.below(2);
        let handle = self.handle.saturating_sub(self.random.below(4));
        let text = "x".repeat(self.random.below(2) as usize * 9);
        Step {
            firewall: Firewall::Nft,
            table: "inet fw".into(),
            chain: format!("chain{}", handle % 7).into(),
            kind: StepKind::Rule,
            position: None,
            handle: Some(handle),
            verdict: None,
            rule: format!("rule {} {text}", handle % 7).into(),
            comment: "".into(),
            generation: None,
        }
    }

    fn hit(&mut self) {
        let step = self.step();
        let id = self.ways.step_id(step.clone());
        if id == 0 {
            return;
        }
        // A text may have come later, or from a step like this one: what is held stays what it is.
        let known = self.ways.step(id).unwrap().clone();
        assert_eq!((&known.chain, known.handle), (&step.chain, step.handle));
        assert_eq!(self.steps.entry(id).or_insert(known.clone()), &known);
        self.open.push(id);
    }

    fn close(&mut self) {
        let steps = std::mem::take(&mut self.open);
        if steps.is_empty() {
            return;
        }
        self.ways.count_hits(&steps);
        for id in &steps {
            *self.hits.entry(self.steps[id].chain.clone()).or_default() += 1;
        }
        let path = self.ways.path_id(&steps);
        let at = self.random.below(self.flows.len() as u64) as usize;
        self.flows[at] = (path != 0).then_some((path, steps));
    }

    fn give_text(&mut self) {
        let at = self.random.below(self.open.len().max(1) as u64) as usize;
        let Some(id) = self.open.get(at).copied() else {
            return;
        };
        let refused = self.ways.refused;
        let rule = format!("text of {id} at {}", self.handle);
        self.ways.set_rule(id, &rule);
        if self.ways.refused == refused {
            self.steps.get_mut(&id).unwrap().rule = rule.into();
        }
    }

    fn sweep(&mut self) {
        self.sweeps += 1;
        let mut in_use = self.ways.unmarked();
        self.open.iter().for_each(|step| in_use.step(*step));
        let flows = self.flows.iter().flatten();
        flows.for_each(|(path, _)| in_use.path(*path));
        self.ways.keep(in_use);
        let held = |id: &StepId| {
            let flows = self.flows.iter().flatten();
            let mut steps = flows.flat_map(|(_, steps)| steps).chain(&self.open);
            steps.any(|step| step == id)
        };
        self.steps.retain(|id, _| held(id));
        assert_eq!(self.ways.step_count(), self.steps.len());
    }

    fn step_on(&mut self) {
        if self.ways.is_nearly_full() {
            self.sweep();
        }
        match self.random.below(9) {
            0..5 => self.hit(),
            5..7 => self.close(),
            7 => self.give_text(),
            _ => {
                let at = self.random.below(self.flows.len() as u64) as usize;
                self.flows[at] = None;
            }
        }
    }

    fn check(&self) {
        for (path, steps) in self.flows.iter().flatten() {
            let known: Vec<&Step> = self.ways.path(*path).collect();
            let meant: Vec<&Step> = steps.iter().map(|id| &self.steps[id]).collect();
            assert_eq!(known, meant);
        }
        let room = self.ways.room;
        assert!(self.ways.step_count() <= room.steps && self.ways.path_count() <= room.paths);
        assert!(self.ways.steps.len() <= room.steps && self.ways.paths.len() <= room.paths);
        let known = self.ways.steps.iter().flatten();
        let text_len: usize = known.map(|known| text_len(&known.step)).sum();
        assert_eq!(text_len, self.ways.text_len);
        assert!(text_len <= room.text_len);
        assert!(self.ways.step_ids.len() <= self.ways.step_count());
        assert_eq!(self.ways.path_ids.len(), self.ways.path_count());
        let kept: u64 = self.ways.hits().map(|(_, hits)| hits).sum();
        let all: u64 = self.hits.values().sum();
        assert_eq!(kept + self.ways.gone_hits(), all);
    }
}

#[test]
fn rules_that_always_get_new_handles_find_room() {
    let room = Room {
        steps: 192,
        paths: 160,
        text_len: 16_000,
    };
    for seed in 1..6 {
        let mut bench = Bench::new(seed, room, 8);
        for step in 0..40_000 {
            bench.step_on();
            if bench.open.len() > 8 {
                bench.close();
            }
            if step % 8 == 0 {
                bench.check();
            }
        }
        assert_eq!(bench.ways.refused, 0, "seed {seed}");
        assert!(bench.sweeps > 40 && bench.handle > 5_000, "seed {seed}");
        assert!(bench.ways.gone_hits() > 0);
    }
}

#[test]
fn where_all_of_it_is_in_use_nothing_is_given_twice() {
    for (seed, steps, paths, text_len) in [(1, 8, 64, 4000), (2, 64, 4, 4000), (3, 64, 64, 400)] {
        let room = Room {
            steps,
            paths,
            text_len,
        };
        let mut bench = Bench::new(seed, room, 20);
        for _ in 0..20_000 {
            bench.step_on();
            if bench.open.len() > 6 {
                bench.close();
            }
            bench.check();
        }
        let (refused, sweeps) = (bench.ways.refused, bench.sweeps);
        assert!(
            refused > 0 && sweeps > 100,
            "seed {seed}: {refused} {sweeps}"
        );
    }
}

#[test]
fn a_rule_that_is_loaded_again_inherits_its_hits() {
    let mut ways = Ways::default();
    let like = Bench::new(1, ways.room, 1).step();
    let step = |handle, chain: &str| Step {
        handle: Some(handle),
        chain: chain.into(),
        rule: "tcp dport 23 drop".into(),
        ..like.clone()
    };
    let steps = [step(4, "a"), step(9, "a"), step(5, "b")];
    let ids = steps.map(|step| ways.step_id(step));
    ways.count_hits(&[ids[0], ids[0], ids[1], ids[2], 0]);
    let mut in_use = ways.unmarked();
    in_use.step(ids[1]);
    ways.keep(in_use);
    let hits: Vec<_> = ways
        .hits()
        .map(|(step, hits)| (step.handle, hits))
        .collect();
    assert_eq!((hits, ways.gone_hits()), (vec![(Some(9), 3)], 2));
}

#[test]
fn a_full_dictionary_is_swept_no_more_often_than_it_pays() {
    let mut ways = Ways::new(Room {
        steps: 640,
        paths: 640,
        text_len: 1 << 20,
    });
    let mut sweeps = 0;
    for number in 1..=10_000 {
        ways.path_id(&[number]);
        if ways.is_nearly_full() {
            sweeps += 1;
            let mut in_use = ways.unmarked();
            (1..=640).for_each(|path| in_use.path(path));
            ways.keep(in_use);
        }
    }
    assert_eq!((ways.path_count(), ways.refused), (640, 10_000 - 640));
    assert!((400..500).contains(&sweeps), "{sweeps}");
}
