//! Conntrack zones: entries of different ones may have the same tuple.

/// For which direction a conntrack zone holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ZoneDirection {
    /// Both directions (the usual case).
    #[default]
    Both,
    /// The original direction only.
    Original,
    /// The reply direction only.
    Reply,
}

/// A conntrack zone; number 0 is the default zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Zone {
    /// Zone number.
    pub id: u16,
    /// For which direction it holds.
    pub direction: ZoneDirection,
}

impl Zone {
    /// The zone of the original direction, and of the reply.
    #[cfg_attr(small, optimize(speed))]
    pub fn by_direction(self) -> (u16, u16) {
        match self.direction {
            ZoneDirection::Both => (self.id, self.id),
            ZoneDirection::Original => (self.id, 0),
            ZoneDirection::Reply => (0, self.id),
        }
    }
}
