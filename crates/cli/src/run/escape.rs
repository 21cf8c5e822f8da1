//! Commands from the keyboard: Ctrl-a and a letter, as QEMU's `-nographic` has them.

/// Ctrl-a.
const PREFIX: u8 = 0x01;

/// What the commands are, for the user.
pub(super) const HELP: &str = "\
snowboot: Ctrl-a x       stop the machine
snowboot: Ctrl-a p       press its power button
snowboot: Ctrl-a h       list these commands
snowboot: Ctrl-a Ctrl-a  send Ctrl-a to the guest";

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Quit,
    PowerButton,
    Help,
}

/// What to do about a byte from the keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// It is the guest's.
    Send(u8),
    /// It is a command's.
    Do(Command),
    /// It is the prefix, or no command.
    Nothing,
}

/// Tells commands from what is the guest's.
#[derive(Debug, Default)]
pub(super) struct Escape {
    after_prefix: bool,
}

impl Escape {
    pub(super) fn feed(&mut self, byte: u8) -> Key {
        if !std::mem::take(&mut self.after_prefix) {
            self.after_prefix = byte == PREFIX;
            return if self.after_prefix { Key::Nothing } else { Key::Send(byte) };
        }
        match byte {
            PREFIX => Key::Send(PREFIX),
            b'x' => Key::Do(Command::Quit),
            b'p' => Key::Do(Command::PowerButton),
            b'h' | b'?' => Key::Do(Command::Help),
            _ => Key::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(bytes: &[u8]) -> Vec<Key> {
        let mut escape = Escape::default();
        bytes.iter().map(|byte| escape.feed(*byte)).filter(|key| *key != Key::Nothing).collect()
    }

    #[test]
    fn plain_bytes_are_the_guests() {
        assert_eq!(feed(b"xph\x03"), b"xph\x03".map(Key::Send));
    }

    #[test]
    fn the_prefix_makes_commands_and_sends_itself_when_doubled() {
        assert_eq!(
            feed(b"\x01\x01x\x01p\x01h\x01qx\x01x"),
            [
                Key::Send(1),
                Key::Send(b'x'),
                Key::Do(Command::PowerButton),
                Key::Do(Command::Help),
                Key::Send(b'x'),
                Key::Do(Command::Quit),
            ]
        );
    }
}
