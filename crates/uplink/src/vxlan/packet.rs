//! VXLAN's header (RFC 7348, 5).
//!
//! Pure functions over untrusted bytes.

/// Length of the header.
const LENGTH: usize = 8;
/// The I flag, which says that there is an identifier.
const HAS_VNI: u8 = 0x08;
/// The shortest frame: two addresses and a type.
const SHORTEST: usize = 14;

/// Why a datagram has no frame for this network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It has another header. RFC 7348 would have reserved bits ignored; but what sets them is an extension of it, which may
    /// have something else than a frame behind the header (VXLAN-GPE), and Linux ignores such datagrams too.
    NotVxlan,
    /// It is of another network.
    OtherNetwork,
    /// There is no frame in it, or only the beginning of one.
    Runt,
}

/// The header of frames of network `vni`, of which the lower 24 bits count.
#[must_use]
pub fn header(vni: u32) -> [u8; LENGTH] {
    let [_, a, b, c] = vni.to_be_bytes();
    [HAS_VNI, 0, 0, 0, a, b, c, 0]
}

/// The Ethernet frame in a datagram of network `vni`.
///
/// # Errors
/// When there is none.
pub fn frame_of(datagram: &[u8], vni: u32) -> Result<&[u8], Unfit> {
    let (first, frame) = datagram.split_first_chunk::<LENGTH>().ok_or(Unfit::Runt)?;
    let [flags, r1, r2, r3, a, b, c, r4] = *first;
    if flags != HAS_VNI || [r1, r2, r3, r4] != [0; 4] {
        return Err(Unfit::NotVxlan);
    }
    if u32::from_be_bytes([0, a, b, c]) != vni {
        return Err(Unfit::OtherNetwork);
    }
    if frame.len() < SHORTEST { Err(Unfit::Runt) } else { Ok(frame) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn datagram(vni: u32, frame: &[u8]) -> Vec<u8> {
        [&header(vni)[..], frame].concat()
    }

    #[test]
    fn what_is_not_a_frame_of_this_network_is_refused_with_the_reason() {
        let good = datagram(42, &[7; 60]);
        assert_eq!(good[..8], [8, 0, 0, 0, 0, 0, 42, 0]);
        assert_eq!(frame_of(&good, 42), Ok(&[7; 60][..]));
        assert_eq!(frame_of(&good, 43), Err(Unfit::OtherNetwork));
        for length in 0..22 {
            assert_eq!(frame_of(&good[..length], 42), Err(Unfit::Runt), "{length} bytes");
        }
        for (at, value) in [(0, 0), (0, 0x0c), (0, 0x88), (1, 1), (2, 1), (3, 3), (7, 1)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(frame_of(&bad, 42), Err(Unfit::NotVxlan), "{value:#x} at {at}");
        }
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(
            vni in 0u32..1 << 24,
            frame in proptest::collection::vec(any::<u8>(), 14..2000),
        ) {
            let datagram = datagram(vni, &frame);
            prop_assert_eq!(frame_of(&datagram, vni), Ok(frame.as_slice()));
        }

        #[test]
        fn any_datagram_is_a_frame_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            vni in 0u32..1 << 24,
        ) {
            if let Ok(frame) = frame_of(&bytes, vni) {
                prop_assert_eq!(datagram(vni, frame), bytes);
            }
        }
    }
}
