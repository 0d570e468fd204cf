//! Programs in the kernel that tell who uses which socket: one rung of the ladder, attached.
//!
//! The objects say themselves how they want to be attached: by the sections of their programs, and by
//! their names. A program with `_may_` in its name is one that a kernel may not have room for. In the
//! object `trace` each probe is there twice, as `fe_...` and as `kp_...`.

use super::probe_events;
pub use super::rung::Rung;
use crate::limits;
use crate::sys::bpf::{Attached, How, Object, Refusal};
use crate::sys::inflate::inflate;
use crate::sys::modules::{KPROBE_EVENTS, Presence};
use crate::sys::{machine, mounts};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// What build.rs has compiled: name, length of the ELF file, and that file, packed.
const OBJECTS: &[(&str, usize, &[u8])] = include!(concat!(env!("OUT_DIR"), "/programs.rs"));

/// Where the kernel's types are.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";
/// There where perf makes kprobes (Linux 4.17).
const KPROBE_PMU: &str = "/sys/bus/event_source/devices/kprobe/type";
const NO_PMU: &str = "perf has no kprobes in this kernel";
const NO_KPROBE_EVENTS: &str =
    "tracefs has no kprobe_events (a kernel without kprobes, or locked down)";
const NO_CGROUP2: &str = "cgroup2 is not mounted";
/// The one of two programs for packets that leave that not every kernel takes; the other one is left out.
const BY_TASK: &str = "cg_egress_current";
const BY_SOCKET: &str = "cg_egress";
/// What a program that may be missing has in its name.
const OPTIONAL: &str = "_may_";
/// The map that is as large as the machine allows.
const FLOWS_TOLD: &str = "flows_told";

/// Probes that send records. Dropped, nothing of them is left in the kernel.
#[derive(Debug)]
pub struct Probes {
    attached: Attached,
    detail: String,
}

/// Where the programs of an object go.
#[derive(Clone, Copy)]
enum Place<'a> {
    Cgroup(BorrowedFd<'a>),
    Perf,
    KprobeEvents,
}

impl Probes {
    /// Loads and attaches a rung; says why not, in one line for people. `btf` is where the kernel's
    /// types are, if not at /sys/kernel/btf/vmlinux.
    pub fn open(rung: Rung, btf: Option<&Path>) -> Result<Probes, String> {
        match rung {
            Rung::Trace => open_trace(btf),
            Rung::Cgroup => open_cgroup(),
            Rung::Kprobe if !has_pmu() => Err(NO_PMU.to_owned()),
            Rung::Kprobe => attach("kprobe", None, &|_| true, Place::Perf, "kprobe")
                .map_err(|refusal| refusal.reason),
            Rung::Legacy => {
                open_kprobe_events()?;
                attach(
                    "kprobe",
                    None,
                    &|_| true,
                    Place::KprobeEvents,
                    "kprobe_events",
                )
                .map_err(|refusal| refusal.reason)
            }
        }
    }

    /// Readable while records wait; all of them are to be read then.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.attached.fd()
    }

    /// Hands out all records that are queued; never waits. There may be padding behind a record.
    pub fn read(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        self.attached.read(take)
    }

    /// Records lost so far: exactly, but the kernel tells it only with the next record that is not.
    pub fn lost(&self) -> u64 {
        self.attached.lost()
    }

    /// How the rung is attached, and what it does without.
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

/// Records, one behind the other, of all sockets that there are now (Linux 5.11, with BTF).
pub fn older_sockets(btf: Option<&Path>) -> Result<Vec<u8>, String> {
    if !machine::is_linux(5, 11) {
        return Err("there is no iterator".to_owned()); // reading the BTF to hear that costs 6 MiB
    }
    needs_btf(btf)?;
    let told = |refusal: Refusal| refusal.reason;
    let mut object = Object::open(&elf("sockets")?, btf).map_err(told)?;
    object.load().map_err(told)?;
    let programs = object.programs();
    let (name, _) = programs.first().ok_or("there is no iterator")?;
    object.iterate(name).map_err(told)
}

fn elf(name: &str) -> Result<Vec<u8>, String> {
    let found = OBJECTS.iter().find(|(object, ..)| *object == name);
    let (_, len, packed) = found.ok_or_else(|| format!("built without the programs of {name}"))?;
    inflate(packed, *len).map_err(|error| format!("unpacking the programs of {name}: {error}"))
}

fn needs_btf(btf: Option<&Path>) -> Result<(), String> {
    let path = btf.unwrap_or(Path::new(KERNEL_BTF));
    if path.exists() {
        Ok(())
    } else {
        Err(format!("no BTF at {}", path.display()))
    }
}

/// By fentry or by kprobes. Where the kernel can take the processor from a task inside itself, fentry
/// leaves out what another task does on the same processor meanwhile ("recursion_misses"): kprobes,
/// which cost a little more, hold the processor.
fn open_trace(btf: Option<&Path>) -> Result<Probes, String> {
    needs_btf(btf)?;
    let attach = |kind: &str, place, detail: &str| {
        attach("trace", btf, &|name| name.starts_with(kind), place, detail)
            .map_err(|refusal| format!("{detail}: {}", refusal.reason))
    };
    let fentry = || attach("fe_", Place::Perf, "fentry");
    let kprobe = || {
        if has_pmu() {
            return attach("kp_", Place::Perf, "kprobe");
        }
        open_kprobe_events().map_err(|why| format!("kprobe: {why}"))?;
        attach("kp_", Place::KprobeEvents, "kprobe_events")
    };
    first_that_works(&fentry, &kprobe)
}

/// Which of both ways of the rung `trace` goes first, and the other one where that does not work.
fn first_that_works<T>(
    fentry: &dyn Fn() -> Result<T, String>,
    kprobe: &dyn Fn() -> Result<T, String>,
) -> Result<T, String> {
    let ways = if has_pmu() && machine::is_preemptible() {
        [kprobe, fentry]
    } else {
        [fentry, kprobe]
    };
    ways[0]().or_else(|first| ways[1]().map_err(|second| format!("{first}; {second}")))
}

/// Whether perf makes kprobes.
pub fn has_pmu() -> bool {
    Path::new(KPROBE_PMU).exists()
}

/// Programs for packets that leave may ask for the task that sends them where the kernel is new
/// enough; there are two of them, of which one is attached.
fn open_cgroup() -> Result<Probes, String> {
    let group: OwnedFd = mounts::control_groups()
        .map_err(|error| format!("cgroup2: {error}"))?
        .ok_or(NO_CGROUP2)?;
    let attach = |without: &str| {
        let place = Place::Cgroup(group.as_fd());
        attach("cgroup", None, &|name| name != without, place, "cgroup")
    };
    by_task_or_not(&attach).map_err(|refusal| refusal.reason)
}

/// Does something with the programs of the control groups, without one of both that are alike.
fn by_task_or_not<T>(with: &dyn Fn(&str) -> Result<T, Refusal>) -> Result<T, Refusal> {
    match with(BY_SOCKET) {
        Err(refusal) if refusal.program.as_deref() == Some(BY_TASK) => with(BY_TASK),
        other => other,
    }
}

/// Makes kprobe_events reachable, and clean.
fn open_kprobe_events() -> Result<(), String> {
    let tracefs = mounts::open_tracefs().map_err(|error| format!("tracefs: {error}"))?;
    if !tracefs.join("kprobe_events").exists() {
        return Err(NO_KPROBE_EVENTS.to_owned());
    }
    probe_events::sweep();
    Ok(())
}

/// The program of fentry in whose place this one of a kprobe can stand.
fn of_fentry(name: &str) -> Option<String> {
    Some(format!("fe_{}", name.strip_prefix("kp_")?))
}

/// Whether a program is brought into the kernel, where these are missing.
fn is_taken(name: &str, is_wanted: &dyn Fn(&str) -> bool, missing: &[String]) -> bool {
    let is_missing = |name: &str| missing.iter().any(|other| other == name);
    !is_missing(name) && (is_wanted(name) || of_fentry(name).is_some_and(|of| is_missing(&of)))
}

/// Brings the programs of an object that are wanted into the kernel; says which of those that may be
/// missing it refused.
fn load_possible(
    object: &str,
    btf: Option<&Path>,
    is_wanted: &dyn Fn(&str) -> bool,
) -> Result<(Object, Vec<String>), Refusal> {
    let elf = elf(object).map_err(Refusal::from)?;
    let mut missing: Vec<String> = Vec::new();
    loop {
        match load(&elf, btf, &|name| is_taken(name, is_wanted, &missing)) {
            Ok(object) => return Ok((object, missing)),
            Err(refusal) => match refusal.program.clone() {
                Some(name) if name.contains(OPTIONAL) && !missing.contains(&name) => {
                    missing.push(name);
                }
                _ => return Err(refusal),
            },
        }
    }
}

/// Whether the kernel would take the programs of a rung: they are loaded and let go, and attached to
/// nothing. Says how they would be attached, or why not.
pub fn could_be_opened(rung: Rung, btf: Option<&Path>) -> Result<String, String> {
    let loads = |object, btf, is_wanted: &dyn Fn(&str) -> bool| {
        load_possible(object, btf, is_wanted).map(drop)
    };
    let trace = |kind: &str, detail: &str| {
        loads("trace", btf, &|name| name.starts_with(kind))
            .map(|()| detail.to_owned())
            .map_err(|refusal| format!("{detail}: {}", refusal.reason))
    };
    let events = || kprobe_events_could_be_opened();
    let told = |refusal: Refusal| refusal.reason;
    match rung {
        Rung::Trace => {
            needs_btf(btf)?;
            first_that_works(&|| trace("fe_", "fentry"), &|| match has_pmu() {
                true => trace("kp_", "kprobe"),
                false => events()
                    .map_err(|why| format!("kprobe: {why}"))
                    .and_then(|()| trace("kp_", "kprobe_events")),
            })
        }
        Rung::Cgroup if !mounts::has_control_groups() => Err(NO_CGROUP2.to_owned()),
        Rung::Cgroup => {
            by_task_or_not(&|without| loads("cgroup", None, &|name| name != without))
                .map_err(told)?;
            Ok("cgroup".to_owned())
        }
        Rung::Kprobe if !has_pmu() => Err(NO_PMU.to_owned()),
        Rung::Kprobe => {
            loads("kprobe", None, &|_| true).map_err(told)?;
            Ok("kprobe".to_owned())
        }
        Rung::Legacy => {
            events()?;
            loads("kprobe", None, &|_| true).map_err(told)?;
            Ok("kprobe_events".to_owned())
        }
    }
}

/// Whether kprobe_events could be reached, where tracefs may not be mounted yet.
fn kprobe_events_could_be_opened() -> Result<(), String> {
    let is_there = match mounts::tracefs() {
        Some(tracefs) => tracefs.join("kprobe_events").exists(),
        None => KPROBE_EVENTS.presence() != Presence::Absent,
    };
    if is_there {
        Ok(())
    } else {
        Err(NO_KPROBE_EVENTS.to_owned())
    }
}

/// Loads the programs of an object that are wanted, and attaches them. Those that may be missing are
/// left out where they are refused, and named in the detail, as are those of kprobes that are taken in
/// their place: a function of a module cannot be had by fentry before Linux 5.11.
fn attach(
    object: &str,
    btf: Option<&Path>,
    is_wanted: &dyn Fn(&str) -> bool,
    place: Place<'_>,
    detail: &str,
) -> Result<Probes, Refusal> {
    let (loaded, mut missing) = load_possible(object, btf, is_wanted)?;
    let mut programs = loaded.programs();
    programs.retain(|(name, _)| is_taken(name, is_wanted, &missing));
    let mut in_place = Vec::new();
    let mut attached = Attached::new(loaded, limits::PROBE_BUFFER_PAGES)?;
    for (name, section) in programs {
        let result = attached.attach(&name, how(&section, place));
        match result {
            Ok(()) if !is_wanted(&name) => in_place.push(name),
            Ok(()) => {}
            Err(_) if name.contains(OPTIONAL) => missing.push(name),
            Err(refusal) => {
                return Err(Refusal {
                    reason: format!("{section}: {}", refusal.reason),
                    ..refusal
                });
            }
        }
    }
    missing.retain(|name| {
        !in_place
            .iter()
            .any(|other| of_fentry(other).as_ref() == Some(name))
    });
    let mut detail = detail.to_owned();
    for (word, names) in [(", with ", in_place), (", without ", missing)] {
        if !names.is_empty() {
            detail += word;
            detail += &names.join(", ");
        }
    }
    Ok(Probes { attached, detail })
}

fn load(
    elf: &[u8],
    btf: Option<&Path>,
    is_wanted: &dyn Fn(&str) -> bool,
) -> Result<Object, Refusal> {
    let refused = |error: io::Error| Refusal::from(error.to_string());
    let mut object = Object::open(elf, btf)?;
    for (name, _) in object.programs() {
        if !is_wanted(&name) {
            object.leave_out(&name).map_err(refused)?;
        }
    }
    object.set_constant(std::process::id()).map_err(refused)?;
    match object.set_entries(FLOWS_TOLD, entries()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
        _ => {}
    }
    object.load()?;
    Ok(object)
}

/// Flows that a probe remembers to have told.
fn entries() -> u32 {
    let share = machine::memory_bytes() / limits::PROBE_FLOW_MEMORY_SHARE;
    let share = u32::try_from(share).unwrap_or(u32::MAX);
    share.clamp(limits::PROBE_FLOWS_MIN, limits::PROBE_FLOWS_MAX)
}

fn how<'a>(section: &'a str, place: Place<'a>) -> How<'a> {
    match (place, section.strip_prefix("kprobe/")) {
        (Place::Cgroup(group), _) => How::Cgroup(group),
        (Place::Perf, Some(function)) => How::Kprobe(function),
        (Place::KprobeEvents, Some(function)) => How::KprobeEvents(function),
        (_, None) => How::Section,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_can_be_read() {
        for (name, len, _) in OBJECTS {
            let elf = elf(name).unwrap();
            assert_eq!(elf.len(), *len);
            let object = Object::open(&elf, None).unwrap();
            assert!(!object.programs().is_empty(), "{name}");
        }
        assert!(OBJECTS.iter().any(|(name, ..)| *name == "cgroup"));
    }

    #[test]
    fn each_hook_can_be_had_both_ways() {
        let Ok(elf) = elf("trace") else {
            return;
        };
        let programs = Object::open(&elf, None).unwrap().programs();
        let has = |wanted: &str| programs.iter().any(|(name, _)| name == wanted);
        let kprobes: Vec<String> = programs
            .iter()
            .filter_map(|(name, _)| of_fentry(name))
            .collect();
        assert_eq!(kprobes.len() * 2, programs.len());
        assert!(kprobes.iter().all(|name| has(name)), "{kprobes:?}");
    }

    #[test]
    fn every_kprobe_is_known_to_the_sweep() {
        for (name, ..) in OBJECTS {
            let object = Object::open(&elf(name).unwrap(), None).unwrap();
            for (name, section) in object.programs() {
                let function = section.strip_prefix("kprobe/");
                let is_known = |function| probe_events::FUNCTIONS.contains(&function);
                assert!(function.is_none_or(is_known), "{name} at {section}");
            }
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let refusal = Object::open(b"this is no ELF file at all", None).unwrap_err();
        assert!(!refusal.reason.is_empty() && !refusal.reason.contains('\n'));
    }

    #[test]
    fn sections_say_where_programs_go() {
        let of = |section, place| match how(section, place) {
            How::Kprobe(function) => format!("perf {function}"),
            How::KprobeEvents(function) => format!("events {function}"),
            other => format!("{other:?}"),
        };
        assert_eq!(of("kprobe/tcp_connect", Place::Perf), "perf tcp_connect");
        assert_eq!(of("kprobe/x", Place::KprobeEvents), "events x");
        assert_eq!(of("fentry/tcp_connect", Place::Perf), "Section");
    }
}
