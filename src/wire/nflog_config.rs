//! Requests that bind a group of NFLOG and say what is copied of a packet
//! (include/uapi/linux/netfilter/nfnetlink_log.h). Each asks for its acknowledgement.

use super::kernel::{AF_UNSPEC, NFNL_SUBSYS_ULOG, NLM_F_ACK, NLM_F_REQUEST};
use super::kernel_trace::*;
use super::request::Request;

/// Binds the group to the socket that sends this; refused while another socket has it.
pub fn bind(sequence: u32, group: u16) -> Request {
    let mut request = config(sequence, group);
    request.put(NFULA_CFG_CMD, &[NFULNL_CFG_CMD_BIND]);
    request
}

/// Asks for the first `len` bytes of each packet.
pub fn copy_packet(sequence: u32, group: u16, len: u32) -> Request {
    let [l0, l1, l2, l3] = len.to_be_bytes();
    let mut request = config(sequence, group);
    request.put(NFULA_CFG_MODE, &[l0, l1, l2, l3, NFULNL_COPY_PACKET, 0]);
    request
}

/// Asks for what else is told of each packet: NFULNL_CFG_F_*.
pub fn flags(sequence: u32, group: u16, flags: u16) -> Request {
    let mut request = config(sequence, group);
    request.put(NFULA_CFG_FLAGS, &flags.to_be_bytes());
    request
}

fn config(sequence: u32, group: u16) -> Request {
    let kind = (NFNL_SUBSYS_ULOG << 8) | NFULNL_MSG_CONFIG;
    let mut request = Request::default();
    request.message(kind, NLM_F_REQUEST | NLM_F_ACK, sequence, AF_UNSPEC, group);
    request
}

#[cfg(test)]
mod tests {
    use super::super::message::Messages;
    use super::*;

    #[test]
    fn the_group_stands_in_the_header_and_numbers_are_big_endian() {
        let request = copy_packet(7, 5, 128);
        let message = Messages::new(request.bytes()).next().unwrap().unwrap();
        assert_eq!((message.kind, message.flags), (0x0401, 5));
        assert_eq!(message.body[..4], [0, 0, 0, 5]);
        let (_, attributes) = message.netfilter().unwrap();
        let attributes: Vec<_> = attributes.map(Result::unwrap).collect();
        assert_eq!(attributes, [(2, &[0, 0, 0, 128, 2, 0][..])]);
        let (_, attributes) = Messages::new(flags(1, 0, 5).bytes())
            .next()
            .unwrap()
            .unwrap()
            .netfilter()
            .map(|(family, attributes)| (family, attributes.map(Result::unwrap).count()))
            .unwrap();
        assert_eq!(attributes, 1);
    }
}
