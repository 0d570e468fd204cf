//! What tracing brings in, among conntrack's datagrams, into a pipeline with a small table, and all
//! reports of that.
#![no_main]

use conntracker_fuzz::capture::Capture;
use conntracker_fuzz::steps::Steps;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((setup, steps)) = Steps::split(data) else {
        return;
    };
    Capture::run(setup, |capture| {
        capture.begin_traces(setup);
        for step in steps {
            capture.take(&step.input());
        }
        capture.end_traces();
    });
});
