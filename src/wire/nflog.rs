//! Packets that nfnetlink_log sends (NFULNL_MSG_PACKET; include/uapi/linux/netfilter/nfnetlink_log.h),
//! and in their prefix what the TRACE target writes (net/ipv4/netfilter/ip_tables.c, trace_packet):
//! `TRACE: table:chain:rule|policy|return:number `. A table's name has no colon, a chain's may.

use super::attr::{Attributes, BrokenFraming, be32_of, u8_of};
use super::conntrack::Entry;
use super::kernel::*;
use super::nftables::without_nul;
use super::packet::Head;

/// What the legacy tables say that a packet met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// A rule.
    Rule,
    /// The policy, or a rule without conditions in a built-in chain.
    Policy,
    /// The end of a user chain, or a rule without conditions in one.
    Return,
}

/// One line of a legacy trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line<'a> {
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// NF_INET_*: the hook that the packet is at.
    pub hook: u8,
    /// Table name.
    pub table: &'a [u8],
    /// Chain name.
    pub chain: &'a [u8],
    /// What it met.
    pub kind: LineKind,
    /// The rule's number, from 1, counting the policy or the end as one more.
    pub number: u32,
    /// The packet, where its head can be read.
    pub head: Option<Head>,
    /// The conntrack entry, where the kernel adds it.
    pub entry: Option<Entry>,
    /// Whether the packet goes in the reply direction of that entry.
    pub ct_reply: Option<bool>,
    /// The user whose socket sent it, where it was sent here.
    pub uid: Option<u32>,
}

impl<'a> Line<'a> {
    /// Reads the attributes of one message. `None` where it is no trace line: somebody else's use of
    /// the same group.
    pub fn parse(
        family: u8,
        attributes: Attributes<'a>,
    ) -> Result<Option<Line<'a>>, BrokenFraming> {
        let (mut hook, mut prefix, mut head) = (None, None, None);
        let (mut entry, mut ct_reply, mut uid) = (None, None, None);
        for attribute in attributes {
            let (kind, payload) = attribute?;
            match kind {
                NFULA_PACKET_HDR => hook = payload.get(2).copied(), // hw_protocol (u16), hook, padding
                NFULA_PREFIX => prefix = Some(without_nul(payload)),
                NFULA_PAYLOAD => head = Head::of_packet(payload),
                NFULA_CT => entry = Entry::parse(Attributes::new(payload)).ok(),
                NFULA_UID => uid = be32_of(payload),
                NFULA_CT_INFO => ct_reply = ct_info(payload),
                _ => {}
            }
        }
        let (Some(hook), Some(said)) = (hook, prefix.and_then(said)) else {
            return Ok(None);
        };
        let (table, chain, kind, number) = said;
        Ok(Some(Line {
            ipv6: family == AF_INET6,
            hook,
            table,
            chain,
            kind,
            number,
            head,
            entry,
            ct_reply,
            uid,
        }))
    }
}

/// enum ip_conntrack_info: from IP_CT_IS_REPLY on in the reply direction.
fn ct_info(payload: &[u8]) -> Option<bool> {
    const IP_CT_IS_REPLY: u32 = 3;
    const IP_CT_NUMBER: u32 = 6; // one more than the last
    let info = be32_of(payload).or_else(|| u8_of(payload).map(u32::from))?;
    Some((IP_CT_IS_REPLY..IP_CT_NUMBER).contains(&info))
}

type Said<'a> = (&'a [u8], &'a [u8], LineKind, u32);

/// Takes a prefix apart: the table from the left, number and kind from the right.
fn said(prefix: &[u8]) -> Option<Said<'_>> {
    let rest = prefix.strip_prefix(b"TRACE: ")?;
    let rest = rest.strip_suffix(b" ").unwrap_or(rest);
    let mut from_right = rest.rsplitn(3, |byte| *byte == b':');
    let number = std::str::from_utf8(from_right.next()?).ok()?.parse().ok()?;
    let kind = match from_right.next()? {
        b"rule" => LineKind::Rule,
        b"policy" => LineKind::Policy,
        b"return" => LineKind::Return,
        _ => return None,
    };
    let mut from_left = from_right.next()?.splitn(2, |byte| *byte == b':');
    let (table, chain) = (from_left.next()?, from_left.next()?);
    (!table.is_empty() && !chain.is_empty()).then_some((table, chain, kind, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_name_may_have_colons() {
        assert_eq!(
            said(b"TRACE: filter:a:b:rule:12 "),
            Some((&b"filter"[..], &b"a:b"[..], LineKind::Rule, 12))
        );
        assert_eq!(
            said(b"TRACE: raw:PREROUTING:policy:1 "),
            Some((&b"raw"[..], &b"PREROUTING"[..], LineKind::Policy, 1))
        );
    }

    #[test]
    fn what_somebody_else_logs_is_no_trace() {
        let others: [&[u8]; 8] = [
            b"",
            b"dropped: ",
            b"TRACE: ",
            b"TRACE: filter",
            b"TRACE: filter:rule:1",
            b"TRACE: filter:INPUT:other:1",
            b"TRACE: filter:INPUT:rule:x",
            b"TRACE: filter:INPUT:rule:99999999999",
        ];
        for other in others {
            assert_eq!(said(other), None, "{other:?}");
        }
    }
}
