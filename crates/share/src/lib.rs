//! Folders of the host, given to guests.
//!
//! [`Tree`] is a folder and all that is below it, as nodes with a stable identity; the servers of protocols translate
//! between it and a guest's messages.
//!
//! # Invariants
//! * Nothing a guest says leads out of the folder: a step is one checked [`Name`] from a descriptor of a folder to what is
//!   in it, no symbolic link and no magic link is followed, and `..` is answered from the table of nodes.
//! * A node is the file that it was when the guest found it, or its use fails with `ESTALE`; no other file takes its place.
//! * The data of files moves between the host's file and guest memory in place.
//! * Nodes, open files and cached descriptors are bounded; a descriptor is open only where one is needed.
//! * Nothing here spawns a thread, sleeps, or reads a clock. Calls wait for the host's storage, never for locks.
#![forbid(unsafe_code)]

mod attributes;
mod data;
mod fields;
pub mod fuse;
mod locks;
mod name;
pub mod ninep;
mod nodes;
mod owners;
mod recent;
mod tree;
mod trouble;

pub use attributes::{Attributes, Kind, Time};
pub use locks::{Lock, LockKind};
pub use name::Name;
pub use nodes::NodeId;
pub use tree::{
    Changes, Creation, Entry, Exchange, FolderEntry, FolderReader, OpenFile, OpenHow, SetTime, ShareError,
    Tree, TreeOptions,
};
pub use trouble::Trouble;

/// What a guest is told when something cannot be done.
pub use rustix::io::Errno;

/// The outcome of an operation for a guest.
pub type Result<T, E = Errno> = std::result::Result<T, E>;
