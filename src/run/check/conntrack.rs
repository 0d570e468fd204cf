//! The main job: conntrack, its events and its table.

use super::foreseen::Foreseen;
use crate::cli::Options;
use crate::firewall::prospect::Basis;
use crate::report::checkup::{Line, State};
use crate::run::account::events_are_off;
use crate::run::source::{groups, wanted_buffer};
use crate::sys::machine;
use crate::sys::modules::{CTNETLINK, NF_CONNTRACK, NFNETLINK, Part, Presence};
use crate::sys::netlink::Socket;
use crate::sys::rights::Right;

pub(super) fn lines(options: &Options, foreseen: &Foreseen) -> Vec<Line> {
    vec![
        ctnetlink(options),
        buffer(options),
        activation(foreseen),
        events(),
        setting(
            "accounting",
            "acct",
            "flows carry packets and bytes",
            "flows carry no packets and bytes",
        ),
        setting(
            "timestamps",
            "timestamp",
            "flows carry the kernel's own times",
            "a flow that was there before is told without its start",
        ),
        table(options),
    ]
}

/// Whether the socket can be opened and the groups be joined.
fn ctnetlink(options: &Options) -> Line {
    let line = |state, detail: String| Line::new("ctnetlink", state, detail).vital();
    let parts = [NFNETLINK, NF_CONNTRACK, CTNETLINK];
    // one that cannot be had counts more than one before it that would be loaded
    for part in &parts {
        let module = part.module;
        match part.presence() {
            Presence::There | Presence::OnDemand => {}
            Presence::Absent => {
                return line(State::Missing, format!("this kernel has no {module}")).advise(
                    format!("a kernel with {module}, or the package that brings it"),
                );
            }
            Presence::Unknown => {
                let detail = format!(
                    "whether this kernel has {module} cannot be seen (no /proc/kallsyms, no /lib/modules)"
                );
                return line(State::Unknown, detail)
                    .advise("start a capture: it says what it meets");
            }
        }
    }
    if let Some(Part { module, .. }) = parts.iter().find(|part| !part.is_there()) {
        if !Right::NetAdmin.is_ours() {
            return line(State::Missing, NO_RIGHT.to_owned());
        }
        let detail = format!("expected: the kernel would load {module} when it is asked for");
        return line(State::Ok, detail);
    }
    match joined(options) {
        Ok(()) => line(
            State::Ok,
            "tried: the socket opens, and the events of conntrack can be joined".to_owned(),
        ),
        Err(_) if !Right::NetAdmin.is_ours() => {
            line(State::Missing, NO_RIGHT.to_owned()).advise("run it as root")
        }
        Err(error) => line(
            State::Missing,
            format!("joining the events of conntrack: {error}"),
        )
        .advise("modprobe nf_conntrack_netlink"),
    }
}

const NO_RIGHT: &str = "the events of conntrack can be joined with CAP_NET_ADMIN only";

fn joined(options: &Options) -> std::io::Result<()> {
    let socket = Socket::open()?;
    groups(options)
        .iter()
        .try_for_each(|group| socket.join(*group))
}

/// What the kernel makes of the buffer that would be asked for.
fn buffer(options: &Options) -> Line {
    let wanted = wanted_buffer(options);
    let limit = machine::sysctl("net.core.rmem_max");
    let limit = limit.map_or("not to be seen from here".to_owned(), |limit| {
        format!("{limit} bytes")
    });
    let asked = format!("{wanted} bytes would be asked for; net.core.rmem_max is {limit}");
    let line = |state, detail: String| Line::new("buffer", state, format!("{asked}; {detail}"));
    if !NFNETLINK.is_there() {
        return line(
            State::Unknown,
            "not tried, as it would load nfnetlink".to_owned(),
        );
    }
    match Socket::open().and_then(|socket| socket.set_receive_buffer(wanted)) {
        Ok((bytes, false)) => line(State::Ok, format!("tried: the kernel makes it {bytes}")),
        Ok((bytes, true)) => line(
            State::Degraded,
            format!("tried: the kernel makes it {bytes}"),
        )
        .advise("CAP_NET_ADMIN lifts the limit, or sysctl -w net.core.rmem_max"),
        Err(error) => line(State::Missing, error.to_string()).advise("see --buffer"),
    }
}

fn activation(foreseen: &Foreseen) -> Line {
    let line = |state, detail: String| Line::new("activation", state, detail).vital();
    let told = foreseen.idle.is_told();
    if !Right::NetAdmin.is_ours() {
        let detail = "whether a rule uses conntrack can be seen with CAP_NET_ADMIN only";
        return line(State::Unknown, detail.to_owned());
    }
    match &foreseen.activation {
        Err(error) => line(State::Missing, error.to_string()),
        Ok(prospect) => {
            let mut detail = match (prospect.rung, prospect.basis) {
                ("none", _) => format!("{told}, and cannot be switched on"),
                ("off", _) => format!("{told}, and --activate off leaves it so"),
                (_, Basis::Given) => "a rule uses conntrack: it would be left as it is".to_owned(),
                (_, basis) => format!("{told}: it would be switched on ({basis})"),
            };
            for reason in &prospect.refused {
                detail += "; ";
                detail += reason;
            }
            let line = match prospect.rung {
                "none" => line(State::Missing, detail).advise(
                    "a rule with `ct state` (nft) or `-m conntrack` (iptables) of your own",
                ),
                "off" => line(State::Degraded, detail).advise("--activate auto"),
                _ => line(State::Ok, detail),
            };
            line.on(prospect.rung)
        }
    }
}

fn events() -> Line {
    const NAME: &str = "events";
    match setting_of("events") {
        Err(why) => Line::new(NAME, State::Unknown, why),
        Ok(value) => match events_are_off() {
            Some(why) => Line::new(NAME, State::Degraded, why)
                .advise("sysctl -w net.netfilter.nf_conntrack_events=1"),
            None => Line::new(
                NAME,
                State::Ok,
                format!("net.netfilter.nf_conntrack_events={value}"),
            ),
        },
    }
}

fn setting(name: &'static str, short: &str, with: &str, without: &str) -> Line {
    match setting_of(short) {
        Err(why) => Line::new(name, State::Unknown, why),
        Ok(value) => {
            let setting = format!("net.netfilter.nf_conntrack_{short}={value}");
            if value == "0" {
                Line::new(name, State::Degraded, format!("{setting}: {without}"))
                    .advise(format!("sysctl -w net.netfilter.nf_conntrack_{short}=1"))
            } else {
                Line::new(name, State::Ok, format!("{setting}: {with}"))
            }
        }
    }
}

/// A setting of conntrack, which only its module brings.
fn setting_of(short: &str) -> Result<String, String> {
    let name = format!("net.netfilter.nf_conntrack_{short}");
    machine::sysctl(&name).ok_or_else(|| format!("there is no {name}{}", because(NF_CONNTRACK)))
}

fn because(part: Part) -> String {
    match part.presence() {
        Presence::There => " here (another network namespace may have it)".to_owned(),
        _ => format!(" while {} is not loaded", part.module),
    }
}

/// How full the kernel's table is, and whether ours would hold it.
fn table(options: &Options) -> Line {
    const NAME: &str = "table";
    let number = |short| -> Result<u64, String> {
        let value = setting_of(short)?;
        value
            .parse()
            .map_err(|_| format!("nf_conntrack_{short} is {value}"))
    };
    let (count, max) = match (number("count"), number("max")) {
        (Ok(count), Ok(max)) => (count, max),
        (Err(why), _) | (_, Err(why)) => return Line::new(NAME, State::Unknown, why),
    };
    let detail = format!("{count} of {max} flows are in the kernel's table");
    if max > 0 && count.saturating_mul(10) >= max.saturating_mul(9) {
        Line::new(
            NAME,
            State::Degraded,
            format!("{detail}: when it is full new flows are dropped"),
        )
        .advise("sysctl -w net.netfilter.nf_conntrack_max, in the first network namespace")
    } else if count > u64::from(options.capacity) {
        let detail = format!("{detail}, and ours holds {}", options.capacity);
        Line::new(NAME, State::Degraded, detail).advise("a larger --capacity")
    } else {
        Line::new(NAME, State::Ok, detail)
    }
}
