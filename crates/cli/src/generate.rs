//! What is derived from the command line's own description: completions and manual pages.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use crate::Cli;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  snowboot completions bash > ~/.local/share/bash-completion/completions/snowboot"
)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  snowboot man | man -l -\n  snowboot man --output ~/.local/share/man/man1"
)]
pub(crate) struct ManArgs {
    /// Write a page for Snowboot and one for each command to this folder
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub(crate) fn completions(args: &CompletionsArgs) -> Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "snowboot", &mut text);
    print(&text)
}

pub(crate) fn man(args: &ManArgs) -> Result<ExitCode> {
    // There is no page about `help`.
    let command = Cli::command().disable_help_subcommand(true);
    let Some(folder) = &args.output else {
        let mut text = Vec::new();
        clap_mangen::Man::new(command).render(&mut text)?;
        return print(&text);
    };
    fs::create_dir_all(folder).with_context(|| format!("Cannot make the folder {}", folder.display()))?;
    clap_mangen::generate_to(command, folder)
        .with_context(|| format!("Cannot write manual pages to {}", folder.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// A reader that has seen enough (`| head`) is no error.
pub(crate) fn print(text: &[u8]) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("Cannot write to the standard output")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
