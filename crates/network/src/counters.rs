//! What happened at a port, since it was attached. Plain data, kept by the switch.

use std::fmt;

/// Counters of one port.
///
/// They add up: `sent` is `forwarded` plus everything in `refused`; over all ports of a switch, `copies` is `arrived`
/// plus `lost.full` plus `lost.link_down`, without faults; `arrived` is `received` plus `lost.flushed` plus `lost.unfinished` plus what
/// still waits. With faults `copies` plus `added` is that plus `lost.faults` plus what is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that the owner handed in and the switch took.
    pub sent: u64,
    /// Those for which the switch knew at least one receiver.
    pub forwarded: u64,
    /// Their bytes.
    pub forwarded_bytes: u64,
    /// Receivers of those, together: one each for unicast, all other ports for flooded ones.
    pub copies: u64,
    /// Times that the owner was told to keep a frame because the receiver had no room.
    pub held_back: u64,
    /// Frames that were queued for the owner.
    pub arrived: u64,
    /// Frames that the owner took from the queue; one that was cut counts once.
    pub received: u64,
    /// Their bytes, before any cutting.
    pub received_bytes: u64,
    /// Frames that came out of cutting others.
    pub segments: u64,
    /// Frames for the owner that faults have made of others: duplicates, and the packets of frames that were cut (but one).
    pub added: u64,
    /// Frames from the owner that went nowhere.
    pub refused: Refused,
    /// Frames for the owner that it did not get.
    pub lost: Lost,
}

/// In one line: what went in and came out, and what got lost and why, if there was any.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sent {} frames ({} bytes), ", self.forwarded, self.forwarded_bytes)?;
        write!(f, "received {} ({} bytes)", self.received, self.received_bytes)?;
        let Self { refused, lost, .. } = self;
        let rest = [
            (self.held_back, "held back for want of room"),
            (self.segments, "packets cut from longer ones"),
            (refused.length, "of no length of frames refused"),
            (refused.malformed, "malformed refused"),
            (refused.link_down, "refused without a link"),
            (refused.nowhere, "for nobody"),
            (lost.full, "lost for want of room"),
            (lost.link_down, "lost without a link"),
            (lost.flushed, "lost at a reset"),
            (lost.unfinished, "lost for what cannot be cut"),
            (lost.faults, "lost by faults"),
        ];
        rest.iter()
            .filter(|(count, _)| *count > 0)
            .try_for_each(|(count, what)| write!(f, ", {count} {what}"))
    }
}

/// Frames from a port's owner that went nowhere, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Shorter than an Ethernet header, or longer than any frame.
    pub length: u64,
    /// The offload metadata does not fit the frame.
    pub malformed: u64,
    /// The owner's link is down.
    pub link_down: u64,
    /// The receiver is behind the same port, or there is no other port.
    pub nowhere: u64,
}

impl Refused {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.length.saturating_add(self.malformed).saturating_add(self.link_down).saturating_add(self.nowhere)
    }
}

/// Frames for a port's owner that it did not get, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// There was no room, and the sender was not to wait: the owner is not ready, or has not taken frames for too long,
    /// or the frame had other receivers too, whose share of the queue was used up.
    pub full: u64,
    /// The link was down.
    pub link_down: u64,
    /// Queued, then thrown away because the owner became unready or its link went down.
    pub flushed: u64,
    /// Queued, but the owner takes only packets that are cut, and the switch cannot cut this one: TCP or UDP behind an IPv6
    /// routing header that is in use, or behind more than 512 bytes of headers.
    pub unfinished: u64,
    /// Taken by a fault: a cut or a partition, a loss, a queue that was full, or a frame of several packets that could not be
    /// cut into them.
    pub faults: u64,
}

impl Lost {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        [self.full, self.link_down, self.flushed, self.unfinished, self.faults]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_only_the_losses_that_there_were() {
        let mut counters = Counters { forwarded: 2, forwarded_bytes: 120, ..Counters::default() };
        assert_eq!(counters.to_string(), "sent 2 frames (120 bytes), received 0 (0 bytes)");
        counters.lost.full = 3;
        counters.refused.malformed = 1;
        let text = counters.to_string();
        assert!(text.ends_with("(0 bytes), 1 malformed refused, 3 lost for want of room"), "{text}");
    }
}
