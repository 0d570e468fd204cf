//! What a rule decides.

use crate::event::step::Verdict;
use crate::wire::xtables::{Entry, Extension, Target};

/// The verdicts of the kernel (include/uapi/linux/netfilter.h), as a standard target holds them:
/// negative, less one.
const DROP: i32 = -1;
const ACCEPT: i32 = -2;
const STOLEN: i32 = -3;
const QUEUE: i32 = -4;
const RETURN: i32 = -5;

/// Targets that change or tell something and let the rules go on (XT_CONTINUE in net/netfilter/xt_*.c,
/// net/ipv4/netfilter/ipt_*.c, net/ipv6/netfilter/ip6t_*.c).
const CONTINUING: [&[u8]; 28] = [
    b"AUDIT",
    b"CHECKSUM",
    b"CLASSIFY",
    b"CONNMARK",
    b"CONNSECMARK",
    b"CT",
    b"DNPT",
    b"DSCP",
    b"ECN",
    b"FLOWOFFLOAD",
    b"HL",
    b"HMARK",
    b"IDLETIMER",
    b"LED",
    b"LOG",
    b"MARK",
    b"NFLOG",
    b"NOTRACK",
    b"RATEEST",
    b"SECMARK",
    b"SET",
    b"SNPT",
    b"TCPMSS",
    b"TCPOPTSTRIP",
    b"TEE",
    b"TOS",
    b"TRACE",
    b"TTL",
];

/// Targets that send the packet elsewhere and end the table with it.
const TRANSLATING: [&[u8]; 6] = [
    b"DNAT",
    b"MASQUERADE",
    b"NETMAP",
    b"REDIRECT",
    b"SNAT",
    b"TPROXY",
];

/// How a REJECT answers: what it is called here, and by `--reject-with`.
type Answer = (&'static str, &'static str);

/// enum ipt_reject_with
const ANSWERS_IPV4: [Answer; 9] = [
    ("icmp net-unreachable", "icmp-net-unreachable"),
    ("icmp host-unreachable", "icmp-host-unreachable"),
    ("icmp proto-unreachable", "icmp-proto-unreachable"),
    ("icmp port-unreachable", "icmp-port-unreachable"),
    ("icmp echo-reply", "echo-reply"),
    ("icmp net-prohibited", "icmp-net-prohibited"),
    ("icmp host-prohibited", "icmp-host-prohibited"),
    ("tcp reset", "tcp-reset"),
    ("icmp admin-prohibited", "icmp-admin-prohibited"),
];

/// enum ip6t_reject_with
const ANSWERS_IPV6: [Answer; 9] = [
    ("icmpv6 no-route", "icmp6-no-route"),
    ("icmpv6 admin-prohibited", "icmp6-adm-prohibited"),
    ("icmpv6 not-neighbour", "icmp6-not-neighbour"),
    ("icmpv6 addr-unreachable", "icmp6-addr-unreachable"),
    ("icmpv6 port-unreachable", "icmp6-port-unreachable"),
    ("icmpv6 echo-reply", "echo-reply"),
    ("tcp reset", "tcp-reset"),
    ("icmpv6 policy-fail", "icmp6-policy-fail"),
    ("icmpv6 reject-route", "icmp6-reject-route"),
];

/// What an entry decides, which jumps to the chain `destination`, if to any.
pub fn of(entry: &Entry<'_>, destination: Option<&[u8]>, ipv6: bool) -> Option<Verdict> {
    let target = match entry.target {
        Target::Standard(verdict) => return standard(entry, verdict, destination),
        Target::Head(_) => return None,
        Target::Extension(target) => target,
    };
    match target.name {
        b"REJECT" => answer(target, ipv6).map(|(name, _)| Verdict::Reject(name)),
        b"NFQUEUE" => Some(Verdict::Queue),
        name if CONTINUING.contains(&name) => Some(Verdict::Continue),
        name if TRANSLATING.contains(&name) => Some(Verdict::Accept),
        _ => None,
    }
}

fn standard(entry: &Entry<'_>, verdict: i32, destination: Option<&[u8]>) -> Option<Verdict> {
    match verdict {
        DROP => return Some(Verdict::Drop),
        ACCEPT => return Some(Verdict::Accept),
        STOLEN => return Some(Verdict::Stolen),
        QUEUE => return Some(Verdict::Queue),
        RETURN => return Some(Verdict::Return),
        _ => {}
    }
    if let Some(chain) = destination {
        let chain = String::from_utf8_lossy(chain).into();
        let goto = entry.selector().is_some_and(|selector| selector.goto);
        let to = if goto { Verdict::Goto } else { Verdict::Jump };
        return Some(to(chain));
    }
    // A rule without a target is a jump to the next one.
    (u32::try_from(verdict) == Ok(entry.end)).then_some(Verdict::Continue)
}

/// How a REJECT target answers.
pub fn answer(target: Extension<'_>, ipv6: bool) -> Option<Answer> {
    let with = u32::from_ne_bytes(*target.data.first_chunk()?);
    let answers = if ipv6 { ANSWERS_IPV6 } else { ANSWERS_IPV4 };
    answers.get(usize::try_from(with).ok()?).copied()
}

/// A verdict as iptables writes it for a target or a policy; empty for none.
pub fn target_name(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Accept => "ACCEPT",
        Verdict::Drop | Verdict::Reject(_) => "DROP",
        Verdict::Return => "RETURN",
        Verdict::Queue => "QUEUE",
        Verdict::Stolen => "STOLEN",
        Verdict::Jump(chain) | Verdict::Goto(chain) => chain,
        Verdict::Continue => "",
    }
}
