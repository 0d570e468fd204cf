//! What this process may do, and how far the kernel could take that away: asked, never changed.

use rustix::thread::{CapabilitySet, capabilities};
use std::io;
use std::ptr;

/// A capability that something here needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Sockets of netfilter, nf_tables, the settings of a network namespace.
    NetAdmin,
    /// The programs of the legacy tables.
    NetRaw,
    /// Network namespaces and mounts of one's own.
    SysAdmin,
    /// Programs in the kernel (Linux 5.8; before that it is part of `SysAdmin`).
    Bpf,
    /// Programs that look into the kernel (Linux 5.8; before that it is part of `SysAdmin`).
    Perfmon,
    /// What processes of others have open.
    SysPtrace,
    /// Files of others.
    DacOverride,
    /// Events of other namespaces.
    NetBroadcast,
}

/// Those that a capture uses somewhere.
pub const ALL: [Right; 8] = [
    Right::NetAdmin,
    Right::NetRaw,
    Right::SysAdmin,
    Right::Bpf,
    Right::Perfmon,
    Right::SysPtrace,
    Right::DacOverride,
    Right::NetBroadcast,
];

impl Right {
    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Right::NetAdmin => "CAP_NET_ADMIN",
            Right::NetRaw => "CAP_NET_RAW",
            Right::SysAdmin => "CAP_SYS_ADMIN",
            Right::Bpf => "CAP_BPF",
            Right::Perfmon => "CAP_PERFMON",
            Right::SysPtrace => "CAP_SYS_PTRACE",
            Right::DacOverride => "CAP_DAC_OVERRIDE",
            Right::NetBroadcast => "CAP_NET_BROADCAST",
        }
    }

    /// Whether we have it now.
    pub fn is_ours(self) -> bool {
        let Ok(sets) = capabilities(None) else {
            return false;
        };
        let has = |set| sets.effective.contains(set);
        match self {
            Right::NetAdmin => has(CapabilitySet::NET_ADMIN),
            Right::NetRaw => has(CapabilitySet::NET_RAW),
            Right::SysAdmin => has(CapabilitySet::SYS_ADMIN),
            Right::Bpf => has(CapabilitySet::BPF) || has(CapabilitySet::SYS_ADMIN),
            Right::Perfmon => has(CapabilitySet::PERFMON) || has(CapabilitySet::SYS_ADMIN),
            Right::SysPtrace => has(CapabilitySet::SYS_PTRACE),
            Right::DacOverride => has(CapabilitySet::DAC_OVERRIDE),
            Right::NetBroadcast => has(CapabilitySet::NET_BROADCAST),
        }
    }
}

/// Which of these we do not have, by name.
pub fn missing(rights: &[Right]) -> Vec<&'static str> {
    let missing = rights.iter().filter(|right| !right.is_ours());
    missing.map(|right| right.name()).collect()
}

/// Whether the kernel takes system call filters: it is handed one that lies nowhere, which it can only
/// complain of.
pub fn has_seccomp_filters() -> bool {
    // SAFETY: there is nothing at the address that is handed over, and the kernel says so.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::c_ulong::from(libc::SECCOMP_MODE_FILTER),
            ptr::null::<libc::sock_fprog>(),
        )
    };
    result == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

/// The version of Landlock that the kernel has; an error where it has none, or where it is off.
pub fn landlock_version() -> io::Result<u32> {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call reads nothing, makes nothing and returns a number.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            ptr::null::<libc::c_void>(),
            0usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    match u32::try_from(version) {
        Ok(version) => Ok(version),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_leaves_everything_as_it_was() {
        let status = || std::fs::read_to_string("/proc/self/status").unwrap();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.unwrap_or_default().to_owned()
        };
        let before = status();
        let _ = (has_seccomp_filters(), landlock_version());
        for name in ["Seccomp:", "NoNewPrivs:", "CapEff:"] {
            assert_eq!(field(&before, name), field(&status(), name));
        }
    }

    #[test]
    fn names_are_those_of_the_rights_that_are_missing() {
        let missing = missing(&ALL);
        for right in ALL {
            assert_eq!(missing.contains(&right.name()), !right.is_ours());
        }
    }
}
