//! The FUSE server: a guest's kernel asks, the tree answers.
//!
//! Requests are served in the call that brings them, but for locks that have to be waited for: such a request stays here until
//! [`Server::retry`] gets its lock. The server keeps what it has told its guest of (nodes, open files); the guest's INIT
//! begins anew.
//!
//! What costs a guest most is a round trip, so that all is offered that saves some: attributes with names ([`Cache`] says for
//! how long they hold), requests of 1 MiB, and on shares that cannot change no opening and closing at all.

mod files;
mod folders;
mod init;
mod locks;
mod names;
mod nodes;
mod wire;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use snowboot_virtio::DescriptorChain;

use self::locks::Waiting;
use self::wire::{Fields, Header, OUT_HEADER, Opcode, Put, fields};
use crate::recent::Recent;
use crate::trouble::Troubles;
use crate::{Attributes, Entry, Errno, FolderReader, NodeId, OpenFile, Result, Tree, Trouble};

/// The longest request but for data to write: an extended attribute of 64 KiB with its name, or forgetting 8192 nodes.
const LONGEST_REQUEST: usize = 160 << 10;
/// The largest read or write, in bytes: 256 pages, as many as Linux puts into a request by itself.
const LARGEST_TRANSFER: u32 = 1 << 20;
/// Files and folders that are kept open between requests where the guest does not open any by itself.
const MOST_KEPT: usize = 128;
/// As upstream's file server has it for the policy `always`: a day.
const LONG: Duration = Duration::from_secs(86_400);
const SHORT: Duration = Duration::from_secs(1);

/// What a guest may believe without asking again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// All it has seen, for a day: only the guest changes anything, or nobody does.
    #[default]
    Always,
    /// Names and attributes for a second, content until a file is opened the next time or is seen to have changed.
    Auto,
    /// Nothing.
    Never,
}

/// Serves one guest.
#[derive(Debug)]
pub struct Server {
    tree: Tree,
    cache: Cache,
    /// What was agreed on in INIT.
    agreed: Option<init::Agreed>,
    files: HashMap<u64, Arc<OpenFile>>,
    folders: HashMap<u64, FolderReader>,
    next_handle: u64,
    kept_files: Recent<NodeId, Arc<OpenFile>>,
    kept_folders: Recent<NodeId, FolderReader>,
    waiting: Vec<Waiting>,
    troubles: Troubles,
    /// The request's fields, and the answer's; kept so that they are allocated once.
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Server {
    /// A server of `tree`, for a guest that has not said anything yet.
    #[must_use]
    pub fn new(tree: Tree, cache: Cache) -> Self {
        Self {
            tree,
            cache,
            agreed: None,
            files: HashMap::new(),
            folders: HashMap::new(),
            next_handle: 1,
            kept_files: Recent::new(MOST_KEPT),
            kept_folders: Recent::new(MOST_KEPT),
            waiting: Vec::new(),
            troubles: Troubles::default(),
            input: Vec::new(),
            output: Vec::new(),
        }
    }

    /// Whether a guest has begun to use it.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.agreed.is_some()
    }

    /// Forgets its guest. Requests that still wait are dropped: [take](Self::take_waiting) them first.
    pub fn reset(&mut self) {
        self.agreed = None;
        self.files.clear();
        self.folders.clear();
        self.kept_files.clear();
        self.kept_folders.clear();
        self.waiting.clear();
        self.tree.reset();
    }

    /// Serves one request, which came by `queue`. It comes back answered; `None` when it has to wait for a lock.
    pub fn serve(&mut self, queue: u16, mut chain: DescriptorChain) -> Option<DescriptorChain> {
        let Some(header) = Header::read(&mut chain.reader) else { return Some(chain) };
        let opcode = Opcode::parse(header.opcode);
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        if length != chain.reader.remaining().saturating_add(wire::IN_HEADER) {
            if !matches!(opcode, Some(Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt)) {
                refuse(&mut chain, header, Errno::INVAL);
            }
            return Some(chain);
        }
        match opcode {
            Some(Opcode::Read) => self.read(header, &mut chain),
            Some(Opcode::Write) => self.write(header, &mut chain),
            Some(Opcode::SetLkW) => return self.wait_for_lock(queue, header, chain),
            Some(opcode) => self.serve_small(header, opcode, &mut chain),
            None => refuse(&mut chain, header, Errno::NOSYS),
        }
        Some(chain)
    }

    /// Serves a request whose fields and answer are short.
    fn serve_small(&mut self, header: Header, opcode: Opcode, chain: &mut DescriptorChain) {
        let mut input = std::mem::take(&mut self.input);
        let length = chain.reader.remaining();
        let outcome = if length > LONGEST_REQUEST {
            Err(Errno::INVAL)
        } else {
            input.resize(length, 0);
            match chain.reader.read_exact(&mut input) {
                Ok(()) => {
                    self.output.clear();
                    self.output.resize(OUT_HEADER, 0);
                    let room = chain.writer.remaining().saturating_sub(OUT_HEADER);
                    self.dispatch(header, opcode, fields(&input), room)
                }
                Err(_) => Err(Errno::INVAL),
            }
        };
        self.input = input;
        if matches!(opcode, Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt) {
            return;
        }
        match outcome {
            Ok(()) => self.answer(header, chain),
            Err(errno) => self.fail(header, chain, errno),
        }
    }

    fn dispatch(&mut self, header: Header, opcode: Opcode, fields: Fields<'_>, room: usize) -> Result<()> {
        if self.agreed.is_none() && opcode != Opcode::Init {
            return Err(Errno::IO);
        }
        let node = NodeId::from_raw(header.node);
        match opcode {
            Opcode::Init => self.init(fields),
            Opcode::Destroy => {
                self.reset();
                Ok(())
            }
            Opcode::Interrupt => self.interrupt(fields),
            Opcode::Forget | Opcode::BatchForget => self.forget(node, opcode, fields),
            Opcode::Lookup => self.lookup(node, fields),
            Opcode::GetAttr => self.get_attributes(node, fields),
            Opcode::SetAttr => self.set_attributes(node, fields),
            Opcode::ReadLink => self.read_link(node),
            Opcode::Access => self.access(node, fields),
            Opcode::StatFs => self.file_system(node),
            Opcode::SyncFs => self.sync_file_system(node),
            Opcode::SetXattr => self.set_xattr(node, fields),
            Opcode::GetXattr | Opcode::ListXattr => self.get_xattr(node, opcode, fields),
            Opcode::RemoveXattr => self.remove_xattr(node, fields),
            Opcode::SymLink | Opcode::MkNod | Opcode::MkDir | Opcode::Link => {
                self.make(header, opcode, fields)
            }
            Opcode::Unlink | Opcode::RmDir => self.remove(node, opcode, fields),
            Opcode::Rename | Opcode::Rename2 => self.rename(node, opcode, fields),
            Opcode::Create | Opcode::TmpFile => self.create(header, opcode, fields),
            Opcode::Open => self.open(node, fields),
            Opcode::Release => self.release(fields),
            Opcode::Flush => self.flush(node, fields),
            Opcode::FSync => self.sync(node, fields),
            Opcode::FAllocate => self.allocate(node, fields),
            Opcode::LSeek => self.seek(node, fields),
            Opcode::CopyFileRange => self.copy(node, fields),
            Opcode::OpenDir => self.open_folder(node),
            Opcode::ReadDir | Opcode::ReadDirPlus => self.read_folder(node, opcode, fields, room),
            Opcode::ReleaseDir => self.release_folder(fields),
            Opcode::FSyncDir => self.tree.sync_folder(node),
            Opcode::GetLk => self.find_lock(node, fields),
            Opcode::SetLk => self.set_lock(node, fields),
            // What it would reach is the guest's own business, or the host's.
            Opcode::Ioctl => Err(Errno::NOTTY),
            Opcode::Read | Opcode::Write | Opcode::SetLkW => Err(Errno::INVAL),
        }
    }

    /// Sends the answer that is in `output`.
    fn answer(&mut self, header: Header, chain: &mut DescriptorChain) {
        let length = self.output.len();
        if length > chain.writer.remaining() {
            return refuse(chain, header, Errno::INVAL);
        }
        let start = out_header(length, 0, header.unique);
        if let Some(place) = self.output.first_chunk_mut() {
            *place = start;
        }
        let _ = chain.writer.write_all(&self.output);
    }

    /// Answers that a request has failed, and notes it if that is the host's doing.
    fn fail(&mut self, header: Header, chain: &mut DescriptorChain, errno: Errno) {
        let opcode = Opcode::parse(header.opcode);
        // Programs look for many names that are not there; whether the share itself is, its root tells.
        let is_usual = errno == Errno::NOENT
            && opcode == Some(Opcode::Lookup)
            && NodeId::from_raw(header.node) != NodeId::ROOT;
        if self.is_in_use() && !is_usual {
            self.troubles.note(&self.tree, opcode.map_or("a request", Opcode::what), errno);
        }
        refuse(chain, header, errno);
    }

    /// Why requests fail by the host's doing; each kind of it once.
    pub fn next_trouble(&mut self) -> Option<Trouble> {
        self.troubles.next()
    }

    fn new_handle(&mut self) -> u64 {
        let handle = self.next_handle;
        self.next_handle = handle.wrapping_add(1);
        handle
    }

    /// How long names and attributes hold.
    fn validity(&self) -> Duration {
        match self.cache {
            Cache::Always => LONG,
            Cache::Auto => SHORT,
            Cache::Never => Duration::ZERO,
        }
    }

    /// `fuse_entry_out`.
    fn put_entry(&mut self, entry: &Entry) {
        let valid = self.validity().as_secs();
        for field in [entry.node.raw(), 0, valid, valid, 0] {
            self.output.u64(field);
        }
        self.output.attributes(&entry.attributes);
    }

    /// `fuse_attr_out`.
    fn put_attributes(&mut self, attributes: &Attributes) {
        self.output.u64(self.validity().as_secs());
        self.output.u64(0);
        self.output.attributes(attributes);
    }
}

/// Answers with an error, if there is room for an answer.
fn refuse(chain: &mut DescriptorChain, header: Header, errno: Errno) {
    if chain.writer.remaining() >= OUT_HEADER {
        let error = errno.raw_os_error().saturating_neg();
        let _ = chain.writer.write_all(&out_header(OUT_HEADER, error, header.unique));
    }
}

fn out_header(length: usize, error: i32, unique: u64) -> [u8; OUT_HEADER] {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let [l0, l1, l2, l3] = length.to_le_bytes();
    let [e0, e1, e2, e3] = error.to_le_bytes();
    let [u0, u1, u2, u3, u4, u5, u6, u7] = unique.to_le_bytes();
    [l0, l1, l2, l3, e0, e1, e2, e3, u0, u1, u2, u3, u4, u5, u6, u7]
}
