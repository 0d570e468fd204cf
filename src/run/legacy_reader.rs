//! Reads the legacy tables again and again, since nothing tells of their changes: before lines are
//! resolved, as often as it costs little; until then lines wait in their socket. The text of their rules
//! comes from their own program, which is slow: when it may run, and only for a content that has changed.

use super::intake::Intake;
use super::trace_input::TraceInput;
use crate::firewall::legacy::saved;
use crate::firewall::legacy_rules::LegacyTable;
use crate::limits::{
    LINES_FACTOR, LINES_PAUSE, LINES_WAIT_MAX, LOOK_FACTOR, LOOK_PAUSE, READ_AGAIN_FACTOR,
    SAVE_PAUSE,
};
use crate::sys::{clock, xtables};
use std::time::Duration;

/// Reads the tables that are loaded.
#[derive(Debug)]
pub struct LegacyReader {
    next: Duration,
    /// When to look although no line comes: what has changed by then is not in doubt later.
    next_look: Duration,
    next_text: Duration,
    without_text: Vec<(bool, String)>,
    /// A table that is read no more.
    settled: Option<&'static str>,
}

impl LegacyReader {
    /// Nothing is read yet.
    pub fn new() -> LegacyReader {
        LegacyReader {
            next: Duration::ZERO,
            next_look: Duration::ZERO,
            next_text: Duration::ZERO,
            without_text: Vec::new(),
            settled: None,
        }
    }

    /// When the tables may be read again for lines that have come.
    pub fn next_lines(&self) -> Duration {
        self.next
    }

    /// They may be read again at once: no more lines come.
    pub fn hurry(&mut self) {
        self.next = Duration::ZERO;
    }

    /// Reads that table a last time, before our chain in it lets no more packets in. Lines that come
    /// after that are of packets that it had let in, and number the rules with ours among them.
    pub fn settle(&mut self, name: &'static str, intake: &mut Intake<'_>) {
        self.next = Duration::ZERO;
        self.refresh(intake);
        self.settled = Some(name);
    }

    /// Reads the tables, unless they were read a moment ago.
    pub fn refresh(&mut self, intake: &mut Intake<'_>) {
        let began = clock::monotonic();
        if began < self.next {
            return;
        }
        for ipv6 in [false, true] {
            for name in xtables::loaded_tables(ipv6) {
                if self.read_table(ipv6, &name, intake).is_some()
                    && !self.without_text.contains(&(ipv6, name.clone()))
                {
                    self.without_text.push((ipv6, name));
                }
            }
        }
        let now = clock::monotonic();
        let took = now - began;
        self.next = now + pause_after(took);
        self.next_look = now + (took * LOOK_FACTOR).max(LOOK_PAUSE);
    }

    /// Reads the tables now and then.
    pub fn look(&mut self, intake: &mut Intake<'_>) {
        if clock::monotonic() >= self.next_look {
            self.refresh(intake);
        }
    }

    /// Reads a table. Says that its content has changed.
    fn read_table(&self, ipv6: bool, name: &str, intake: &mut Intake<'_>) -> Option<()> {
        if self.settled == Some(name) {
            return None;
        }
        let raw = xtables::table(ipv6, name).ok()?; // unloaded meanwhile
        let content = LegacyTable::content_of(ipv6, name, &raw);
        let tracer = intake.pipeline.tracer.as_ref()?;
        if tracer.book.legacy_content(ipv6, name) == Some(content) {
            return None;
        }
        LegacyTable::parse(ipv6, name, &raw).ok()?;
        let content = &raw.to_bytes();
        intake.trace(TraceInput::Legacy {
            ipv6,
            name,
            content,
        });
        Some(())
    }

    /// When to look again, or to read the texts that are wanted.
    pub fn next(&self) -> Duration {
        if self.without_text.is_empty() {
            self.next_look
        } else {
            self.next_look.min(self.next_text)
        }
    }

    /// Has the programs write down the texts that are wanted, when it is time or `at_once`.
    pub fn read_texts(&mut self, at_once: bool, intake: &mut Intake<'_>) {
        let began = clock::monotonic();
        if self.without_text.is_empty() || (began < self.next_text && !at_once) {
            return;
        }
        for (ipv6, name) in std::mem::take(&mut self.without_text) {
            if let Some(text) = saved(ipv6, &name) {
                // If it has changed meanwhile, the text is of another content: wait for it to rest.
                if self.read_table(ipv6, &name, intake).is_some() {
                    self.without_text.push((ipv6, name));
                    continue;
                }
                let (name, text) = (&*name, text.as_bytes());
                intake.trace(TraceInput::Saved { ipv6, name, text });
            }
        }
        let now = clock::monotonic();
        self.next_text = now + ((now - began) * READ_AGAIN_FACTOR).max(SAVE_PAUSE);
    }
}

/// How long lines wait after the tables were read, which took so long.
fn pause_after(took: Duration) -> Duration {
    (took * LINES_FACTOR)
        .min(LINES_WAIT_MAX)
        .max(took * READ_AGAIN_FACTOR)
        .max(LINES_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_takes_a_small_share_of_the_time_and_lines_do_not_wait_for_long() {
        let of = |took_us| pause_after(Duration::from_micros(took_us)).as_micros() as u64;
        assert_eq!(of(50), 5000);
        for took_us in (0..200_000).step_by(100) {
            let pause_us = of(took_us);
            assert!(pause_us >= 4 * took_us, "a fifth of the time at most");
            if took_us <= 500 {
                assert!(pause_us >= 19 * took_us, "a twentieth where it can be");
            }
            assert!(
                pause_us <= (4 * took_us).max(10_000),
                "{took_us}: {pause_us}"
            );
        }
    }
}
