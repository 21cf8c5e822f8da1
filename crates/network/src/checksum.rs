//! The Internet checksum (RFC 1071).

/// An unfolded ones' complement sum of 16-bit big-endian words.
///
/// 64 bits cannot overflow: a frame adds fewer than 2^15 words of 32 bits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Adds `bytes`, which begin at an even distance from the start of the sum; an odd end is padded with zero.
    pub(crate) fn add(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        let sum: u64 = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum();
        Self(self.0.wrapping_add(sum).wrapping_add(u64::from(u32::from_be_bytes(last))))
    }

    /// Adds one number.
    pub(crate) fn add_number(self, number: u32) -> Self {
        Self(self.0.wrapping_add(u64::from(number)))
    }

    /// The checksum: folded to 16 bits and complemented.
    pub(crate) fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap_or(u16::MAX)
    }

    /// The checksum of a transport header, where zero would mean "none" to UDP (RFC 768). Its complement is as good for
    /// every protocol.
    pub(crate) fn finish_transport(self) -> u16 {
        match self.finish() {
            0 => 0xffff,
            checksum => checksum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_of_rfc_1071() {
        let sum = Sum::default().add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.finish(), !0xddf2);
    }

    #[test]
    fn every_length_agrees_with_words_of_16_bits() {
        let bytes: Vec<u8> = (0..=255).cycle().take(700).collect();
        for length in 0..bytes.len() {
            let mut slow = 0u32;
            for pair in bytes[..length].chunks(2) {
                slow += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
                slow = (slow & 0xffff) + (slow >> 16);
            }
            assert_eq!(u32::from(!Sum::default().add(&bytes[..length]).finish()), slow, "{length} bytes");
        }
    }

    #[test]
    fn a_transport_checksum_is_never_zero() {
        assert_eq!(Sum::default().add(&[0xff, 0xff]).finish(), 0);
        assert_eq!(Sum::default().add(&[0xff, 0xff]).finish_transport(), 0xffff);
    }
}
