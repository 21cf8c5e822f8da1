//! `snowboot store`: images of folders and closures.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{ArgGroup, Subcommand};
use snowboot_config::StoreSource;
use snowboot_store::Images;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make an image of a folder or closure, or find the one that was made before
    Image(ImageArgs),
}

const AFTER_HELP: &str = "\
An image is a read-only file system (EROFS, labelled nix-store), always the same for the same files: owned by root, all
times 0. It can be a disk, or persistent memory whose pages all guests share with the host:
  snowboot run ./result --disk IMAGE,read-only        mount -t erofs /dev/disk/by-label/nix-store /mnt
  snowboot run ./result --pmem IMAGE                  mount -t erofs -o dax /dev/pmem0 /mnt

Without --output, images are kept in the user's cache folder and their paths are printed; a folder or closure that has
one already is not read again. The program mkfs.erofs (package erofs-utils) makes them.

Exit status:
  0  the image is there
  1  it could not be made
  2  the command line is wrong

Examples:
  snowboot store image ./rootfs -o rootfs.erofs
  snowboot store image --closure $(nix-build closure-info.nix)/store-paths
  snowboot run ./result --pmem $(snowboot store image ./tools)";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, group = ArgGroup::new("source").args(["folder", "closure"]).required(true))]
pub(crate) struct ImageArgs {
    /// A folder, whose content is the image's
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// A file with one path on each line, all of one folder, such as Nix's closureInfo makes
    #[arg(long, value_name = "FILE")]
    closure: Option<PathBuf>,
    /// Write the image here, and keep none in the cache folder
    #[arg(short, long, value_name = "IMAGE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    let Command::Image(args) = command;
    let source = args.folder.clone().map(StoreSource::Folder);
    let source = source.or_else(|| args.closure.clone().map(StoreSource::Closure));
    let source = source.context("There is nothing to make an image of; name a folder or a --closure")?;
    match &args.output {
        Some(path) => snowboot_store::write_image(&source, path)?,
        None => println!("{}", Images::from_environment().keep(&source)?.display()),
    }
    Ok(ExitCode::SUCCESS)
}
