//! What machines and networks may be called. A machine's name is a host name in the guest and a variable in the script; a network's
//! is a variable as it stands, and a part of file names.

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

const OF_SCRIPTS: &str = "a name that every script finds already";

/// What scripts find as globals where nothing else has taken the name: machines may be called that.
const YIELDING_GLOBALS: &[&str] = &["machine", "network"];

/// The variable that a script sees a machine as, by the rule of the NixOS test driver.
#[must_use]
pub fn variable_name(machine: &str) -> String {
    let mut name = machine.replace('-', "_");
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        name.replace_range(..1, "_");
    }
    name
}

/// The names of a test's machines and networks, and that they can be used together.
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

    /// Looks whether a network can be called that beside the machines; `place` is where its name stands.
    ///
    /// # Errors
    /// When it cannot.
    pub(super) fn check_network(&self, name: &str, place: usize) -> Result<(), Fault> {
        let wrong = |message: String| Err(Fault::new(place, message));
        if !is_identifier(name) {
            return wrong(format!(
                "network name `{}` is no variable of Python: use 1 to 63 letters, digits and `_`, with a letter at the beginning",
                name.escape_debug()
            ));
        }
        if let Some(machine) = self.variables.get(name) {
            return wrong(format!(
                "machine `{machine}` and network `{name}` would both be `{name}` in the script: rename one"
            ));
        }
        match taken(name).or(YIELDING_GLOBALS.contains(&name).then_some(OF_SCRIPTS)) {
            Some(what) => wrong(format!("network `{name}` is {what}: choose another name")),
            None => Ok(()),
        }
    }
}

/// What else a variable of this name would be. One that took the place of `log` or could not be written down at all would break
/// the script far from here.
fn taken(variable: &str) -> Option<&'static str> {
    if KEYWORDS.contains(&variable) {
        return Some("a word of Python's own");
    }
    (GLOBALS.contains(&variable) || is_vlan(variable)).then_some(OF_SCRIPTS)
}

fn check(name: &str, variable: &str) -> Result<(), String> {
    if !is_host_name(name) {
        return Err(format!(
            "machine name `{}` is not a host name: use 1 to 63 letters, digits, `-` and `_`, with a letter or digit at \
             both ends",
            name.escape_debug()
        ));
    }
    match taken(variable) {
        Some(what) => Err(format!(
            "machine `{name}` would be the variable `{variable}`, which is {what}: choose another name"
        )),
        None => Ok(()),
    }
}

/// Whether scripts have a VLAN of this name.
fn is_vlan(variable: &str) -> bool {
    variable
        .strip_prefix("vlan")
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether a name can stand in a script, and in the name of a file, as it is. Python takes more letters, and takes some of them for
/// others.
fn is_identifier(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.len() <= 63
        && name.bytes().all(is_inner)
}

/// What NixOS takes as `networking.hostName`, since that is what a machine's name becomes.
fn is_host_name(name: &str) -> bool {
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let bytes = name.as_bytes();
    let ends =
        [bytes.first(), bytes.last()].into_iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric));
    ends && bytes.len() <= 63 && bytes.iter().all(inner)
}
