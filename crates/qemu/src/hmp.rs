//! The monitor for people (HMP): a line in, a text out, and a prompt.
//!
//! Programs that use it wait for the prompt, at the beginning and after each command; between the two is the echo of the
//! command and its answer. QEMU's echo is that of a line editor; here it is the line.

use std::io::{self, BufRead, BufReader, Read, Write};

use snowboot_config::PortForward;

use crate::control::{Card, Control, Refusal, Version};

/// What the machine is ready with.
pub const PROMPT: &str = "(qemu) ";

/// The longest command; those of programs have less than a hundred bytes.
const LONGEST: u64 = 4096;

const HELP: &str = "\
cont|c -- resume emulation
help|? -- show the help
hostfwd_add [netdev] [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport -- redirect connections from host to guest
info name|network|status|version -- show various information about the system state
quit|q -- end the machine
sendkey ctrl-alt-delete -- have the guest reboot
set_link name on|off -- change the link status of a network adapter
stop|s -- stop emulation
system_powerdown -- send system power down event
system_reset -- reset the system";

const NO_DISPLAY: &str = "the machine has no display, keyboard or mouse";
const NO_HOTPLUG: &str =
    "the machine's devices are those of its description; none can be added or removed while it runs";
const FORWARDS_STAY: &str = "forwards stay until the machine's end";

/// Commands of QEMU's that scripts use and that nothing here can honour, and why.
const REFUSED: [(&str, &str); 15] = [
    ("change", NO_HOTPLUG),
    ("device_add", NO_HOTPLUG),
    ("device_del", NO_HOTPLUG),
    ("drive_add", NO_HOTPLUG),
    ("drive_del", NO_HOTPLUG),
    ("eject", NO_HOTPLUG),
    ("hostfwd_remove", FORWARDS_STAY),
    ("mouse_button", NO_DISPLAY),
    ("mouse_move", NO_DISPLAY),
    ("netdev_add", NO_HOTPLUG),
    ("netdev_del", NO_HOTPLUG),
    ("savevm", "states of machines are not kept"),
    ("screendump", NO_DISPLAY),
    ("usb_add", NO_HOTPLUG),
    ("usb_del", NO_HOTPLUG),
];

/// Serves one monitor until its end is closed, or the machine is told to quit.
///
/// # Errors
/// When it cannot be read or written.
pub fn serve(input: impl Read, mut output: impl Write, control: &dyn Control) -> io::Result<()> {
    let mut input = BufReader::new(input);
    let greeting = format!("{} monitor - type 'help' for more information\r\n", Version::PACKAGE);
    output.write_all(format!("{greeting}{PROMPT}").as_bytes())?;
    loop {
        let Some(line) = read_line(&mut input)? else { return Ok(()) };
        let answer = match line {
            Line::Whole(line) => answer(&line, control),
            Line::TooLong => {
                Answer { text: format!("a command has at most {LONGEST} bytes\r\n"), quits: false }
            }
        };
        if answer.quits {
            // As with QEMU, no prompt follows: the end of the connection is the answer.
            return output.write_all(answer.text.as_bytes());
        }
        output.write_all(format!("{}{PROMPT}", answer.text).as_bytes())?;
    }
}

enum Line {
    Whole(String),
    TooLong,
}

fn read_line(input: &mut impl BufRead) -> io::Result<Option<Line>> {
    let mut line = Vec::new();
    let read = input.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
    if line.ends_with(b"\n") {
        return Ok(Some(Line::Whole(String::from_utf8_lossy(&line).trim().to_owned())));
    }
    if u64::try_from(read).is_ok_and(|read| read < LONGEST) {
        return Ok(None);
    }
    // The rest of it is not a command of its own.
    loop {
        let waiting = input.fill_buf()?;
        let end = waiting.iter().position(|byte| *byte == b'\n');
        let length = end.map_or(waiting.len(), |end| end.saturating_add(1));
        if length == 0 {
            return Ok(None);
        }
        input.consume(length);
        if end.is_some() {
            return Ok(Some(Line::TooLong));
        }
    }
}

struct Answer {
    text: String,
    quits: bool,
}

/// Carries out a line: its echo, and what there is to say.
fn answer(line: &str, control: &dyn Control) -> Answer {
    let outcome = carry_out(line, control);
    let quits = outcome.is_ok() && matches!(line.split_whitespace().next(), Some("quit" | "q"));
    let said = outcome.unwrap_or_else(|refusal| format!("Error: {refusal}"));
    let text = std::iter::once(line).chain(said.lines()).map(|line| format!("{line}\r\n")).collect();
    Answer { text, quits }
}

/// Carries out a command of the monitor, as QMP's `human-monitor-command` does, too; what it says.
///
/// # Errors
/// When it is not known, cannot be honoured, or not be carried out.
pub fn carry_out(line: &str, control: &dyn Control) -> Result<String, Refusal> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some((name, arguments)) = words.split_first() else { return Ok(String::new()) };
    if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| refused == name) {
        return Err(Refusal(format!("`{name}`: {why}")));
    }
    match (*name, arguments) {
        ("help" | "?", _) => return Ok(HELP.to_owned()),
        ("info", [what]) => return info(what, control),
        ("quit" | "q", []) => control.quit(),
        ("stop" | "s", []) => control.pause()?,
        ("cont" | "c", []) => control.resume()?,
        ("system_powerdown", []) => control.press_power_button(),
        ("system_reset", []) => control.reset(),
        ("sendkey", [keys, ..]) => send_key(keys, control)?,
        ("set_link", [card, state @ ("on" | "off")]) => {
            control.set_link(Card::find(&control.cards(), card)?, *state == "on")?;
        }
        ("hostfwd_add", [.., rule]) => {
            let forward: PortForward = rule.parse().map_err(|error| Refusal(format!("{error}")))?;
            control.forward(forward)?;
        }
        _ => {
            return Err(Refusal(format!(
                "`{line}`: there is no such command, or not with these arguments; there are:\n{HELP}"
            )));
        }
    }
    Ok(String::new())
}

fn send_key(keys: &str, control: &dyn Control) -> Result<(), Refusal> {
    match keys {
        "ctrl-alt-delete" => control.ctrl_alt_delete(),
        _ => Err(Refusal(format!(
            "`sendkey {keys}`: {NO_DISPLAY}; ctrl-alt-delete is understood, and the serial console can be typed at"
        ))),
    }
}

fn info(what: &str, control: &dyn Control) -> Result<String, Refusal> {
    match what {
        "name" => Ok(control.name()),
        "status" => Ok(format!("VM status: {}", if control.is_paused() { "paused" } else { "running" })),
        "version" => Ok(Version::PACKAGE.to_owned()),
        "network" => {
            let cards = control.cards();
            let line = |card: &Card| {
                let link = if card.is_up { "up" } else { "down" };
                format!(
                    "{}: index=0,type=nic,model=virtio-net-pci,macaddr={},link={link}\n \\ {}",
                    card.name, card.mac, card.leads_to
                )
            };
            Ok(cards.iter().map(line).collect::<Vec<_>>().join("\n"))
        }
        _ => Err(Refusal(format!(
            "`info {what}`: there is `info name`, `info network`, `info status` and `info version`"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::Recorder;

    /// What a monitor says to all of `input`.
    fn talk(input: &[u8]) -> (String, Vec<String>) {
        let recorder = Recorder::default();
        let mut output = Vec::new();
        serve(input, &mut output, &recorder).unwrap();
        (String::from_utf8(output).unwrap(), recorder.done())
    }

    #[test]
    fn the_prompt_comes_first_and_after_each_command() {
        let (said, done) =
            talk(b"set_link virtio-net-pci.1 off\nset_link virtio-net-pci.1 on\r\n\nstop\nc\n");
        let parts: Vec<&str> = said.split(PROMPT).collect();
        assert_eq!(
            parts[1..],
            [
                "set_link virtio-net-pci.1 off\r\n",
                "set_link virtio-net-pci.1 on\r\n",
                "\r\n",
                "stop\r\n",
                "c\r\n",
                ""
            ]
        );
        assert!(parts[0].contains("type 'help'"));
        assert_eq!(done, ["link 1 false", "link 1 true", "pause", "resume"]);
    }

    #[test]
    fn quitting_is_the_last_word() {
        let (said, done) = talk(b"quit\nstop\n");
        assert!(said.ends_with(&format!("{PROMPT}quit\r\n")), "{said}");
        assert_eq!(done, ["quit"]);
    }

    #[test]
    fn what_cannot_be_is_refused_and_the_monitor_goes_on() {
        for (line, part) in [
            ("sendkey ret", "no display, keyboard"),
            ("screendump /x.ppm", "`screendump`: the machine has no display"),
            ("device_del usb0", "none can be added or removed"),
            ("set_link virtio-net-pci.7 on", "these network cards: virtio-net-pci.0, virtio-net-pci.1"),
            ("set_link virtio-net-pci.1 up", "no such command, or not with these arguments"),
            ("hostfwd_add 80", "`80` is no forward such as tcp::8080-:80"),
            ("info block", "there is `info name`"),
            ("frobnicate", "system_reset -- reset the system"),
            ("quit now", "no such command, or not with these arguments"),
        ] {
            let (said, done) = talk(format!("{line}\nstop\n").as_bytes());
            assert!(said.contains("Error: ") && said.contains(part), "{line}: {said}");
            assert_eq!(done, ["pause"], "{line}");
        }
    }

    #[test]
    fn what_is_asked_for_is_done() {
        let lines = "sendkey ctrl-alt-delete\nhostfwd_add tcp::8080-:80\nhostfwd_add net0 udp::1-:2\n\
                     system_powerdown\nsystem_reset\ninfo network\ninfo status\ninfo version\n";
        let (said, done) = talk(lines.as_bytes());
        assert_eq!(
            done,
            [
                "ctrl-alt-delete",
                "forward 127.0.0.1:8080 to 10.0.2.15:80",
                "forward 127.0.0.1:1 to 10.0.2.15:2",
                "powerdown",
                "reset"
            ]
        );
        assert!(said.contains("VM status: running\r\n") && said.contains("snowboot "), "{said}");
        assert!(said.contains("macaddr=52:54:00:12:01:01,link=up\r\n \\ vlan 1"), "{said}");
    }

    #[test]
    fn a_command_without_an_end_is_thrown_away() {
        let mut input = vec![b'x'; 100_000];
        input.extend(b"\nstop\n");
        let (said, done) = talk(&input);
        assert!(said.contains("at most 4096 bytes") && said.len() < 300, "{said}");
        assert_eq!(done, ["pause"]);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_answered_line_by_line(input in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let recorder = Recorder::default();
            let mut output = Vec::new();
            serve(&input[..], &mut output, &recorder).unwrap();
            let said = String::from_utf8(output).unwrap();
            prop_assert!(said.contains(PROMPT));
        }
    }
}
