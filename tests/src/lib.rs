//! What the whole-machine tests share: a machine that runs Snowboot's own payload, and what it printed.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use snowboot_config::{BootConfig, DiskConfig, MachineConfig, MemorySize, VcpuCount};
use snowboot_vmm::{Builder, Machine, Outcome};

/// The payload's path, for tests.
pub const FIRMWARE: &str = "SNOWBOOT_FIRMWARE";
/// How long anything may take. Plenty: an emulated host under load is a hundred times slower than a real one.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of a sector.
pub const SECTOR: usize = 512;
/// The sectors of a writable disk that the payload fills.
pub const WRITTEN_SECTORS: std::ops::Range<usize> = 8..32;

/// A machine with 64 MiB, one vCPU and no disks that runs the payload with `cmdline`.
///
/// # Errors
/// When the environment does not say where the payload is.
pub fn config(name: &str, cmdline: &str) -> Result<MachineConfig> {
    Ok(MachineConfig {
        name: name.to_owned(),
        boot: BootConfig { kernel: firmware()?, initrds: Vec::new(), cmdline: cmdline.to_owned() },
        memory: MemorySize::from_mib(64)?,
        vcpus: VcpuCount::default(),
        disks: Vec::new(),
        pmem: Vec::new(),
        vhost_user: Vec::new(),
        nics: Vec::new(),
        shares: Vec::new(),
    })
}

fn firmware() -> Result<PathBuf> {
    let path = std::env::var_os(FIRMWARE).with_context(|| {
        format!(
            "{FIRMWARE} is not set: run `cargo xtask test`, or set it to what `cargo xtask firmware` prints"
        )
    })?;
    let path = PathBuf::from(path);
    ensure!(path.is_file(), "{FIRMWARE} names {}, which is not a file", path.display());
    Ok(path)
}

/// Makes a disk image of `sectors` sectors whose first one holds `label`.
///
/// # Errors
/// When the file cannot be written.
pub fn disk(path: &Path, sectors: usize, label: &str, read_only: bool) -> Result<DiskConfig> {
    let mut image = vec![0; sectors * SECTOR];
    image.iter_mut().zip(label.bytes()).for_each(|(byte, value)| *byte = value);
    fs::write(path, image).with_context(|| format!("Cannot write {}", path.display()))?;
    let serial = Some(format!("serial-{label}"));
    Ok(DiskConfig { read_only, serial, ..DiskConfig::of_image(path) })
}

/// What the payload leaves in sector `sector` of disk `disk`.
#[must_use]
pub fn pattern(disk: usize, sector: usize) -> Vec<u8> {
    let byte =
        |index: usize| (index.wrapping_mul(7) ^ sector.wrapping_mul(13)).wrapping_add(disk).to_le_bytes()[0];
    (0..SECTOR).map(byte).collect()
}

/// A started machine, and its serial port's output.
#[derive(Debug)]
pub struct Guest {
    /// The machine.
    pub machine: Machine,
    output: Output,
}

impl Guest {
    /// Builds and starts a machine.
    ///
    /// # Errors
    /// When it cannot be built or started: no KVM device, for one.
    pub fn start(config: MachineConfig) -> Result<Self> {
        let output = Output::default();
        let machine = Builder::new(config)
            .serial_output(Box::new(output.clone()))
            .build()
            .context("Cannot build a machine; these tests need KVM")?;
        machine.start()?;
        Ok(Self { machine, output })
    }

    /// The whole lines that were printed.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        whole_lines(&self.output.lock())
    }

    /// Waits until a whole line is printed that starts with `start`, and returns it.
    ///
    /// # Errors
    /// When it does not come, with all that came instead.
    pub fn wait_for_line(&self, start: &str) -> Result<String> {
        let mut found = None;
        self.wait_until(|lines| {
            found = lines.iter().find(|line| line.starts_with(start)).cloned();
            found.is_some()
        })
        .with_context(|| format!("no line starts with `{start}`"))?;
        found.context("the line is there")
    }

    /// Waits until `condition` holds of the whole lines that were printed.
    ///
    /// # Errors
    /// When it does not come to hold, with what was printed.
    pub fn wait_until(&self, mut condition: impl FnMut(&[String]) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut bytes = self.output.lock();
        loop {
            // What is printed before the end is there once the end is known.
            let outcome = self.machine.outcome();
            let lines = whole_lines(&bytes);
            if condition(&lines) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || outcome.is_some() {
                bail!("waited in vain; outcome {outcome:?}; output:\n{}", lines.join("\n"));
            }
            let step = left.min(Duration::from_millis(50));
            bytes = self.output.0.1.wait_timeout(bytes, step).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the machine's end.
    ///
    /// # Errors
    /// When it does not end, with what it printed.
    pub fn outcome(&self) -> Result<Outcome> {
        self.machine
            .wait(Some(PATIENCE))
            .with_context(|| format!("the machine does not end; output:\n{}", self.lines().join("\n")))
    }

    /// All checks were made, and none failed.
    ///
    /// # Errors
    /// With the output otherwise.
    pub fn ensure_all_ok(&self) -> Result<()> {
        let done = self.wait_for_line("done: ")?;
        let lines = self.lines();
        ensure!(done.ends_with(" ok, 0 failed"), "checks failed:\n{}", lines.join("\n"));
        Ok(())
    }

    /// Ends with `expected` after all checks went well.
    ///
    /// # Errors
    /// With the output otherwise.
    pub fn ensure_ends_well(&self, expected: &Outcome) -> Result<()> {
        let outcome = self.outcome()?;
        ensure!(outcome == *expected, "the outcome is {outcome}; output:\n{}", self.lines().join("\n"));
        self.ensure_all_ok()
    }
}

fn whole_lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.rsplit_once('\n').map_or("", |(lines, _)| lines).lines().map(str::to_owned).collect()
}

/// A buffer that the machine writes and the test reads.
#[derive(Clone, Debug, Default)]
struct Output(Arc<(Mutex<Vec<u8>>, Condvar)>);

impl Output {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().extend_from_slice(bytes);
        self.0.1.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
