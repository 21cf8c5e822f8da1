//! The command line itself: what is refused, what is printed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{assert_error, folder, path, run, run_words, snowboot};

#[track_caller]
fn assert_usage(words: &[&str], parts: &[&str]) {
    let ran = run_words(words);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert_eq!(ran.out, "");
    for part in parts {
        assert!(ran.err.contains(part), "no `{part}` in: {}", ran.err);
    }
}

#[test]
fn a_wrong_command_line_is_status_2_and_says_what_is_wrong() {
    assert_usage(&[], &["Usage: snowboot <COMMAND>", "doctor"]);
    assert_usage(&["rum"], &["'rum'", "'run'"]);
    assert_usage(&["run"], &["<TOPLEVEL|--toplevel <TOPLEVEL>|--kernel <FILE>>"]);
    assert_usage(&["run", "t", "--kernel", "k"], &["cannot be used with"]);
    assert_usage(&["run", "t", "--initrd", "i"], &["cannot be used with"]);
    assert_usage(&["run", "--initrd", "i"], &["required"]);
    assert_usage(&["run", "t", "--memroy", "1"], &["'--memroy'", "'--memory'"]);
    assert_usage(&["test"], &["<MANIFEST>"]);
    assert_usage(&["test", "m", "--log-level", "loud"], &["'loud'", "debug, info, warning, error"]);
    assert_usage(&["completions", "cmd"], &["'cmd'", "bash"]);
}

#[test]
fn a_wrong_value_is_named_with_what_would_be_right() {
    assert_usage(&["run", "t", "--memory", "lots"], &["`lots`", "such as 512, 512M or 2G"]);
    assert_usage(&["run", "t", "--memory", "5"], &["5 MiB is out of range", "64 MiB to 64 GiB"]);
    assert_usage(&["run", "t", "--cpus", "0"], &["choose 1 to 32"]);
    assert_usage(&["run", "t", "--cpus", "many"], &["`many`", "1 to 32"]);
    assert_usage(&["run", "t", "--vlan", "256"], &["256", "0..=255"]);
    assert_usage(&["run", "t", "--net", "user,hostfwd=80"], &["`80` is no forward such as tcp::8080-:80"]);
    assert_usage(&["run", "t", "--profile", "slow"], &["`slow`", "choose one of plain, standard, fast"]);
    assert_usage(&["run", "t", "--disk", "d,readonly"], &["`readonly`", "did you mean `read-only`?"]);
    assert_usage(&["run", "t", "--disk", "d,create=1G"], &["`create=1G`", "MiB"]);
}

#[test]
fn help_has_examples_and_exit_statuses() {
    for command in
        [&["run"][..], &["test"], &["doctor"], &["bench", "boot"], &["store", "image"], &["kernel", "unpack"]]
    {
        let ran = run_words(&[command, &["--help"]].concat());
        assert_eq!((ran.status, ran.err.as_str()), (0, ""));
        for part in ["Example", "Exit status:", "  2  the command line is wrong"] {
            assert!(ran.out.contains(part), "no `{part}` in: {}", ran.out);
        }
        let long: Vec<&str> = ran.out.lines().filter(|line| line.len() > 120).collect();
        assert!(long.is_empty(), "{long:?}");
    }
    let version = run_words(&["--version"]).out;
    assert_eq!(version, format!("snowboot {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_exit_statuses_of_the_documentation_are_those_of_the_help() {
    let documented = include_str!("../../../docs/exit-codes.md");
    let help = run_words(&["run", "--help"]).out;
    let section = help.split("Exit status:").nth(1).unwrap().split("Examples:").next().unwrap();
    let lines = section.lines().filter_map(|line| line.trim().split_once("  "));
    let statuses: Vec<&str> = lines.flat_map(|(statuses, _)| statuses.split(", ")).collect();
    assert_eq!(statuses, ["0", "1", "2", "3", "4", "5", "129", "130", "131", "143"]);
    for status in statuses {
        assert!(documented.contains(&format!("\n| {status} | ")), "{status} is not documented");
    }
}

#[test]
fn the_statuses_of_a_test_are_documented_as_its_help_has_them() {
    let documented = include_str!("../../../docs/exit-codes.md").split("## `snowboot test`").nth(1).unwrap();
    let section = documented.split("## ").next().unwrap();
    let help = run_words(&["test", "--help"]).out;
    let lines = help.lines().skip_while(|line| *line != "Exit status:").take_while(|line| !line.is_empty());
    let lines = lines.filter_map(|line| line.strip_prefix("  ").and_then(|line| line.split_once("  ")));
    let statuses: Vec<&str> = lines.flat_map(|(statuses, _)| statuses.split(", ")).collect();
    assert_eq!(statuses, ["0", "1", "2", "129", "130", "143"]);
    for status in statuses.into_iter().filter(|status| *status != "2") {
        assert!(section.contains(&format!("\n| {status} | ")), "{status} is not documented");
    }
    assert!(section.contains("sys.exit(N)") && help.contains("sys.exit"));
}

#[test]
fn the_statuses_of_a_bench_are_documented_as_its_help_has_them() {
    let documented =
        include_str!("../../../docs/exit-codes.md").split("## `snowboot bench boot`").nth(1).unwrap();
    let section = documented.split("## ").next().unwrap();
    let help = run_words(&["bench", "boot", "--help"]).out;
    let lines = help.lines().skip_while(|line| *line != "Exit status:").take_while(|line| !line.is_empty());
    let lines = lines.filter_map(|line| line.strip_prefix("  ").and_then(|line| line.split_once("  ")));
    let statuses: Vec<&str> =
        lines.flat_map(|(statuses, _)| statuses.split(", ")).filter(|status| !status.is_empty()).collect();
    assert_eq!(statuses, ["0", "1", "2", "129", "130", "131", "143"]);
    for status in statuses.into_iter().filter(|status| *status != "2") {
        assert!(section.contains(&format!("\n| {status} | ")), "{status} is not documented");
    }
    assert!(section.contains("p < 0.05") && help.contains("p < 0.05"));
}

#[test]
fn an_unusable_log_filter_is_an_error() {
    let ran = run(snowboot(["doctor"]).env("SNOWBOOT_LOG", "a=b=c"));
    assert_error(&ran, &["SNOWBOOT_LOG is not a log filter", "such as info"]);
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = run_words(&["completions", shell]);
        assert_eq!(ran.status, 0, "{ran:?}");
        for word in ["run", "test", "doctor", "completions", "man", "kvm-device"] {
            assert!(ran.out.contains(word), "{shell} does not know {word}");
        }
    }
}

#[test]
fn manual_pages_are_printed_and_written() {
    let ran = run_words(&["man"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.out.contains(".TH snowboot 1") && !ran.out.contains("help(1)"), "{}", ran.out);
    let folder = folder(&[]);
    let pages = path(&folder, "new/man1");
    assert_eq!(run_words(&["man", "--output", &pages]).status, 0);
    let mut names: Vec<_> = std::fs::read_dir(&pages)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "snowboot-bench-boot.1",
            "snowboot-bench.1",
            "snowboot-check.1",
            "snowboot-completions.1",
            "snowboot-doctor.1",
            "snowboot-kernel-unpack.1",
            "snowboot-kernel.1",
            "snowboot-man.1",
            "snowboot-nixos-test-driver.1",
            "snowboot-run.1",
            "snowboot-store-image.1",
            "snowboot-store.1",
            "snowboot-switch.1",
            "snowboot-test.1",
            "snowboot-vm.1",
            "snowboot.1"
        ]
    );
    let page = std::fs::read_to_string(format!("{pages}/snowboot-run.1")).unwrap();
    assert!(page.contains("Exit status:") && !page.contains("KVM_DEVICE="), "{page}");
}

#[test]
fn a_place_for_pages_that_is_none_is_an_error() {
    let folder = folder(&[("file", b"")]);
    let ran = run_words(&["man", "--output", &path(&folder, "file/x")]);
    assert_error(&ran, &["Cannot make the folder", "file/x"]);
}
