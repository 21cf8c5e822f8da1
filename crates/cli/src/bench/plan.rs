//! From the command line to the configurations that are measured: each VMM with each kernel and each command line.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use super::args::{BootArgs, NamedFile};
use super::initrd;
use super::vmm::{self, Guest, Vmm};
use crate::run::boot_of_toplevel;
use crate::say;
use crate::test::readable;

/// What is measured.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) configurations: Vec<Configuration>,
    /// VMMs that are not measured, each with the reason.
    pub(super) left_out: Vec<String>,
    pub(super) marker: String,
    /// All VMMs get the same command line.
    pub(super) same_cmdline: bool,
}

/// One row of the result.
#[derive(Debug)]
pub(super) struct Configuration {
    pub(super) name: String,
    pub(super) vmm: Vmm,
    pub(super) program: PathBuf,
    pub(super) kernel_name: Option<String>,
    pub(super) cmdline_name: Option<String>,
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
    pub(super) cmdline: String,
    pub(super) is_usual: bool,
    /// So many machines in one process, where that is compared.
    pub(super) machines: Option<u32>,
}

impl Configuration {
    /// What its VMM boots.
    pub(super) fn guest<'a>(&'a self, args: &BootArgs) -> Guest<'a> {
        Guest {
            kernel: &self.kernel,
            initrd: &self.initrd,
            cmdline: &self.cmdline,
            is_usual: self.is_usual,
            machines: self.machines,
            memory_mib: args.memory.mib(),
            vcpus: args.vcpus.get(),
        }
    }
}

/// A kernel with what belongs to it.
struct Kernel {
    name: Option<String>,
    file: PathBuf,
    initrd: PathBuf,
    /// For VMMs that need it: the unpacked kernel, or why there is none.
    elf: Result<PathBuf, String>,
}

/// Makes the plan. Files that it needs are written to `folder`.
pub(super) fn make(args: &BootArgs, folder: &Path) -> Result<Plan> {
    let marker = marker(args)?;
    let mut left_out = Vec::new();
    let vmms = vmms(args, &mut left_out)?;
    let needs_elf = vmms.iter().any(|(vmm, _)| vmm.needs_elf());
    let kernels = kernels(args, folder, needs_elf)?;
    let mut configurations = Vec::new();
    for kernel in &kernels {
        for (cmdline_name, given) in cmdlines(args) {
            for (vmm, program) in &vmms {
                let file = match &kernel.elf {
                    _ if !vmm.needs_elf() => &kernel.file,
                    Ok(elf) => elf,
                    Err(why) => {
                        leave_out(args, *vmm, why, &mut left_out)?;
                        continue;
                    }
                };
                let (cmdline, is_usual) = cmdline(args, *vmm, given)?;
                configurations.extend(machines(args, *vmm).map(|machines| Configuration {
                    name: name(*vmm, kernel.name.as_deref(), cmdline_name, machines),
                    vmm: *vmm,
                    program: program.clone(),
                    kernel_name: kernel.name.clone(),
                    cmdline_name: cmdline_name.map(str::to_owned),
                    kernel: file.clone(),
                    initrd: kernel.initrd.clone(),
                    cmdline: cmdline.clone(),
                    is_usual,
                    machines,
                }));
            }
        }
    }
    if let Some(found) = configurations.iter().find(|it| it.cmdline.contains(&marker)) {
        bail!(
            "The marker `{marker}` is in the command line `{}`, which kernels write to the console; choose another",
            found.cmdline
        );
    }
    let same_cmdline = configurations.iter().all(|it| !it.is_usual);
    Ok(Plan { configurations, left_out, marker, same_cmdline })
}

fn marker(args: &BootArgs) -> Result<String> {
    match &args.marker {
        Some(marker) => Ok(marker.clone()),
        None if args.initrd.is_none() && args.toplevel.is_none() => Ok(initrd::MARKER.to_owned()),
        None => bail!(
            "Say with --marker TEXT what ends a boot: some text that the guest's init writes first, such as \
             --marker 'Welcome to'"
        ),
    }
}

/// The VMMs and their programs, Snowboot first.
fn vmms(args: &BootArgs, left_out: &mut Vec<String>) -> Result<Vec<(Vmm, PathBuf)>> {
    let given = |wanted: Vmm| args.vmm.iter().rev().find(|(vmm, _)| *vmm == wanted).map(|(_, path)| path);
    let snowboot = match given(Vmm::Snowboot) {
        Some(path) => named_program(Vmm::Snowboot, path)?,
        None => std::env::current_exe().context("Cannot tell where this program is")?,
    };
    let mut vmms = vec![(Vmm::Snowboot, snowboot)];
    for rival in Vmm::RIVALS {
        if !is_wanted(args, rival) {
            continue;
        }
        let named = given(rival).or_else(|| given(Vmm::Qemu).filter(|_| rival == Vmm::QemuMicrovm));
        let program = rival.program().unwrap_or_default();
        match named {
            Some(path) => vmms.push((rival, named_program(rival, path)?)),
            None => match vmm::find_in_path(program) {
                Some(path) => vmms.push((rival, path)),
                None => {
                    let what = if program == rival.name() { String::new() } else { format!("{program} ") };
                    let why = format!("{what}not found in PATH; give it with --vmm {}=PATH", rival.name());
                    leave_out(args, rival, &why, left_out)?;
                }
            },
        }
    }
    Ok(vmms)
}

/// Without `--against` all are.
fn is_wanted(args: &BootArgs, vmm: Vmm) -> bool {
    let named = |names: &Vec<_>| names.iter().any(|name: &super::args::Against| name.vmm() == Some(vmm));
    args.against.as_ref().is_none_or(named)
}

/// Who was asked for must be there.
fn leave_out(args: &BootArgs, vmm: Vmm, why: &str, left_out: &mut Vec<String>) -> Result<()> {
    let text = format!("{}: {why}", vmm.name());
    if args.against.is_some() || args.vmm.iter().any(|(given, _)| *given == vmm) {
        bail!("{text}");
    }
    if !left_out.contains(&text) {
        say::line(&format!("snowboot: left out: {text}"));
        left_out.push(text);
    }
    Ok(())
}

fn named_program(vmm: Vmm, path: &Path) -> Result<PathBuf> {
    if !vmm::is_program(path) {
        bail!("{}: {} is not a program; correct --vmm", vmm.name(), path.display());
    }
    absolute(path)
}

fn kernels(args: &BootArgs, folder: &Path, needs_elf: bool) -> Result<Vec<Kernel>> {
    let mut kernels = Vec::new();
    if let Some(toplevel) = &args.toplevel {
        let boot = boot_of_toplevel(toplevel, None, None, None)?;
        let Some(initrd) = boot.initrds.into_iter().next() else {
            bail!(
                "The toplevel {} has no initrd; only one with an initrd can be measured",
                toplevel.display()
            )
        };
        let named = NamedFile { name: None, file: boot.kernel };
        kernels.push(kernel(args, &named, initrd, folder, 0, needs_elf)?);
        return Ok(kernels);
    }
    check_names(&args.kernel)?;
    let initrd = match &args.initrd {
        Some(initrd) => absolute(initrd)?,
        None => {
            let file = folder.join("initrd.cpio");
            fs::write(&file, initrd::archive()?)
                .with_context(|| format!("Cannot write {}", file.display()))?;
            file
        }
    };
    for (index, named) in args.kernel.iter().enumerate() {
        kernels.push(kernel(args, named, initrd.clone(), folder, index, needs_elf)?);
    }
    Ok(kernels)
}

fn check_names(kernels: &[NamedFile]) -> Result<()> {
    for (index, kernel) in kernels.iter().enumerate() {
        if kernels.len() > 1 && kernel.name.is_none() {
            bail!("There are several kernels, so each needs a name: --kernel NAME={}", kernel.file.display());
        }
        if kernels.iter().skip(index.saturating_add(1)).any(|other| other.name == kernel.name) {
            bail!(
                "Two kernels have the same name; rename --kernel {}=...",
                kernel.name.as_deref().unwrap_or("")
            );
        }
    }
    Ok(())
}

fn kernel(
    args: &BootArgs,
    named: &NamedFile,
    initrd: PathBuf,
    folder: &Path,
    index: usize,
    needs_elf: bool,
) -> Result<Kernel> {
    let file = absolute(&named.file)?;
    readable("kernel", &file)?;
    readable("initrd", &initrd)?;
    let given = args.elf_kernel.iter().find(|elf| elf.name == named.name);
    let elf = match given {
        Some(elf) => {
            readable("kernel", &elf.file)?;
            Ok(absolute(&elf.file)?)
        }
        None if needs_elf => unpack(&file, &folder.join(format!("vmlinux-{index}")))?,
        None => Err("no VMM needs an ELF kernel".to_owned()),
    };
    Ok(Kernel { name: named.name.clone(), file, initrd, elf })
}

/// Writes the ELF image of a kernel. A kernel that has none is no error: most VMMs do without.
fn unpack(kernel: &Path, file: &Path) -> Result<Result<PathBuf, String>> {
    match snowboot_vmm::unpack_kernel(kernel) {
        Ok(image) => {
            fs::write(file, image).with_context(|| format!("Cannot write {}", file.display()))?;
            Ok(Ok(file.to_owned()))
        }
        Err(error) => Ok(Err(format!(
            "it takes no bzImage; give it a vmlinux with --elf-kernel: {}",
            say::one_line(&anyhow!(error))
        ))),
    }
}

/// The command lines with their names; `None` where none is given.
fn cmdlines(args: &BootArgs) -> Vec<(Option<&str>, Option<&str>)> {
    let named = args.compare_cmdline.iter().map(|(name, text)| (Some(name.as_str()), Some(text.as_str())));
    if args.compare_cmdline.is_empty() || args.cmdline.is_some() {
        return std::iter::once((None, args.cmdline.as_deref())).chain(named).collect();
    }
    named.collect()
}

/// The whole command line, and whether it is the VMM's usual one.
fn cmdline(args: &BootArgs, vmm: Vmm, given: Option<&str>) -> Result<(String, bool)> {
    if let Some(toplevel) = &args.toplevel {
        return Ok((boot_of_toplevel(toplevel, None, given, None)?.cmdline, false));
    }
    Ok(match given {
        Some(text) => (text.to_owned(), false),
        None if args.same_cmdline => (Vmm::Snowboot.usual_cmdline().to_owned(), false),
        None => (vmm.usual_cmdline().to_owned(), true),
    })
}

/// Each VMM as it is, and then Snowboot with as many machines as are wanted.
fn machines(args: &BootArgs, vmm: Vmm) -> impl Iterator<Item = Option<u32>> + '_ {
    let several = if vmm == Vmm::Snowboot { args.machines.as_slice() } else { &[] };
    std::iter::once(None).chain(several.iter().map(|count| Some(*count)))
}

fn name(vmm: Vmm, kernel: Option<&str>, cmdline: Option<&str>, machines: Option<u32>) -> String {
    let mut name = vmm.name().to_owned();
    let machines = machines.map(|count| count.to_string());
    for (what, value) in [("kernel", kernel), ("cmdline", cmdline), ("machines", machines.as_deref())] {
        if let Some(value) = value {
            name.push_str(&format!(" {what}={value}"));
        }
    }
    name
}

/// VMMs run in folders of their own.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("Cannot tell where {} is", path.display()))
}
