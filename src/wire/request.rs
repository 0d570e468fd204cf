//! Writes netlink requests: the counterpart of the cursor, used at start and for dumps only.
//!
//! A request that cannot be expressed (an attribute over 65,535 bytes) is a mistake of ours, not of
//! the input; lengths saturate and the kernel refuses the message.

use super::kernel::NLA_F_NESTED;

const NLMSG_HDRLEN: usize = 16;

/// A growing run of netlink messages in one buffer.
#[derive(Clone, Debug, Default)]
pub struct Request {
    bytes: Vec<u8>,
    message_start: usize,
}

impl Request {
    /// Begins with one message: type, flags beyond none, sequence number, `nfgen_family`; res_id 0.
    pub fn new(kind: u16, flags: u16, sequence: u32, family: u8) -> Self {
        let mut request = Request::default();
        request.message(kind, flags, sequence, family, 0);
        request
    }

    /// Begins a further message. `resource` is nfgenmsg.res_id (a group or a subsystem number).
    pub fn message(&mut self, kind: u16, flags: u16, sequence: u32, family: u8, resource: u16) {
        self.header(kind, flags, sequence);
        self.bytes.extend([family, 0]); //              nfgen_family, version
        self.bytes.extend(resource.to_be_bytes()); //   res_id
        self.close();
    }

    fn header(&mut self, kind: u16, flags: u16, sequence: u32) {
        self.pad();
        self.message_start = self.bytes.len();
        self.bytes.extend(0u32.to_ne_bytes()); //       nlmsg_len, filled in by `close`
        self.bytes.extend(kind.to_ne_bytes()); //       nlmsg_type
        self.bytes.extend(flags.to_ne_bytes()); //      nlmsg_flags
        self.bytes.extend(sequence.to_ne_bytes()); //   nlmsg_seq
        self.bytes.extend(0u32.to_ne_bytes()); //       nlmsg_pid: the kernel
    }

    /// One message of another family of sockets, whose own header `body` is.
    pub fn plain(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Self {
        let mut request = Request::default();
        request.header(kind, flags, sequence);
        request.bytes.extend(body);
        request.close();
        request
    }

    /// Appends an attribute.
    pub fn put(&mut self, kind: u16, payload: &[u8]) {
        let start = self.begin(kind);
        self.bytes.extend(payload);
        self.end(start);
    }

    /// Appends a big-endian 32-bit attribute.
    pub fn put_be32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Appends a string attribute with its terminating NUL.
    pub fn put_str(&mut self, kind: u16, value: &str) {
        let start = self.begin(kind);
        self.bytes.extend(value.as_bytes());
        self.bytes.push(0);
        self.end(start);
    }

    /// Appends an attribute that holds what `fill` appends.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.begin(kind | NLA_F_NESTED);
        fill(self);
        self.end(start);
    }

    /// The bytes to send.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn begin(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend(0u16.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        start
    }

    fn end(&mut self, start: usize) {
        let len = u16::try_from(self.bytes.len().saturating_sub(start)).unwrap_or(u16::MAX);
        self.overwrite(start, &len.to_ne_bytes());
        self.pad();
        self.close();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn close(&mut self) {
        let len =
            u32::try_from(self.bytes.len().saturating_sub(self.message_start)).unwrap_or(u32::MAX);
        self.overwrite(self.message_start, &len.to_ne_bytes());
        debug_assert!(self.bytes.len() >= NLMSG_HDRLEN);
    }

    fn overwrite(&mut self, at: usize, with: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(at).zip(with) {
            *to = *from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::attr::Attributes;
    use super::super::message::Messages;
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut request = Request::new(0x0101, 0x301, 9, 2);
        request.put_str(1, "ab");
        request.nest(2, |inner| inner.put_be32(3, 0x0102_0304));
        request.message(0x0a00, 5, 10, 1, 10);
        let messages: Vec<_> = Messages::new(request.bytes()).map(Result::unwrap).collect();
        assert_eq!((messages[0].kind, messages[0].flags), (0x0101, 0x301));
        assert_eq!(
            (messages[1].kind, messages[1].body),
            (0x0a00, &[1, 0, 0, 10][..])
        );
        let (family, attributes) = messages[0].netfilter().unwrap();
        let attributes: Vec<_> = attributes.map(Result::unwrap).collect();
        assert_eq!((family, attributes[0]), (2, (1, &b"ab\0"[..])));
        let inner: Vec<_> = Attributes::new(attributes[1].1)
            .map(Result::unwrap)
            .collect();
        assert_eq!(inner, [(3, &[1, 2, 3, 4][..])]);
    }
}
