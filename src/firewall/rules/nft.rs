//! Hits of nf_tables: table, chain and handle, in the generation that the stream has come to.

use super::{BUILT_IN, Book, HitKey, Resolved, Waiting, WantedSet, describe, is_after, lossy};
use crate::event::Station;
use crate::event::step::{Firewall, RuleText, Step, StepKind, Verdict};
use crate::firewall::instrument::{self, ruleset};
use crate::firewall::nft_rule;
use crate::firewall::ruleset::Ruleset;
use crate::flow::path::{StepId, Ways};
use crate::limits::TEXTS_WAITING;
use crate::wire::kernel::*;
use crate::wire::nftrace::{Trace, TraceKind};

/// The rule of a hit.
#[derive(Debug, Default)]
struct Found {
    position: Option<u32>,
    text: RuleText,
    iptables: bool,
    generation: Option<u32>,
}

impl Book {
    /// Resolves a trace message of nf_tables.
    #[cfg_attr(small, optimize(speed))]
    pub fn resolve_nft(&mut self, trace: &Trace<'_>, ways: &mut Ways) -> Resolved {
        if trace.table == instrument::TABLE.as_bytes() {
            return own(trace);
        }
        let key = key_of(trace);
        if let Some(resolved) = self.cache.find(&key) {
            return resolved;
        }
        let resolved = self.look_up_nft(trace, ways);
        self.remember(&key, resolved);
        resolved
    }

    fn look_up_nft(&mut self, trace: &Trace<'_>, ways: &mut Ways) -> Resolved {
        let chain = self.current.chain(trace.family, trace.table, trace.chain);
        let chain = chain.or_else(|| self.before.chain(trace.family, trace.table, trace.chain));
        let hook = chain.flatten();
        // Also a message from a chain that was jumped to says the hook, but not which it is.
        let station = hook
            .filter(|_| trace.enters)
            .map(|(hook, priority)| Station {
                hook,
                priority,
                number: 1,
            });
        let mut resolved = Resolved {
            own: false,
            step: None,
            station,
            denies: false,
            known: chain.is_some(),
        };
        let (kind, described) = match trace.kind {
            TraceKind::ChainEnd if hook.is_some() => return resolved,
            TraceKind::ChainEnd => (StepKind::Return, None),
            TraceKind::Policy => (StepKind::Policy, None),
            TraceKind::Rule => {
                let described = self.describe(trace);
                resolved.known = described.is_some();
                (StepKind::Rule, described)
            }
        };
        let found = described.unwrap_or_else(|| Found {
            generation: self.current.generation.filter(|_| kind != StepKind::Rule),
            ..Found::default()
        });
        let verdict = verdict_of(trace, &found.text);
        resolved.denies = verdict.as_ref().is_some_and(Verdict::denies);
        let iptables = found.iptables || self.is_of_iptables(trace.family, trace.table);
        let step = ways.step_id(Step {
            firewall: if iptables {
                Firewall::IptablesNft
            } else {
                Firewall::Nft
            },
            table: table_name(trace.family, trace.table),
            chain: lossy(trace.chain),
            kind,
            position: found.position,
            handle: trace.handle,
            verdict,
            rule: found.text.text.into(),
            comment: found.text.comment.unwrap_or_default().into(),
            generation: found.generation,
        });
        resolved.step = Some(step);
        if kind == StepKind::Rule && resolved.known {
            self.want_sets(trace, step);
        }
        resolved
    }

    /// The rule of a hit where it is certain: position, text, whether iptables-nft made it, generation.
    fn describe(&self, trace: &Trace<'_>) -> Option<Found> {
        let handle = trace.handle?;
        let of = |ruleset: &Ruleset| {
            let rule = ruleset.rule(trace.family, trace.table, trace.chain, handle)?;
            let described = describe(ruleset, trace.family, trace.table, rule);
            let fits = fits(trace, described.text.verdict.as_ref());
            fits.then_some(Found {
                position: Some(rule.position),
                text: described.text,
                iptables: described.iptables,
                generation: ruleset.generation,
            })
        };
        if self.heard.is_none() || self.heard == self.current.generation {
            return of(&self.current);
        }
        if is_after(self.heard, self.current.generation) {
            return None; // it was not read yet
        }
        if self.heard == self.before.generation {
            return of(&self.before);
        }
        match (of(&self.current), of(&self.before)) {
            (Some(current), Some(before)) => (current.text == before.text).then_some(current),
            (current, before) => current.or(before),
        }
    }

    /// Whether a table is one that iptables-nft makes, by its name and those of its base chains.
    fn is_of_iptables(&self, family: u8, table: &[u8]) -> bool {
        matches!(family, NFPROTO_IPV4 | NFPROTO_IPV6)
            && matches!(table, b"filter" | b"nat" | b"mangle" | b"raw" | b"security")
            && BUILT_IN
                .iter()
                .any(|chain| self.current.chain(family, table, chain).is_some())
    }

    fn want_sets(&mut self, trace: &Trace<'_>, step: StepId) {
        let (family, table) = (trace.family, trace.table);
        let Some(handle) = trace.handle else { return };
        let Some(rule) = self.current.rule(family, table, trace.chain, handle) else {
            return;
        };
        let sets = nft_rule::anonymous_sets(rule.attributes);
        let unread = |name: &String| self.current.set(family, table, name.as_bytes()).is_none();
        let unread: Vec<String> = sets.into_iter().filter(unread).collect();
        let Ok(table_text) = std::str::from_utf8(table) else {
            return;
        };
        let room = |used: usize| TEXTS_WAITING.saturating_sub(used);
        if unread.is_empty()
            || room(self.waiting.len()) == 0
            || room(self.wanted.len()) < unread.len()
        {
            return;
        }
        self.wanted.extend(unread.into_iter().map(|name| WantedSet {
            family,
            table: table_text.to_owned(),
            name,
        }));
        self.waiting.push(Waiting {
            step,
            family,
            table: table.into(),
            chain: trace.chain.into(),
            handle,
        });
    }
}

/// Our own rules: where the packet is, and nothing to show.
fn own(trace: &Trace<'_>) -> Resolved {
    let hook = if trace.outgoing {
        NF_INET_LOCAL_OUT
    } else {
        NF_INET_PRE_ROUTING
    };
    let station = Station {
        hook,
        priority: ruleset::priority(trace.chain),
        number: 1,
    };
    Resolved {
        own: true,
        step: None,
        station: trace.enters.then_some(station),
        denies: false,
        known: true,
    }
}

/// Whether what a rule says it decides can be what was decided.
fn fits(trace: &Trace<'_>, verdict: Option<&Verdict>) -> bool {
    match (trace.verdict, verdict) {
        (Some(NF_DROP), Some(Verdict::Accept))
        | (Some(NF_ACCEPT), Some(Verdict::Drop | Verdict::Reject(_))) => false,
        (Some(NFT_JUMP | NFT_GOTO), Some(Verdict::Accept | Verdict::Drop | Verdict::Reject(_))) => {
            false
        }
        (Some(NFT_JUMP), Some(Verdict::Jump(chain)))
        | (Some(NFT_GOTO), Some(Verdict::Goto(chain))) => {
            trace.target.is_none_or(|target| target == chain.as_bytes())
        }
        _ => true,
    }
}

fn verdict_of(trace: &Trace<'_>, text: &RuleText) -> Option<Verdict> {
    let target = || lossy(trace.target.unwrap_or_default());
    Some(match trace.verdict? {
        NF_ACCEPT => Verdict::Accept,
        NF_DROP => match text.verdict {
            Some(Verdict::Reject(how)) => Verdict::Reject(how),
            _ => Verdict::Drop,
        },
        NF_STOLEN => Verdict::Stolen,
        NFT_JUMP => Verdict::Jump(target()),
        NFT_GOTO => Verdict::Goto(target()),
        NFT_RETURN => Verdict::Return,
        code if code >= 0 && code & 0xff == NF_QUEUE => Verdict::Queue, // the queue's number is above
        // The end of a user chain.
        _ if trace.kind == TraceKind::ChainEnd => Verdict::Return,
        _ => Verdict::Continue,
    })
}

fn key_of<'a>(trace: &Trace<'a>) -> HitKey<'a> {
    HitKey {
        kind: [b'N', trace.family, trace.kind as u8, u8::from(trace.enters)],
        verdict: trace.verdict.unwrap_or(i32::MIN), // none of the kernel's
        number: trace.handle.unwrap_or(0),
        names: [trace.table, trace.chain, trace.target.unwrap_or_default()],
    }
}

/// `inet fw`, as nft(8) writes it.
fn table_name(family: u8, table: &[u8]) -> Box<str> {
    let family = match family {
        NFPROTO_INET => "inet",
        NFPROTO_IPV4 => "ip",
        NFPROTO_IPV6 => "ip6",
        NFPROTO_NETDEV => "netdev",
        NFPROTO_BRIDGE => "bridge",
        _ => "?",
    };
    format!("{family} {}", String::from_utf8_lossy(table)).into()
}
