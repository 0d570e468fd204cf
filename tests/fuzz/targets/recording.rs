//! A file that says it is a recording, read to its end into a pipeline, and both reports of that.
#![no_main]

use conntracker::run::recording::{Recording, Unreadable};
use conntracker_fuzz::capture::Capture;
use libfuzzer_sys::fuzz_target;

fn check(error: &Unreadable) {
    assert!(!error.to_string().contains(char::is_control));
}

fuzz_target!(|data: &[u8]| {
    let mut recording = match Recording::new(data) {
        Ok(recording) => recording,
        Err(error) => return check(&error),
    };
    Capture::run(0, |capture| {
        loop {
            match recording.read() {
                Ok(Some(input)) => capture.take(&input),
                Ok(None) => break,
                Err(error) => return check(&error),
            }
        }
    });
});
