//! What a machine may be called: its name is a host name in the guest and a variable in the script.

use std::collections::BTreeMap;

use super::tree::Fault;

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
    "debug",
    "driver",
    "dump_machine_ssh",
    "join_all",
    "log",
    "machines",
    "machines_nspawn",
    "machines_qemu",
    "os",
    "polling_condition",
    "retry",
    "run_tests",
    "serial_stdout_off",
    "serial_stdout_on",
    "start_all",
    "subtest",
    "t",
    "test_script",
    "vlans",
];

/// The variable that a script sees a machine as, by the rule of the NixOS test driver.
#[must_use]
pub fn variable_name(machine: &str) -> String {
    let mut name = machine.replace('-', "_");
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        name.replace_range(..1, "_");
    }
    name
}

/// The names of a test's machines, and that they can be used together.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Machines by the variables that they are in the script.
    variables: BTreeMap<String, String>,
}

impl Names {
    /// Adds a machine; `place` is where its name stands.
    ///
    /// # Errors
    /// When no machine can be called that, or two would be one variable.
    pub(super) fn add(&mut self, name: &str, place: usize) -> Result<(), Fault> {
        let variable = variable_name(name);
        check(name, &variable).map_err(|message| Fault::new(place, message))?;
        match self.variables.insert(variable.clone(), name.to_owned()) {
            None => Ok(()),
            Some(other) => {
                let message = format!(
                    "machines `{other}` and `{name}` would both be `{variable}` in the script: rename one"
                );
                Err(Fault::new(place, message))
            }
        }
    }
}

fn check(name: &str, variable: &str) -> Result<(), String> {
    if !is_host_name(name) {
        return Err(format!(
            "machine name `{}` is not a host name: use 1 to 63 letters, digits, `-` and `_`, with a letter or digit at \
             both ends",
            name.escape_debug()
        ));
    }
    // One that took the place of `log` or could not be written down at all would break the script far from here.
    let what = if KEYWORDS.contains(&variable) {
        "a word of Python's own"
    } else if GLOBALS.contains(&variable) || is_vlan(variable) {
        "a name that every script finds already"
    } else {
        return Ok(());
    };
    Err(format!("machine `{name}` would be the variable `{variable}`, which is {what}: choose another name"))
}

/// Whether scripts have a VLAN of this name.
fn is_vlan(variable: &str) -> bool {
    variable
        .strip_prefix("vlan")
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What NixOS takes as `networking.hostName`, since that is what a machine's name becomes.
fn is_host_name(name: &str) -> bool {
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let bytes = name.as_bytes();
    let ends =
        [bytes.first(), bytes.last()].into_iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric));
    ends && bytes.len() <= 63 && bytes.iter().all(inner)
}
