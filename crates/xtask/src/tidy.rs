//! House rules that no compiler checks: who may name what, and how long a file may be.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::host::project_root;

/// A file of more lines of code than this wants to be two.
const LINES_MAX: usize = 500;
/// Names that only one place may use, and that place. Paths are of a crate's folder, or of a file in it.
const OWNERS: &[(&str, &[&str])] = &[
    ("kvm_ioctls::", &["crates/vmm/src/kvm.rs", "crates/vmm/src/error.rs", "crates/xtask"]),
    ("kvm_bindings::", &["crates/vmm"]),
    ("io_uring::", &["crates/vmm/src/memory/ring.rs"]),
    ("pyo3::", &["crates/python"]),
    ("smoltcp::", &["crates/network"]),
    (
        "std::fs::",
        &[
            "crates/cache",
            "crates/cli",
            "crates/devices",
            "crates/driver",
            "crates/qemu",
            "crates/store",
            "crates/uplink",
            "crates/vmm",
            "crates/xtask",
            "crates/python",
            "tests",
        ],
    ),
    (
        "std::thread",
        &[
            "crates/cli",
            "crates/driver",
            "crates/qemu",
            "crates/uplink",
            "crates/vmm",
            "crates/xtask",
            "crates/python",
            "tests",
        ],
    ),
];

/// Checks every Rust file of the project; the error lists all that is wrong.
pub(crate) fn run() -> Result<()> {
    let root = project_root();
    let mut files = Vec::new();
    collect(&root.join("crates"), &mut files)?;
    let mut complaints = Vec::new();
    for file in &files {
        let name = file.strip_prefix(&root).unwrap_or(file);
        let text = fs::read_to_string(file).with_context(|| format!("Cannot read {}", file.display()))?;
        check(name, &text, &mut complaints);
    }
    if !complaints.is_empty() {
        bail!("The tree is not tidy:\n{}", complaints.join("\n"));
    }
    eprintln!("==> tidy: {} files", files.len());
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("Cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn check(name: &Path, text: &str, complaints: &mut Vec<String>) {
    // Tests may reach for what the code under test must not.
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or(text);
    let is_test = name.components().any(|part| part.as_os_str() == "tests") || name.ends_with("tests.rs");
    let lines = code.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with("//"));
    let count = lines.count();
    if count > LINES_MAX && !is_test {
        complaints.push(format!("{}: {count} lines of code; {LINES_MAX} is the limit", name.display()));
    }
    for (word, owners) in OWNERS {
        // This very file has to spell the names.
        let allowed = is_test
            || name.ends_with("xtask/src/tidy.rs")
            || owners.iter().any(|owner| name.starts_with(owner));
        if !allowed && mentions(code, word) {
            complaints.push(format!(
                "{}: names {word}, which belongs to {}",
                name.display(),
                owners.join(", ")
            ));
        }
    }
}

/// Whether a line that is not a comment has `word`.
fn mentions(code: &str, word: &str) -> bool {
    code.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(name: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        check(Path::new(name), text, &mut found);
        found
    }

    #[test]
    fn a_name_outside_of_its_owner_is_found() {
        assert_eq!(complaints("crates/bus/src/lib.rs", "use kvm_bindings::Msrs;").len(), 1);
        assert!(complaints("crates/vmm/src/arch/cpuid.rs", "use kvm_bindings::CpuId;").is_empty());
        assert!(complaints("crates/bus/src/lib.rs", "// kvm_bindings::Msrs").is_empty());
    }

    #[test]
    fn tests_and_comments_do_not_count_as_code() {
        let long = "let x = 1;\n".repeat(LINES_MAX + 1);
        assert_eq!(complaints("crates/bus/src/lib.rs", &long).len(), 1);
        assert!(
            complaints("crates/bus/src/lib.rs", &format!("#[cfg(test)]\nmod tests {{\n{long}}}")).is_empty()
        );
        assert!(complaints("crates/bus/src/lib.rs", &"// x\n".repeat(LINES_MAX + 1)).is_empty());
    }
}
