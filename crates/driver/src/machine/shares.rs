//! Where the folders of a machine's shares are in this run, and the sockets of its forwards.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use snowboot_config::{NodeConfig, ShareConfig, SocketForward, UplinkConfig, UplinkKind};

use super::MachineHandle;
use crate::error::Error;
use crate::expand::expand;
use crate::folders::Folders;

/// The variables that the NixOS test driver sets for the start of a machine: its own folder, and the one for all.
const OF_MACHINE: &str = "TMPDIR";
const OF_ALL: &str = "SHARED_DIR";

impl MachineHandle {
    /// Its description, with the paths that are given by variables as they are in this run.
    pub(super) fn node_in_run(&self) -> Result<Cow<'_, NodeConfig>, Error> {
        let node = self.node();
        let of_sockets = node.user_network.iter().flat_map(|network| &network.forward_sockets);
        if !node.shares.iter().any(ShareConfig::has_variables)
            && !of_sockets.clone().any(SocketForward::has_variables)
        {
            return Ok(Cow::Borrowed(node));
        }
        let mut node = node.clone();
        find_paths(self.name(), &mut node, &self.state_folder()?, &self.shared_folder()?)?;
        Ok(Cow::Owned(node))
    }
}

/// Puts the paths of `machine` that are given by variables as they are where `state` is the machine's own folder (`TMPDIR`), and
/// `shared` the one for all machines (`SHARED_DIR`): those of shares, and of sockets that are forwarded. Shared folders below those
/// two are made.
///
/// # Errors
/// When a path cannot be understood, a variable is not set, or a folder cannot be made.
pub fn find_paths(machine: &str, node: &mut NodeConfig, state: &Path, shared: &Path) -> Result<(), Error> {
    let own = [(OF_MACHINE, state), (OF_ALL, shared)];
    for share in node.shares.iter_mut().filter(|share| share.has_variables()) {
        share.path = folder_of(machine, share, &own)?;
    }
    let sockets = node.user_network.iter_mut().flat_map(|network| &mut network.forward_sockets);
    for socket in sockets.filter(|socket| socket.has_variables()) {
        let wrong = |why: String| {
            Error::setup(format!(
                "{machine}: the socket of a forward is `{}`, and {why}",
                socket.host.display()
            ))
        };
        socket.host = in_run(&socket.host, &own).map_err(wrong)?;
    }
    Ok(())
}

/// The uplinks of a test, with the paths of sockets that are given by variables as they are in this run. They are no machine's, so
/// that `TMPDIR` is the one of the whole process.
pub(crate) fn uplinks_in_run(
    uplinks: &[UplinkConfig],
    folders: &Folders,
) -> Result<Vec<UplinkConfig>, Error> {
    let mut uplinks = uplinks.to_vec();
    let sockets = uplinks.iter_mut().filter_map(|uplink| match &mut uplink.leads_to {
        UplinkKind::UserNetwork(config) => Some(&mut config.forward_sockets),
        _ => None,
    });
    for socket in sockets.flatten().filter(|socket| socket.has_variables()) {
        let wrong = |why: String| {
            Error::setup(format!("the socket of a forward is `{}`, and {why}", socket.host.display()))
        };
        let shared =
            folders.shared().map_err(|error| wrong(format!("there is no shared folder: {error}")))?;
        socket.host = in_run(&socket.host, &[(OF_ALL, &shared)]).map_err(wrong)?;
    }
    Ok(uplinks)
}

fn folder_of(machine: &str, share: &ShareConfig, own: &[(&str, &Path)]) -> Result<PathBuf, Error> {
    let wrong = |why: String| {
        let source = share.path.display();
        Error::setup(format!("{machine}: the share `{}` is of `{source}`, and {why}", share.tag))
    };
    let folder = in_run(&share.path, own).map_err(wrong)?;
    // The start script of a NixOS machine makes those below its own folders.
    if own.iter().any(|(_, of_run)| is_below(&folder, of_run)) {
        fs::create_dir_all(&folder).map_err(|error| wrong(format!("it cannot be made: {error}")))?;
    }
    Ok(folder)
}

/// A path without its variables.
fn in_run(path: &Path, own: &[(&str, &Path)]) -> Result<PathBuf, String> {
    let variable = |name: &str| -> Option<OsString> {
        let ours = own.iter().find(|(known, _)| *known == name);
        ours.map(|(_, folder)| folder.into()).or_else(|| std::env::var_os(name))
    };
    let word = path.to_str().ok_or_else(|| "that is not Unicode".to_owned())?;
    expand(word, &variable).map(PathBuf::from)
}

fn is_below(folder: &Path, of_run: &Path) -> bool {
    let rest = folder.strip_prefix(of_run).ok();
    rest.is_some_and(|rest| rest.components().all(|part| matches!(part, std::path::Component::Normal(_))))
}
