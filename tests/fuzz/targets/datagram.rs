//! Datagrams, well-formed or not, into a pipeline with a small table, and both reports of that.
#![no_main]

use conntracker_fuzz::capture::Capture;
use conntracker_fuzz::steps::Steps;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((setup, steps)) = Steps::split(data) else {
        return;
    };
    Capture::run(setup, |capture| {
        for step in steps {
            capture.take(&step.input());
        }
    });
});
