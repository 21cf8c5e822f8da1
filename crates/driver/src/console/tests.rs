//! What is kept of a console, and in which form.

use super::*;

fn written(pieces: &[&str]) -> ConsoleLog {
    let console = ConsoleLog::default();
    for piece in pieces {
        console.write(0, piece.as_bytes(), |_| {});
    }
    console
}

#[test]
fn lines_are_joined_across_writes_and_cleaned() {
    let console = written(&["a\r\nb", "c\n\u{1b}[1;32mgreen\u{1b}[0m\u{7}\n", "par"]);
    assert_eq!(console.text(), "a\nbc\ngreen");
    assert_eq!(console.tail(), ["a", "bc", "green", "par"]);
}

#[test]
fn the_kernels_last_words_are_kept() {
    let console = written(&[
        "a\n[ 2.0] Kernel panic - not syncing: boom\n",
        "[ 3.0] ---[ end Kernel panic - not syncing: x\n",
    ]);
    assert_eq!(console.panic().as_deref(), Some("Kernel panic - not syncing: boom"));
}

#[test]
fn a_standstill_is_what_the_kernel_says_last_and_nobody_else() {
    let due = |pieces: &[&str]| {
        let console = written(pieces);
        let at = lock(&console.state).standstill;
        at.map(|at| at.saturating_duration_since(Instant::now()).as_secs_f64().round())
    };
    let panic = "[    2.0][    T1] Kernel panic - not syncing: boom\n";
    assert_eq!(due(&[panic]), Some(5.0));
    assert_eq!(due(&["Kernel panic - not syncing: boom\n"]), Some(5.0));
    assert_eq!(due(&[panic, "[    2.1] Rebooting in 10 seconds..\n"]), Some(15.0));
    assert_eq!(due(&[panic, "[    0.0] Linux version 6.12\n"]), None);
    assert_eq!(due(&["[    2.0] journal[1]: Kernel panic - not syncing: old\n", "x\n"]), None);
    assert!(!written(&[panic]).stands_still());
}

#[test]
fn the_end_completes_the_line_under_way_and_counts_for_its_own_start_only() {
    let console = ConsoleLog::default();
    let old = console.begin();
    console.write(old, b"half a li", |_| {});
    let mut logged = Vec::new();
    console.end(old, |line| logged.push(line));
    assert_eq!((console.text().as_str(), logged), ("half a li", vec!["half a li".to_owned()]));
    assert_eq!(console.take_queued(), ["half a li"]);

    let new = console.begin();
    console.write(old, b"late\n", |_| panic!("taken"));
    console.end(old, |_| panic!("taken"));
    assert!(!lock(&console.state).ended && console.text().is_empty());
    console.end(new, |_| {});
    assert!(lock(&console.state).ended);
}

#[test]
fn escape_sequences_cannot_reach_a_terminal() {
    for (raw, cleaned) in [
        ("\u{1b}]0;title\u{7}x", "x"),
        ("\u{1b}]0;title\u{1b}\\x", "x"),
        ("\u{1b}(Bx", "x"),
        ("\u{1b}cx", "x"),
        ("x\u{1b}", "x"),
        ("x\u{1b}[", "x"),
        ("\u{9b}31mx", "31mx"),
    ] {
        assert_eq!(clean(raw.as_bytes()), cleaned, "{raw:?}");
    }
    assert_eq!(clean(b"\xff\xfeok"), "\u{fffd}\u{fffd}ok");
}

#[test]
fn a_line_without_end_is_broken_up() {
    let console = ConsoleLog::default();
    console.write(0, &vec![b'x'; 5 * LINE_CAP], |_| {});
    assert_eq!(console.text().lines().count(), 4);
    assert!(lock(&console.state).partial.len() <= LINE_CAP);
}

#[test]
fn unasked_lines_and_text_are_bounded() {
    let console = ConsoleLog::default();
    let chunk = "0123456789abcde\n".repeat(1 << 16);
    for _ in 0..80 {
        console.write(0, chunk.as_bytes(), |_| {});
    }
    assert!(console.text().contains("more lines were not kept"));
    assert!(console.text().len() < LOG_CAP + 200);
    assert!(console.take_queued().len() <= QUEUE_CAP);
}

#[test]
fn what_was_taken_of_a_prompt_does_not_come_again() {
    let console = written(&["a\n", "name: "]);
    let prompt = || lock(&console.state).prompt().map(|prompt| prompt.text);
    assert_eq!(prompt(), None, "it may be the beginning of a line");
    std::thread::sleep(PROMPT_AFTER);
    assert_eq!(prompt().as_deref(), Some("name: "));
    let taken = lock(&console.state).prompt().unwrap();
    console.take_prompt(&taken);
    assert_eq!(prompt(), None);
    console.write(0, b"alice\r\nword: ", |_| {});
    assert_eq!(console.take_queued(), ["a", "alice"]);
    assert_eq!(console.text(), "a\nname: alice");
    std::thread::sleep(PROMPT_AFTER);
    assert_eq!(prompt().as_deref(), Some("word: "));
}

#[test]
fn lines_given_back_come_again_in_order() {
    let console = written(&["a\nb\nc\n"]);
    let lines = console.take_queued();
    console.give_back(lines.into_iter().skip(1));
    console.write(0, b"d\n", |_| {});
    assert_eq!(console.take_queued(), ["b", "c", "d"]);
}
