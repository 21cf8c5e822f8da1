//! `cargo xtask bench micro`: the benchmarks of `benches/micro`, in an optimised build.

use std::process::ExitCode;

use anyhow::Result;

use crate::run::{cargo, step};

/// Arguments of `cargo xtask bench micro`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Only benchmarks whose names have this in them (a regular expression)
    filter: Option<String>,
    /// Options for Criterion, such as --quick or --save-baseline NAME
    #[arg(last = true, value_name = "OPTIONS")]
    criterion: Vec<String>,
}

/// Measures; Criterion tells.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut command = cargo(&["bench", "--quiet", "--package", "snowboot-benches", "--"]);
    command.args(&args.filter).args(&args.criterion);
    step("micro-benchmarks", &mut command)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    #[test]
    fn a_filter_and_options_for_criterion_are_told_apart() {
        crate::Cli::command().debug_assert();
        for (words, filter, criterion) in [
            (vec![], None, vec![]),
            (vec!["switch"], Some("switch"), vec![]),
            (vec!["switch", "--", "--quick"], Some("switch"), vec!["--quick"]),
            (vec!["--", "--quick"], None, vec!["--quick"]),
        ] {
            let line = ["xtask", "bench", "micro"].into_iter().chain(words);
            let crate::Chore::Bench(args) = crate::Cli::try_parse_from(line).unwrap().chore else {
                unreachable!("it is a benchmark")
            };
            let super::super::What::Micro(args) = args.what else { unreachable!("it is this one") };
            assert_eq!(
                (args.filter.as_deref(), args.criterion),
                (filter, criterion.iter().map(ToString::to_string).collect())
            );
        }
    }
}
