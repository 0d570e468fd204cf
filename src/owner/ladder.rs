//! The ladder: the best rung that loads, attaches and tells the truth about a connection of our own.

use super::probes::{self, Probes};
use super::rung::Rung;
use super::self_test;
use std::path::Path;

/// Which rung is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The best that works.
    Auto,
    /// Functions of the kernel, with its types.
    Trace,
    /// Control groups.
    Cgroup,
    /// Functions of the kernel, by fixed offsets.
    Kprobe,
    /// The same, attached by tracefs.
    Legacy,
    /// No programs in the kernel.
    Procfs,
}

/// The name of the rung without programs in the kernel.
pub const PROCFS: &str = "procfs";

/// The rung that was taken.
#[derive(Debug)]
pub struct Chosen {
    /// Its programs; `None` for procfs.
    pub probes: Option<Probes>,
    /// Its name.
    pub rung: &'static str,
    /// What its records call our own network namespace; `None` for procfs.
    pub netns: Option<u64>,
    /// Why no better one was taken: the rung's name and the reason.
    pub refused: Vec<String>,
}

/// What `climb` would come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prospect {
    /// The rung's name.
    pub rung: &'static str,
    /// How it would be attached; empty for procfs.
    pub detail: String,
    /// Why no better one would be taken: the rung's name and the reason.
    pub refused: Vec<String>,
}

impl Wish {
    /// What is tried, the best first.
    pub fn rungs(self) -> &'static [Rung] {
        match self {
            Wish::Auto => &[Rung::Trace, Rung::Cgroup, Rung::Kprobe],
            Wish::Trace => &[Rung::Trace],
            Wish::Cgroup => &[Rung::Cgroup],
            Wish::Kprobe => &[Rung::Kprobe],
            Wish::Legacy => &[Rung::Legacy],
            Wish::Procfs => &[],
        }
    }

    /// Whether it may end without programs in the kernel.
    fn may_be_procfs(self) -> bool {
        matches!(self, Wish::Auto | Wish::Procfs)
    }
}

/// What `climb` would come to. Programs are brought into the kernel, which checks them, and taken out
/// again; nothing is attached and no self-test is made, which alone would prove the rung.
pub fn prospect(wish: Wish, btf: Option<&Path>) -> Result<Prospect, String> {
    let mut refused = Vec::new();
    for rung in wish.rungs() {
        let name = rung.name();
        match self_test::could_be_made().and_then(|()| probes::could_be_opened(*rung, btf)) {
            Ok(detail) => {
                return Ok(Prospect {
                    rung: name,
                    detail,
                    refused,
                });
            }
            Err(reason) => refused.push(format!("{name}: {reason}")),
        }
    }
    if !wish.may_be_procfs() {
        return Err(refused.join("; "));
    }
    Ok(Prospect {
        rung: PROCFS,
        detail: String::new(),
        refused,
    })
}

/// Takes the best rung, or the one that is wanted. The error says why that one cannot be had.
pub fn climb(wish: Wish, btf: Option<&Path>) -> Result<Chosen, String> {
    let mut refused = Vec::new();
    for rung in wish.rungs() {
        let proven = Probes::open(*rung, btf).and_then(|mut probes| {
            let netns = self_test::prove(&mut probes, *rung)?;
            Ok((probes, netns))
        });
        match proven {
            Ok((probes, netns)) => {
                return Ok(Chosen {
                    probes: Some(probes),
                    rung: rung.name(),
                    netns: Some(netns),
                    refused,
                });
            }
            Err(reason) => refused.push(format!("{}: {reason}", rung.name())),
        }
    }
    if !wish.may_be_procfs() {
        return Err(refused.join("; "));
    }
    Ok(Chosen {
        probes: None,
        rung: PROCFS,
        netns: None,
        refused,
    })
}
