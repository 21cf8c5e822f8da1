//! QMP's commands.

use serde_json::{Map, Value, json};

use crate::control::{Card, Control, Refusal, Version};
use crate::hmp;

/// All commands but the one that begins a session.
const COMMANDS: &[(&str, Command)] = &[
    ("cont", |_, control| done(control.resume())),
    ("human-monitor-command", monitor_command),
    ("query-commands", |_, _| Ok(commands())),
    ("query-cpus-fast", |_, control| Ok(cpus(control))),
    ("query-kvm", |_, _| Ok(json!({"enabled": true, "present": true}))),
    ("query-name", |_, control| Ok(json!({"name": control.name()}))),
    ("query-status", |_, control| Ok(status(control))),
    ("query-version", |_, _| Ok(version())),
    ("quit", |_, control| act(|| control.quit())),
    ("set_link", set_link),
    ("stop", |_, control| done(control.pause())),
    ("system_powerdown", |_, control| act(|| control.press_power_button())),
    ("system_reset", |_, control| act(|| control.reset())),
];

type Arguments = Map<String, Value>;
type Command = fn(&Arguments, &dyn Control) -> Result<Value, Failure>;

/// What begins a session.
pub(super) const BEGIN: &str = "qmp_capabilities";

/// An error, as QMP has it.
#[derive(Debug)]
pub(super) struct Failure {
    class: &'static str,
    text: String,
}

impl Failure {
    pub(super) fn generic(text: impl Into<String>) -> Self {
        Self { class: "GenericError", text: text.into() }
    }

    fn not_found(text: impl Into<String>) -> Self {
        Self { class: "CommandNotFound", text: text.into() }
    }

    pub(super) fn reply(&self, id: Option<&Value>) -> Value {
        with_id(json!({"error": {"class": self.class, "desc": self.text}}), id)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::generic(refusal.0)
    }
}

/// A request as it was understood.
#[derive(Debug)]
pub(super) struct Request {
    name: String,
    arguments: Arguments,
    id: Option<Value>,
}

impl Request {
    /// Reads a message.
    pub(super) fn parse(text: &[u8]) -> Result<Self, Failure> {
        let value = serde_json::from_slice(text);
        let Ok(Value::Object(mut request)) = value else {
            return Err(Failure::generic("JSON parse error, expecting an object"));
        };
        let id = request.remove("id");
        let name = match request.remove("execute") {
            Some(Value::String(name)) => name,
            Some(_) => return Err(Failure::generic("QMP input member 'execute' must be a string")),
            None => return Err(Failure::generic("QMP input lacks member 'execute'")),
        };
        let arguments = match request.remove("arguments") {
            None => Map::new(),
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return Err(Failure::generic("QMP input member 'arguments' must be an object")),
        };
        match request.keys().next() {
            Some(key) => {
                Err(Failure::generic(format!("QMP input member '{}' is unexpected", key.escape_debug())))
            }
            None => Ok(Self { name, arguments, id }),
        }
    }

    /// Carries it out; `has_begun` is whether the session has, and is set when it does.
    pub(super) fn answer(&self, has_begun: &mut bool, control: &dyn Control) -> Value {
        match self.carry_out(has_begun, control) {
            Ok(value) => with_id(json!({"return": value}), self.id.as_ref()),
            Err(failure) => failure.reply(self.id.as_ref()),
        }
    }

    fn carry_out(&self, has_begun: &mut bool, control: &dyn Control) -> Result<Value, Failure> {
        match (self.name.as_str(), *has_begun) {
            (BEGIN, false) => {
                *has_begun = true;
                return Ok(json!({}));
            }
            (BEGIN, true) => return Err(Failure::not_found("Capabilities negotiation is already complete")),
            (_, false) => {
                return Err(Failure::not_found("Expecting capabilities negotiation with 'qmp_capabilities'"));
            }
            (_, true) => {}
        }
        let Some((_, command)) = COMMANDS.iter().find(|(name, _)| *name == self.name) else {
            let known: Vec<_> = COMMANDS.iter().map(|(name, _)| *name).collect();
            return Err(Failure::not_found(format!(
                "The command {} has not been found; machines of Snowboot know {}",
                self.name.escape_debug(),
                known.join(", ")
            )));
        };
        command(&self.arguments, control)
    }

    /// The answer to a command that only does something.
    pub(super) fn acknowledgement(&self) -> Value {
        with_id(json!({"return": {}}), self.id.as_ref())
    }

    /// Whether the machine ends with it.
    pub(super) fn quits(&self) -> bool {
        self.name == "quit"
    }
}

/// The first words of a session.
pub(super) fn greeting() -> Value {
    json!({"QMP": {"version": version(), "capabilities": []}})
}

fn version() -> Value {
    json!({"qemu": {"major": 0, "minor": 0, "micro": 0}, "package": Version::PACKAGE})
}

fn with_id(mut reply: Value, id: Option<&Value>) -> Value {
    if let (Value::Object(reply), Some(id)) = (&mut reply, id) {
        reply.insert("id".to_owned(), id.clone());
    }
    reply
}

fn done(outcome: Result<(), Refusal>) -> Result<Value, Failure> {
    Ok(outcome.map(|()| json!({}))?)
}

fn act(what: impl FnOnce()) -> Result<Value, Failure> {
    what();
    Ok(json!({}))
}

fn commands() -> Value {
    let names = std::iter::once(BEGIN).chain(COMMANDS.iter().map(|(name, _)| *name));
    names.map(|name| json!({"name": name})).collect()
}

fn status(control: &dyn Control) -> Value {
    let paused = control.is_paused();
    json!({"status": if paused { "paused" } else { "running" }, "running": !paused})
}

fn cpus(control: &dyn Control) -> Value {
    (0..control.vcpus())
        .map(|index| json!({"cpu-index": index, "target": "x86_64", "props": {"core-id": index}}))
        .collect()
}

fn set_link(arguments: &Arguments, control: &dyn Control) -> Result<Value, Failure> {
    let (Some(Value::String(name)), Some(Value::Bool(up))) = (arguments.get("name"), arguments.get("up"))
    else {
        return Err(Failure::generic("set_link takes 'name', a text, and 'up', true or false"));
    };
    let card = Card::find(&control.cards(), name)
        .map_err(|refusal| Failure { class: "DeviceNotFound", text: refusal.0 })?;
    done(control.set_link(card, *up))
}

fn monitor_command(arguments: &Arguments, control: &dyn Control) -> Result<Value, Failure> {
    let Some(Value::String(line)) = arguments.get("command-line") else {
        return Err(Failure::generic("human-monitor-command takes 'command-line', a text"));
    };
    // As with QEMU: what the monitor refuses is its answer, not an error.
    let said = hmp::carry_out(line, control).unwrap_or_else(|refusal| format!("Error: {refusal}"));
    Ok(Value::String(said.lines().map(|line| format!("{line}\r\n")).collect()))
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::Recorder;

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
            Just(Value::from("virtio-net-pci.1")),
            Just(Value::from("info network")),
        ];
        leaf.prop_recursive(3, 20, 5, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..5).prop_map(Value::from),
                btree_map("name|up|command-line|[a-z]{0,6}", inner, 0..5)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    /// Commands that there are, and others.
    fn name() -> impl Strategy<Value = Value> {
        let known: Vec<_> = COMMANDS.iter().map(|(name, _)| Value::from(*name)).collect();
        prop_oneof![4 => proptest::sample::select(known), 1 => json_value()]
    }

    proptest! {
        #[test]
        fn every_request_has_one_answer_with_its_id(name in name(), arguments in json_value(), id in json_value()) {
            let text = json!({"execute": name, "arguments": arguments, "id": id}).to_string();
            if let Ok(request) = Request::parse(text.as_bytes()) {
                let reply = request.answer(&mut true, &Recorder::default());
                prop_assert_eq!(&reply["id"], &serde_json::from_str::<Value>(&text).unwrap()["id"]);
                prop_assert!(reply.get("return").is_some() != reply["error"]["class"].is_string(), "{}", reply);
            }
        }

        #[test]
        fn no_command_is_carried_out_before_the_session_begins(name in name(), arguments in json_value()) {
            let text = json!({"execute": name, "arguments": arguments}).to_string();
            if let Ok(request) = Request::parse(text.as_bytes()) {
                let recorder = Recorder::default();
                let reply = request.answer(&mut false, &recorder);
                prop_assert!(reply["error"]["class"] == "CommandNotFound" && recorder.done().is_empty(), "{}", reply);
            }
        }

        #[test]
        fn whatever_comes_is_a_request_or_refused(text in vec(any::<u8>(), 0..300)) {
            let _ = Request::parse(&text);
        }
    }
}
