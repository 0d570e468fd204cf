//! Where inputs go.

use super::input::{Input, What};
use super::pipeline::{DumpProgress, Pipeline};
use super::recording::Recorder;
use crate::features::RecordOnly;
use std::io;

/// Where inputs go: into the pipeline, and into a recording where one was asked for.
#[derive(Debug)]
pub struct Intake<'a> {
    /// The pipeline.
    pub pipeline: Pipeline<'a>,
    /// The recording.
    pub recorder: Option<RecordOnly<Recorder>>,
    /// Why the recording ended early, if it did.
    pub record_error: Option<io::Error>,
}

impl Intake<'_> {
    /// Takes one input.
    pub fn take(&mut self, at_ns: u64, what: What<'_>) -> DumpProgress {
        let input = Input { at_ns, what };
        self.record(&input);
        self.pipeline.take(&input)
    }

    /// Takes the events of a batch.
    #[cfg_attr(small, optimize(speed))]
    pub fn take_batch<'e>(&mut self, at_ns: u64, events: impl Iterator<Item = What<'e>>) {
        for what in events {
            let input = Input { at_ns, what };
            self.record(&input);
            self.pipeline.read_ahead(&input);
        }
        self.pipeline.catch_up();
    }

    fn record(&mut self, input: &Input<'_>) {
        if let Some(recorder) = &mut self.recorder {
            if let Err(error) = recorder.write(input) {
                self.record_error = Some(error);
                self.recorder = None;
            }
        }
    }
}
