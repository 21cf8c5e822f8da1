//! One request's chain, cut into what the specification sees in it: header, data, and a status byte at the very end of
//! the device-writable part, wherever the driver put the borders between descriptors (virtio 1.2, 2.7.4.2).

use std::io::{self, Write};

use snowboot_virtio::{DescriptorChain, Reader, Writer};

use super::disk::Disk;
use super::wire::Status;

/// What a request carries besides its status.
pub(super) struct Payload<'a> {
    /// What the driver sent and is not read yet.
    pub(super) reader: &'a mut Reader,
    /// Room for data.
    pub(super) writer: &'a mut Writer,
}

/// Serves a request and writes its status. Without room for a status nothing is done: nobody could learn of it.
pub(super) fn answer(
    mut chain: DescriptorChain,
    serve: impl FnOnce(Payload<'_>) -> Status,
) -> DescriptorChain {
    let Some(data) = chain.writer.remaining().checked_sub(1) else { return chain };
    let Ok(mut last) = chain.writer.split_at(data) else { return chain };
    let status = serve(Payload { reader: &mut chain.reader, writer: &mut chain.writer });
    let _ = last.write_all(&[status as u8]);
    chain.writer.join(last);
    chain
}

impl Payload<'_> {
    /// Fills all of the room from the disk, in place.
    pub(super) fn read_from(&mut self, disk: &Disk, offset: u64) -> io::Result<()> {
        let length = self.writer.remaining();
        let slices: Vec<_> = self.writer.slices(length).collect();
        disk.read(&slices, offset)?;
        drop(slices);
        self.writer.advance(length);
        Ok(())
    }

    /// Writes all that is left to read to the disk, in place.
    pub(super) fn write_to(&mut self, disk: &Disk, offset: u64) -> io::Result<()> {
        let length = self.reader.remaining();
        let slices: Vec<_> = self.reader.slices(length).collect();
        disk.write(&slices, offset)?;
        drop(slices);
        self.reader.skip(length);
        Ok(())
    }
}
