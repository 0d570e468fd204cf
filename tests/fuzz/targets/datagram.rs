//! Datagrams, well-formed or not, into a pipeline with a small table, and both reports of that.
#![no_main]

use conntracker::run::input::{Input, What};
use conntracker_fuzz::capture::Capture;
use conntracker_fuzz::steps::{Step, Steps};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((setup, steps)) = Steps::split(data) else {
        return;
    };
    Capture::run(setup, |capture| {
        for step in steps {
            match step {
                Step::Raw(input) => capture.take(&input),
                Step::Made(bytes, is_dump, netns, at_ns) => {
                    let (bytes, truncated) = (bytes.as_slice(), false);
                    let what = if is_dump {
                        What::Dump { bytes, truncated }
                    } else {
                        What::Events {
                            bytes,
                            truncated,
                            netns,
                        }
                    };
                    capture.take(&Input { at_ns, what });
                }
            }
        }
    });
});
