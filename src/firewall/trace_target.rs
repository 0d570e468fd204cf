//! What the target TRACE of the legacy tables wants: a logger for the kernel's own log, though its lines
//! go to NFLOG. Since Linux 5.13 the kernel does not load that by itself but leaves it to modprobe, as
//! a soft dependency of the target; busybox's knows none. The kernel's answer is ENOENT then, which
//! iptables takes for a target that is not there.

use crate::sys::machine;
use crate::sys::modules::{NF_LOG_SYSLOG, Part, Presence};
use std::fs;
use std::path::Path;

/// What to do where the logger is not loaded.
pub const ADVICE: &str = "modprobe nf_log_syslog";

const LOGGER: Part = NF_LOG_SYSLOG;

/// Why the kernel refused the target, where iptables said this.
pub fn refusal(said: &str) -> Option<&'static str> {
    let is_unknown = said.contains("No chain/target/match");
    (is_unknown && is_wanted() && !LOGGER.is_there())
        .then_some("TRACE needs nf_log_syslog, which is not loaded")
}

/// Why the kernel would refuse the target, as far as that can be seen.
pub fn foreseen_refusal() -> Option<&'static str> {
    let presence = is_wanted().then(|| LOGGER.presence())?;
    let modprobe = machine::sysctl("kernel.modprobe")?;
    foreseen(presence, &fs::canonicalize(modprobe).ok()?)
}

fn is_wanted() -> bool {
    machine::is_linux(5, 13)
}

fn foreseen(presence: Presence, modprobe: &Path) -> Option<&'static str> {
    let name = modprobe.file_name()?.to_string_lossy();
    (presence == Presence::OnDemand && name.starts_with("busybox"))
        .then_some("TRACE needs nf_log_syslog, which busybox's modprobe does not load with it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_modprobe_of_busybox_is_known_not_to_load_it() {
        let of = |presence, path: &str| foreseen(presence, Path::new(path)).is_some();
        assert!(of(Presence::OnDemand, "/bin/busybox"));
        assert!(of(Presence::OnDemand, "/bin/busybox.nosuid"));
        assert!(!of(Presence::OnDemand, "/bin/kmod"));
        assert!(!of(Presence::There, "/bin/busybox"));
        assert!(!of(Presence::Unknown, "/bin/busybox"));
    }

    #[test]
    fn another_failure_is_not_explained_by_it() {
        assert_eq!(refusal("Another app is currently holding the lock"), None);
    }
}
