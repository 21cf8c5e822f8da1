//! All runs: in every round each configuration runs once, so that whatever the host does meanwhile hits all alike.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::args::BootArgs;
use super::limit::Clock;
use super::measure::{Failure, Launch, Sample, Terms, measure, version};
use super::plan::{Configuration, Plan};
use super::progress::Progress;
use super::results::Measured;
use super::vmm::Vmm;
use crate::say;

/// Names the folder of Snowboot's kernel cache.
const CACHE_VARIABLE: &str = "SNOWBOOT_CACHE_DIR";

/// The runs of a plan.
#[derive(Debug)]
pub(super) struct Rounds<'a> {
    args: &'a BootArgs,
    terms: Terms<'a>,
    subjects: Vec<Subject<'a>>,
}

/// A configuration, ready to be run again and again.
#[derive(Debug)]
struct Subject<'a> {
    configuration: &'a Configuration,
    arguments: Vec<OsString>,
    folder: PathBuf,
    guest_memory: u64,
    version: Option<String>,
    /// An empty kernel cache for each run.
    cold_cache: Option<PathBuf>,
    samples: Vec<Sample>,
    failed_runs: u32,
}

impl<'a> Rounds<'a> {
    /// Makes a folder for each configuration, in `folder`, with what its VMM needs.
    pub(super) fn prepare(
        args: &'a BootArgs,
        plan: &'a Plan,
        terms: Terms<'a>,
        folder: &Path,
    ) -> Result<Self> {
        let mut subjects = Vec::new();
        for (index, configuration) in plan.configurations.iter().enumerate() {
            let folder = folder.join(index.to_string());
            fs::create_dir(&folder).with_context(|| format!("Cannot make {}", folder.display()))?;
            let is_cold = args.cold_cache && configuration.vmm == Vmm::Snowboot;
            subjects.push(Subject {
                configuration,
                arguments: configuration.vmm.arguments(&configuration.guest(args), &folder)?,
                cold_cache: is_cold.then(|| folder.join("cache")),
                folder,
                guest_memory: args.memory.bytes(),
                version: None,
                samples: Vec::new(),
                failed_runs: 0,
            });
        }
        Ok(Self { args, terms, subjects })
    }

    /// Runs them all; returns the signal that ended it before.
    pub(super) fn run(&mut self) -> Result<Option<i32>> {
        for subject in &mut self.subjects {
            if let Some(signal) = subject.ask_version(&self.terms)? {
                return Ok(Some(signal));
            }
        }
        let mut progress = Progress::new(self.args.warm_up, self.args.runs, self.subjects.len());
        for round in 0..self.args.warm_up.saturating_add(self.args.runs) {
            progress.round(round);
            let counts = round >= self.args.warm_up;
            for subject in &mut self.subjects {
                if let Some(signal) = subject.take_turn(&self.terms, counts, &mut progress)? {
                    return Ok(Some(signal));
                }
            }
        }
        Ok(None)
    }

    /// What was found.
    pub(super) fn measured(self) -> Vec<Measured> {
        self.subjects.into_iter().map(Subject::measured).collect()
    }
}

impl Subject<'_> {
    fn ask_version(&mut self, terms: &Terms<'_>) -> Result<Option<i32>> {
        match version(&self.configuration.program, &self.folder, terms) {
            Ok(version) => self.version = version,
            Err(Failure::Interrupted(signal)) => return Ok(Some(signal)),
            Err(failure) => self.tell(&failure, false)?,
        }
        Ok(None)
    }

    /// Runs it until it gives a figure; returns the signal that ended it before.
    fn take_turn(&mut self, terms: &Terms<'_>, counts: bool, progress: &mut Progress) -> Result<Option<i32>> {
        let mut has_failed = false;
        loop {
            progress.subject(&self.configuration.name);
            match self.run(terms) {
                Ok(sample) => {
                    self.samples.extend(counts.then_some(sample));
                    return Ok(None);
                }
                Err(Failure::Interrupted(signal)) => return Ok(Some(signal)),
                Err(failure) => {
                    progress.clear();
                    // A VMM that boots at all may fail once; one that fails in the warm-up is wrongly set up, except in
                    // the lab, whose emulation loses one machine in a hundred.
                    let may_retry = counts || terms.clock == Clock::Battery;
                    self.tell(&failure, may_retry && !has_failed)?;
                    has_failed = true;
                    self.failed_runs = self.failed_runs.saturating_add(1);
                }
            }
        }
    }

    fn run(&self, terms: &Terms<'_>) -> Result<Sample, Failure> {
        let mut environment = Vec::new();
        if let Some(cache) = &self.cold_cache {
            match fs::remove_dir_all(cache) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => environment.push((CACHE_VARIABLE, cache.clone())),
            }
        }
        let launch = Launch {
            program: &self.configuration.program,
            arguments: &self.arguments,
            environment: &environment,
            folder: &self.folder,
            guest_memory: self.guest_memory,
            machines: self.configuration.machines.unwrap_or(1),
        };
        measure(&launch, terms)
    }

    /// Says why there is no figure, which is an error unless the run may be made again.
    fn tell(&self, failure: &Failure, may_retry: bool) -> Result<()> {
        let name = &self.configuration.name;
        if let Some(output) = failure.output() {
            say::line(&format!("snowboot: {name}: {failure}:\n{output}"));
        }
        if may_retry && !matches!(failure, Failure::Host(_)) {
            say::line(&format!("snowboot: {name}: this run is made again"));
            return Ok(());
        }
        let advice = match failure {
            Failure::TimedOut { .. } => {
                "; see what its console says above, and correct --marker, or console= of the command line, or give \
                 it more --timeout"
            }
            Failure::Ended { .. } if self.configuration.vmm == Vmm::Snowboot => "; see above what it says",
            Failure::Ended { .. } => "; see above what it says, or leave it out with --against",
            _ => "",
        };
        bail!("{name} ({}): {failure}{advice}", self.configuration.program.display())
    }

    fn measured(self) -> Measured {
        let it = self.configuration;
        let text = |word: &OsString| word.to_string_lossy().into_owned();
        let program = it.program.clone().into_os_string();
        Measured {
            name: it.name.clone(),
            vmm: it.vmm,
            version: self.version,
            kernel_name: it.kernel_name.clone(),
            cmdline_name: it.cmdline_name.clone(),
            machines: it.machines,
            kernel: it.kernel.to_string_lossy().into_owned(),
            initrd: it.initrd.to_string_lossy().into_owned(),
            cmdline: it.cmdline.clone(),
            command: std::iter::once(&program).chain(&self.arguments).map(text).collect(),
            failed_runs: self.failed_runs,
            samples: self.samples,
        }
    }
}
