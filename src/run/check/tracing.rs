//! What `-t` would come to, and who else has what it needs.

use super::foreseen::Foreseen;
use super::place::process;
use crate::firewall::nf_log;
use crate::firewall::prospect::Basis;
use crate::firewall::trace_target;
use crate::owner::sockets::holder_of_port_id;
use crate::report::checkup::{Line, State};
use crate::sys::modules::{NFLOG, Presence};
use crate::sys::rights::Right;

pub(super) fn lines(foreseen: &Foreseen) -> Vec<Line> {
    vec![rung(foreseen), legacy_lines(foreseen), group(), loggers()]
}

fn rung(foreseen: &Foreseen) -> Line {
    const NAME: &str = "trace";
    match &foreseen.trace {
        Err(error) => {
            let detail = error.to_string();
            let advice = without_logger(&detail).unwrap_or_default();
            Line::new(NAME, State::Missing, detail).advise(advice)
        }
        Ok(found) => {
            let prospect = &found.prospect;
            let how = match prospect.basis {
                Basis::Tried => {
                    "tried: the kernel would take its table; expected: and what is in it (-t)"
                }
                _ => "expected (-t)",
            };
            let mut reasons = vec![how.to_owned()];
            reasons.extend(prospect.refused.iter().cloned());
            let detail = reasons.join("; ");
            let line = match prospect.rung {
                "none" if !Right::NetAdmin.is_ours() => {
                    Line::new(NAME, State::Unknown, detail).advise("run it as root")
                }
                "none" => {
                    let advice = without_logger(&detail)
                        .unwrap_or("nf_tables (Linux 3.13), or iptables-legacy with the table raw");
                    Line::new(NAME, State::Missing, detail).advise(advice)
                }
                "nft-owned" => Line::new(NAME, State::Ok, detail),
                _ => Line::new(NAME, State::Degraded, detail)
                    .advise("nothing has to be done: its watchdog cleans up after a kill -9"),
            };
            line.on(prospect.rung)
        }
    }
}

/// What to do where the target TRACE lacks its logger.
fn without_logger(detail: &str) -> Option<&'static str> {
    let advice = trace_target::ADVICE;
    detail.contains(advice).then_some(advice)
}

/// Whether the rules of legacy tables would be told of.
fn legacy_lines(foreseen: &Foreseen) -> Line {
    const NAME: &str = "trace_legacy";
    let lines = foreseen
        .trace
        .as_ref()
        .map(|found| found.legacy_lines.as_ref());
    match lines {
        Ok(Ok(())) => Line::new(
            NAME,
            State::Ok,
            "expected: legacy tables are traced too (-t)",
        ),
        Ok(Err(why)) if why.starts_with("no legacy") => Line::new(
            NAME,
            State::Ok,
            format!("{why}: there is nothing to trace in them"),
        ),
        Ok(Err(why)) => Line::new(
            NAME,
            State::Degraded,
            format!("legacy tables are not traced: {why}"),
        )
        .advise("end what has NFLOG group 0, or have it use another group"),
        Err(_) => Line::new(NAME, State::Missing, "nothing is traced"),
    }
}

/// The group that lines of legacy tables come over can have one listener.
fn group() -> Line {
    const NAME: &str = "nflog_group_0";
    match (nf_log::groups(), nf_log::rival()) {
        (Err(error), _) => Line::new(
            NAME,
            State::Unknown,
            format!("who has it cannot be seen: {error}"),
        ),
        (Ok(_), Some(port_id)) => {
            let who = match holder_of_port_id(port_id) {
                Some(pid) => process(pid),
                None => format!("a socket with port id {port_id}, whose process cannot be seen"),
            };
            Line::new(
                NAME,
                State::Degraded,
                format!("taken by {who}: legacy tables are not traced"),
            )
            .advise("have it use another group (ulogd: group=), or end it while you trace")
        }
        (Ok(_), None) => match NFLOG.presence() {
            Presence::Absent => Line::new(
                NAME,
                State::Missing,
                "this kernel has no NFLOG: legacy tables are not traced",
            ),
            Presence::OnDemand => Line::new(
                NAME,
                State::Ok,
                "free; the kernel would load nfnetlink_log for -t with legacy tables",
            ),
            _ => Line::new(NAME, State::Ok, "free"),
        },
    }
}

/// Where the kernel's own lines go now.
fn loggers() -> Line {
    let settings = nf_log::settings();
    let [ipv4, ipv6] = settings.map(|setting| setting.unwrap_or_else(|| "not there".to_owned()));
    let detail = format!(
        "IPv4: {ipv4}, IPv6: {ipv6}; -t sets them to nfnetlink_log where legacy tables are loaded, and back"
    );
    match ipv4 == "not there" {
        true => Line::new(
            "nf_log",
            State::Missing,
            format!("no net.netfilter.nf_log here: {detail}"),
        ),
        false => Line::new("nf_log", State::Ok, detail),
    }
}
