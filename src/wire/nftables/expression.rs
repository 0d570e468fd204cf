//! The expressions that our rules are made of. Each function appends one to the list of a rule
//! (NFTA_RULE_EXPRESSIONS); a rule goes on with its next expression while each one matches.
//!
//! Values lie in registers of four bytes, numbered from 0 here; an IPv6 address takes four.

use super::super::kernel::*;
use super::super::kernel_trace::*;
use super::super::request::Request;

/// The first register; those behind it follow it in memory, so that a key can be built up in them.
const fn register(index: u32) -> u32 {
    NFT_REG32_00.saturating_add(index)
}

/// A limit in packets: `rate` in `unit` seconds, and `burst` at once; it matches what is beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Packets in each unit.
    pub rate: u32,
    /// Seconds in a unit.
    pub unit_s: u32,
    /// Packets that may come at once.
    pub burst: u32,
}

impl Limit {
    fn put(self, data: &mut Request) {
        data.put(NFTA_LIMIT_RATE, &u64::from(self.rate).to_be_bytes());
        data.put(NFTA_LIMIT_UNIT, &u64::from(self.unit_s).to_be_bytes());
        data.put_be32(NFTA_LIMIT_BURST, self.burst);
        data.put_be32(NFTA_LIMIT_TYPE, NFT_LIMIT_PKTS);
        data.put_be32(NFTA_LIMIT_FLAGS, NFT_LIMIT_F_INV);
    }
}

fn expression(rule: &mut Request, name: &str, data: impl FnOnce(&mut Request)) {
    rule.nest(NFTA_LIST_ELEM, |element| {
        element.put_str(NFTA_EXPR_NAME, name);
        element.nest(NFTA_EXPR_DATA, data);
    });
}

/// Loads a property of the packet: NFT_META_*.
pub fn meta(rule: &mut Request, key: u32, to: u32) {
    expression(rule, "meta", |meta| {
        meta.put_be32(NFTA_META_DREG, register(to));
        meta.put_be32(NFTA_META_KEY, key);
    });
}

/// Loads a property of the packet's flow: NFT_CT_*. Does not match where there is no flow.
pub fn ct(rule: &mut Request, key: u32, to: u32) {
    expression(rule, "ct", |ct| {
        ct.put_be32(NFTA_CT_DREG, register(to));
        ct.put_be32(NFTA_CT_KEY, key);
    });
}

/// Loads `len` bytes at `offset` of a header: NFT_PAYLOAD_*. Does not match where there are none.
pub fn payload(rule: &mut Request, base: u32, offset: u32, len: u32, to: u32) {
    expression(rule, "payload", |payload| {
        payload.put_be32(NFTA_PAYLOAD_DREG, register(to));
        payload.put_be32(NFTA_PAYLOAD_BASE, base);
        payload.put_be32(NFTA_PAYLOAD_OFFSET, offset);
        payload.put_be32(NFTA_PAYLOAD_LEN, len);
    });
}

/// Matches where a register compares so (NFT_CMP_*) with a value.
pub fn compare(rule: &mut Request, from: u32, operation: u32, value: &[u8]) {
    expression(rule, "cmp", |compare| {
        compare.put_be32(NFTA_CMP_SREG, register(from));
        compare.put_be32(NFTA_CMP_OP, operation);
        compare.nest(NFTA_CMP_DATA, |data| data.put(NFTA_DATA_VALUE, value));
    });
}

/// Keeps only the bits of `mask`, in host byte order.
pub fn mask(rule: &mut Request, of: u32, mask: u32) {
    expression(rule, "bitwise", |bitwise| {
        bitwise.put_be32(NFTA_BITWISE_SREG, register(of));
        bitwise.put_be32(NFTA_BITWISE_DREG, register(of));
        bitwise.put_be32(NFTA_BITWISE_LEN, 4);
        bitwise.nest(NFTA_BITWISE_MASK, |data| {
            data.put(NFTA_DATA_VALUE, &mask.to_ne_bytes());
        });
        bitwise.nest(NFTA_BITWISE_XOR, |data| {
            data.put(NFTA_DATA_VALUE, &[0; 4]);
        });
    });
}

/// Matches packets beyond the limit.
pub fn beyond(rule: &mut Request, limit: Limit) {
    expression(rule, "limit", |data| limit.put(data));
}

/// Enters the key that begins in the first register into a set (its name, and its number in the
/// batch), where it stays for `timeout_ms` after its last packet. Does not match where the set is
/// full; with a limit, which each key has for itself, it matches packets beyond that.
pub fn enter_key(rule: &mut Request, set: (&str, u32), timeout_ms: u64, limit: Option<Limit>) {
    let (set, id) = set;
    expression(rule, "dynset", |dynset| {
        dynset.put_str(NFTA_DYNSET_SET_NAME, set);
        dynset.put_be32(NFTA_DYNSET_SET_ID, id);
        dynset.put_be32(NFTA_DYNSET_OP, NFT_DYNSET_OP_UPDATE);
        dynset.put_be32(NFTA_DYNSET_SREG_KEY, register(0));
        dynset.put(NFTA_DYNSET_TIMEOUT, &timeout_ms.to_be_bytes());
        if let Some(limit) = limit {
            dynset.nest(NFTA_DYNSET_EXPR, |expression| {
                expression.put_str(NFTA_EXPR_NAME, "limit");
                expression.nest(NFTA_EXPR_DATA, |data| limit.put(data));
            });
        }
    });
}

/// Matches where the key that begins in the first register is in the set.
pub fn find_key(rule: &mut Request, (set, id): (&str, u32)) {
    expression(rule, "lookup", |lookup| {
        lookup.put_str(NFTA_LOOKUP_SET, set);
        lookup.put_be32(NFTA_LOOKUP_SREG, register(0));
        lookup.put_be32(NFTA_LOOKUP_SET_ID, id);
    });
}

/// Counts the packets that get here.
pub fn counter(rule: &mut Request) {
    expression(rule, "counter", |_| {});
}

/// Makes the kernel tell of every rule that the packet meets from here on, or no more.
pub fn set_trace(rule: &mut Request, on: bool) {
    expression(rule, "immediate", |immediate| {
        immediate.put_be32(NFTA_IMMEDIATE_DREG, register(0));
        immediate.nest(NFTA_IMMEDIATE_DATA, |data| {
            data.put(NFTA_DATA_VALUE, &[u8::from(on)]);
        });
    });
    expression(rule, "meta", |meta| {
        meta.put_be32(NFTA_META_KEY, NFT_META_NFTRACE);
        meta.put_be32(NFTA_META_SREG, register(0));
    });
}

/// The packet is done with in this base chain, and goes on to the next one.
pub fn accept(rule: &mut Request) {
    verdict(rule, NF_ACCEPT, None);
}

/// The packet goes on in another chain of the table, and does not come back.
pub fn goto(rule: &mut Request, chain: &str) {
    verdict(rule, NFT_GOTO, Some(chain));
}

fn verdict(rule: &mut Request, code: i32, chain: Option<&str>) {
    expression(rule, "immediate", |immediate| {
        immediate.put_be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
        immediate.nest(NFTA_IMMEDIATE_DATA, |data| {
            data.nest(NFTA_DATA_VERDICT, |verdict| {
                verdict.put(NFTA_VERDICT_CODE, &code.to_be_bytes());
                if let Some(chain) = chain {
                    verdict.put_str(NFTA_VERDICT_CHAIN, chain);
                }
            });
        });
    });
}
