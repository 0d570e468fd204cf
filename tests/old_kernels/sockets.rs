//! What sock_diag and /proc/net of these kernels say of sockets (net/ipv4/inet_diag.c, udp_diag.c,
//! tcp_ipv4.c at 3.10 and 4.4).

use super::bytes::{MULTI, attribute, message};
use conntracker::wire::message::Messages;
use conntracker::wire::{proc_net, sock_diag};

const BY_FAMILY: u16 = 20; // SOCK_DIAG_BY_FAMILY
const TCP: u8 = 6;
const UDP: u8 = 17;

/// struct inet_diag_msg: 72 bytes in every kernel. `unused` is what lies in the words that an IPv4
/// address does not need: before 4.2 what was in memory.
fn answer(state: u8, unused: u8, cookie: u64, uid: u32, inode: u32) -> Vec<u8> {
    let mut body = vec![2, state, 1, 0]; //            idiag_family, _state, _timer, _retrans
    body.extend(40000u16.to_be_bytes()); //            idiag_sport
    body.extend(443u16.to_be_bytes()); //              idiag_dport
    body.extend([10, 1, 0, 6]); //                     idiag_src
    body.extend([unused; 12]);
    body.extend([192, 0, 2, 80]); //                   idiag_dst
    body.extend([unused; 12]);
    body.extend(0u32.to_ne_bytes()); //                idiag_if
    body.extend((cookie as u32).to_ne_bytes()); //     idiag_cookie: 3.10 has the socket's address
    body.extend(((cookie >> 32) as u32).to_ne_bytes());
    body.extend([0; 12]); //                           idiag_expires, _rqueue, _wqueue
    body.extend(uid.to_ne_bytes()); //                 idiag_uid
    body.extend(inode.to_ne_bytes()); //               idiag_inode
    assert_eq!(body.len(), 72);
    body
}

fn read(body: &[u8], proto: u8) -> Option<sock_diag::Socket> {
    let bytes = message(BY_FAMILY, MULTI, 7, 4711, body);
    let mut messages = Messages::new(&bytes);
    let socket = sock_diag::parse(&messages.next()?.ok()?, proto);
    assert!(messages.next().is_none());
    socket
}

#[test]
fn an_answer_of_an_old_kernel_is_the_same_socket() {
    let address = 0xffff_8800_3b5e_4680; // as its own cookie
    let plain = answer(1, 0, address, 1000, 4711);
    let socket = read(&plain, TCP).unwrap();
    assert_eq!(
        (socket.proto, socket.state, socket.uid, socket.inode),
        (TCP, 1, 1000, 4711)
    );
    assert_eq!((socket.cookie, socket.interface), (address, 0));
    let mut ends = ([0; 16], [0; 16]);
    ends.0[..4].copy_from_slice(&[10, 1, 0, 6]);
    ends.1[..4].copy_from_slice(&[192, 0, 2, 80]);
    assert_eq!((socket.ends.src, socket.ends.dst), ends);
    assert_eq!(
        (socket.ends.sport, socket.ends.dport, socket.ends.ipv6),
        (40000, 443, false)
    );
    // What lies in unused words changes nothing, nor do the attributes that only some kernels add:
    // INET_DIAG_SHUTDOWN (8) of 3.10, and none.
    assert_eq!(
        read(&answer(1, 0xa5, address, 1000, 4711), TCP),
        Some(socket)
    );
    let with_shutdown = [plain.clone(), attribute(8, &[3])].concat();
    assert_eq!(read(&with_shutdown, TCP), Some(socket));
    assert_eq!(
        read(&plain, UDP).map(|udp| (udp.proto, udp.ends.proto)),
        Some((UDP, UDP))
    );
    // TIME_WAIT has nobody any more: inet_twsk_diag_fill writes zeros.
    let nobody = read(&answer(6, 0xa5, address, 0, 0), TCP).unwrap();
    assert_eq!((nobody.state, nobody.uid, nobody.inode), (6, 0, 0));
    for len in 0..plain.len() {
        assert_eq!(read(&plain[..len / 4 * 4], TCP), None, "{len}");
    }
}

/// Lines are padded with spaces to 149 characters (TMPSZ) from 2.6 to 4.x.
#[test]
fn a_line_of_proc_net_is_read_with_its_padding() {
    let word = |octets: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(octets));
    let (src, dst) = (word([10, 1, 0, 6]), word([192, 0, 2, 80]));
    let tcp = format!(
        "   1: {src}:9C40 {dst}:01BB 01 00000000:00000000 02:000AFC8B 00000000  1000        0 4711 2 ffff88003b5e4680 20 4 30 10 -1"
    );
    let udp = format!(
        "  421: {src}:14E9 {dst}:0035 01 00000000:00000000 00:00000000 00000000 65534        0 99 2 ffff88003b5e4680 0"
    );
    let read = |line: &str, proto| {
        let padded = format!("{line:<149}");
        assert_eq!(padded.len(), 149);
        proc_net::parse(padded.as_bytes(), false, proto).unwrap()
    };
    let socket = read(&tcp, TCP);
    assert_eq!((socket.state, socket.uid, socket.inode), (1, 1000, 4711));
    assert_eq!((socket.ends.sport, socket.ends.dport), (40000, 443));
    assert_eq!(socket.ends.dst[..5], [192, 0, 2, 80, 0]);
    let socket = read(&udp, UDP);
    assert_eq!(
        (
            socket.ends.sport,
            socket.ends.dport,
            socket.uid,
            socket.inode
        ),
        (5353, 53, 65534, 99)
    );
}
