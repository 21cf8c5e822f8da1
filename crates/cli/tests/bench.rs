//! `snowboot bench boot`, with scripts in the place of VMMs: no KVM is needed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{assert_error, finish, folder, path, run, run_words, script, signal, snowboot, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// A VMM whose guest says the marker and waits, as the real ones do. It needs nothing of PATH. More commands go where
/// it says `here`.
const GOOD: &str = "#!/bin/sh
[ \"$1\" = --version ] && echo 'VMM 1.2' && exit
# here
echo 'Linux version'
echo 'now: snowboot-bench: this is init'
exec /bin/sleep 600
";

/// A kernel that is none, and scripts with these names.
fn bench(scripts: &[(&str, &str)]) -> TempDir {
    let folder = folder(&[("kernel", b"not a kernel")]);
    for (name, text) in scripts {
        script(&folder.path().join(name), text);
    }
    folder
}

/// The words of a bench of these VMMs, which are called as their scripts are.
fn words(folder: &TempDir, vmms: &[&str], more: &[&str]) -> Vec<String> {
    let rivals: Vec<&str> = vmms.iter().copied().filter(|vmm| *vmm != "snowboot").collect();
    let against = if rivals.is_empty() { "none".to_owned() } else { rivals.join(",") };
    let kernel = path(folder, "kernel");
    let mut words = ["bench", "boot", "--against", &against].map(str::to_owned).to_vec();
    for vmm in vmms {
        words.extend(["--vmm".to_owned(), format!("{vmm}={}", path(folder, vmm))]);
    }
    if !more.contains(&"--kernel") {
        words.extend(["--kernel".to_owned(), kernel]);
    }
    words.extend(more.iter().map(|word| (*word).to_owned()));
    words
}

fn json(folder: &TempDir, name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(path(folder, name)).unwrap()).unwrap()
}

#[test]
fn vmms_take_turns_and_every_run_is_reported() {
    let folder = bench(&[]);
    let turns = path(&folder, "turns");
    for name in ["snowboot", "qemu"] {
        let text = GOOD.replace("# here", &format!("echo {name} >> {turns}"));
        script(&folder.path().join(name), &text);
    }
    let files = ["json", "csv", "svg", "html"].map(|kind| (format!("--{kind}"), path(&folder, kind)));
    let mut words = words(&folder, &["snowboot", "qemu"], &["--runs", "2", "--warm-up", "1"]);
    words.extend(files.iter().flat_map(|(option, file)| [option.clone(), file.clone()]));
    let ran = run(&mut snowboot(&words));
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(ran.err, "snowboot: warm-up 1 of 1\nsnowboot: run 1 of 2\nsnowboot: run 2 of 2\n");
    for part in ["snowboot", "qemu", " x ", "console=ttyS0 quiet panic=-1", "usual command line", "n/a"] {
        assert!(ran.out.contains(part), "no `{part}` in {}", ran.out);
    }
    assert_eq!(fs::read_to_string(turns).unwrap(), "snowboot\nqemu\n".repeat(3));

    let found = json(&folder, "json");
    assert_eq!((&found["schema"], &found["settings"]["runs"]), (&1.into(), &2.into()));
    let qemu = &found["configurations"][1];
    assert_eq!((&qemu["name"], &qemu["cmdline"]), (&"qemu".into(), &"console=ttyS0 quiet panic=-1".into()));
    assert!(qemu["command"].as_array().unwrap().contains(&"-no-reboot".into()), "{qemu}");
    assert_eq!(qemu["version"], "VMM 1.2");
    let samples = qemu["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 2);
    assert!(samples.iter().all(|sample| sample["wall_seconds"].as_f64().unwrap() > 0.0));
    assert!(samples.iter().all(|sample| sample["peak_rss_bytes"].as_u64().unwrap() > 100_000));
    assert_eq!(fs::read_to_string(path(&folder, "csv")).unwrap().lines().count(), 5);
    assert!(fs::read_to_string(path(&folder, "svg")).unwrap().contains("<circle"));
    assert!(fs::read_to_string(path(&folder, "html")).unwrap().contains("<td>qemu</td>"));
}

#[test]
fn the_processor_time_is_that_of_the_vmm() {
    let busy = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done\n";
    let folder =
        bench(&[("snowboot", GOOD), ("qemu", &GOOD.replace("echo 'Linux", &format!("{busy}echo 'Linux")))]);
    let report = path(&folder, "r.json");
    let words = words(&folder, &["snowboot", "qemu"], &["--runs", "3", "--warm-up", "0", "--json", &report]);
    assert_eq!(run(&mut snowboot(words)).status, 0);
    let found = json(&folder, "r.json");
    let least = |index: usize| {
        let samples = found["configurations"][index]["samples"].as_array().unwrap();
        let cpu = samples.iter().map(|it| it["user_seconds"].as_f64().unwrap());
        cpu.fold(f64::INFINITY, f64::min)
    };
    assert!(least(1) > 0.02 && least(1) > 5.0 * least(0), "{} {}", least(0), least(1));
}

#[test]
fn several_machines_in_one_process_are_measured_when_all_have_said_the_marker() {
    let one = "echo 'now: snowboot-bench: this is init'\n";
    let second =
        format!("case \"$*\" in *'machines --count 2 '*) /bin/sleep 0.2; {} ;; esac\n", one.trim_end());
    let folder = bench(&[("snowboot", &GOOD.replace("exec", &format!("{second}exec")))]);
    let report = path(&folder, "r.json");
    let more = ["--machines", "1,2", "--runs", "1", "--warm-up", "0", "--timeout", "30", "--json", &report];
    let ran = run(&mut snowboot(words(&folder, &["snowboot"], &more)));
    assert_eq!(ran.status, 0, "{ran:?}");
    let found = json(&folder, "r.json");
    let configurations = found["configurations"].as_array().unwrap();
    let names: Vec<&str> = configurations.iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["snowboot", "snowboot machines=1", "snowboot machines=2"]);
    assert_eq!(configurations[2]["machines"], 2);
    let sample = &configurations[2]["samples"][0];
    assert!(sample["wall_seconds"].as_f64().unwrap() >= 0.2, "{sample}");
    let number = |name: &str| sample[name].as_f64().unwrap_or_else(|| panic!("{name} of {sample}"));
    assert!(number("marker_cpu_seconds") <= number("user_seconds") + number("system_seconds"), "{sample}");
    assert!(number("proportional_bytes") > 0.0 && number("proportional_bytes") <= number("resident_bytes"));
    assert_eq!(sample["guest_seconds"], 0.0, "a script has no guest");

    script(&folder.path().join("snowboot"), GOOD);
    let more = ["--machines", "2", "--runs", "1", "--warm-up", "0", "--timeout", "1"];
    let ran = run(&mut snowboot(words(&folder, &["snowboot"], &more)));
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("snowboot machines=2: the marker did not come within 1 s"), "{ran:?}");
}

#[test]
fn kernels_and_command_lines_are_compared_by_name() {
    let folder = bench(&[("snowboot", GOOD)]);
    let (kernel, report) = (path(&folder, "kernel"), path(&folder, "r.json"));
    let (old, new) = (format!("old={kernel}"), format!("new={kernel}"));
    let more = [
        "--kernel",
        &old,
        "--kernel",
        &new,
        "--compare-cmdline",
        "a=console=ttyS0 x",
        "--compare-cmdline",
        "b=y",
        "--runs",
        "1",
        "--json",
        &report,
    ];
    let ran = run(&mut snowboot(words(&folder, &["snowboot"], &more)));
    assert_eq!(ran.status, 0, "{ran:?}");
    let found = json(&folder, "r.json");
    let all = found["configurations"].as_array().unwrap();
    let names: Vec<&str> = all.iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "snowboot kernel=old cmdline=a",
            "snowboot kernel=old cmdline=b",
            "snowboot kernel=new cmdline=a",
            "snowboot kernel=new cmdline=b"
        ]
    );
    assert_eq!(all[0]["cmdline"], "console=ttyS0 x");
    assert!(ran.out.contains("the same command line"), "{}", ran.out);
}

#[test]
fn a_vmm_that_is_asked_for_must_be_there() {
    let folder = bench(&[("snowboot", GOOD)]);
    let kernel = path(&folder, "kernel");
    let empty = path(&folder, "empty");
    let words = ["bench", "boot", "--kernel", &kernel, "--against", "firecracker"];
    let ran = run(snowboot(words).env("PATH", &empty));
    assert_error(&ran, &["firecracker: not found in PATH; give it with --vmm firecracker=PATH"]);
    let other = format!("qemu={empty}");
    let ran = run_words(&["bench", "boot", "--kernel", &kernel, "--vmm", &other]);
    assert_error(&ran, &["qemu: ", "/empty is not a program; correct --vmm"]);

    let own = format!("snowboot={}", path(&folder, "snowboot"));
    let words = ["bench", "boot", "--kernel", &kernel, "--vmm", &own, "--runs", "1", "--warm-up", "0"];
    let ran = run(snowboot(words).env("PATH", &empty));
    assert_eq!(ran.status, 0, "{ran:?}");
    for part in
        ["Left out: cloud-hypervisor: not found in PATH", "Left out: qemu: qemu-system-x86_64 not found"]
    {
        assert!(ran.out.contains(part), "{}", ran.out);
    }
}

#[test]
fn firecracker_needs_a_kernel_that_can_be_unpacked() {
    let folder = bench(&[("snowboot", GOOD), ("firecracker", GOOD)]);
    let ran = run(&mut snowboot(words(&folder, &["snowboot", "firecracker"], &["--runs", "1"])));
    assert_error(&ran, &["firecracker: it takes no bzImage", "--elf-kernel", "kernel"]);
    let report = path(&folder, "r.json");
    let elf = path(&folder, "kernel");
    let more = ["--runs", "1", "--elf-kernel", &elf, "--json", &report];
    assert_eq!(run(&mut snowboot(words(&folder, &["snowboot", "firecracker"], &more))).status, 0);
    assert_eq!(json(&folder, "r.json")["configurations"][1]["kernel"], elf.as_str());
}

#[test]
fn a_vmm_that_ends_early_says_why() {
    let text = "#!/bin/sh\necho 'no such\x1b device' >&2\necho 'hello'\nexit 7\n";
    let folder = bench(&[("snowboot", text)]);
    let ran = run(&mut snowboot(words(&folder, &["snowboot"], &[])));
    assert_eq!((ran.status, ran.out.as_str()), (1, ""));
    for part in [
        "    hello\n",
        "    no such? device\n",
        "snowboot: error: snowboot (",
        "it ended before the marker came (exit status: 7)",
    ] {
        assert!(ran.err.contains(part), "no `{part}` in {}", ran.err);
    }
}

#[test]
fn a_marker_that_does_not_come_ends_the_bench_and_its_vmm() {
    let folder = bench(&[]);
    let pid = path(&folder, "pid");
    let text =
        format!("#!/bin/sh\n[ $1 = --version ] && exit\necho $$ > {pid}\necho 'Kernel panic'\nsleep 600\n");
    script(&folder.path().join("snowboot"), &text);
    let start = Instant::now();
    let ran = run(&mut snowboot(words(&folder, &["snowboot"], &["--timeout", "1"])));
    assert!(start.elapsed() < Duration::from_secs(30));
    assert_eq!(ran.status, 1);
    for part in ["    Kernel panic\n", "its standard error: nothing", "did not come within 1 s", "--timeout"]
    {
        assert!(ran.err.contains(part), "no `{part}` in {}", ran.err);
    }
    let pid = fs::read_to_string(pid).unwrap();
    assert!(!fs::exists(format!("/proc/{}", pid.trim())).unwrap(), "the VMM is still there");
}

#[test]
fn a_run_that_fails_once_is_made_again() {
    let folder = bench(&[]);
    let (count, report) = (path(&folder, "count"), path(&folder, "r.json"));
    // The second of all runs fails, which is the first that counts.
    let text = GOOD.replace("# here", &format!("echo x >> {count}\n[ $(wc -l < {count}) = 2 ] && exit 9"));
    script(&folder.path().join("snowboot"), &text);
    let more = ["--runs", "2", "--json", &report];
    let ran = run(&mut snowboot(words(&folder, &["snowboot"], &more)));
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.err.contains("exit status: 9") && ran.err.contains("this run is made again"), "{}", ran.err);
    let found = &json(&folder, "r.json")["configurations"][0];
    assert_eq!((&found["failed_runs"], found["samples"].as_array().unwrap().len()), (&1.into(), 2));
    assert_eq!(fs::read_to_string(count).unwrap().lines().count(), 4);
}

#[test]
fn only_in_the_lab_may_a_warm_up_fail() {
    let folder = bench(&[]);
    let count = path(&folder, "count");
    let text = GOOD.replace("# here", &format!("echo x >> {count}\n[ $(wc -l < {count}) = 1 ] && exit 9"));
    script(&folder.path().join("snowboot"), &text);
    for (lab, status) in [("", 1), ("emulated", 0)] {
        let _ = fs::remove_file(&count);
        let words = words(&folder, &["snowboot"], &["--runs", "1"]);
        let ran = run(snowboot(words).env("SNOWBOOT_LAB", lab));
        assert_eq!(ran.status, status, "{ran:?}");
    }
}

#[test]
fn a_signal_ends_it_and_its_vmm() {
    let folder = bench(&[]);
    let (pid, report) = (path(&folder, "pid"), path(&folder, "r.json"));
    let text = format!(
        "#!/bin/sh\n[ $1 = --version ] && exit\necho $$ > {pid}.new; mv {pid}.new {pid}\nsleep 600\n"
    );
    script(&folder.path().join("snowboot"), &text);
    let mut command = snowboot(words(&folder, &["snowboot"], &["--json", &report]));
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the VMM runs", || fs::exists(&pid).unwrap());
    signal(&child, Signal::TERM);
    let ran = finish(child);
    assert_eq!((ran.status, ran.out.as_str()), (143, ""));
    let pid = fs::read_to_string(pid).unwrap();
    assert!(!fs::exists(format!("/proc/{}", pid.trim())).unwrap(), "the VMM is still there");
    assert!(!fs::exists(report).unwrap());
}

/// Samples of the one configuration as a baseline, with these CPU seconds.
fn baseline(folder: &TempDir, cpu: &[f64]) -> String {
    let report = path(folder, "now.json");
    let words = words(folder, &["snowboot"], &["--runs", "1", "--warm-up", "0", "--json", &report]);
    assert_eq!(run(&mut snowboot(words)).status, 0);
    let mut found = json(folder, "now.json");
    let sample = found["configurations"][0]["samples"][0].clone();
    let samples = cpu.iter().map(|seconds| {
        let mut sample = sample.clone();
        sample["user_seconds"] = (*seconds).into();
        sample["system_seconds"] = 0.0.into();
        sample["wall_seconds"] = (*seconds).into();
        sample
    });
    found["configurations"][0]["samples"] = samples.collect();
    let file = path(folder, "before.json");
    fs::write(&file, found.to_string()).unwrap();
    file
}

#[test]
fn slower_than_the_baseline_is_status_1() {
    let folder = bench(&[("snowboot", GOOD)]);
    let quick = baseline(&folder, &[0.000_01, 0.000_011, 0.000_012, 0.000_013, 0.000_014]);
    let report = path(&folder, "r.json");
    let more = ["--runs", "5", "--warm-up", "0", "--json", &report, "--baseline", &quick];
    let ran = run(&mut snowboot(words(&folder, &["snowboot"], &more)));
    assert_eq!(ran.status, 1, "{ran:?}");
    let slower = ran.out.lines().filter(|line| line.ends_with("0.0079  SLOWER")).count();
    assert_eq!(slower, 2, "CPU and wall: {}", ran.out);
    assert!(ran.err.contains("slower than in the baseline by more than 2 %"), "{}", ran.err);
    assert_eq!(json(&folder, "r.json")["configurations"][0]["samples"].as_array().unwrap().len(), 5);

    let slow = baseline(&folder, &[10.0, 11.0, 12.0, 13.0, 14.0]);
    let more = ["--runs", "5", "--warm-up", "0", "--baseline", &slow];
    let ran = run(&mut snowboot(words(&folder, &["snowboot"], &more)));
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.out.contains("faster"), "{}", ran.out);
    let more = ["--runs", "1", "--warm-up", "0", "--baseline", &slow];
    let ran = run(&mut snowboot(words(&folder, &["snowboot"], &more)));
    assert!(ran.status == 0 && ran.out.contains("too few runs to tell"), "{ran:?}");
}

#[test]
fn a_baseline_must_be_one_and_is_not_written_over() {
    let folder = bench(&[("snowboot", GOOD)]);
    let kernel = path(&folder, "kernel");
    let ran = run_words(&["bench", "boot", "--kernel", &kernel, "--baseline", &kernel]);
    assert_error(&ran, &["Cannot use the baseline", "it is not what `snowboot bench boot --json` writes"]);
    let file = baseline(&folder, &[1.0]);
    let ran = run_words(&["bench", "boot", "--kernel", &kernel, "--baseline", &file, "--json", &file]);
    assert_error(&ran, &["is the baseline; write to another file"]);
    assert!(fs::exists(file).unwrap());
}

#[test]
fn what_cannot_be_measured_is_told_before_anything_runs() {
    let folder = bench(&[]);
    let kernel = path(&folder, "kernel");
    let boot = |more: &[&str]| run_words(&[&["bench", "boot", "--against", "none"], more].concat());
    assert_error(
        &boot(&["--kernel", "/nonexistent"]),
        &["Cannot read the kernel /nonexistent: there is no such file"],
    );
    let with_initrd = boot(&["--kernel", &kernel, "--initrd", &kernel]);
    assert_error(&with_initrd, &["--marker TEXT", "guest's init writes first"]);
    let named = format!("a={kernel}");
    assert_error(&boot(&["--kernel", &named, "--kernel", &kernel]), &["each needs a name: --kernel NAME="]);
    assert_error(&boot(&["--kernel", &named, "--kernel", &named]), &["the same name", "--kernel a="]);
    let echo = boot(&["--kernel", &kernel, "--cmdline", "console=ttyS0 up", "--marker", "up"]);
    assert_error(&echo, &["The marker `up` is in the command line"]);
    let both = boot(&["--kernel", &kernel, "--csv", &path(&folder, "x"), "--svg", &path(&folder, "x")]);
    assert_error(&both, &["is named for two reports"]);
    assert_error(&boot(&[&path(&folder, "none"), "--marker", "x"]), &["Cannot read the toplevel"]);
    for (words, part) in [
        (&["--kernel", &kernel, "--against", "bochs"][..], "cloud-hypervisor"),
        (&["--kernel", &kernel, "--vmm", "bochs=/b"], "VMM is one of snowboot, qemu"),
        (&["--kernel", &kernel, "--compare-cmdline", "quiet"], "write a name"),
        (&["--kernel", &kernel, "--runs", "0"], "0"),
        (&[], "<TOPLEVEL|--kernel"),
    ] {
        let ran = run_words(&[&["bench", "boot"], words].concat());
        assert!(ran.status == 2 && ran.err.contains(part), "{ran:?}");
    }
}

#[test]
fn a_toplevel_brings_its_kernel_initrd_and_command_line() {
    let folder = bench(&[("snowboot", GOOD)]);
    for (name, text) in [("kernel", "k"), ("initrd", "i"), ("kernel-params", "quiet"), ("init", "")] {
        fs::create_dir_all(folder.path().join("top")).unwrap();
        fs::write(folder.path().join("top").join(name), text).unwrap();
    }
    let (report, own) = (path(&folder, "r.json"), format!("snowboot={}", path(&folder, "snowboot")));
    let top = path(&folder, "top");
    let words = ["bench", "boot", &top, "--against", "none", "--vmm", &own, "--runs", "1", "--json", &report];
    assert_error(&run_words(&words), &["--marker TEXT"]);
    let ran = run_words(&[&words[..], &["--marker", "is init", "--cmdline", "debug"]].concat());
    assert_eq!(ran.status, 0, "{ran:?}");
    let found = &json(&folder, "r.json")["configurations"][0];
    assert!(found["kernel"].as_str().unwrap().ends_with("top/kernel"), "{found}");
    assert!(found["initrd"].as_str().unwrap().ends_with("top/initrd"), "{found}");
    let cmdline = found["cmdline"].as_str().unwrap();
    assert!(
        cmdline.starts_with("quiet init=") && cmdline.ends_with("/init debug console=ttyS0"),
        "{cmdline}"
    );
}

#[test]
fn in_the_lab_elapsed_time_is_called_meaningless() {
    let folder = bench(&[("snowboot", GOOD)]);
    let words = words(&folder, &["snowboot"], &["--runs", "1", "--warm-up", "0"]);
    let ran = run(snowboot(&words).env("SNOWBOOT_LAB", "emulated"));
    assert!(ran.out.contains("mean nothing") && !ran.out.contains("wall s"), "{}", ran.out);
    let elsewhere = run(snowboot(&words).env_remove("SNOWBOOT_LAB")).out;
    assert!(!elsewhere.contains("mean nothing") && elsewhere.contains("wall s"), "{elsewhere}");
}

#[test]
fn a_cold_cache_is_empty_in_every_run() {
    let text = GOOD.replace(
        "# here",
        "[ -e $SNOWBOOT_CACHE_DIR/x ] && exit 3\nmkdir -p $SNOWBOOT_CACHE_DIR && touch $SNOWBOOT_CACHE_DIR/x",
    );
    let folder = bench(&[("snowboot", &text)]);
    let ran = run(&mut snowboot(words(&folder, &["snowboot"], &["--runs", "2", "--cold-cache"])));
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.out.contains("unpacked its kernel in every run"), "{}", ran.out);
}
