//! Netlink bytes, laid out by the rules of linux/netlink.h and linux/netfilter/nfnetlink.h alone: nothing
//! here is the product's.

/// NLM_F_MULTI: part of a dump.
pub const MULTI: u16 = 2;
/// NLM_F_EXCL | NLM_F_CREATE: what ctnetlink marks a NEW event with.
pub const CREATE_EXCL: u16 = 0x600;
/// NLMSG_DONE.
pub const DONE: u16 = 3;

const NESTED: u16 = 0x8000; // NLA_F_NESTED

/// One attribute: its length without padding, its type, its payload, padding.
pub fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + payload.len()).unwrap();
    let mut bytes = len.to_ne_bytes().to_vec(); // nla_len
    bytes.extend(kind.to_ne_bytes()); //           nla_type
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute that holds others, marked as such: ctnetlink does so.
pub fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &attributes.concat())
}

/// An attribute that holds others and is not marked: nf_tables before 5.3.
pub fn unmarked(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind, &attributes.concat())
}

pub fn u8_of(kind: u16, value: u8) -> Vec<u8> {
    attribute(kind, &[value])
}

pub fn be16(kind: u16, value: u16) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

pub fn be32(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

/// A 64-bit number, behind an empty attribute (`pad`) where the kernel aligns it: from 4.7 on, on
/// machines that cannot read it anywhere (no CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS).
pub fn be64(kind: u16, value: u64, pad: Option<u16>) -> Vec<u8> {
    let mut bytes = pad.map(|pad| attribute(pad, &[])).unwrap_or_default();
    bytes.extend(attribute(kind, &value.to_be_bytes()));
    bytes
}

/// nla_put_string: with its NUL.
pub fn string(kind: u16, text: &str) -> Vec<u8> {
    attribute(kind, &[text.as_bytes(), &[0]].concat())
}

/// One message of another family of sockets: struct nlmsghdr, then its body.
pub fn message(kind: u16, flags: u16, sequence: u32, port: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(16 + body.len()).unwrap();
    let mut bytes = len.to_ne_bytes().to_vec(); // nlmsg_len
    bytes.extend(kind.to_ne_bytes()); //           nlmsg_type
    bytes.extend(flags.to_ne_bytes()); //          nlmsg_flags
    bytes.extend(sequence.to_ne_bytes()); //       nlmsg_seq
    bytes.extend(port.to_ne_bytes()); //           nlmsg_pid
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Where a netfilter message comes from, and for whom it is.
#[derive(Clone, Copy)]
pub struct Head {
    pub subsystem: u16,
    pub message: u16,
    pub flags: u16,
    pub sequence: u32,
    pub port: u32,
    pub family: u8,
    pub resource: u16,
}

/// A message of a netfilter subsystem: struct nfgenmsg before its attributes.
pub fn netfilter(head: Head, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![head.family, 0]; //        nfgen_family, version (NFNETLINK_V0)
    body.extend(head.resource.to_be_bytes()); //   res_id
    body.extend(attributes.concat());
    let kind = (head.subsystem << 8) | head.message;
    message(kind, head.flags, head.sequence, head.port, &body)
}

/// What ends a dump: the dump's result, which is 0.
pub fn done(sequence: u32, port: u32) -> Vec<u8> {
    message(DONE, MULTI, sequence, port, &0u32.to_ne_bytes())
}
