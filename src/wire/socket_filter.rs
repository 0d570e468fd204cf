//! Classic BPF programs that let the kernel drop unwanted conntrack events before they are queued
//! (include/uapi/linux/filter.h; the netlink attribute loads of net/core/filter.c, Linux 2.6.35).
//!
//! An event is one message per datagram, so fixed offsets hold: nfgen_family is byte 16, attributes
//! begin at byte 20. SKF_AD_NLATTR finds an attribute of the type in X from the offset in A on;
//! SKF_AD_NLATTR_NEST finds one inside the attribute at A; both leave its offset, or 0, in A.

use super::kernel::{CTA_PROTO_NUM, CTA_TUPLE_ORIG, CTA_TUPLE_PROTO};

/// One instruction (`struct sock_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when the condition holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

const LD_IMM: u16 = 0x00;
const LDX_IMM: u16 = 0x01;
const LD_W_ABS: u16 = 0x20;
const LD_B_ABS: u16 = 0x30;
const LD_B_IND: u16 = 0x50;
const JEQ_K: u16 = 0x15;
const RET_K: u16 = 0x06;
const TAX: u16 = 0x07;
const SKF_AD_NLATTR: u32 = 0xffff_f000 + 12;
const SKF_AD_NLATTR_NEST: u32 = 0xffff_f000 + 16;
const NFGEN_FAMILY_OFFSET: u32 = 16;
const ATTRIBUTES_OFFSET: u32 = 20;
const NLA_HDRLEN: u32 = 4;
const TAKE: u32 = u32::MAX;
const DROP: u32 = 0;

fn op(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// A program that takes events of the wanted family (AF_*) and protocols and drops the rest;
/// `None` where nothing is to be filtered. An empty `protocols` takes all of them.
pub fn program(family: Option<u8>, protocols: &[u8]) -> Option<Vec<Instruction>> {
    if family.is_none() && protocols.is_empty() {
        return None;
    }
    let mut program = Vec::new();
    if let Some(family) = family {
        program.push(op(LD_B_ABS, NFGEN_FAMILY_OFFSET));
        program.push(Instruction {
            code: JEQ_K,
            jt: 1,
            jf: 0,
            k: u32::from(family),
        });
        program.push(op(RET_K, DROP));
    }
    if !protocols.is_empty() {
        program.extend(load_protocol());
        for protocol in protocols {
            program.push(Instruction {
                code: JEQ_K,
                jt: 0,
                jf: 1,
                k: u32::from(*protocol),
            });
            program.push(op(RET_K, TAKE));
        }
        program.push(op(RET_K, DROP));
    } else {
        program.push(op(RET_K, TAKE));
    }
    Some(program)
}

/// Loads the protocol number of the original tuple into A. An event whose tuple is not found as
/// expected is taken: the parser then says what is wrong with it.
fn load_protocol() -> [Instruction; 15] {
    let or_take = |code| Instruction {
        code,
        jt: 0,
        jf: 1,
        k: 0,
    };
    [
        op(LD_IMM, ATTRIBUTES_OFFSET),
        op(LDX_IMM, u32::from(CTA_TUPLE_ORIG)),
        op(LD_W_ABS, SKF_AD_NLATTR),
        or_take(JEQ_K),
        op(RET_K, TAKE),
        op(LDX_IMM, u32::from(CTA_TUPLE_PROTO)),
        op(LD_W_ABS, SKF_AD_NLATTR_NEST),
        or_take(JEQ_K),
        op(RET_K, TAKE),
        op(LDX_IMM, u32::from(CTA_PROTO_NUM)),
        op(LD_W_ABS, SKF_AD_NLATTR_NEST),
        or_take(JEQ_K),
        op(RET_K, TAKE),
        op(TAX, 0),
        op(LD_B_IND, NLA_HDRLEN),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_to_filter_is_no_program() {
        assert_eq!(program(None, &[]), None);
    }

    #[test]
    fn a_family_is_compared_at_its_fixed_offset() {
        let program = program(Some(10), &[]).unwrap();
        assert_eq!((program[0].k, program[1].k), (16, 10));
        assert_eq!((program[2].k, program[3].k), (DROP, TAKE));
    }
}
