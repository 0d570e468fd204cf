//! Command lines: arguments are what lies between NULs. What is accepted is within its limits; what
//! is not gets one line.
#![no_main]

use conntracker::cli::{self, Command, Options};
use conntracker::flow::filter::Network;
use conntracker::limits::{CAPACITY_MAX, DURATION_MAX_S, TRACE_RATE_MAX};
use conntracker::wire::conntrack::{Entry, Tuple};
use libfuzzer_sys::fuzz_target;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

fn check(options: &Options) {
    assert!((1..=CAPACITY_MAX).contains(&options.capacity));
    assert!((1..=TRACE_RATE_MAX).contains(&options.trace_rate));
    assert!(options.buffer_bytes.is_none_or(|bytes| bytes > 0));
    assert!(options.duration.is_none_or(|duration| {
        Duration::ZERO < duration && duration <= Duration::from_secs(DURATION_MAX_S)
    }));
    let filter = &options.filter;
    assert!(filter.ports.iter().all(|(first, last)| first <= last));
    let networks = filter.networks.iter().chain(&filter.not_networks);
    let fits = |network: &Network| network.prefix_bits <= if network.ipv6 { 128 } else { 32 };
    assert!(networks.clone().all(fits));
    for ipv6 in [false, true] {
        let original = Tuple {
            ipv6,
            proto: 6,
            ..Tuple::default()
        };
        filter.admits(&Entry {
            original,
            reply: original.inverse(),
            ..Entry::default()
        });
    }
}

fuzz_target!(|data: &[u8]| {
    let arguments = data.split(|byte| *byte == 0).map(OsStr::from_bytes);
    match cli::parse(arguments) {
        Ok(
            Command::Capture(options)
            | Command::Replay(_, options)
            | Command::Blame(options)
            | Command::Check(options)
            | Command::BlameReport(_, options),
        ) => check(&options),
        Ok(Command::Help | Command::Version) => {}
        Err(error) => {
            let message = error.to_string();
            assert!(
                !message.is_empty() && !message.contains(char::is_control),
                "an error is one line: {message:?}"
            );
            assert_eq!(error.exit_status(), conntracker::error::EXIT_USAGE);
        }
    }
});
