//! What this process may do, made less: capabilities, and what a program that it ran would get.
//!
//! Each of these is for good, and for this thread alone: there is no other one.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use std::fs;
use std::io;

/// Capabilities, one bit each, as capabilities(7) numbers them.
pub type Capabilities = CapabilitySet;

/// Those that a part of this program may need, by their names.
const NAMES: [(Capabilities, &str); 6] = [
    (Capabilities::NET_ADMIN, "NET_ADMIN"),
    (Capabilities::NET_RAW, "NET_RAW"),
    (Capabilities::DAC_OVERRIDE, "DAC_OVERRIDE"),
    (Capabilities::DAC_READ_SEARCH, "DAC_READ_SEARCH"),
    (Capabilities::FOWNER, "FOWNER"),
    (Capabilities::SYS_PTRACE, "SYS_PTRACE"),
];

/// Their names, for people.
pub fn names(set: Capabilities) -> String {
    let names: Vec<&str> = NAMES
        .iter()
        .filter(|(one, _)| set.contains(*one))
        .map(|(_, name)| *name)
        .collect();
    match names[..] {
        [] => "none".to_owned(),
        _ => names.join(" "),
    }
}

/// Keeps these capabilities, as far as there are any, and no other. Returns those that are left.
pub fn keep(wanted: Capabilities) -> io::Result<Capabilities> {
    let held = capabilities(None)?.permitted;
    let kept = held & wanted;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: Capabilities::empty(),
        },
    )?;
    Ok(kept)
}

/// Leaves no capability but these to any program that is run from here on. Needs CAP_SETPCAP, so that
/// it comes before `keep`.
pub fn bound(wanted: Capabilities) -> io::Result<()> {
    let _ = clear_ambient_capability_set(); // before Linux 4.3 there are none
    const LAST_OF_LINUX_3_10: u32 = 36; // CAP_BLOCK_SUSPEND
    for number in 0..u64::BITS {
        let one = Capabilities::from_bits_retain(1 << number);
        if wanted.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) if number > LAST_OF_LINUX_3_10 => break, // it has no more
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// No program that is run from here on gets more rights than this process has.
pub fn no_new() -> io::Result<()> {
    Ok(set_no_new_privs(true)?)
}

/// Nobody without CAP_SYS_PTRACE may look into this process, and it leaves no core file, which would
/// hold who talks with whom.
pub fn hide() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Files that are made from here on are for their owner alone, whatever mode is asked for.
pub fn close_umask() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// How many threads there are: what this process gives up, each of them would keep.
pub fn thread_count() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_needed_has_a_name() {
        let two = Capabilities::NET_ADMIN | Capabilities::SYS_PTRACE;
        assert_eq!(names(two), "NET_ADMIN SYS_PTRACE");
        assert_eq!(names(Capabilities::empty()), "none");
        // include/uapi/linux/capability.h
        let numbers = NAMES.map(|(one, _)| one.bits().trailing_zeros());
        assert_eq!(numbers, [12, 13, 1, 2, 3, 19]);
    }
}
