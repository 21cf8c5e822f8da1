//! The content of open files, moved between the host's file and guest memory in place.

use imago::io_buffers::{IoVector, IoVectorMut};
use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, fdatasync, fsync, seek};
use rustix::io::{preadv, pwritev, retry_on_intr};
use snowboot_virtio::{Reader, Writer};

use crate::{Errno, OpenFile, Result};

/// The most buffers of one system call (`IOV_MAX`, limits.h).
const MOST_BUFFERS: usize = 1024;

impl OpenFile {
    /// Reads up to `length` bytes from `offset` on into a guest's buffer, and returns how many there were: fewer at the end of
    /// the file or of the room, and nowhere else, also where the host's file system hands out less at a time.
    ///
    /// # Errors
    /// The host's, when it comes before the first byte.
    pub fn read_at(&self, to: &mut Writer, offset: u64, length: usize) -> Result<usize> {
        let mut done = 0usize;
        while done < length {
            let at = at(offset, done)?;
            let slices: Vec<_> = to.slices(length.saturating_sub(done)).take(MOST_BUFFERS).collect();
            let (vector, guard) = IoVectorMut::from_volatile_slice(&*slices);
            let mut buffers = vector.into_inner();
            let outcome = retry_on_intr(|| preadv(self, &mut buffers, at));
            drop((buffers, guard));
            drop(slices);
            match outcome {
                Ok(0) => break,
                Ok(count) => done = done.saturating_add(to.advance(count)),
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    /// Writes up to `length` bytes of a guest's buffer from `offset` on, or at the end of a file that was opened for that, and
    /// returns how many the host took: fewer when it could take no more.
    ///
    /// # Errors
    /// The host's, when it comes before the first byte.
    pub fn write_at(&self, from: &mut Reader, offset: u64, length: usize) -> Result<usize> {
        let mut done = 0usize;
        while done < length {
            let at = at(offset, done)?;
            let slices: Vec<_> = from.slices(length.saturating_sub(done)).take(MOST_BUFFERS).collect();
            let (vector, guard) = IoVector::from_volatile_slice(&*slices);
            let buffers = vector.into_inner();
            let outcome = retry_on_intr(|| pwritev(self, &buffers, at));
            drop((buffers, guard));
            drop(slices);
            match outcome {
                Ok(0) => break,
                Ok(count) => done = done.saturating_add(from.skip(count)),
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    /// Makes what was written last, and with it what the guest can see of the file besides, unless it is the content `only`.
    ///
    /// # Errors
    /// The host's.
    pub fn sync(&self, only_content: bool) -> Result<()> {
        retry_on_intr(|| if only_content { fdatasync(self) } else { fsync(self) })
    }

    /// Reserves or gives up space, as fallocate(2) has it in `mode`.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for modes that are not known; else the host's.
    pub fn allocate(&self, mode: u32, offset: u64, length: u64) -> Result<()> {
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
        retry_on_intr(|| fallocate(self, mode, offset, length))
    }

    /// The next data (or else hole) from `offset` on, as lseek(2) finds it.
    ///
    /// # Errors
    /// `ENXIO` when there is none; else the host's.
    pub fn seek_data(&self, offset: u64, hole: bool) -> Result<u64> {
        seek(self, if hole { SeekFrom::Hole(offset) } else { SeekFrom::Data(offset) })
    }

    /// Copies within the host, and returns how many bytes it copied at once.
    ///
    /// # Errors
    /// The host's.
    pub fn copy_to(&self, offset: u64, to: &Self, to_offset: u64, length: usize) -> Result<usize> {
        let (mut from_at, mut to_at) = (offset, to_offset);
        retry_on_intr(|| copy_file_range(self, Some(&mut from_at), to, Some(&mut to_at), length))
    }
}

/// Where to go on after `done` bytes.
fn at(offset: u64, done: usize) -> Result<u64> {
    u64::try_from(done).ok().and_then(|done| offset.checked_add(done)).ok_or(Errno::INVAL)
}
