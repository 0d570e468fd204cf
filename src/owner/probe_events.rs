//! Names of probes that a killed process has left in kprobe_events: without a program behind them
//! they do nothing, but pile up.

use crate::sys::mounts;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

/// The functions that our probes are at. What libbpf wrote for other programs is theirs.
pub const FUNCTIONS: [&str; 16] = [
    "tcp_connect",
    "security_sock_graft",
    "inet_csk_listen_start",
    "udp_sendmsg",
    "udpv6_sendmsg",
    "ping_v4_sendmsg",
    "ping_v6_sendmsg",
    "raw_sendmsg",
    "rawv6_sendmsg",
    "skb_consume_udp",
    "udp_recvmsg",
    "udpv6_recvmsg",
    "ip_send_skb",
    "ip6_send_skb",
    "ip_push_pending_frames",
    "__nf_conntrack_confirm",
];

/// Removes those that libbpf wrote for a process that is no more, at functions that our probes are at,
/// where tracefs can be seen. Returns what is to be told of it.
pub fn sweep() -> Vec<String> {
    let Some(tracefs) = mounts::tracefs() else {
        return Vec::new();
    };
    let file = tracefs.join("kprobe_events");
    left()
        .iter()
        .map(|event| match remove(&file, event) {
            Ok(()) => {
                format!("{event}: left in kprobe_events by a process that is no more: removed")
            }
            Err(error) => {
                format!("{event}: left in kprobe_events by a process that is no more: {error}")
            }
        })
        .collect()
}

/// Those that `sweep` would remove.
pub fn left() -> Vec<String> {
    let events = mounts::tracefs().map(|tracefs| tracefs.join("kprobe_events"));
    let events = events.and_then(|file| fs::read_to_string(file).ok());
    leftovers(&events.unwrap_or_default(), is_alive)
}

fn remove(file: &Path, event: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(file)?;
    file.write_all(format!("-:{event}\n").as_bytes())
}

/// Whether a program runs under this pid. One that ended and is not waited for has no file any more.
fn is_alive(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

/// The events, by group and name, that carry the pid of a process that is not alive.
fn leftovers(events: &str, is_alive: impl Fn(u32) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for line in events.lines() {
        // p:kprobes/libbpf_4711_0_tcp_connect_0x0 tcp_connect+0; rN: where it is of a return
        let Some((_, rest)) = line.split_once(':') else {
            continue;
        };
        let event = rest.split_whitespace().next().unwrap_or_default();
        let name = event
            .strip_prefix("kprobes/libbpf_")
            .or(event.strip_prefix("kretprobes/libbpf_"));
        // pid, number, function, offset
        let mut parts = name.unwrap_or_default().splitn(3, '_');
        let pid = parts.next().and_then(|pid| pid.parse().ok());
        let function = parts.nth(1).and_then(|rest| rest.rsplit_once("_0x"));
        let is_ours = function.is_some_and(|(function, _)| FUNCTIONS.contains(&function));
        if is_ours && pid.is_some_and(|pid| !is_alive(pid)) {
            found.push(event.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_of_the_dead_are_left_over() {
        let events = "p:kprobes/libbpf_10_0_tcp_connect_0x0 tcp_connect+0\n\
                      p:kprobes/libbpf_20_1_udp_sendmsg_0x0 udp_sendmsg+0\n\
                      r16:kretprobes/libbpf_20_2_udp_recvmsg_0x0 udp_recvmsg\n\
                      p:kprobes/libbpf_20_3_tcp_close_0x0 tcp_close+0\n\
                      p:kprobes/libbpf_ten_0_x x\n\
                      p:kprobes/somebodys tcp_close\n\
                      p:mine/libbpf_20_0_x x\n\n";
        let found = leftovers(events, |pid| pid == 10);
        assert_eq!(
            found,
            [
                "kprobes/libbpf_20_1_udp_sendmsg_0x0",
                "kretprobes/libbpf_20_2_udp_recvmsg_0x0"
            ]
        );
    }
}
