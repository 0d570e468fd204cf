//! Which parts of the kernel are there, seen without touching them: a question to a part that is a
//! module, or a socket of its family, would have the kernel load it.

use super::machine;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::OnceLock;

/// A part of the kernel: a module, and functions of which it has one, by which it is known where it is
/// built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// As modprobe knows it.
    pub module: &'static str,
    functions: &'static [&'static str],
}

/// Whether a part is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is loaded, or built in.
    There,
    /// The kernel would load it when it is asked for.
    OnDemand,
    /// There is none.
    Absent,
    /// Neither the kernel's symbols nor the list of its modules can be read.
    Unknown,
}

const fn part(module: &'static str, functions: &'static [&'static str]) -> Part {
    Part { module, functions }
}

/// NETLINK_NETFILTER itself.
pub const NFNETLINK: Part = part("nfnetlink", &["nfnetlink_subsys_register"]);
/// Connection tracking.
pub const NF_CONNTRACK: Part = part("nf_conntrack", &["nf_conntrack_in"]);
/// Its events and dumps.
pub const CTNETLINK: Part = part("nf_conntrack_netlink", &["ctnetlink_dump_table"]);
/// nf_tables.
pub const NF_TABLES: Part = part("nf_tables", &["nft_register_expr"]);
/// NFLOG.
pub const NFLOG: Part = part("nfnetlink_log", &["nfulnl_log_packet"]);
/// What writes to the kernel's own log.
pub const NF_LOG_SYSLOG: Part = part("nf_log_syslog", &["nf_log_ip_packet"]);
/// The legacy tables of IPv4.
pub const IP_TABLES: Part = part("ip_tables", &["ipt_register_table"]);
/// The legacy tables of IPv6.
pub const IP6_TABLES: Part = part("ip6_tables", &["ip6t_register_table"]);
/// The table raw of IPv4.
pub const IPTABLE_RAW: Part = part(
    "iptable_raw",
    &["iptable_raw_table_init", "iptable_raw_hook"],
);
/// The table raw of IPv6.
pub const IP6TABLE_RAW: Part = part(
    "ip6table_raw",
    &["ip6table_raw_table_init", "ip6table_raw_hook"],
);
/// Who holds which TCP socket.
pub const TCP_DIAG: Part = part("tcp_diag", &["tcp_diag_dump"]);
/// Who holds which UDP socket.
pub const UDP_DIAG: Part = part("udp_diag", &["udp_diag_dump"]);
/// Probes that are made by a line in kprobe_events.
pub const KPROBE_EVENTS: Part = part("", &["kprobe_dispatcher"]);
/// Programs in the kernel.
pub const BPF: Part = part("", &["bpf_prog_put"]);

const PARTS: [Part; 14] = [
    NFNETLINK,
    NF_CONNTRACK,
    CTNETLINK,
    NF_TABLES,
    NFLOG,
    NF_LOG_SYSLOG,
    IP_TABLES,
    IP6_TABLES,
    IPTABLE_RAW,
    IP6TABLE_RAW,
    TCP_DIAG,
    UDP_DIAG,
    KPROBE_EVENTS,
    BPF,
];

impl Part {
    /// Whether it is in the kernel now: loaded, or built in.
    pub fn is_there(self) -> bool {
        self.is_loaded()
            || self
                .functions
                .iter()
                .any(|function| built_in().contains(function))
    }

    fn is_loaded(self) -> bool {
        !self.module.is_empty() && Path::new("/sys/module").join(self.module).exists()
    }

    /// Whether it is there, or could be.
    pub fn presence(self) -> Presence {
        if self.is_there() {
            return Presence::There;
        }
        let folder = Path::new("/lib/modules").join(machine::kernel_release());
        let list = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let (built_in, loadable) = (list("modules.builtin"), list("modules.dep"));
        if folder.join(format!("{}.ko", self.module)).exists() {
            return Presence::OnDemand; // a router's folder without a list
        }
        let has_symbols = !self::built_in().is_empty();
        let is_no_module = self.module.is_empty();
        presence(self.module, built_in.as_deref(), loadable.as_deref()).unwrap_or(
            if has_symbols && (is_no_module || !has_modules()) {
                Presence::Absent
            } else {
                Presence::Unknown
            },
        )
    }
}

/// Whether this kernel can load modules at all.
fn has_modules() -> bool {
    Path::new("/proc/modules").exists()
}

/// What the lists of modules say; `None` where there are none.
fn presence(module: &str, built_in: Option<&str>, loadable: Option<&str>) -> Option<Presence> {
    if built_in.is_some_and(|list| names(list, module)) {
        return Some(Presence::There);
    }
    let loadable = loadable.filter(|_| !module.is_empty())?;
    Some(if names(loadable, module) {
        Presence::OnDemand
    } else {
        Presence::Absent
    })
}

/// Whether a list of modules names this one: kernel/net/netfilter/nf_tables.ko.xz: what it needs.
fn names(list: &str, module: &str) -> bool {
    list.lines().any(|line| {
        let path = line.split(':').next().unwrap_or_default();
        let file = path.rsplit('/').next().unwrap_or_default();
        let name = file.split(".ko").next().unwrap_or_default();
        name.replace('-', "_") == module
    })
}

/// The functions of our parts that the kernel itself has: those never change. Those of modules stand in
/// the same list with the module's name behind them.
fn built_in() -> &'static [&'static str] {
    static FOUND: OnceLock<Vec<&'static str>> = OnceLock::new();
    FOUND.get_or_init(|| match File::open("/proc/kallsyms") {
        Ok(file) => functions_in(BufReader::with_capacity(64 << 10, file)),
        Err(_) => Vec::new(),
    })
}

fn functions_in(mut symbols: impl BufRead) -> Vec<&'static str> {
    let (mut found, mut line) = (Vec::new(), Vec::new());
    while matches!(symbols.read_until(b'\n', &mut line), Ok(len) if len > 0) {
        // ffffffff81f4b960 T nft_register_expr
        let name = line.rsplit(|byte| *byte == b' ').next();
        let name = name.unwrap_or_default().trim_ascii_end();
        let mut known = PARTS.iter().flat_map(|part| part.functions);
        found.extend(known.find(|function| function.as_bytes() == name));
        line.clear();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_in_has_its_function_without_a_module() {
        let symbols = "ffffffff81f4b960 T nft_register_expr\n\
                       0000000000000000 t ctnetlink_dump_table\n\
                       ffffffffc0f4b960 t nfulnl_log_packet\t[nfnetlink_log]\n\
                       ffffffff81f4b961 T nf_conntrack_in_vain";
        let found = functions_in(symbols.as_bytes());
        assert_eq!(found, ["nft_register_expr", "ctnetlink_dump_table"]);
    }

    #[test]
    fn lists_of_modules_are_read_by_whole_names() {
        let built_in = "kernel/net/netfilter/nfnetlink.ko\n";
        let loadable = "kernel/net/netfilter/nf_tables.ko.xz: kernel/net/netfilter/nfnetlink.ko.xz\n\
                        kernel/net/netfilter/xt-dashed.ko.zst:\n";
        let of = |module| presence(module, Some(built_in), Some(loadable));
        assert_eq!(of("nfnetlink"), Some(Presence::There));
        assert_eq!(of("nf_tables"), Some(Presence::OnDemand));
        assert_eq!(of("xt_dashed"), Some(Presence::OnDemand));
        assert_eq!(of("nf_table"), Some(Presence::Absent));
        assert_eq!(presence("nf_tables", Some(built_in), None), None);
        assert_eq!(presence("", Some(built_in), Some(loadable)), None);
    }

    #[test]
    fn this_kernel_has_symbols_or_says_that_it_does_not_know() {
        let nothing = part("no_such_module_of_ours", &["no_such_function"]);
        assert!(!nothing.is_there());
        assert_ne!(nothing.presence(), Presence::There);
    }
}
