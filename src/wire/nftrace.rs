//! Trace messages of nf_tables (NFT_MSG_TRACE on group NFNLGRP_NFTRACE;
//! include/uapi/linux/netfilter/nf_tables.h, enum nft_trace_attributes; net/netfilter/nf_tables_trace.c).
//!
//! Only the first message of a packet in each base chain has its headers, and from Linux 6.16 on its
//! conntrack id. The end of a chain is a message of type rule or return without a handle; one of type
//! return with a handle is a rule that says so (5.10, 6.1; newer kernels call it a rule).

use super::attr::{Attributes, BrokenFraming, be32_of, be64_of, u8_of};
use super::kernel::*;
use super::nftables::without_nul;
use super::packet::Head;

/// What happened in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceKind {
    /// A rule matched.
    Rule,
    /// The end of a chain was reached.
    ChainEnd,
    /// A base chain's policy decided.
    Policy,
}

/// One trace message; names without their NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace<'a> {
    /// The family of the table (NFPROTO_*).
    pub family: u8,
    /// Which packet; the kernel gives the number again once that is gone.
    pub id: u32,
    /// Table name.
    pub table: &'a [u8],
    /// Chain name.
    pub chain: &'a [u8],
    /// What happened.
    pub kind: TraceKind,
    /// The rule's handle.
    pub handle: Option<u64>,
    /// NF_* and NFT_* verdict; the policy where the policy decided.
    pub verdict: Option<i32>,
    /// Where a jump or goto leads.
    pub target: Option<&'a [u8]>,
    /// Whether this is the packet's first message in a base chain.
    pub enters: bool,
    /// The packet, where the message has its headers and they can be read.
    pub head: Option<Head>,
    /// The conntrack entry's id (CTA_ID).
    pub ct_id: Option<u32>,
    /// Whether the packet goes in the reply direction of that entry.
    pub ct_reply: Option<bool>,
    /// Whether it leaves by a device and came by none: it is of this machine.
    pub outgoing: bool,
}

impl<'a> Trace<'a> {
    /// Reads the attributes of one message; `Err` where it is framed wrongly, or has no id or names.
    #[cfg_attr(small, optimize(speed))]
    pub fn parse(family: u8, attributes: Attributes<'a>) -> Result<Trace<'a>, BrokenFraming> {
        let (mut id, mut table, mut chain, mut kind) = (None, None, None, None);
        let (mut handle, mut verdict, mut policy, mut target) = (None, None, None, None);
        let (mut network, mut transport) = (None, None);
        let (mut ct_id, mut ct_reply, mut iif, mut oif) = (None, None, false, false);
        for attribute in attributes {
            let (attribute, payload) = attribute?;
            match attribute {
                NFTA_TRACE_TABLE => table = Some(without_nul(payload)),
                NFTA_TRACE_CHAIN => chain = Some(without_nul(payload)),
                NFTA_TRACE_RULE_HANDLE => handle = be64_of(payload),
                NFTA_TRACE_TYPE => kind = be32_of(payload),
                NFTA_TRACE_VERDICT => (verdict, target) = verdict_of(payload)?,
                NFTA_TRACE_ID => id = be32_of(payload),
                NFTA_TRACE_NETWORK_HEADER => network = Some(payload),
                NFTA_TRACE_TRANSPORT_HEADER => transport = Some(payload),
                NFTA_TRACE_POLICY => policy = be32_of(payload).map(u32::cast_signed_bits),
                NFTA_TRACE_IIF => iif = true,
                NFTA_TRACE_OIF => oif = true,
                NFTA_TRACE_CT_ID => ct_id = be32_of(payload),
                NFTA_TRACE_CT_DIRECTION => ct_reply = u8_of(payload).map(|reply| reply != 0),
                _ => {}
            }
        }
        let kind = match kind.ok_or(BrokenFraming)? {
            NFT_TRACETYPE_POLICY => TraceKind::Policy,
            NFT_TRACETYPE_RULE | NFT_TRACETYPE_RETURN if handle.is_none() => TraceKind::ChainEnd,
            NFT_TRACETYPE_RULE | NFT_TRACETYPE_RETURN => TraceKind::Rule,
            _ => return Err(BrokenFraming),
        };
        Ok(Trace {
            family,
            id: id.ok_or(BrokenFraming)?,
            table: table.ok_or(BrokenFraming)?,
            chain: chain.ok_or(BrokenFraming)?,
            kind,
            handle,
            verdict: if kind == TraceKind::Policy {
                policy.or(verdict)
            } else {
                verdict
            },
            target,
            enters: network.is_some(),
            head: network
                .and_then(|network| Head::of_headers(network, transport.unwrap_or_default())),
            ct_id,
            ct_reply,
            outgoing: oif && !iif,
        })
    }
}

/// Verdicts nest without NLA_F_NESTED.
#[cfg_attr(small, optimize(speed))]
fn verdict_of(payload: &[u8]) -> Result<(Option<i32>, Option<&[u8]>), BrokenFraming> {
    let (mut code, mut chain) = (None, None);
    for attribute in Attributes::new(payload) {
        match attribute? {
            (NFTA_VERDICT_CODE, payload) => code = be32_of(payload).map(u32::cast_signed_bits),
            (NFTA_VERDICT_CHAIN, payload) => chain = Some(without_nul(payload)),
            _ => {}
        }
    }
    Ok((code, chain))
}

/// A 32-bit attribute that the kernel means as signed.
trait CastSignedBits {
    fn cast_signed_bits(self) -> i32;
}

impl CastSignedBits for u32 {
    fn cast_signed_bits(self) -> i32 {
        i32::from_ne_bytes(self.to_ne_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::Request;
    use super::*;

    fn trace(fill: impl FnOnce(&mut Request)) -> Vec<u8> {
        let mut request = Request::new(0x0a11, 0, 0, NFPROTO_INET);
        request.put_be32(NFTA_TRACE_ID, 7);
        request.put_str(NFTA_TRACE_TABLE, "fw");
        request.put_str(NFTA_TRACE_CHAIN, "in");
        fill(&mut request);
        request.bytes()[20..].to_vec()
    }

    #[test]
    fn a_rule_has_its_handle_and_verdict() {
        let bytes = trace(|request| {
            request.put_be32(NFTA_TRACE_TYPE, NFT_TRACETYPE_RULE);
            request.put(NFTA_TRACE_RULE_HANDLE, &9u64.to_be_bytes());
            request.nest(NFTA_TRACE_VERDICT, |verdict| {
                verdict.put(NFTA_VERDICT_CODE, &NFT_JUMP.to_be_bytes());
                verdict.put_str(NFTA_VERDICT_CHAIN, "user");
            });
        });
        let trace = Trace::parse(NFPROTO_INET, Attributes::new(&bytes)).unwrap();
        assert_eq!((trace.kind, trace.handle), (TraceKind::Rule, Some(9)));
        assert_eq!(
            (trace.verdict, trace.target),
            (Some(NFT_JUMP), Some(&b"user"[..]))
        );
        assert!(!trace.enters);
    }

    #[test]
    fn without_a_handle_it_is_the_end_of_a_chain_and_a_policy_is_a_verdict() {
        let end = trace(|request| request.put_be32(NFTA_TRACE_TYPE, NFT_TRACETYPE_RULE));
        let end = Trace::parse(NFPROTO_INET, Attributes::new(&end)).unwrap();
        assert_eq!(end.kind, TraceKind::ChainEnd);
        let policy = trace(|request| {
            request.put_be32(NFTA_TRACE_TYPE, NFT_TRACETYPE_POLICY);
            request.put_be32(NFTA_TRACE_POLICY, 0);
        });
        let policy = Trace::parse(NFPROTO_INET, Attributes::new(&policy)).unwrap();
        assert_eq!(
            (policy.kind, policy.verdict),
            (TraceKind::Policy, Some(NF_DROP))
        );
    }

    /// The attributes that Linux 5.10.0-46-cloud-amd64 sent of `udp dport 50 return` in chain `there`,
    /// and of the end of chain `empty`, which has no rules; 6.1.0-56-cloud-amd64 sends the same.
    const RETURNED: &str = "08000f00000000020800040000000002080006007eabe40c0a0002007468657265000000\
        06000100740000000c00030000000000000000080c00050008000100fffffffb";
    const FELL_THROUGH: &str = "08000f0000000002080004000000000208000600427e97fc0a000200656d707479000000\
        06000100740000000c00050008000100ffffffff";

    #[test]
    fn a_rule_that_returns_is_a_rule_also_where_the_kernel_gives_it_a_type_of_its_own() {
        let bytes = |hex: &str| -> Vec<u8> {
            let digits = hex.as_bytes().chunks(2);
            let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
            digits.map(|pair| byte(pair).unwrap()).collect()
        };
        let (returned, fell_through) = (bytes(RETURNED), bytes(FELL_THROUGH));
        let returned = Trace::parse(NFPROTO_INET, Attributes::new(&returned)).unwrap();
        assert_eq!((returned.table, returned.chain), (&b"t"[..], &b"there"[..]));
        assert_eq!((returned.kind, returned.handle), (TraceKind::Rule, Some(8)));
        assert_eq!(returned.verdict, Some(NFT_RETURN));
        let end = Trace::parse(NFPROTO_INET, Attributes::new(&fell_through)).unwrap();
        assert_eq!((end.kind, end.handle), (TraceKind::ChainEnd, None));
    }

    #[test]
    fn what_lacks_a_name_or_a_type_is_refused() {
        let bytes = trace(|_| ());
        assert!(Trace::parse(0, Attributes::new(&bytes)).is_err());
        assert!(Trace::parse(0, Attributes::new(&[])).is_err());
    }
}
