//! `snowboot kernel`: kernels as machines enter them.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write the ELF image that is packed in a bzImage
    Unpack(UnpackArgs),
}

const AFTER_HELP: &str = "\
A machine unpacks its kernel on the host, once, and keeps it in the user's cache folder. Where nothing can be
kept, such as in the sandbox of a build, every run does that again: give it the unpacked kernel instead.

Exit status:
  0  the image is there
  1  the kernel cannot be read or unpacked, or the image not be written
  2  the command line is wrong

Example:
  snowboot kernel unpack ./result/kernel vmlinux";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct UnpackArgs {
    /// A bzImage; an ELF image is copied as it is
    #[arg(value_name = "KERNEL")]
    kernel: PathBuf,
    /// The file to write; one that is there is replaced
    #[arg(value_name = "VMLINUX")]
    output: PathBuf,
}

pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    let Command::Unpack(args) = command;
    let image = snowboot_vmm::unpack_kernel(&args.kernel)?;
    write(&args.output, &image)
        .with_context(|| format!("Cannot write the image {}", args.output.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a file that is there whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let permissions = std::fs::Permissions::from_mode(0o644);
    let mut draft =
        tempfile::Builder::new().prefix(".vmlinux-").permissions(permissions).tempfile_in(folder)?;
    draft.write_all(bytes)?;
    draft.persist(path)?;
    Ok(())
}
