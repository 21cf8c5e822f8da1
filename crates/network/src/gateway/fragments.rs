//! Putting fragments of IP packets together (RFC 791, RFC 8200, 4.5), for datagrams longer than the network's packets.

use std::collections::VecDeque;
use std::time::Duration;

use super::Guest;
use super::emit::Pair;
use super::packet::Piece;
use super::shares;

/// Packets that are put together at once, of 64 KiB each; the one begun first makes room, of the guest that has most of them.
pub(super) const MOST_PACKETS: usize = 8;
/// Pieces of one packet: the longest one in the smallest pieces that a Linux host makes (its least MTU is 552 bytes).
const MOST_PIECES: usize = 128;
/// The longest payload that IP can count.
const LONGEST: usize = 65_535;
/// How long the missing pieces may take (Linux: `ipfrag_time`).
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Partial {
    key: (Pair, u8, u32),
    begun: Duration,
    /// Whose share it is of.
    guest: Guest,
    /// By offset; they never overlap.
    pieces: Vec<(usize, Vec<u8>)>,
    length: Option<usize>,
}

/// Packets of which not all is there.
#[derive(Debug, Default)]
pub(super) struct Fragments(VecDeque<Partial>);

impl Fragments {
    /// Takes a piece; returns the payload when it was the last one missing.
    pub(super) fn add(
        &mut self,
        now: Duration,
        (guest, pair): (Guest, Pair),
        protocol: u8,
        piece: Piece,
        payload: &[u8],
    ) -> Option<Vec<u8>> {
        self.0.retain(|partial| now.saturating_sub(partial.begun) < PATIENCE);
        let key = (pair, protocol, piece.identification);
        let mut partial =
            self.take(key).unwrap_or(Partial { key, begun: now, guest, pieces: Vec::new(), length: None });
        // One that contradicts the others makes all of them worthless (RFC 5722).
        partial.add(piece, payload)?;
        if let Some(whole) = partial.whole() {
            return Some(whole);
        }
        if self.0.len() >= MOST_PACKETS {
            self.make_room(guest);
        }
        self.0.push_back(partial);
        None
    }

    fn make_room(&mut self, guest: Guest) {
        let victim = shares::victim(self.0.iter().map(|partial| partial.guest), guest);
        let first = self.0.iter().position(|partial| victim.is_none_or(|victim| partial.guest == victim));
        self.0.remove(first.unwrap_or_default());
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    fn take(&mut self, key: (Pair, u8, u32)) -> Option<Partial> {
        let at = self.0.iter().position(|partial| partial.key == key)?;
        self.0.remove(at)
    }
}

impl Partial {
    fn add(&mut self, piece: Piece, payload: &[u8]) -> Option<()> {
        let end = piece.offset.checked_add(payload.len()).filter(|end| *end <= LONGEST)?;
        let aligned = piece.last || payload.len().is_multiple_of(8);
        if !aligned || payload.is_empty() || self.pieces.len() >= MOST_PIECES {
            return None;
        }
        let at = self.pieces.partition_point(|(offset, _)| *offset < piece.offset);
        let before = at.checked_sub(1).and_then(|at| self.pieces.get(at));
        let overlaps = before.is_some_and(|(offset, bytes)| offset + bytes.len() > piece.offset)
            || self.pieces.get(at).is_some_and(|(offset, _)| *offset < end);
        let beyond = self.length.is_some_and(|length| piece.last || end > length);
        let short = piece.last && self.pieces.last().is_some_and(|(offset, _)| *offset >= piece.offset);
        if overlaps || beyond || short {
            return None;
        }
        if piece.last {
            self.length = Some(end);
        }
        self.pieces.insert(at, (piece.offset, payload.to_vec()));
        Some(())
    }

    fn whole(&self) -> Option<Vec<u8>> {
        let length = self.length?;
        let there: usize = self.pieces.iter().map(|(_, bytes)| bytes.len()).sum();
        // They do not overlap, so as many bytes as there should be leave no gap.
        (there == length).then(|| self.pieces.iter().flat_map(|(_, bytes)| bytes).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gateway::emit;

    fn pair() -> Pair {
        Pair { from: [10, 0, 2, 15].into(), to: [10, 0, 2, 2].into() }
    }

    fn piece(offset: usize, last: bool) -> Piece {
        Piece { identification: 1, offset, last }
    }

    #[test]
    fn memory_is_bounded_by_packets_and_pieces() {
        let mut fragments = Fragments::default();
        for identification in 0..100 {
            let piece = Piece { identification, offset: 0, last: false };
            assert_eq!(fragments.add(Duration::ZERO, (Guest(0), pair()), 17, piece, &[0; 8]), None);
        }
        assert_eq!(fragments.0.len(), MOST_PACKETS);
        let mut fragments = Fragments::default();
        for number in 0..MOST_PIECES {
            fragments.add(Duration::ZERO, (Guest(0), pair()), 17, piece(number * 16, false), &[0; 8]);
        }
        assert_eq!(fragments.0.len(), 1);
        fragments.add(Duration::ZERO, (Guest(0), pair()), 17, piece(MOST_PIECES * 16, false), &[0; 8]);
        assert!(fragments.0.is_empty());
    }

    #[test]
    fn pieces_that_overlap_are_worth_nothing_and_old_ones_are_forgotten() {
        let mut fragments = Fragments::default();
        assert_eq!(fragments.add(Duration::ZERO, (Guest(0), pair()), 17, piece(0, false), &[1; 16]), None);
        assert_eq!(fragments.add(Duration::ZERO, (Guest(0), pair()), 17, piece(8, true), &[2; 8]), None);
        assert!(fragments.0.is_empty());
        fragments.add(Duration::ZERO, (Guest(0), pair()), 17, piece(0, false), &[1; 16]);
        assert_eq!(fragments.add(PATIENCE, (Guest(0), pair()), 17, piece(16, true), &[2; 8]), None);
        let whole = fragments.add(PATIENCE, (Guest(0), pair()), 17, piece(0, false), &[1; 16]);
        assert_eq!(whole, Some([[1; 8], [1; 8], [2; 8]].concat()));
    }

    proptest! {
        /// What `emit` takes apart is put together again, in whichever order it comes.
        #[test]
        fn pieces_in_any_order_make_the_whole(length in 1461usize..20_000, six: bool, seed: u64) {
            let payload: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let pair = if six {
                Pair { from: "fec0::15".parse().unwrap(), to: "fec0::2".parse().unwrap() }
            } else {
                pair()
            };
            let mut packets = emit::packets(pair, 17, &payload, 77);
            let count = packets.len();
            prop_assert!(count > 1);
            for at in 0..count {
                packets.swap(at, usize::try_from(seed % u64::try_from(count).unwrap()).unwrap());
            }
            let mut fragments = Fragments::default();
            let mut whole = None;
            let kind = emit::ether_type(pair.to);
            for packet in packets {
                prop_assert!(packet.len() <= emit::MTU);
                let bytes = emit::frame(super::super::GATEWAY_MAC, [2, 0, 0, 0, 0, 1], kind, &packet);
                let frame = crate::Frame::new(bytes);
                let Some(super::super::packet::Incoming::Ip(packet)) = super::super::packet::read(&frame, Guest(0)) else {
                    return Err(TestCaseError::fail("unreadable"));
                };
                let piece = packet.piece.unwrap();
                prop_assert_eq!(packet.protocol, 17);
                prop_assert!(whole.is_none());
                whole = fragments.add(Duration::ZERO, (packet.sender, packet.pair), packet.protocol, piece, packet.payload);
            }
            prop_assert_eq!(whole, Some(payload));
        }

        #[test]
        fn no_piece_is_too_odd(pieces in proptest::collection::vec((0usize..9000, any::<bool>(), 0usize..64), 0..40)) {
            let mut fragments = Fragments::default();
            for (offset, last, length) in pieces {
                if let Some(whole) = fragments.add(Duration::ZERO, (Guest(0), pair()), 17, piece(offset * 8, last), &vec![0; length]) {
                    prop_assert!(whole.len() <= LONGEST);
                }
            }
            prop_assert!(fragments.0.len() <= MOST_PACKETS);
        }
    }
}
