//! Which protocols have ports (or keys), and which of them conntrack may track without.

use super::conntrack::Tuple;
use super::kernel::*;

impl Tuple {
    /// Whether the protocol has ports (or keys) that conntrack can tell flows apart by.
    pub fn can_have_ports(&self) -> bool {
        matches!(self.proto, IPPROTO_TCP | IPPROTO_UDP) || self.can_lack_ports()
    }

    /// Whether conntrack may track the protocol by its addresses alone: a kernel without its module, or
    /// built without it, sends no ports.
    fn can_lack_ports(&self) -> bool {
        matches!(
            self.proto,
            IPPROTO_DCCP | IPPROTO_GRE | IPPROTO_SCTP | IPPROTO_UDPLITE
        )
    }

    /// Whether there are ports (or keys) in it. Where the kernel sent none both are zero, which of such
    /// a protocol they never are otherwise (but for GRE without a key).
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn has_ports(&self) -> bool {
        self.can_have_ports() && !(self.can_lack_ports() && (self.sport, self.dport) == (0, 0))
    }

    /// What conntrack makes of it where it tracks the protocol by its addresses alone.
    pub fn without_ports(&self) -> Option<Tuple> {
        (self.can_lack_ports() && self.has_ports()).then_some(Tuple {
            sport: 0,
            dport: 0,
            ..*self
        })
    }
}
