//! What kernels are told where nobody says anything else; `docs/boot.md` has the reason and the gain of each word.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::ValueError;

const PLAIN: &str = "console=ttyS0 panic=1";
const STANDARD: &str = "console=ttyS0 panic=1 loglevel=5 cryptomgr.notests";
const FAST: &str = "console=ttyS0 panic=1 loglevel=5 cryptomgr.notests mitigations=off init_on_alloc=0";

/// A set of kernel parameters for a machine of Snowboot's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootProfile {
    /// The console, and an end instead of a hang.
    Plain,
    /// Those, warnings and worse alone on the console, and no self-tests of ciphers and hashes.
    #[default]
    Standard,
    /// Those, and no protections of the kernel's from what runs in the guest.
    Fast,
}

impl BootProfile {
    /// All, each with more parameters than the one before it.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Standard, Self::Fast];

    /// As in manifests and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Standard => "standard",
            Self::Fast => "fast",
        }
    }

    /// The whole command line of a kernel that nobody gave one.
    #[must_use]
    pub fn cmdline(self) -> &'static str {
        match self {
            Self::Plain => PLAIN,
            Self::Standard => STANDARD,
            Self::Fast => FAST,
        }
    }

    /// The command line of a kernel without a toplevel. A text of the user's own stands alone, unless a profile is
    /// named too: then it goes after that one's words, so that it wins where they differ.
    #[must_use]
    pub fn for_kernel(profile: Option<Self>, own: Option<&str>) -> String {
        match (profile, own) {
            (None, Some(own)) => own.to_owned(),
            (profile, None) => profile.unwrap_or_default().cmdline().to_owned(),
            (Some(profile), Some(own)) => format!("{} {own}", profile.cmdline()).trim_end().to_owned(),
        }
    }

    /// The command line `own` of a toplevel, with this profile's words before it. It keeps what it says: a parameter
    /// that it has itself is left out of the profile's, and so are its consoles and what it does on a panic.
    #[must_use]
    pub fn for_toplevel(self, own: &str) -> String {
        // What is behind `--` is for init.
        let kernels = own.split_ascii_whitespace().take_while(|word| *word != "--");
        let set: Vec<String> = kernels.map(key).collect();
        let plain: Vec<&str> = PLAIN.split(' ').collect();
        let is_new = |word: &&str| !plain.contains(word) && !set.contains(&key(word));
        let mut words: Vec<&str> = self.cmdline().split(' ').filter(is_new).collect();
        words.push(own);
        words.join(" ")
    }
}

/// A parameter's name. To kernels `-` and `_` are the same there.
fn key(word: &str) -> String {
    word.split('=').next().unwrap_or_default().replace('-', "_")
}

impl fmt::Display for BootProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BootProfile {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::ALL.into_iter().find(|profile| profile.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            ValueError(format!("`{text}` is not a boot profile: choose one of {names}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_profile_has_the_words_of_the_one_before_it_and_none_twice() {
        for pair in BootProfile::ALL.windows(2) {
            let before = format!("{} ", pair[0].cmdline());
            assert!(pair[1].cmdline().starts_with(&before), "{pair:?}");
        }
        let words: Vec<String> = BootProfile::Fast.cmdline().split(' ').map(key).collect();
        for (index, word) in words.iter().enumerate() {
            assert!(!words[..index].contains(word) && !word.is_empty(), "{word}");
        }
    }

    #[test]
    fn what_is_not_asked_for_takes_no_protection_and_hides_no_panic() {
        let cmdline = BootProfile::default().cmdline();
        assert!(cmdline.starts_with(BootProfile::Plain.cmdline()), "{cmdline}");
        // `quiet` would hide warnings, too, and what systemd shows of its units.
        for word in ["mitigations", "init_on", "quiet", "nokaslr", "lsm", "panic=0"] {
            assert!(!cmdline.contains(word), "{word} in {cmdline}");
        }
    }

    #[test]
    fn a_command_line_of_the_users_own_stands_alone_unless_a_profile_is_named() {
        let plain = BootProfile::Plain;
        assert_eq!(BootProfile::for_kernel(None, None), BootProfile::Standard.cmdline());
        assert_eq!(BootProfile::for_kernel(None, Some("root=/dev/vda")), "root=/dev/vda");
        assert_eq!(BootProfile::for_kernel(None, Some("")), "");
        assert_eq!(BootProfile::for_kernel(Some(plain), None), "console=ttyS0 panic=1");
        assert_eq!(BootProfile::for_kernel(Some(plain), Some("panic=5")), "console=ttyS0 panic=1 panic=5");
        assert_eq!(BootProfile::for_kernel(Some(plain), Some("")), "console=ttyS0 panic=1");
    }

    #[test]
    fn a_toplevel_keeps_what_it_says_itself() {
        let own = "console=tty0 panic=-1 quiet init=/init";
        assert_eq!(BootProfile::Plain.for_toplevel(own), own);
        let standard = BootProfile::Standard.for_toplevel(own);
        assert_eq!(standard, format!("loglevel=5 cryptomgr.notests {own}"));
        let spelt = "init-on-alloc=1 mitigations=auto,nosmt loglevel=7 -- loglevel=9";
        assert_eq!(BootProfile::Fast.for_toplevel(spelt), format!("cryptomgr.notests {spelt}"));
        let inits = BootProfile::Standard.for_toplevel("x -- loglevel=9");
        assert_eq!(inits, "loglevel=5 cryptomgr.notests x -- loglevel=9");
    }

    #[test]
    fn names_read_back_and_others_are_refused() {
        for profile in BootProfile::ALL {
            assert_eq!(profile.to_string().parse(), Ok(profile));
            assert_eq!(serde_json::to_value(profile).unwrap(), profile.name());
        }
        let error = "Fast".parse::<BootProfile>().unwrap_err();
        assert_eq!(error.0, "`Fast` is not a boot profile: choose one of plain, standard, fast");
    }
}
