//! Finding the Python interpreter and Snowboot's Python package for it.

use std::borrow::Cow;
use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the interpreter.
const INTERPRETER_VARIABLE: &str = "SNOWBOOT_PYTHON";
/// Names the folder of the package.
const FOLDER_VARIABLE: &str = "SNOWBOOT_PYTHON_PATH";
const PACKAGE: &str = "snowboot";
/// What runs a test.
const MODULE: &str = "snowboot.runner";
/// What checks one.
pub(crate) const CHECK: &str = "snowboot.check";
/// What has the command line of the NixOS test driver.
pub(crate) const DRIVER_ENTRY: &str = "snowboot.nixos_test_driver";
/// The oldest that will do.
const OLDEST: (u32, u32) = (3, 11);

const INSTALL_PYTHON: &str =
    "tests need Python 3.11 or newer: install it, or name the interpreter with SNOWBOOT_PYTHON";

/// What the interpreter is asked. It answers with its version, the runner's file and why that cannot be loaded, each
/// after a NUL, so that whatever else is written there does no harm. An interpreter that is too old is not asked for more,
/// since the package need not even compile there. Little is imported: a test begins after this.
const QUESTION: &str = "\
import sys
version = '.'.join(map(str, sys.version_info[:3]))
package = trouble = ''
if sys.version_info[:2] >= (3, 11):
    sys.path = [entry for entry in sys.path if entry]
    try:
        import snowboot
        from importlib.machinery import PathFinder
        found = PathFinder.find_spec('snowboot.runner', snowboot.__path__)
        package = found.origin or '' if found else ''
    except Exception as error:
        trouble = type(error).__name__ + ': ' + str(error)
answer = '\\0'.join(['', version, package, trouble, ''])
getattr(sys.stdout, 'buffer', sys.stdout).write(answer.encode('utf-8', 'surrogateescape'))
";

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    version: (u32, u32, u32),
    package: Option<String>,
    error: Option<String>,
}

impl Answer {
    fn parse(output: &[u8]) -> Option<Self> {
        let mut fields = output.rsplit(|byte| *byte == 0).map(String::from_utf8_lossy);
        let _rest = fields.next()?;
        let [error, package, version] = [fields.next()?, fields.next()?, fields.next()?];
        let mut numbers = version.split('.').map(|number| number.parse().ok());
        let version = (numbers.next()??, numbers.next()??, numbers.next()??);
        let text = |field: Cow<'_, str>| Some(field.into_owned()).filter(|field| !field.is_empty());
        Some(Self { version, package: text(package), error: text(error) })
    }
}

/// Why no test can run.
#[derive(Debug, thiserror::Error)]
#[error("{found}; {advice}")]
pub(crate) struct Unusable {
    /// What was found.
    pub(crate) found: String,
    /// What to do about it.
    pub(crate) advice: String,
}

impl Unusable {
    fn new(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { found: found.into(), advice: advice.into() }
    }
}

/// An interpreter that can run tests.
#[derive(Debug)]
pub(crate) struct Python {
    interpreter: OsString,
    /// Value of PYTHONPATH, where it has to be another than the environment's.
    path: Option<OsString>,
    version: (u32, u32, u32),
    package: String,
}

impl Python {
    /// Looks for the interpreter and the package, and asks the interpreter whether they will do.
    pub(crate) fn find() -> Result<Self, Unusable> {
        let interpreter = variable(INTERPRETER_VARIABLE).unwrap_or_else(|| "python3".into());
        let path = package_folder()?.map(|folder| search_path(&folder)).transpose()?;
        let answer = ask(&interpreter, path.as_deref())?;
        let (major, minor, patch) = answer.version;
        if (major, minor) < OLDEST {
            let found = format!("{} is Python {major}.{minor}.{patch}", interpreter.display());
            return Err(Unusable::new(found, INSTALL_PYTHON));
        }
        let missing = format!("No module named '{PACKAGE}'");
        if let Some(error) = answer.error.filter(|error| !error.contains(&missing)) {
            let found = format!("Python cannot load {MODULE}: {error}");
            return Err(Unusable::new(found, "install Snowboot's Python package again"));
        }
        let package = answer.package.ok_or_else(no_package)?;
        Ok(Self { interpreter, path, version: answer.version, package })
    }

    /// `INTERPRETER -m snowboot.runner`.
    pub(crate) fn runner(&self) -> Command {
        self.module(MODULE)
    }

    /// `INTERPRETER -m MODULE`. The current folder is kept off the module path: it may hold anything.
    pub(crate) fn module(&self, module: &str) -> Command {
        let mut command = self.command();
        command.args(["-P", "-m", module]);
        command
    }

    /// Version and place, for people.
    pub(crate) fn describe(&self) -> String {
        let (major, minor, patch) = self.version;
        format!("Python {major}.{minor}.{patch}, {}", self.package)
    }

    fn command(&self) -> Command {
        command(&self.interpreter, self.path.as_deref())
    }
}

fn command(interpreter: &OsStr, path: Option<&OsStr>) -> Command {
    let mut command = Command::new(interpreter);
    if let Some(path) = path {
        command.env("PYTHONPATH", path);
    }
    command
}

fn ask(interpreter: &OsStr, path: Option<&OsStr>) -> Result<Answer, Unusable> {
    let name = interpreter.display();
    let output = command(interpreter, path)
        .args(["-c", QUESTION])
        .output()
        .map_err(|error| Unusable::new(format!("Cannot run {name}: {error}"), INSTALL_PYTHON))?;
    Answer::parse(&output.stdout).ok_or_else(|| {
        let words = String::from_utf8_lossy(&output.stderr);
        let words = words.lines().last().unwrap_or("it said nothing");
        let found = format!("{name} does not answer as Python does ({}: {words})", output.status);
        Unusable::new(found, INSTALL_PYTHON)
    })
}

/// The folder that holds the package, if it is in one of the places where it is put beside the program. Elsewhere the
/// interpreter may know it.
fn package_folder() -> Result<Option<PathBuf>, Unusable> {
    if let Some(folder) = variable(FOLDER_VARIABLE).map(PathBuf::from) {
        if holds_package(&folder) {
            return Ok(Some(folder));
        }
        let found = format!("{FOLDER_VARIABLE} is {}, without {PACKAGE}/__init__.py in it", folder.display());
        return Err(Unusable::new(found, "name the folder that holds the package"));
    }
    let Ok(program) = env::current_exe() else { return Ok(None) };
    let folder = program.parent().unwrap_or(Path::new("/"));
    let places = [folder.join("python"), folder.join("../lib/snowboot/python")];
    Ok(places.into_iter().find(|place| holds_package(place)))
}

fn holds_package(folder: &Path) -> bool {
    folder.join(PACKAGE).join("__init__.py").is_file()
}

/// `folder` before what PYTHONPATH has. Absolute: scripts may change the current folder.
fn search_path(folder: &Path) -> Result<OsString, Unusable> {
    let wrong = |error: &dyn std::fmt::Display| {
        let found = format!("Python cannot be told of {}: {error}", folder.display());
        Unusable::new(found, format!("put the package elsewhere and name the folder with {FOLDER_VARIABLE}"))
    };
    let absolute = folder.canonicalize().map_err(|error| wrong(&error))?;
    let before = variable("PYTHONPATH").unwrap_or_default();
    let rest = env::split_paths(&before).filter(|path| !path.as_os_str().is_empty());
    env::join_paths(std::iter::once(absolute).chain(rest)).map_err(|error| wrong(&error))
}

fn no_package() -> Unusable {
    Unusable::new(
        "Snowboot's Python package is missing: it is neither in python/ nor in ../lib/snowboot/python/ beside this \
        program, and the interpreter does not know it",
        format!("name the folder that holds it with {FOLDER_VARIABLE}"),
    )
}

/// A variable that is set to nothing is not set.
fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_found_among_other_output() {
        let answer = |package: Option<&str>, error: Option<&str>| {
            let text = |text: Option<&str>| text.map(str::to_owned);
            Some(Answer { version: (3, 11, 2), package: text(package), error: text(error) })
        };
        let found = Answer::parse(b"a site's greeting\n\x003.11.2\0/odd\n\xff/runner.py\0\0");
        assert_eq!(found, answer(Some("/odd\n\u{fffd}/runner.py"), None));
        assert_eq!(
            Answer::parse(b"\x003.11.2\0\0ImportError: why\0bye\n"),
            answer(None, Some("ImportError: why"))
        );
        for other in [&b""[..], b"\0\0\0\0", b"\x003.x.2\0\0\0", b"\x003.11\0\0\0", b"3.11.2"] {
            assert_eq!(Answer::parse(other), None, "{other:?}");
        }
    }
}
