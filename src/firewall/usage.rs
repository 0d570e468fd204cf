//! Does a rule use conntrack? The kernel tracks a family in a namespace while some rule refers to
//! it, reachable or not. So the rules are read, of legacy tables that are loaded and of nf_tables,
//! and nothing is sent, changed or loaded. What else can use conntrack (Open vSwitch, tc, IPVS) is
//! not seen; then it is switched on once more, which changes nothing.

use crate::sys::netlink::{Batch, Socket};
use crate::sys::signal;
use crate::sys::xtables;
use crate::wire::kernel::{NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6, NLMSG_DONE, NLMSG_ERROR};
use crate::wire::message::Messages;
use crate::wire::nftables::{has_expression, rules_request};
use crate::wire::xtables::has_extension;
use rustix::event::PollFlags;
use std::time::Duration;

/// Which families a rule uses conntrack for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// IPv4.
    pub ipv4: bool,
    /// IPv6.
    pub ipv6: bool,
}

/// nf_tables expressions whose init takes a reference (nf_ct_netns_get in net/netfilter/nft_*.c).
const EXPRESSIONS: [&[u8]; 7] = [
    b"ct",
    b"nat",
    b"masq",
    b"redir",
    b"connlimit",
    b"synproxy",
    b"flow_offload",
];

/// xt matches and targets whose check does (nf_ct_netns_get in net/netfilter/xt_*.c, ipt_*.c).
const EXTENSIONS: [&[u8]; 20] = [
    b"conntrack",
    b"state",
    b"connbytes",
    b"connlabel",
    b"connlimit",
    b"connmark",
    b"helper",
    b"cluster",
    b"CONNMARK",
    b"CONNSECMARK",
    b"CT",
    b"CLUSTERIP",
    b"SYNPROXY",
    b"NETMAP",
    b"REDIRECT",
    b"MASQUERADE",
    b"SNAT",
    b"DNAT",
    b"nat",
    b"FLOWOFFLOAD",
];

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads the rules.
pub fn usage() -> Usage {
    let mut usage = Usage {
        ipv4: in_legacy(false),
        ipv6: in_legacy(true),
    };
    if !(usage.ipv4 && usage.ipv6) {
        in_nftables(&mut usage);
    }
    usage
}

fn in_legacy(ipv6: bool) -> bool {
    let uses = |table: &String| {
        let entries = xtables::entries(ipv6, table).ok();
        entries.is_some_and(|entries| {
            has_extension(&entries, ipv6, |name| EXTENSIONS.contains(&name)) == Ok(true)
        })
    };
    xtables::loaded_tables(ipv6).iter().any(uses)
}

/// Adds what nf_tables rules use; a kernel without nf_tables has none.
fn in_nftables(usage: &mut Usage) {
    let Ok(socket) = Socket::open() else { return };
    if socket.send(rules_request(1).bytes()).is_err() {
        return;
    }
    let mut batch = Batch::new(1, 64 << 10);
    loop {
        let readable = signal::wait([(socket.fd(), PollFlags::IN)], Some(ANSWER_TIMEOUT));
        if !matches!(readable, Ok([true])) || socket.receive(&mut batch).is_err() {
            return;
        }
        for message in batch
            .datagrams()
            .flat_map(|datagram| Messages::new(datagram.bytes))
        {
            let Ok(message) = message else { return };
            if matches!(message.kind, NLMSG_DONE | NLMSG_ERROR) {
                return;
            }
            let Ok((family, attributes)) = message.netfilter() else {
                return;
            };
            if has_expression(
                attributes,
                |name| EXPRESSIONS.contains(&name),
                |name| EXTENSIONS.contains(&name),
            ) {
                usage.ipv4 |= matches!(family, NFPROTO_INET | NFPROTO_IPV4);
                usage.ipv6 |= matches!(family, NFPROTO_INET | NFPROTO_IPV6);
            }
            if usage.ipv4 && usage.ipv6 {
                return; // the rest of the dump goes with its socket
            }
        }
    }
}
