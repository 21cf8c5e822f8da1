//! What a machine may be called: its name is a host name in the guest and a variable in the script.

use super::tree::{Entry, Fault};

/// Words that are no variables in Python 3.
const KEYWORDS: &[&str] = &[
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def",
    "del", "elif", "else", "except", "finally", "for", "from", "global", "if", "import", "in", "is",
    "lambda", "nonlocal", "not", "or", "pass", "raise", "return", "try", "while", "with", "yield",
];

/// What scripts find as globals, here or in the NixOS test driver. The tests of the Python package hold this list to
/// what the package really gives a script.
const GLOBALS: &[&str] = &[
    "BaseMachine",
    "Machine",
    "NspawnMachine",
    "QemuMachine",
    "create_machine",
    "driver",
    "join_all",
    "log",
    "machines",
    "os",
    "polling_condition",
    "retry",
    "serial_stdout_off",
    "serial_stdout_on",
    "start_all",
    "subtest",
    "t",
    "vlans",
];

/// What NixOS takes as `networking.hostName`, since that is what a machine's name becomes.
pub(super) fn check_machine_name(entry: &Entry) -> Result<(), Fault> {
    let name = entry.key.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let ends = [name.first(), name.last()].into_iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric));
    if ends && name.len() <= 63 && name.iter().all(inner) {
        return Ok(());
    }
    let message = format!(
        "machine name `{}` is not a host name: use 1 to 63 letters, digits, `-` and `_`, with a letter or digit at both ends",
        entry.key.escape_debug()
    );
    Err(Fault::new(entry.offset, message))
}

/// The variable that a script sees a machine as, by the rule of the NixOS test driver.
#[must_use]
pub fn variable_name(machine: &str) -> String {
    let mut name = machine.replace('-', "_");
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        name.replace_range(..1, "_");
    }
    name
}

/// A machine that took the place of `log` or could not be written down at all would break the script far from here.
pub(super) fn check_variable(entry: &Entry, variable: &str) -> Result<(), Fault> {
    let what = if KEYWORDS.contains(&variable) {
        "a word of Python's own"
    } else if GLOBALS.contains(&variable) {
        "a name that every script finds already"
    } else {
        return Ok(());
    };
    let name = &entry.key;
    let message =
        format!("machine `{name}` would be the variable `{variable}`, which is {what}: choose another name");
    Err(Fault::new(entry.offset, message))
}
