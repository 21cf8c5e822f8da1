use std::os::unix::fs::symlink;

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

/// A store as Nix leaves it: packages of a kernel and an initrd, a toplevel of links into them, one of a specialisation with
/// a kernel of its own, and a link to the toplevel as builds leave one.
struct Store(tempfile::TempDir);

const NAMES: &[&str] = &["system", "debug"];

impl Store {
    fn new() -> Self {
        let store = Self(tempfile::tempdir().unwrap());
        for name in NAMES {
            for (folder, file) in
                [(format!("linux-{name}"), "bzImage"), (format!("initrd-linux-{name}"), "initrd")]
            {
                fs::create_dir(store.path(&folder)).unwrap();
                fs::write(store.path(&folder).join(file), name).unwrap();
            }
            store.write_toplevel(name);
        }
        fs::create_dir(store.path("nixos-system").join(SPECIALISATIONS)).unwrap();
        symlink(store.path("nixos-debug"), store.path("nixos-system/specialisation/debug")).unwrap();
        let spec =
            store.bootspec("system", &serde_json::json!({ "debug": store.bootspec("debug", &().into()) }));
        fs::write(store.path("nixos-system/boot.json"), spec.to_string()).unwrap();
        symlink(store.path("nixos-system"), store.path("result")).unwrap();
        store
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    fn write_toplevel(&self, name: &str) {
        let folder = self.path(&format!("nixos-{name}"));
        fs::create_dir(&folder).unwrap();
        symlink(self.path(&format!("linux-{name}/bzImage")), folder.join("kernel")).unwrap();
        symlink(self.path(&format!("initrd-linux-{name}/initrd")), folder.join("initrd")).unwrap();
        // systemd's, which is in the guest's store alone.
        symlink("/nix/store/s-systemd/lib/systemd/systemd", folder.join("init")).unwrap();
        fs::write(folder.join("kernel-params"), format!("loglevel=4 {name}=1")).unwrap();
    }

    fn bootspec(&self, name: &str, specialisations: &serde_json::Value) -> serde_json::Value {
        let mut spec = serde_json::json!({ "org.nixos.bootspec.v1": {
            "system": "x86_64-linux",
            "toplevel": self.path(&format!("nixos-{name}")),
            "init": self.path(&format!("nixos-{name}/init")),
            "kernel": self.path(&format!("linux-{name}/bzImage")),
            "initrd": self.path(&format!("initrd-linux-{name}/initrd")),
            "initrdSecrets": self.path("append-initrd-secrets"),
            "kernelParams": ["loglevel=4", format!("{name}=1")],
            "label": "NixOS Uakari 24.05",
        }});
        if !specialisations.is_null() {
            spec["org.nixos.specialisation.v1"] = specialisations.clone();
        }
        spec
    }

    fn read(&self, specialisation: Option<&str>) -> Result<BootConfig, String> {
        read(&self.path("result"), specialisation, None).map_err(|error| error.to_string())
    }

    /// Whether it is that system which is booted.
    fn assert_boots(&self, boot: &BootConfig, name: &str) {
        assert_eq!(fs::read_to_string(&boot.kernel).unwrap(), name);
        assert_eq!(boot.initrds.len(), 1);
        assert_eq!(fs::read_to_string(&boot.initrds[0]).unwrap(), name);
        let init = self.path(&format!("nixos-{name}/init"));
        assert_eq!(boot.cmdline, format!("loglevel=4 {name}=1 init={}", init.display()));
    }
}

#[test]
fn a_link_to_a_toplevel_of_links_is_one() {
    let store = Store::new();
    store.assert_boots(&store.read(None).unwrap(), "system");
    // As before bootspec.
    fs::remove_file(store.path("nixos-system/boot.json")).unwrap();
    store.assert_boots(&store.read(None).unwrap(), "system");
}

#[test]
fn a_specialisation_has_a_kernel_and_a_command_line_of_its_own() {
    let store = Store::new();
    store.assert_boots(&store.read(Some("debug")).unwrap(), "debug");
    // A toplevel that was copied out of its store.
    fs::rename(store.path("linux-debug"), store.path("elsewhere")).unwrap();
    let link = store.path("nixos-debug/kernel");
    fs::remove_file(&link).unwrap();
    symlink(store.path("elsewhere/bzImage"), &link).unwrap();
    store.assert_boots(&store.read(Some("debug")).unwrap(), "debug");
    // Not the kernel of the system beside it, when its own is nowhere.
    fs::remove_file(&link).unwrap();
    let error = store.read(Some("debug")).unwrap_err();
    assert!(
        error.contains("linux-debug/bzImage nor at") && error.contains("specialisation/debug/kernel"),
        "{error}"
    );
}

#[test]
fn a_specialisation_that_no_bootspec_names_is_found_by_its_link() {
    let store = Store::new();
    fs::remove_file(store.path("nixos-system/boot.json")).unwrap();
    store.assert_boots(&store.read(Some("debug")).unwrap(), "debug");
    fs::write(store.path("nixos-system/boot.json"), SPEC).unwrap();
    store.assert_boots(&store.read(Some("debug")).unwrap(), "debug");
}

#[test]
fn a_specialisation_that_is_not_there_is_told_with_those_that_are() {
    let store = Store::new();
    for name in ["release", "", ".", "..", "../../nixos-debug", "debug/"] {
        let error = store.read(Some(name)).unwrap_err();
        assert!(error.contains(&format!("no specialisation `{name}`; those that it has: debug")), "{error}");
    }
    let plain = folder(&[("boot.json", SPEC)]);
    let error = read(plain.path(), Some("debug"), None).unwrap_err().to_string();
    assert!(error.ends_with("no specialisation `debug`; it has none at all"), "{error}");
}

#[test]
fn a_toplevel_copied_out_of_its_store_boots_its_own_files() {
    let toplevel = folder(&[("boot.json", SPEC), ("kernel", ""), ("initrd", "")]);
    let boot = read(toplevel.path(), None, Some("quiet")).unwrap();
    assert_eq!(boot.kernel, toplevel.path().canonicalize().unwrap().join("kernel"));
    assert_eq!(boot.cmdline, "a=1 b init=/nix/store/x/init quiet");
    assert_eq!(boot.initrds.len(), 1);
}

#[test]
fn the_bootspec_before_23_05_and_one_without_an_initrd_are_read() {
    let spec = r#"{ "v1": { "init": "/x/init", "kernel": "/k", "kernelParams": [], "label": "L", "toplevel": "/x" } }"#;
    let toplevel = folder(&[("boot.json", spec), ("kernel", ""), ("initrd", "")]);
    let boot = read(toplevel.path(), None, None).unwrap();
    assert_eq!((boot.cmdline.as_str(), boot.initrds.len()), ("init=/x/init", 0));
}

#[test]
fn an_older_toplevel_is_read_from_its_files() {
    let toplevel = folder(&[("kernel-params", "loglevel=4"), ("kernel", ""), ("init", "")]);
    let boot = read(toplevel.path(), None, None).unwrap();
    let init = toplevel.path().canonicalize().unwrap().join("init");
    assert_eq!(boot.cmdline, format!("loglevel=4 init={}", init.display()));
    assert!(boot.initrds.is_empty());
}

#[test]
fn what_is_missing_is_named() {
    let text = |folder: &Path| read(folder, None, None).unwrap_err().to_string();
    assert!(text(Path::new("/nowhere")).contains("no such folder"));
    assert!(text(folder(&[]).path()).contains("neither boot.json nor"));
    assert!(text(folder(&[("boot.json", SPEC)]).path()).contains("/nix/store/i/initrd"));
    assert!(text(folder(&[("boot.json", "{")]).path()).contains("not a bootspec"));
    assert!(text(folder(&[("boot.json", "{}")]).path()).contains("bootspec.v1"));
    let arm = SPEC.replace("x86_64", "aarch64");
    assert!(
        text(folder(&[("boot.json", &arm)]).path())
            .contains("for aarch64-linux; machines here are x86_64-linux")
    );
    let files = &[("kernel-params", ""), ("kernel", ""), ("init", "")];
    for missing in [1, 2] {
        let rest: Vec<_> =
            files.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, it)| *it).collect();
        let error = text(folder(&rest).path());
        assert!(error.contains(&format!("its {} is not at", files[missing].0)), "{error}");
    }
}

#[test]
fn a_link_that_leads_nowhere_is_told_with_where_it_leads() {
    let store = Store::new();
    fs::remove_file(store.path("nixos-system/boot.json")).unwrap();
    for (package, name) in [("initrd-linux-system", "initrd"), ("linux-system", "kernel")] {
        fs::remove_dir_all(store.path(package)).unwrap();
        let error = store.read(None).unwrap_err();
        let link = format!(
            "its {name} is not at {} (a link to {}",
            store.path("nixos-system").join(name).display(),
            store.path(package).display()
        );
        assert!(error.contains(&link), "{error}");
    }
}
