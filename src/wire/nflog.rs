//! Packets that nfnetlink_log sends (NFULNL_MSG_PACKET; include/uapi/linux/netfilter/nfnetlink_log.h),
//! and in their prefix what the TRACE target writes (net/ipv4/netfilter/ip_tables.c, trace_packet):
//! `TRACE: table:chain:rule|policy|return:number `. A table's name has no colon, a chain's may.

use super::attr::{Attributes, BrokenFraming, be32_of, u8_of};
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
    /// The conntrack entry's id (CTA_ID), where the kernel adds the entry.
    pub ct_id: Option<u32>,
    /// Whether the packet goes in the reply direction of that entry.
    pub ct_reply: Option<bool>,
    /// The user whose socket sent it, where it was sent here.
    pub uid: Option<u32>,
}

impl<'a> Line<'a> {
    /// Reads the attributes of one message. `None` where it is no trace line: somebody else's use of
    /// the same group.
    #[cfg_attr(small, optimize(speed))]
    pub fn parse(
        family: u8,
        attributes: Attributes<'a>,
    ) -> Result<Option<Line<'a>>, BrokenFraming> {
        let (mut hook, mut prefix, mut head) = (None, None, None);
        let (mut ct_id, mut ct_reply, mut uid) = (None, None, None);
        for attribute in attributes {
            let (kind, payload) = attribute?;
            match kind {
                NFULA_PACKET_HDR => hook = payload.get(2).copied(), // hw_protocol (u16), hook, padding
                NFULA_PREFIX => prefix = Some(without_nul(payload)),
                NFULA_PAYLOAD => head = Head::of_packet(payload),
                NFULA_CT => ct_id = id_of(payload),
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
            ct_id,
            ct_reply,
            uid,
        }))
    }
}

/// enum ip_conntrack_info: from IP_CT_IS_REPLY on in the reply direction.
#[cfg_attr(small, optimize(speed))]
fn ct_info(payload: &[u8]) -> Option<bool> {
    const IP_CT_IS_REPLY: u32 = 3;
    const IP_CT_NUMBER: u32 = 6; // one more than the last
    let info = be32_of(payload).or_else(|| u8_of(payload).map(u32::from))?;
    Some((IP_CT_IS_REPLY..IP_CT_NUMBER).contains(&info))
}

/// The id of a conntrack entry; of the rest nothing is needed here.
#[cfg_attr(small, optimize(speed))]
fn id_of(entry: &[u8]) -> Option<u32> {
    let mut attributes = Attributes::new(entry).map_while(Result::ok);
    let (_, id) = attributes.find(|(kind, _)| *kind == CTA_ID)?;
    be32_of(id)
}

type Said<'a> = (&'a [u8], &'a [u8], LineKind, u32);

/// Takes a prefix apart: the table from the left, number and kind from the right.
#[cfg_attr(small, optimize(speed))]
fn said(prefix: &[u8]) -> Option<Said<'_>> {
    let rest = prefix.strip_prefix(b"TRACE: ")?;
    let rest = rest.strip_suffix(b" ").unwrap_or(rest);
    let (rest, number) = split_at_last_colon(rest)?;
    let (names, kind) = split_at_last_colon(rest)?;
    let kind = match kind {
        b"rule" => LineKind::Rule,
        b"policy" => LineKind::Policy,
        b"return" => LineKind::Return,
        _ => return None,
    };
    let colon = names.iter().position(|byte| *byte == b':')?;
    let (table, chain) = (names.get(..colon)?, names.get(colon.checked_add(1)?..)?);
    (!table.is_empty() && !chain.is_empty()).then_some((table, chain, kind, decimal(number)?))
}

#[cfg_attr(small, optimize(speed))]
fn split_at_last_colon(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = text.iter().rposition(|byte| *byte == b':')?;
    Some((text.get(..colon)?, text.get(colon.checked_add(1)?..)?))
}

#[cfg_attr(small, optimize(speed))]
fn decimal(digits: &[u8]) -> Option<u32> {
    let number = digits.iter().try_fold(0u32, |number, digit| {
        let value = digit.checked_sub(b'0').filter(|value| *value < 10)?;
        number.checked_mul(10)?.checked_add(u32::from(value))
    });
    number.filter(|_| !digits.is_empty())
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
        let others: [&[u8]; 11] = [
            b"",
            b"dropped: ",
            b"TRACE: ",
            b"TRACE: filter",
            b"TRACE: filter:rule:1",
            b"TRACE: filter:INPUT:other:1",
            b"TRACE: filter:INPUT:rule:x",
            b"TRACE: filter:INPUT:rule:99999999999",
            b"TRACE: filter:INPUT:rule:",
            b"TRACE: :INPUT:rule:1",
            b"TRACE: filter::rule:1",
        ];
        for other in others {
            assert_eq!(said(other), None, "{other:?}");
        }
    }
}
