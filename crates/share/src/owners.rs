//! Users and groups: what a guest sees as whose, and the way back.
//!
//! As the NixOS test driver has its file server do it: what belongs to this process, and what belongs to nobody (65534, as which
//! sandboxes show the files of users that they do not know), belongs to the guest's root.

use rustix::fs::{Gid, Uid};

/// Nobody and nogroup: the kernel's overflow ids (`/proc/sys/kernel/overflowuid`).
const NOBODY: u32 = 65534;
const ROOT: u32 = 0;

/// The ids of this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owners {
    uid: u32,
    gid: u32,
}

impl Owners {
    pub(crate) fn of_process() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    /// Whether this process can give files to others.
    pub(crate) fn can_give_away(self) -> bool {
        self.uid == ROOT
    }

    pub(crate) fn guest_uid(self, host: u32) -> u32 {
        to_guest(host, self.uid)
    }

    pub(crate) fn guest_gid(self, host: u32) -> u32 {
        to_guest(host, self.gid)
    }

    pub(crate) fn host_uid(self, guest: u32) -> Uid {
        Uid::from_raw(if guest == ROOT { self.uid } else { guest })
    }

    pub(crate) fn host_gid(self, guest: u32) -> Gid {
        Gid::from_raw(if guest == ROOT { self.gid } else { guest })
    }
}

fn to_guest(host: u32, own: u32) -> u32 {
    if host == own || host == NOBODY { ROOT } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_or_nobodys_is_roots() {
        let owners = Owners { uid: 1000, gid: 100 };
        assert_eq!([1000, 65534, 0, 5].map(|uid| owners.guest_uid(uid)), [0, 0, 0, 5]);
        assert_eq!([100, 65534, 1000].map(|gid| owners.guest_gid(gid)), [0, 0, 1000]);
        assert_eq!([0, 5].map(|uid| owners.host_uid(uid).as_raw()), [1000, 5]);
        assert_eq!([0, 5].map(|gid| owners.host_gid(gid).as_raw()), [100, 5]);
    }
}
