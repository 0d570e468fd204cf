//! The machine, the kernel, what we may do, and how far that can be taken away after the start.

use crate::cli::Options;
use crate::limits::BYTES_PER_FLOW;
use crate::report::checkup::{Line, State};
use crate::sys::machine;
use crate::sys::rights::{self, ALL};

pub(super) fn lines(options: &Options) -> Vec<Line> {
    vec![
        kernel(),
        root(),
        rights(),
        memory(options.capacity, machine::memory_bytes()),
        seccomp(),
        landlock(),
    ]
}

fn kernel() -> Line {
    let release = machine::kernel_release();
    let architecture = machine::architecture();
    let page_bytes = rustix::param::page_size();
    let detail = format!("Linux {release}, {architecture}, pages of {page_bytes} bytes");
    if machine::is_linux(4, 4) {
        Line::new("kernel", State::Ok, detail)
    } else {
        Line::new("kernel", State::Degraded, detail)
            .advise("this was never seen to work below Linux 4.4")
    }
}

fn root() -> Line {
    if machine::is_root() {
        Line::new("root", State::Ok, "we are root").vital()
    } else {
        Line::new(
            "root",
            State::Missing,
            "a capture needs root; what follows is what a user can see",
        )
        .advise("run it as root")
        .vital()
    }
}

fn rights() -> Line {
    match rights::missing(&ALL)[..] {
        [] => Line::new(
            "capabilities",
            State::Ok,
            "all that a capture uses somewhere",
        ),
        ref missing => Line::new(
            "capabilities",
            State::Degraded,
            format!("without {}", missing.join(", ")),
        )
        .advise("give them back (a container: --privileged, or --cap-add of each)"),
    }
}

fn memory(capacity: u32, bytes: u64) -> Line {
    let needed = u64::from(capacity) * BYTES_PER_FLOW as u64;
    let detail = format!(
        "{} MiB; the table of {} flows takes {} MiB of it",
        bytes >> 20,
        capacity,
        needed.div_ceil(1 << 20)
    );
    if needed > bytes {
        Line::new("memory", State::Missing, detail)
            .advise("a smaller --capacity")
            .vital()
    } else if needed > bytes / 4 {
        Line::new("memory", State::Degraded, detail).advise("a smaller --capacity")
    } else {
        Line::new("memory", State::Ok, detail)
    }
}

fn seccomp() -> Line {
    if rights::has_seccomp_filters() {
        Line::new("seccomp", State::Ok, "the kernel takes system call filters")
    } else {
        Line::new(
            "seccomp",
            State::Missing,
            "the kernel takes no system call filters",
        )
        .advise("nothing has to be done: a capture runs without one")
    }
}

fn landlock() -> Line {
    match rights::landlock_version() {
        Ok(version) => Line::new("landlock", State::Ok, format!("version {version}")),
        Err(error) => Line::new(
            "landlock",
            State::Missing,
            format!("not in this kernel, or off: {error}"),
        )
        .advise(
            "nothing has to be done: a capture runs without (Linux 5.13 with lsm=landlock has it)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_the_machine_cannot_hold_is_no_capture() {
        let of = |capacity, bytes| (memory(capacity, bytes).state, memory(capacity, bytes).vital);
        assert_eq!(of(65536, 1 << 30), (State::Ok, false));
        assert_eq!(of(65536, 24 << 20), (State::Degraded, false));
        assert_eq!(of(1 << 24, 1 << 30), (State::Missing, true));
    }
}
