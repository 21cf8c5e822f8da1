//! QEMU's command-line options, as far as programs append them to a start script.
//!
//! The NixOS test driver appends the sockets of its monitors and its shell, the devices of that shell, and how a machine is to
//! behave at a reset. What describes the machine itself is not taken from here but from its own description.

mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;

use snowboot_config::{MemorySize, VcpuCount};

use self::value::Value;

/// What the arguments say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// Where QMP clients connect (`-qmp unix:PATH,server=on,wait=off`).
    pub qmp: Vec<PathBuf>,
    /// Where monitors for people wait for the machine (`-monitor unix:PATH`).
    pub monitors: Vec<PathBuf>,
    /// Where the other end of `/dev/hvc0` waits (`-chardev socket` with a `-device virtconsole`).
    pub console: Option<PathBuf>,
    /// A reset ends the program (`-no-reboot`).
    pub no_reboot: bool,
    /// Begin paused (`-S`).
    pub is_paused: bool,
    /// Guest memory (`-m`).
    pub memory: Option<MemorySize>,
    /// The number of vCPUs (`-smp`).
    pub vcpus: Option<VcpuCount>,
    /// What the machine has not, and what that means: for the user.
    pub warnings: Vec<String>,
}

/// An option cannot be honoured. The text names it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(pub String);

/// Options without a value that change nothing here: there is no display, KVM is all there is, and so on.
const IDLE: [&str; 3] = ["nographic", "enable-kvm", "nodefaults"];

/// Options whose values are those that a machine has anyway.
const AS_IT_IS: [(&str, &[&str]); 7] = [
    ("serial", &["stdio", "mon:stdio"]),
    ("display", &["none"]),
    ("vga", &["none"]),
    ("accel", &["kvm"]),
    ("cpu", &["max", "host"]),
    ("parallel", &["none"]),
    ("monitor", &["none"]),
];

/// Devices that every machine has.
const DEVICES: [&str; 5] =
    ["virtio-serial", "virtio-serial-pci", "virtio-rng-pci", "virtio-keyboard", "virtio-balloon-pci"];

impl Arguments {
    /// Reads options; those of later words win.
    ///
    /// # Errors
    /// When one is not known, or has a value that cannot be honoured.
    pub fn parse<T: AsRef<str>>(words: impl IntoIterator<Item = T>) -> Result<Self, Wrong> {
        let mut reader = Reader::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let word = word.as_ref();
            let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
            let Some(name) = name.filter(|name| !name.is_empty()) else {
                return Err(Wrong(format!(
                    "`{word}` is no option of QEMU's; a machine's disks are in its description"
                )));
            };
            if !reader.flag(name) {
                let value = words.next();
                let value = value.as_ref().map(AsRef::as_ref);
                reader.option(name, value)?;
            }
        }
        reader.finish()
    }
}

/// What has been read so far.
#[derive(Debug, Default)]
struct Reader {
    found: Arguments,
    /// Sockets by the names of their character devices.
    sockets: BTreeMap<String, PathBuf>,
    /// Character devices of other devices, which are not there.
    unused: Vec<String>,
    /// The name of the character device that a console is on.
    console: Option<String>,
}

impl Reader {
    /// Reads an option that has no value; whether it is one.
    fn flag(&mut self, name: &str) -> bool {
        match name {
            "no-reboot" => self.found.no_reboot = true,
            "S" => self.found.is_paused = true,
            _ => return IDLE.contains(&name),
        }
        true
    }

    fn option(&mut self, name: &str, value: Option<&str>) -> Result<(), Wrong> {
        let unknown = || {
            Wrong(format!(
                "`-{name}` is an option of QEMU's that machines of Snowboot have nothing for; leave it out"
            ))
        };
        const TAKEN: [&str; 8] = ["qmp", "monitor", "chardev", "device", "m", "smp", "name", "action"];
        let is_taken = TAKEN.contains(&name) || AS_IT_IS.iter().any(|(known, _)| *known == name);
        if !is_taken {
            return Err(unknown());
        }
        let text = value.ok_or_else(|| Wrong(format!("`-{name}` has no value")))?;
        let same = AS_IT_IS.iter().find(|(known, _)| *known == name);
        if same.is_some_and(|(_, values)| values.contains(&text)) {
            return Ok(());
        }
        let wrong = |why: String| Wrong(format!("`-{name} {text}` cannot be honoured: {why}"));
        match name {
            "qmp" => add(&mut self.found.qmp, value::server(text).map_err(wrong)?),
            "monitor" => add(&mut self.found.monitors, value::client(text).map_err(wrong)?),
            "chardev" => self.character_device(text).map_err(wrong)?,
            "device" => self.device(text).map_err(wrong)?,
            "m" => self.found.memory = Some(value::memory(text).map_err(wrong)?),
            "smp" => self.found.vcpus = Some(value::vcpus(text).map_err(wrong)?),
            "action" => self.action(text).map_err(wrong)?,
            // For people.
            "name" => {}
            _ => match same {
                Some((_, values)) => return Err(wrong(format!("it can be {}", values.join(" or ")))),
                None => return Err(unknown()),
            },
        }
        Ok(())
    }

    fn action(&mut self, text: &str) -> Result<(), String> {
        for (event, action) in Value::parse(text).options {
            match (event.as_str(), action.as_str()) {
                ("reboot", "shutdown") => self.found.no_reboot = true,
                ("reboot", "reset") => self.found.no_reboot = false,
                _ => return Err("there is `reboot=shutdown` and `reboot=reset`".to_owned()),
            }
        }
        Ok(())
    }

    fn character_device(&mut self, text: &str) -> Result<(), String> {
        let value = Value::parse(text);
        let Some(id) = value.get("id") else { return Err("it has no `id`".to_owned()) };
        if value.kind != "socket" {
            return Err("character devices are sockets here: `socket,id=ID,path=PATH`".to_owned());
        }
        if value.is_on("server") {
            return Err(
                "the other end has to listen, and the machine connects: leave out `server`".to_owned()
            );
        }
        let Some(path) = value.get("path") else { return Err("it has no `path`".to_owned()) };
        self.sockets.insert(id.to_owned(), PathBuf::from(path));
        Ok(())
    }

    fn device(&mut self, text: &str) -> Result<(), String> {
        let value = Value::parse(text);
        match value.kind.as_str() {
            "virtconsole" => {
                let Some(id) = value.get("chardev") else { return Err("it has no `chardev`".to_owned()) };
                if self.console.as_deref().is_some_and(|other| other != id) {
                    return Err("a machine has one console besides its serial port".to_owned());
                }
                self.console = Some(id.to_owned());
            }
            "vhost-user-vsock-pci" => {
                self.unused.extend(value.get("chardev").map(str::to_owned));
                let warning = "the machine has no vsock device: it cannot be reached by the SSH backdoor";
                self.found.warnings.push(warning.to_owned());
            }
            kind if DEVICES.contains(&kind) => {}
            _ => {
                return Err("a machine's devices are those of its description; leave it out".to_owned());
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Arguments, Wrong> {
        if let Some(id) = self.console {
            let Some(path) = self.sockets.remove(&id) else {
                return Err(Wrong(format!(
                    "`-device virtconsole,chardev={id}`: there is no `-chardev socket,id={id}`"
                )));
            };
            self.found.console = Some(path);
        }
        if let Some(id) = self.sockets.keys().find(|id| !self.unused.contains(id)) {
            return Err(Wrong(format!("`-chardev socket,id={id}` is of no device; leave it out")));
        }
        Ok(self.found)
    }
}

/// A start script may have its options twice, from the environment and as its arguments: the same socket is one.
fn add(paths: &mut Vec<PathBuf>, path: PathBuf) {
    if !paths.contains(&path) {
        paths.push(path);
    }
}

#[cfg(test)]
mod tests;
