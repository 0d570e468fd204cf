//! The lines that the legacy tables write of traced packets come over NFLOG, group 0, once the kernel
//! is told so for a family (`net.netfilter.nf_log.2`, `.10`); by default they go to the kernel's log,
//! or nowhere. Where they cannot come to us they are switched off, since nobody wants some thousand
//! lines a second in a log. What the setting was is written down before it is changed, and comes
//! back at the end.
//!
//! While it is changed, the other lines of that family that the kernel writes by itself go the
//! same way (`nf_conntrack_log_invalid`); those of the targets LOG and NFLOG do not.

use super::Removal;
use super::nft::transact;
use super::state::{self, Leftover};
use crate::error::Error;
use crate::limits::TRACE_LOG_COPY_LEN;
use crate::sys::machine;
use crate::sys::modules::{NFLOG, Presence};
use crate::sys::netlink::Socket;
use crate::wire::kernel::{NFPROTO_IPV4, NFPROTO_IPV6};
use crate::wire::kernel_trace::{NFULNL_CFG_F_CONNTRACK, NFULNL_CFG_F_SEQ};
use crate::wire::nflog_config;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// The group that lines of traced packets go to; the kernel knows no other for them.
const GROUP: u16 = 0;

/// The setting that sends lines to NFLOG, and the one that sends them nowhere.
const TO_NFLOG: &str = "nfnetlink_log";
const NOWHERE: &str = "NONE";

/// The kernel's limit for such a name (NFLOGGER_NAME_LEN), with its NUL.
const NAME_LEN: usize = 64;

/// A family's setting, before we changed it and since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogBinding {
    family: u8,
    old: String,
    ours: &'static str,
}

impl LogBinding {
    /// As an earlier run wrote it down; `None` where that cannot have been the setting.
    pub fn recorded(family: u8, old: &str, ours: &str) -> Option<LogBinding> {
        let is_name = (1..NAME_LEN).contains(&old.len())
            && old
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let known = matches!(family, NFPROTO_IPV4 | NFPROTO_IPV6);
        let ours = [TO_NFLOG, NOWHERE].into_iter().find(|name| *name == ours)?;
        (is_name && known).then(|| LogBinding {
            family,
            old: old.to_owned(),
            ours,
        })
    }

    /// As it is written down: family, old setting, ours.
    pub fn words(&self) -> String {
        format!("{} {} {}", self.family, self.old, self.ours)
    }

    /// What the setting was.
    pub fn old(&self) -> &str {
        &self.old
    }

    /// Gives the setting back, where it is still ours.
    pub fn restore(&self) -> io::Result<Removal> {
        if setting(self.family).as_deref() != Some(self.ours) {
            return Ok(Removal::NotThere);
        }
        set(self.family, &self.old).map(|()| Removal::Removed)
    }
}

impl fmt::Display for LogBinding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "net.netfilter.nf_log.{}={}", self.family, self.ours)
    }
}

/// Where the lines of the legacy tables go.
#[derive(Debug)]
pub struct Lines {
    /// To this socket; or why not, and then they go nowhere.
    pub socket: Result<Socket, String>,
    /// What to give back.
    pub bindings: Vec<LogBinding>,
}

/// Has the lines of the legacy tables that are there sent to a socket, or nowhere. An error says why
/// neither can be done: then nothing should be traced.
pub fn listen(ipv4: bool, ipv6: bool) -> Result<Lines, String> {
    let families = families(ipv4, ipv6);
    let socket = if families.is_empty() {
        Err(NO_TABLES.to_owned())
    } else {
        bound_socket()
    };
    let ours = if socket.is_ok() { TO_NFLOG } else { NOWHERE };
    let bindings = redirect(&families, ours)?;
    Ok(Lines { socket, bindings })
}

const NO_TABLES: &str = "no legacy tables are loaded";
const NO_NFLOG: &str = "this kernel has no NFLOG";

/// Those of the families that legacy tables are loaded for.
fn families(ipv4: bool, ipv6: bool) -> Vec<u8> {
    let all = [
        (ipv4, NFPROTO_IPV4, "/proc/net/ip_tables_names"),
        (ipv6, NFPROTO_IPV6, "/proc/net/ip6_tables_names"),
    ];
    let wanted = all
        .into_iter()
        .filter(|(wanted, _, listing)| *wanted && Path::new(listing).exists());
    wanted.map(|(_, family, _)| family).collect()
}

/// What `listen` would come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinesProspect {
    /// Whether the lines would come to us, or why not.
    pub socket: Result<(), String>,
    /// The settings that would be changed.
    pub bindings: Vec<LogBinding>,
}

/// What `listen` would come to: nothing is bound, set or loaded. `loaded` says that the tables will be
/// there by then.
pub fn prospect(ipv4: bool, ipv6: bool, loaded: bool) -> Result<LinesProspect, String> {
    let families = if loaded {
        let wanted = [(ipv4, NFPROTO_IPV4), (ipv6, NFPROTO_IPV6)];
        wanted
            .iter()
            .filter(|each| each.0)
            .map(|each| each.1)
            .collect()
    } else {
        families(ipv4, ipv6)
    };
    let socket = if families.is_empty() {
        Err(NO_TABLES.to_owned())
    } else if NFLOG.presence() == Presence::Absent {
        Err(NO_NFLOG.to_owned())
    } else if groups().is_ok_and(|groups| groups.iter().any(|(group, _)| *group == GROUP)) {
        Err(taken())
    } else {
        Ok(())
    };
    let ours = if socket.is_ok() { TO_NFLOG } else { NOWHERE };
    let bindings = planned(&families, ours)?;
    if !bindings.is_empty() {
        state::could_be_written_down().map_err(|error| error.to_string())?;
    }
    Ok(LinesProspect { socket, bindings })
}

/// The groups of NFLOG that are bound in this namespace, with the port ids of the sockets that have them.
/// There is no such list where NFLOG is not loaded: then nobody has one.
pub fn groups() -> io::Result<Vec<(u16, u32)>> {
    match fs::read_to_string("/proc/net/netfilter/nfnetlink_log") {
        Ok(list) => Ok(list.lines().filter_map(bound).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Who has the group that we need: the port id of its socket.
pub fn rival() -> Option<u32> {
    let groups = groups().unwrap_or_default();
    let ours = groups.iter().find(|(group, _)| *group == GROUP);
    ours.map(|(_, port_id)| *port_id)
}

/// A line of /proc/net/netfilter/nfnetlink_log: group, port id, and how it is set up (net/netfilter/nfnetlink_log.c,
/// seq_show).
fn bound(line: &str) -> Option<(u16, u32)> {
    let mut fields = line.split_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Where the kernel's own lines go, by family: IPv4 and IPv6.
pub fn settings() -> [Option<String>; 2] {
    [NFPROTO_IPV4, NFPROTO_IPV6].map(setting)
}

fn taken() -> String {
    format!("NFLOG group {GROUP} is taken by another program (ulogd?)")
}

/// A socket that gets what is logged to our group. The kernel loads the logger for it.
fn bound_socket() -> Result<Socket, String> {
    let unbound = |error: io::Error| match error.raw_os_error() {
        Some(libc::EPERM | libc::EBUSY) => taken(),
        Some(libc::EINVAL | libc::EOPNOTSUPP) => NO_NFLOG.to_owned(),
        _ => format!("binding NFLOG group {GROUP}: {error}"),
    };
    let socket = Socket::open().map_err(unbound)?;
    transact(&socket, (nflog_config::bind(1, GROUP), 1)).map_err(unbound)?;
    let copy = nflog_config::copy_packet(2, GROUP, TRACE_LOG_COPY_LEN);
    transact(&socket, (copy, 1))
        .map_err(|error| format!("asking NFLOG group {GROUP} for packets: {error}"))?;
    // The number tells of lost lines; what conntrack knows of the packet many kernels cannot say.
    for flags in [NFULNL_CFG_F_SEQ | NFULNL_CFG_F_CONNTRACK, NFULNL_CFG_F_SEQ] {
        if transact(&socket, (nflog_config::flags(3, GROUP, flags), 1)).is_ok() {
            break;
        }
    }
    Ok(socket)
}

/// The settings that have to be changed.
fn planned(families: &[u8], ours: &str) -> Result<Vec<LogBinding>, String> {
    let mut bindings = Vec::new();
    for family in families {
        let old = setting(*family)
            .ok_or_else(|| format!("this kernel has no net.netfilter.nf_log.{family}"))?;
        if old == ours {
            continue;
        }
        let binding = LogBinding::recorded(*family, &old, ours);
        bindings.push(binding.ok_or_else(|| format!("net.netfilter.nf_log.{family} is {old:?}"))?);
    }
    Ok(bindings)
}

fn redirect(families: &[u8], ours: &str) -> Result<Vec<LogBinding>, String> {
    let bindings = planned(families, ours)?;
    let leftovers: Vec<Leftover> = bindings.iter().cloned().map(Leftover::LogBinding).collect();
    if !leftovers.is_empty() {
        state::write_down(&leftovers).map_err(|error| error.to_string())?;
    }
    for binding in &bindings {
        if let Err(error) = set(binding.family, binding.ours) {
            let _ = give_back(&bindings); // what cannot be given back stays written down
            return Err(format!("setting {binding}: {error}"));
        }
    }
    Ok(bindings)
}

/// Gives all settings back, and forgets them.
pub fn give_back(bindings: &[LogBinding]) -> crate::error::Result<()> {
    let mut first_error = None;
    for binding in bindings {
        let result = match binding.restore() {
            Ok(_) => state::cross_out(&[Leftover::LogBinding(binding.clone())]),
            Err(error) => Err(Error::failed(
                format_args!("setting net.netfilter.nf_log.{} back", binding.family),
                error,
                "",
            )),
        };
        first_error = first_error.or(result.err());
    }
    first_error.map_or(Ok(()), Err)
}

fn setting(family: u8) -> Option<String> {
    machine::sysctl(&format!("net.netfilter.nf_log.{family}"))
}

fn set(family: u8, name: &str) -> io::Result<()> {
    let path = format!("/proc/sys/net/netfilter/nf_log/{family}");
    debug_assert!(fs::metadata(&path).is_ok());
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(name.as_bytes()) // in one write: the kernel takes each as a whole value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_by_their_number_and_port_id() {
        // As Linux 6.18 lists them.
        assert_eq!(
            bound("    0  27051     1 1     0    100  1"),
            Some((0, 27051))
        );
        assert_eq!(
            bound("65535 4294963210     0 2 65535    100  1"),
            Some((65535, 4_294_963_210))
        );
        assert_eq!((bound(""), bound("group portid")), (None, None));
    }

    #[test]
    fn only_a_logger_can_have_been_the_setting() {
        let longest = "a".repeat(63);
        for old in ["nf_log_ipv4", "NONE", "nf_log_syslog", &longest] {
            let binding = LogBinding::recorded(2, old, TO_NFLOG).unwrap();
            assert_eq!(binding.words(), format!("2 {old} nfnetlink_log"));
        }
        for old in ["", "a b", "a/b", "nf_log_ipv4\n", &"a".repeat(64)] {
            assert_eq!(LogBinding::recorded(2, old, TO_NFLOG), None, "{old:?}");
        }
        assert_eq!(LogBinding::recorded(3, "nf_log_arp", TO_NFLOG), None);
        assert_eq!(LogBinding::recorded(2, "NONE", "nf_log_ipv4"), None);
    }
}
