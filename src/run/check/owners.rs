//! What `-b` would come to, and what it rests on.

use super::foreseen::Foreseen;
use crate::cli::Options;
use crate::owner::ladder::PROCFS;
use crate::report::checkup::{Line, State};
use crate::sys::modules::{BPF, KPROBE_EVENTS, Part, Presence, TCP_DIAG, UDP_DIAG};
use crate::sys::rights::{self, Right};
use crate::sys::{machine, mounts};
use std::fs;
use std::path::Path;

pub(super) fn lines(options: &Options, foreseen: &Foreseen) -> Vec<Line> {
    vec![
        rung(foreseen),
        btf(options),
        bpf(),
        kprobes(),
        lockdown(),
        cgroup2(),
        procfs(),
        sock_diag(),
    ]
}

fn rung(foreseen: &Foreseen) -> Line {
    const NAME: &str = "owners";
    match &foreseen.owners {
        Err(reason) => Line::new(NAME, State::Missing, reason.clone())
            .advise("--owner auto takes the best that works"),
        Ok(prospect) => {
            let how = match prospect.rung {
                PROCFS => "processes are looked for in /proc once a flow is heard of, so short-lived ones are missed".to_owned(),
                _ => format!("tried: the kernel takes the programs ({}); expected: they attach and pass their self-test", prospect.detail),
            };
            let mut reasons = vec![format!("{how} (-b)")];
            reasons.extend(prospect.refused.iter().cloned());
            let detail = reasons.join("; ");
            let line = match prospect.rung {
                PROCFS => Line::new(NAME, State::Degraded, detail)
                    .advise("run it as root, on a kernel with CONFIG_BPF_SYSCALL and one of BTF, cgroup2, kprobes"),
                _ => Line::new(NAME, State::Ok, detail),
            };
            line.on(prospect.rung)
        }
    }
}

fn btf(options: &Options) -> Line {
    let usual = Path::new("/sys/kernel/btf/vmlinux");
    let path = options.btf.as_deref().unwrap_or(usual);
    match fs::metadata(path) {
        Ok(file) => Line::new(
            "btf",
            State::Ok,
            format!("{}, {} bytes", path.display(), file.len()),
        ),
        Err(error) => Line::new(
            "btf",
            State::Missing,
            format!("{}: {error}", path.display()),
        )
        .advise("a kernel with CONFIG_DEBUG_INFO_BTF, or --btf FILE"),
    }
}

fn bpf() -> Line {
    let missing = rights::missing(&[Right::Bpf, Right::NetAdmin, Right::Perfmon]);
    match (BPF.presence(), &missing[..]) {
        (Presence::Absent, _) => Line::new("bpf", State::Missing, "this kernel has no bpf(2)")
            .advise("a kernel with CONFIG_BPF_SYSCALL"),
        (_, []) if cfg!(feature = "bpf") => Line::new(
            "bpf",
            State::Ok,
            "bpf(2) is there, and we have the capabilities for it",
        ),
        (_, []) => Line::new(
            "bpf",
            State::Missing,
            "this conntracker was built without BPF",
        ),
        (_, missing) => Line::new(
            "bpf",
            State::Missing,
            format!("bpf(2) needs {}", missing.join(", ")),
        )
        .advise("run it as root"),
    }
}

fn kprobes() -> Line {
    let tracefs = match mounts::tracefs() {
        Some(path) => format!("tracefs at {}", path.display()),
        None => "tracefs is not mounted here (a capture mounts it for itself alone)".to_owned(),
    };
    let has_pmu = Path::new("/sys/bus/event_source/devices/kprobe/type").exists();
    match (has_pmu, KPROBE_EVENTS.presence()) {
        (true, _) => Line::new("kprobes", State::Ok, format!("by perf; {tracefs}")),
        (false, Presence::There) => Line::new(
            "kprobes",
            State::Degraded,
            format!("by kprobe_events only; {tracefs}"),
        )
        .advise("Linux 4.17 with CONFIG_KPROBE_EVENTS has them in perf"),
        (false, Presence::Absent) => Line::new("kprobes", State::Missing, "this kernel has none")
            .advise("a kernel with CONFIG_KPROBE_EVENTS"),
        (false, _) => Line::new(
            "kprobes",
            State::Unknown,
            format!("whether this kernel has them cannot be seen; {tracefs}"),
        ),
    }
}

fn lockdown() -> Line {
    match fs::read_to_string("/sys/kernel/security/lockdown") {
        Ok(text) => {
            let mode = text.split(['[', ']']).nth(1).unwrap_or("none").to_owned();
            match mode.as_str() {
                "none" => Line::new("lockdown", State::Ok, "off"),
                "integrity" => Line::new(
                    "lockdown",
                    State::Ok,
                    "integrity: kprobes and BPF are left alone",
                ),
                _ => Line::new(
                    "lockdown",
                    State::Degraded,
                    format!("{mode}: programs that look into the kernel are refused"),
                )
                .advise("the cgroup rung does without, where there is cgroup2"),
            }
        }
        Err(_) => Line::new(
            "lockdown",
            State::Unknown,
            "securityfs is not to be seen here: this kernel has no lockdown, or `ip netns exec` hides it",
        ),
    }
}

fn cgroup2() -> Line {
    if mounts::has_control_groups() {
        Line::new(
            "cgroup2",
            State::Ok,
            "in use (mounted here or not: a capture reaches it by a mount of its own)",
        )
    } else {
        Line::new(
            "cgroup2",
            State::Missing,
            "nobody uses version 2 control groups, and a capture does not begin with it",
        )
        .advise("mount -t cgroup2 none /sys/fs/cgroup/unified")
    }
}

/// Whether other processes can be looked into.
fn procfs() -> Line {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let hides = hidepid(&mounts).filter(|mode| !matches!(*mode, "0" | "off"));
    match (hides, Right::SysPtrace.is_ours()) {
        (_, false) => Line::new(
            "procfs",
            State::Degraded,
            "sockets of other users' processes cannot be seen without CAP_SYS_PTRACE",
        )
        .advise("run it as root"),
        (Some(mode), true) => Line::new(
            "procfs",
            State::Ok,
            format!("mounted with hidepid={mode}, which CAP_SYS_PTRACE sees through"),
        ),
        (None, true) => Line::new("procfs", State::Ok, "all processes can be seen"),
    }
}

/// The option that /proc was mounted with.
fn hidepid(mounts: &str) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, options) = (fields.next()?, fields.nth(1)?);
        let mut options = options.split(',').filter(|_| place == "/proc");
        options.find_map(|option| option.strip_prefix("hidepid="))
    })
}

fn sock_diag() -> Line {
    let state = |part: Part| match part.presence() {
        Presence::There => "there",
        Presence::OnDemand => "loaded on demand",
        Presence::Absent => "not in this kernel",
        Presence::Unknown => "not to be seen",
    };
    let detail = format!("TCP: {}, UDP: {}", state(TCP_DIAG), state(UDP_DIAG));
    let absent = [TCP_DIAG, UDP_DIAG].map(|part| part.presence() == Presence::Absent);
    if absent == [false; 2] {
        Line::new("sock_diag", State::Ok, detail)
    } else {
        Line::new(
            "sock_diag",
            State::Degraded,
            format!("{detail}; /proc/net is read in its place"),
        )
        .advise(format!(
            "a kernel with CONFIG_INET_DIAG and CONFIG_INET_UDP_DIAG (this is {})",
            machine::kernel_release()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidepid_is_that_of_proc_alone() {
        let of = |options: &str| {
            format!("none /x proc rw,hidepid=1 0 0\nproc /proc proc {options} 0 0\n")
        };
        assert_eq!(hidepid(&of("rw,nosuid,hidepid=2,gid=5")), Some("2"));
        assert_eq!(hidepid(&of("rw,hidepid=invisible")), Some("invisible"));
        assert_eq!(hidepid(&of("rw")), None);
        assert_eq!(hidepid(""), None);
    }
}
