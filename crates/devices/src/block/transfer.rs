//! One request's chain, cut into what the specification sees in it: header, data, and a status byte at the very end of
//! the device-writable part, wherever the driver put the borders between descriptors (virtio 1.2, 2.7.4.2).

use std::io::{self, Write};
use std::sync::Arc;

use snowboot_virtio::{DescriptorChain, GuestSlice, Reader, Writer};

use super::disk::{Disk, read_file};
use super::file::ImageFile;
use super::wire::Status;

/// What a request carries besides its status.
pub(super) struct Payload<'a> {
    /// What the driver sent and is not read yet.
    pub(super) reader: &'a mut Reader,
    /// Room for data.
    pub(super) writer: &'a mut Writer,
}

/// A request whose status is not written yet.
#[derive(Debug)]
pub(super) struct Pending {
    chain: DescriptorChain,
    status: Writer,
}

impl Pending {
    /// What it carries.
    pub(super) fn payload(&mut self) -> Payload<'_> {
        Payload { reader: &mut self.chain.reader, writer: &mut self.chain.writer }
    }

    /// All of the room for data.
    pub(super) fn room(&self) -> impl Iterator<Item = GuestSlice<'_>> {
        self.chain.writer.slices(self.expected())
    }

    /// How much room there is, in bytes.
    pub(super) fn expected(&self) -> usize {
        self.chain.writer.remaining()
    }

    /// Counts all of the room as written.
    pub(super) fn filled(&mut self) {
        self.chain.writer.advance(self.chain.writer.remaining());
    }

    /// Writes the status.
    pub(super) fn finish(mut self, status: Status) -> DescriptorChain {
        let _ = self.status.write_all(&[status as u8]);
        self.chain.writer.join(self.status);
        self.chain
    }
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum Answer<L> {
    Done(DescriptorChain),
    Later(Pending, L),
}

/// Serves a request and writes its status, unless that is to come later.
pub(super) fn answer<L>(
    mut chain: DescriptorChain,
    serve: impl FnOnce(Payload<'_>) -> Result<Status, L>,
) -> Answer<L> {
    // Without room for a status nothing is done: nobody could learn of it.
    let Some(data) = chain.writer.remaining().checked_sub(1) else { return Answer::Done(chain) };
    let Ok(status) = chain.writer.split_at(data) else { return Answer::Done(chain) };
    let mut pending = Pending { chain, status };
    match serve(pending.payload()) {
        Ok(status) => Answer::Done(pending.finish(status)),
        Err(later) => Answer::Later(pending, later),
    }
}

impl Payload<'_> {
    /// Fills all of the room from the disk, in place; where `can_come_later` is set, unless that would have to wait: then the
    /// file to [fill it from](Self::fill_from) is returned.
    pub(super) fn read_from(
        &mut self,
        disk: &Disk,
        offset: u64,
        can_come_later: bool,
    ) -> io::Result<Option<Arc<ImageFile>>> {
        let length = self.writer.remaining();
        let slices: Vec<_> = self.writer.slices(length).collect();
        let later = match can_come_later {
            true => disk.read_at_once(&slices, offset)?,
            false => disk.read(&slices, offset).map(|()| None)?,
        };
        drop(slices);
        if later.is_none() {
            self.writer.advance(length);
        }
        Ok(later)
    }

    /// Fills all of the room from an image's file, in place.
    pub(super) fn fill_from(&mut self, file: &ImageFile, offset: u64) -> io::Result<()> {
        let length = self.writer.remaining();
        let slices: Vec<_> = self.writer.slices(length).collect();
        read_file(file, &slices, offset)?;
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
