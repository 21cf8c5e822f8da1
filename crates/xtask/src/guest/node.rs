//! A node's toplevel: the files that NixOS has in one, and what makes this node differ from the others.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::initrd::{self, Archive};
use super::{Backdoor, key, root};

/// What every node's kernel is told. Other than NixOS's, without `clocksource=acpi_pm`: every read of that clock would
/// leave the guest.
const KERNEL_PARAMS: &[&str] = &[
    "console=tty0",
    "console=ttyS0,115200n8",
    "panic=1",
    "boot.panic_on_fail",
    // NixOS has 7, which is more lines, and each character on ttyS0 is an exit: 46,000 of a boot's 57,000.
    "loglevel=6",
    // They would slow guests down, and there is nobody to keep out.
    "mitigations=off",
    "net.ifnames=0",
    "systemd.gpt_auto=0",
    // Kernels look for AGP bridges on what the emulated host calls a K8, through thousands of port accesses.
    "pci=noearly",
    "root=/dev/disk/by-id/virtio-root",
];
/// In the guest, what a toplevel's init stands for.
const SYSTEMD: &str = "/usr/lib/systemd/systemd";
/// The VLAN whose addresses `/etc/hosts` has.
const HOSTS_VLAN: u8 = 1;

/// What a toplevel is made of, for the cache's key.
pub(crate) fn source() -> String {
    format!("{} {HOSTS_VLAN} {SYSTEMD}", KERNEL_PARAMS.join(" "))
}

/// Refuses names that cannot be host names, and more nodes than addresses.
pub(crate) fn check_names(nodes: &[String]) -> Result<()> {
    if nodes.is_empty() || nodes.len() > 254 {
        bail!("A network has 1 to 254 nodes, not {}", nodes.len());
    }
    for name in nodes {
        let valid = !name.is_empty()
            && name.len() <= 63
            && !name.starts_with('-')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if !valid {
            bail!("`{name}` cannot be a node's name: use up to 63 letters, digits, - and _");
        }
    }
    Ok(())
}

/// Writes a toplevel folder per node into `work`.
pub(crate) fn write_all(
    work: &Path,
    nodes: &[String],
    kernel_tree: &Path,
    image: &Path,
    backdoor: Backdoor,
) -> Result<()> {
    let common = initrd::common(kernel_tree, backdoor)?;
    let kernel = kernel_image(kernel_tree)?;
    for node in nodes {
        let folder = work.join(node);
        fs::create_dir(&folder).with_context(|| format!("Cannot make the folder {}", folder.display()))?;
        write(&folder, node, nodes, &common)?;
        place(&kernel, &folder.join("kernel"))?;
        place(image, &folder.join(root::IMAGE))?;
    }
    Ok(())
}

/// A file of the cache under another name: the same file where the file system can.
fn place(from: &Path, to: &Path) -> Result<()> {
    fs::hard_link(from, to)
        .or_else(|_| fs::copy(from, to).map(drop))
        .with_context(|| format!("Cannot copy {} to {}", from.display(), to.display()))
}

fn kernel_image(kernel_tree: &Path) -> Result<std::path::PathBuf> {
    let folder = kernel_tree.join("boot");
    fs::read_dir(&folder)
        .with_context(|| format!("Cannot list {}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")))
        .with_context(|| format!("There is no kernel in {}", folder.display()))
}

fn write(folder: &Path, node: &str, nodes: &[String], common: &[u8]) -> Result<()> {
    let hash = key(&[node.as_bytes(), nodes.join(",").as_bytes(), common]);
    let store_path = format!("/nix/store/{hash}-nixos-system-{node}-test");
    let init = format!("{store_path}/init");
    let mut params: Vec<String> = KERNEL_PARAMS.iter().map(ToString::to_string).collect();
    params.push(format!("systemd.hostname={node}"));
    let put = |name: &str, content: &[u8]| {
        fs::write(folder.join(name), content).with_context(|| format!("Cannot write {name} of {node}"))
    };
    let mut initrd = common.to_vec();
    initrd.extend(own_files(node, nodes, &init, &hash)?);
    put("initrd", &initrd)?;
    put("kernel-params", params.join(" ").as_bytes())?;
    put("boot.json", &serde_json::to_vec_pretty(&bootspec(node, &init, &params))?)?;
    put("nixos-version", b"24.05.debian-test")?;
    put("system", b"x86_64-linux")?;
    symlink(SYSTEMD, folder.join("init")).with_context(|| format!("Cannot write init of {node}"))
}

/// The archive behind the common initrd: what the initrd's init lays into this node's root.
fn own_files(node: &str, nodes: &[String], init: &str, hash: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.file("node/etc/hosts", hosts(nodes).as_bytes())?;
    archive.file("node/etc/hostname", format!("{node}\n").as_bytes())?;
    archive.file("node/etc/machine-id", format!("{hash}\n").as_bytes())?;
    archive.link(&format!("node{init}"), SYSTEMD)?;
    archive.finish()
}

fn hosts(nodes: &[String]) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    for (number, name) in (1..).zip(nodes) {
        let number: u32 = number;
        text.push_str(&format!(
            "192.168.{HOSTS_VLAN}.{number} {name}\n2001:db8:{HOSTS_VLAN}::{number} {name}\n"
        ));
    }
    text
}

/// Bootspec v1. As in NixOS the paths are those of the guest's store; a loader on the host finds the files beside it.
fn bootspec(node: &str, init: &str, params: &[String]) -> serde_json::Value {
    serde_json::json!({
        "org.nixos.bootspec.v1": {
            "system": "x86_64-linux",
            "init": init,
            "kernel": format!("{}/kernel", init.trim_end_matches("/init")),
            "initrd": format!("{}/initrd", init.trim_end_matches("/init")),
            "kernelParams": params,
            "label": format!("Debian test node {node}"),
            "toplevel": init.trim_end_matches("/init"),
        },
        "org.nixos.specialisation.v1": {},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_names_every_node_by_its_number() {
        let text = hosts(&["a".to_owned(), "b".to_owned()]);
        assert!(text.contains("192.168.1.2 b\n2001:db8:1::2 b\n"));
    }

    #[test]
    fn a_toplevel_has_what_nixos_has() {
        let work = tempfile::tempdir().unwrap();
        write(work.path(), "web", &["web".to_owned()], b"0123").unwrap();
        for name in ["initrd", "kernel-params", "boot.json", "nixos-version", "system", "init"] {
            assert!(work.path().join(name).symlink_metadata().is_ok(), "{name}");
        }
        let spec: serde_json::Value =
            serde_json::from_slice(&fs::read(work.path().join("boot.json")).unwrap()).unwrap();
        let spec = &spec["org.nixos.bootspec.v1"];
        assert!(spec["init"].as_str().unwrap().ends_with("-nixos-system-web-test/init"));
        assert!(
            !spec["kernelParams"]
                .as_array()
                .unwrap()
                .iter()
                .any(|it| it.as_str().unwrap().starts_with("init="))
        );
    }

    #[test]
    fn names_that_are_no_host_names_are_refused() {
        assert!(check_names(&["a b".to_owned()]).is_err());
        assert!(check_names(&["-a".to_owned()]).is_err());
        assert!(check_names(&[]).is_err());
        assert!(check_names(&["server-1".to_owned()]).is_ok());
    }
}
