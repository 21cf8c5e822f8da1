//! Memory sizes as a user writes them.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};

/// The emulated host's kernel, its initramfs and a command need this much.
const LEAST: u64 = 512;

/// An amount of memory in whole MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MemorySize(u64);

impl MemorySize {
    /// The size in MiB.
    pub(crate) fn mebibytes(self) -> u64 {
        self.0
    }

    /// What the emulated host gets unless the user says: 6 GiB, or three quarters of what `meminfo` (the text of
    /// `/proc/meminfo`) says is available when that is less.
    pub(crate) fn default_for(meminfo: &str) -> Self {
        const USUAL: u64 = 6 * 1024;
        let available = meminfo
            .lines()
            .find_map(|line| {
                line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
            })
            .map_or(USUAL, |kibibytes| kibibytes / 1024 / 4 * 3);
        Self(available.clamp(LEAST, USUAL))
    }
}

impl FromStr for MemorySize {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
        let factor = match text.get(digits.len()..).unwrap_or_default() {
            "G" | "GiB" => 1024,
            "M" | "MiB" => 1,
            _ => bail!("A size is a number with M or G, such as 6G or 1500M"),
        };
        let Some(size) = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)) else {
            bail!("A size is a whole number with M or G, such as 6G or 1500M");
        };
        if size < LEAST {
            bail!("The emulated host needs at least {LEAST}M");
        }
        Ok(Self(size))
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}M", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!("6G".parse::<MemorySize>().unwrap(), MemorySize(6144));
        assert_eq!("1500MiB".parse::<MemorySize>().unwrap(), MemorySize(1500));
        for bad in
            ["", "6", "G", "-1G", "6K", "1.5G", "6 G", "G6", "99999999999999999999G", "18446744073709551615G"]
        {
            assert!(bad.parse::<MemorySize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn too_little_is_refused() {
        assert!("511M".parse::<MemorySize>().is_err());
        assert!("512M".parse::<MemorySize>().is_ok());
    }

    #[test]
    fn the_default_fits_the_machine() {
        assert_eq!(
            MemorySize::default_for("MemTotal: 9 kB\nMemAvailable:   24000000 kB\n").to_string(),
            "6144M"
        );
        assert_eq!(MemorySize::default_for("MemAvailable: 4194304 kB").to_string(), "3072M");
        assert_eq!(MemorySize::default_for("MemAvailable: 1024 kB").to_string(), "512M");
        assert_eq!(MemorySize::default_for("").to_string(), "6144M");
    }
}
