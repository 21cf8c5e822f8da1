//! Reading a NixOS toplevel: the folder that `nixos-rebuild build` links to, with bootspec v1 (NixOS RFC 125) or, in
//! older ones, plain files beside each other.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use snowboot_config::BootConfig;

use crate::Error;

const KIND: &str = "toplevel";

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "org.nixos.bootspec.v1")]
    current: Option<Bootspec>,
    /// The form before NixOS 23.05.
    v1: Option<Bootspec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bootspec {
    init: PathBuf,
    kernel: PathBuf,
    #[serde(default)]
    kernel_params: Vec<String>,
    initrd: Option<PathBuf>,
}

/// What the toplevel in `folder` boots; `extra` goes to the end of its kernel command line.
///
/// Store paths in `boot.json` that are not on this host are looked for in the folder itself, so that a toplevel can be
/// copied out of its store.
///
/// # Errors
/// When the folder is not a toplevel; the text names the file that is missing or malformed.
pub fn read(folder: &Path, extra: Option<&str>) -> Result<BootConfig, Error> {
    let folder = fs::canonicalize(folder).map_err(|error| wrong(folder, explain(&error)))?;
    let file = folder.join("boot.json");
    let mut boot = match fs::read_to_string(&file) {
        Ok(text) => from_bootspec(&folder, &file, &text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => from_files(&folder)?,
        Err(error) => return Err(wrong(&file, explain(&error))),
    };
    if let Some(extra) = extra.filter(|extra| !extra.is_empty()) {
        boot.cmdline = format!("{} {extra}", boot.cmdline);
    }
    Ok(boot)
}

fn from_bootspec(folder: &Path, file: &Path, text: &str) -> Result<BootConfig, Error> {
    let document: Document =
        serde_json::from_str(text).map_err(|error| wrong(file, format!("it is not a bootspec: {error}")))?;
    let spec = document
        .current
        .or(document.v1)
        .ok_or_else(|| wrong(file, "it holds no `org.nixos.bootspec.v1`".to_owned()))?;
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
    let kernel = present(folder, &folder.join("kernel"), "kernel")?;
    let initrds = Some(folder.join("initrd")).filter(|path| path.exists()).into_iter().collect();
    Ok(BootConfig { kernel, initrds, cmdline: cmdline(&text, &folder.join("init")) })
}

/// The loader, not the toplevel, says where init is.
fn cmdline(params: &str, init: &Path) -> String {
    format!("{} init={}", params.trim(), init.display()).trim_start().to_owned()
}

fn present(folder: &Path, path: &Path, name: &str) -> Result<PathBuf, Error> {
    let beside = folder.join(name);
    [path, &beside].into_iter().find(|path| path.is_file()).map(Path::to_path_buf).ok_or_else(|| {
        wrong(folder, format!("its {name} is neither at {} nor at {}", path.display(), beside.display()))
    })
}

fn explain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such folder".to_owned(),
        _ => error.to_string(),
    }
}

fn wrong(path: &Path, why: String) -> Error {
    Error::File { kind: KIND, path: path.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    const SPEC: &str = r#"{ "org.nixos.bootspec.v1": { "system": "x86_64-linux", "init": "/nix/store/x/init",
        "kernel": "/nix/store/k/bzImage", "initrd": "/nix/store/i/initrd", "kernelParams": ["a=1", "b"],
        "label": "NixOS", "toplevel": "/nix/store/x" }, "org.nixos.specialisation.v1": {}, "org.example": 1 }"#;

    #[test]
    fn a_toplevel_copied_out_of_its_store_boots_its_own_files() {
        let toplevel = folder(&[("boot.json", SPEC), ("kernel", ""), ("initrd", "")]);
        let boot = read(toplevel.path(), Some("quiet")).unwrap();
        assert_eq!(boot.kernel, toplevel.path().canonicalize().unwrap().join("kernel"));
        assert_eq!(boot.cmdline, "a=1 b init=/nix/store/x/init quiet");
        assert_eq!(boot.initrds.len(), 1);
    }

    #[test]
    fn an_older_toplevel_is_read_from_its_files() {
        let toplevel = folder(&[("kernel-params", "loglevel=4"), ("kernel", "")]);
        let boot = read(toplevel.path(), None).unwrap();
        let init = toplevel.path().canonicalize().unwrap().join("init");
        assert_eq!(boot.cmdline, format!("loglevel=4 init={}", init.display()));
        assert!(boot.initrds.is_empty());
    }

    #[test]
    fn what_is_missing_is_named() {
        let text = |folder: &Path| read(folder, None).unwrap_err().to_string();
        assert!(text(Path::new("/nowhere")).contains("no such folder"));
        assert!(text(folder(&[]).path()).contains("neither boot.json nor"));
        assert!(text(folder(&[("boot.json", SPEC)]).path()).contains("/nix/store/i/initrd"));
        assert!(text(folder(&[("boot.json", "{")]).path()).contains("not a bootspec"));
        assert!(text(folder(&[("boot.json", "{}")]).path()).contains("bootspec.v1"));
    }
}
