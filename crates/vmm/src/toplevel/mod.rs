//! Reading a NixOS toplevel: the folder that `nixos-rebuild build` links to, with bootspec v1 (NixOS RFC 125) or, in
//! older ones, plain files beside each other.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use snowboot_config::BootConfig;

use crate::Error;

const KIND: &str = "toplevel";
/// The folder of a toplevel that has a link to the toplevel of each of its specialisations.
const SPECIALISATIONS: &str = "specialisation";
/// The one system whose kernels there is a CPU for.
const SYSTEM: &str = "x86_64-linux";

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "org.nixos.bootspec.v1")]
    current: Option<Bootspec>,
    /// The form before NixOS 23.05.
    v1: Option<Bootspec>,
    #[serde(rename = "org.nixos.specialisation.v1", default)]
    specialisations: BTreeMap<String, Document>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bootspec {
    system: Option<String>,
    init: PathBuf,
    kernel: PathBuf,
    #[serde(default)]
    kernel_params: Vec<String>,
    initrd: Option<PathBuf>,
}

/// What the toplevel in `folder` boots: it itself, or the `specialisation` of that name (NixOS: `specialisation.NAME`).
/// `extra` goes to the end of the kernel's command line.
///
/// Store paths in `boot.json` that are not on this host are looked for in the folder itself, so that a toplevel can be
/// copied out of its store.
///
/// # Errors
/// When the folder is not a toplevel, or has no such specialisation; the text names what is missing or malformed.
pub fn read(folder: &Path, specialisation: Option<&str>, extra: Option<&str>) -> Result<BootConfig, Error> {
    let folder = fs::canonicalize(folder).map_err(|error| wrong(folder, explain(&error)))?;
    let mut boot = match specialisation {
        Some(name) => read_specialisation(&folder, name)?,
        None => match bootspec_of(&folder)? {
            Some((file, document)) => from_bootspec(&folder, &file, document)?,
            None => from_files(&folder)?,
        },
    };
    if let Some(extra) = extra.filter(|extra| !extra.is_empty()) {
        boot.cmdline = format!("{} {extra}", boot.cmdline);
    }
    Ok(boot)
}

/// The folder's bootspec and its file; older toplevels have none.
fn bootspec_of(folder: &Path) -> Result<Option<(PathBuf, Document)>, Error> {
    let file = folder.join("boot.json");
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(&file, error.to_string())),
    };
    match serde_json::from_str(&text) {
        Ok(document) => Ok(Some((file, document))),
        Err(error) => Err(wrong(&file, format!("it is not a bootspec: {error}"))),
    }
}

fn read_specialisation(folder: &Path, name: &str) -> Result<BootConfig, Error> {
    let mut known = specialisation_links(folder);
    let own = folder.join(SPECIALISATIONS).join(name);
    if let Some((file, mut document)) = bootspec_of(folder)? {
        if let Some(found) = document.specialisations.remove(name) {
            return from_bootspec(&own, &file, found);
        }
        known.extend(document.specialisations.into_keys());
    }
    // A name that is none of the folder's leads elsewhere.
    if known.iter().any(|it| it == name) {
        return read(&own, None, None);
    }
    known.sort();
    known.dedup();
    let those = match known.as_slice() {
        [] => "it has none at all".to_owned(),
        known => format!("those that it has: {}", known.join(", ")),
    };
    Err(wrong(folder, format!("it has no specialisation `{}`; {those}", name.escape_debug())))
}

/// The specialisations that are links; a toplevel need not have the folder.
fn specialisation_links(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder.join(SPECIALISATIONS)) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn from_bootspec(folder: &Path, file: &Path, document: Document) -> Result<BootConfig, Error> {
    let spec = document
        .current
        .or(document.v1)
        .ok_or_else(|| wrong(file, "it holds no `org.nixos.bootspec.v1`".to_owned()))?;
    if let Some(system) = spec.system.filter(|system| system != SYSTEM) {
        return Err(wrong(file, format!("it is of a system for {system}; machines here are {SYSTEM}")));
    }
    let initrds = spec.initrd.map(|path| present(folder, &path, "initrd")).transpose()?.into_iter().collect();
    let kernel = present(folder, &spec.kernel, "kernel")?;
    Ok(BootConfig { kernel, initrds, cmdline: cmdline(&spec.kernel_params.join(" "), &spec.init) })
}

fn from_files(folder: &Path) -> Result<BootConfig, Error> {
    let params = folder.join("kernel-params");
    let text = fs::read_to_string(&params).map_err(|error| {
        wrong(
            folder,
            format!("it has neither boot.json nor a readable kernel-params ({error}); is it a toplevel?"),
        )
    })?;
    let [kernel, initrd, init] = ["kernel", "initrd", "init"].map(|name| folder.join(name));
    let kernel = present(folder, &kernel, "kernel")?;
    // A link that leads nowhere is one, too: what it was for is missing.
    let initrd = is_there(&initrd).then(|| present(folder, &initrd, "initrd")).transpose()?;
    // Where that leads is the guest's business.
    if !is_there(&init) {
        return Err(wrong(folder, format!("its init is not at {}", init.display())));
    }
    Ok(BootConfig { kernel, initrds: initrd.into_iter().collect(), cmdline: cmdline(&text, &init) })
}

/// The loader, not the toplevel, says where init is.
fn cmdline(params: &str, init: &Path) -> String {
    format!("{} init={}", params.trim(), init.display()).trim_start().to_owned()
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// The file at `path`, or the one of the folder with this name.
fn present(folder: &Path, path: &Path, name: &str) -> Result<PathBuf, Error> {
    let beside = folder.join(name);
    if let Some(found) = [path, &beside].into_iter().find(|path| path.exists()) {
        return Ok(found.to_path_buf());
    }
    let place = |path: &Path| match fs::read_link(path) {
        Ok(target) => format!("{} (a link to {})", path.display(), target.display()),
        Err(_) => path.display().to_string(),
    };
    let why = if path == beside {
        format!("its {name} is not at {}", place(path))
    } else {
        format!("its {name} is neither at {} nor at {}", place(path), place(&beside))
    };
    Err(wrong(folder, why))
}

fn explain(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such folder".to_owned(),
        _ => error.to_string(),
    }
}

fn wrong(path: &Path, why: String) -> Error {
    Error::File { kind: KIND, path: path.to_owned(), why }
}
