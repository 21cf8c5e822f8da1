//! The Nix code in `nix/`: its format, what it makes of tests, what it refuses, and every output of the flake. All of that is
//! evaluation, against a small stand-in for nixpkgs (`nix/tests/nixpkgs`), so it needs no network and builds nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::host::{cache_dir, ensure_packages, project_root};
use crate::run::{cargo, quiet, step};

const PACKAGES: &[&str] = &["nix-bin"];
/// The official style (NixOS RFC 166). Debian has no package of it.
const FORMATTER: &str = "nixfmt_rs@0.5.3";
/// Nothing is fetched, nothing is built, and no user's settings have a say.
const SETTINGS: &str = "experimental-features = nix-command flakes\nsandbox = false\nbuild-users-group =\n\
    substituters =\nbuild-hook =\nflake-registry =\n";
/// What a flake of the project consists of for its evaluation.
const FLAKE: &[&str] = &["Cargo.lock", "Cargo.toml", "default.nix", "flake.nix", "nix"];
/// Characters of a store path's hash.
const HASH: usize = 32;

/// Every check of the Nix code.
pub(crate) fn test() -> Result<()> {
    ensure_packages(PACKAGES)?;
    let nix = Nix::new()?;
    format()?;
    compare_all(&nix)?;
    for (name, refused) in entries(&nix.evaluate("isRefused")?)? {
        ensure!(refused == &Value::Bool(true), "The test `{name}` of nix/tests/refused.nix can be built");
    }
    nix.fails("message", &["snowboot: the test `efi` asks", "node `machine`", "snowboot.ignore = ["])?;
    nix.fails("oldCompiler", &["this package set has 1.80.0"])?;
    eprintln!("==> Nix: manifests, messages and outputs are as expected");
    nix.check_flakes()
}

/// Compares all that is evaluated with what it has to be; the error has every difference.
fn compare_all(nix: &Nix) -> Result<()> {
    let mut found = vec![];
    for name in ["refused", "outputs", "templates", "vm", "newer", "otherPlatform"] {
        found.push((format!("{name}.json"), nix.evaluate(name)?));
    }
    let manifests = nix.evaluate("manifests")?;
    found.extend(entries(&manifests)?.map(|(name, it)| (format!("manifests/{name}.json"), it.clone())));
    let mut differences = vec![];
    for (name, value) in &found {
        differences.extend(difference(name, value)?);
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

fn entries(value: &Value) -> Result<impl Iterator<Item = (&String, &Value)>> {
    Ok(value.as_object().context("Nix gave no attributes where the tests have them")?.iter())
}

/// Nix with a store of its own, where evaluation leaves its derivations.
struct Nix {
    folder: PathBuf,
}

impl Nix {
    fn new() -> Result<Self> {
        let folder = cache_dir().join("nix");
        fs::create_dir_all(&folder)
            .with_context(|| format!("Cannot make the folder {}", folder.display()))?;
        let settings = folder.join("nix.conf");
        fs::write(&settings, SETTINGS).with_context(|| format!("Cannot write {}", settings.display()))?;
        Ok(Self { folder })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("NIX_CONF_DIR", &self.folder).env("NIX_STORE_DIR", self.store());
        command.env("NIX_STATE_DIR", self.folder.join("var")).env("NIX_LOG_DIR", self.folder.join("log"));
        command.env("XDG_CACHE_HOME", self.folder.join("cache")).current_dir(project_root());
        command.env_remove("NIX_PATH").env_remove("NIX_CONFIG").env_remove("NIX_REMOTE");
        command
    }

    fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    fn instantiate(&self, attribute: &str) -> Command {
        let mut command = self.command("nix-instantiate");
        command.args(["--eval", "--strict", "--json", "nix/tests", "--attr", attribute]);
        command
    }

    /// The value of an attribute of `nix/tests`, with store paths that do not change with the sources.
    fn evaluate(&self, attribute: &str) -> Result<Value> {
        let output = self.instantiate(attribute).output().context("Cannot run nix-instantiate")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "nix/tests: {attribute} cannot be evaluated:\n{}",
            errors.trim_end()
        );
        let text = String::from_utf8(output.stdout).context("Nix gave text that is not UTF-8")?;
        let store = format!("{}/", self.store().display());
        serde_json::from_str(&without_hashes(&text, &store)).context("Nix gave text that is not JSON")
    }

    /// Checks that an attribute cannot be evaluated, and why.
    fn fails(&self, attribute: &str, parts: &[&str]) -> Result<()> {
        let output = self.instantiate(attribute).output().context("Cannot run nix-instantiate")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "nix/tests: {attribute} can be evaluated");
        for part in parts {
            ensure!(
                errors.contains(part),
                "nix/tests: {attribute} fails without the words `{part}`:\n{errors}"
            );
        }
        Ok(())
    }

    /// Evaluates every output of the flake, and of the flakes of its templates.
    fn check_flakes(&self) -> Result<()> {
        let copy = self.folder.join("flake");
        if copy.exists() {
            fs::remove_dir_all(&copy).with_context(|| format!("Cannot empty {}", copy.display()))?;
        }
        fs::create_dir_all(&copy).with_context(|| format!("Cannot make the folder {}", copy.display()))?;
        // A flake is copied to the store whole, and beside these are gigabytes of builds.
        let mut files = Command::new("cp");
        files.arg("-r").args(FLAKE).arg(&copy).current_dir(project_root());
        quiet("copy the flake", &mut files)?;
        let stub = format!("path:{}", copy.join("nix/tests/nixpkgs").display());
        let own = format!("path:{}", copy.display());
        quiet("flake", &mut self.check_flake(&own, &[("nixpkgs", &stub)]))?;
        let templates = copy.join("nix/templates");
        let list =
            fs::read_dir(&templates).with_context(|| format!("Cannot list {}", templates.display()))?;
        for template in list {
            let template = template?.path();
            let name = template.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let inputs = [("nixpkgs", stub.as_str()), ("snowboot", &own), ("snowboot/nixpkgs", &stub)];
            let mut check = self.check_flake(&format!("path:{}", template.display()), &inputs);
            quiet(&format!("flake of the template {name}"), &mut check)?;
        }
        Ok(())
    }

    fn check_flake(&self, flake: &str, inputs: &[(&str, &str)]) -> Command {
        let mut command = self.command("nix");
        command.args(["--quiet", "flake", "check", flake, "--no-build", "--no-write-lock-file"]);
        for (input, instead) in inputs {
            command.args(["--override-input", input, instead]);
        }
        command
    }
}

/// Store paths as they are on every machine and for every state of the sources.
fn without_hashes(text: &str, store: &str) -> String {
    let mut parts = text.split(store);
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_hash =
            |hash: &str| hash.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        plain.push_str("/nix/store/");
        match part.split_at_checked(HASH).filter(|(hash, rest)| is_hash(hash) && rest.starts_with('-')) {
            Some((_, rest)) => plain.extend(["HASH", rest]),
            None => plain.push_str(part),
        }
    }
    plain
}

/// How a value differs from the file of `nix/tests/expected` that holds what it has to be.
fn difference(name: &str, found: &Value) -> Result<Option<String>> {
    let expected = project_root().join("nix/tests/expected").join(name);
    let text = format!("{found:#}\n");
    if fs::read_to_string(&expected).is_ok_and(|expected| expected == text) {
        return Ok(None);
    }
    let file = cache_dir().join("nix/found").join(name);
    let folder = file.parent().context("A file is in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("Cannot make the folder {}", folder.display()))?;
    fs::write(&file, text).with_context(|| format!("Cannot write {}", file.display()))?;
    let difference = Command::new("diff").args(["-u", "--new-file"]).args([&expected, &file]).output();
    let difference = difference.context("Cannot run diff")?.stdout;
    Ok(Some(format!(
        "{} is not what Nix makes now; if that is meant, put {} there:\n{}",
        expected.display(),
        file.display(),
        String::from_utf8_lossy(&difference).trim_end()
    )))
}

fn format() -> Result<()> {
    let tools = cache_dir().join("tools").join(FORMATTER.replace('@', "-"));
    let nixfmt = tools.join("bin/nixfmt");
    if !nixfmt.is_file() {
        let mut install = cargo(&["install", "--quiet", "--locked", FORMATTER, "--root"]);
        quiet("install nixfmt", install.arg(&tools))?;
    }
    let root = project_root();
    let mut files = vec![root.join("default.nix"), root.join("flake.nix")];
    collect(&root.join("nix"), &mut files)?;
    step("format of Nix files", Command::new(nixfmt).arg("--check").args(files))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("Cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "nix") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_paths_lose_their_hashes_and_nothing_else_does() {
        let hash = "0123456789abcdfghijklmnpqrsvwxyz";
        let text = format!("a /x/store/{hash}-linux/bzImage:/x/store/{hash}-b \"/x/store\" /x/store/name");
        let plain = "a /nix/store/HASH-linux/bzImage:/nix/store/HASH-b \"/x/store\" /nix/store/name";
        assert_eq!(without_hashes(&text, "/x/store/"), plain);
        assert_eq!(without_hashes("/x/store/ü", "/x/store/"), "/nix/store/ü");
    }
}
