//! Access to a device-specific configuration space of any width at any offset (virtio 1.2, 4.1.3.1).

/// Fills `data` from `space` at `offset`; what lies past the end stays as it is.
pub(crate) fn read(space: &[u8], offset: u32, data: &mut [u8]) {
    let rest = usize::try_from(offset).ok().and_then(|offset| space.get(offset..)).unwrap_or_default();
    for (to, from) in data.iter_mut().zip(rest) {
        *to = *from;
    }
}
