//! Where one message ends and the next begins: QMP has JSON objects one after another, with or without lines.

/// The longest message. Those of programs have some hundred bytes; file contents are not sent this way.
pub(super) const LONGEST: usize = 64 * 1024;

/// A message, or why there is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The text of an object, of which nothing is known but where it ends.
    Object(Vec<u8>),
    /// Something that is no object.
    Garbage,
    /// An object that was longer than [`LONGEST`].
    TooLong,
}

/// Cuts a stream into messages. Holds at most one, of [`LONGEST`] bytes.
#[derive(Debug, Default)]
pub(super) struct Framer {
    text: Vec<u8>,
    depth: usize,
    in_string: bool,
    escaped: bool,
    is_too_long: bool,
    in_garbage: bool,
}

impl Framer {
    /// Takes one byte; gives a message when this byte is its last one.
    pub(super) fn feed(&mut self, byte: u8) -> Option<Message> {
        if self.depth == 0 {
            return self.between(byte);
        }
        if self.text.len() < LONGEST {
            self.text.push(byte);
        } else {
            self.is_too_long = true;
        }
        if self.in_string {
            self.string(byte);
            return None;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        if self.depth > 0 {
            return None;
        }
        let text = std::mem::take(&mut self.text);
        Some(if std::mem::take(&mut self.is_too_long) { Message::TooLong } else { Message::Object(text) })
    }

    /// Outside of an object. Garbage is told once, up to the line's end or the next object.
    fn between(&mut self, byte: u8) -> Option<Message> {
        match byte {
            b'{' => {
                self.text.push(byte);
                self.depth = 1;
                self.in_garbage = false;
                None
            }
            b'\n' => {
                self.in_garbage = false;
                None
            }
            byte if byte.is_ascii_whitespace() => None,
            _ => (!std::mem::replace(&mut self.in_garbage, true)).then_some(Message::Garbage),
        }
    }

    fn string(&mut self, byte: u8) {
        if std::mem::take(&mut self.escaped) {
            return;
        }
        match byte {
            b'\\' => self.escaped = true,
            b'"' => self.in_string = false,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn feed(text: &[u8]) -> Vec<Message> {
        let mut framer = Framer::default();
        text.iter().filter_map(|byte| framer.feed(*byte)).collect()
    }

    #[test]
    fn objects_end_where_their_braces_do() {
        let objects = [r#"{"a": {"b": [1, "}\"{\\"]}}"#, "{\r\n}", r#"{"c":"]"}"#];
        let expected: Vec<_> = objects.iter().map(|text| Message::Object(text.as_bytes().to_vec())).collect();
        assert_eq!(feed(objects.concat().as_bytes()), expected);
        assert_eq!(feed(objects.join("\r\n").as_bytes()), expected);
    }

    #[test]
    fn what_is_no_object_is_told_once_per_line() {
        let object = || Message::Object(b"{}".to_vec());
        assert_eq!(
            feed(b"hello there\n{}\n\n[1]{}"),
            [Message::Garbage, object(), Message::Garbage, object()]
        );
    }

    #[test]
    fn an_object_without_end_costs_no_memory_and_the_next_one_is_heard() {
        let mut framer = Framer::default();
        let long = [b"{\"a\": \"", &vec![b'x'; 3 * LONGEST][..], b"\"}"].concat();
        let messages: Vec<_> = long.iter().filter_map(|byte| framer.feed(*byte)).collect();
        assert_eq!(messages, [Message::TooLong]);
        assert!(framer.text.capacity() <= 2 * LONGEST);
        assert_eq!(framer.feed(b'{'), None);
        assert_eq!(framer.feed(b'}'), Some(Message::Object(b"{}".to_vec())));
    }

    proptest! {
        #[test]
        fn whatever_json_comes_is_found_again(texts in proptest::collection::vec(".{0,40}", 0..8)) {
            let objects: Vec<_> = texts.iter().map(|text| serde_json::json!({"text": text, "list": [text]}).to_string()).collect();
            let found = feed(objects.join("\n").as_bytes());
            let expected: Vec<_> = objects.iter().map(|text| Message::Object(text.as_bytes().to_vec())).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn whatever_comes_is_bounded(text in proptest::collection::vec(any::<u8>(), 0..5000)) {
            for message in feed(&text) {
                if let Message::Object(object) = message {
                    prop_assert!(object.len() <= LONGEST);
                }
            }
        }
    }
}
