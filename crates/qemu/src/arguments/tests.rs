use std::path::Path;

use proptest::prelude::*;

use super::*;

/// What the driver of NixOS 24.05 appends; that of 26.05 has the same words, and `-no-reboot` in front.
const UPSTREAM: &str = "-qmp unix:/s/qmp,server=on,wait=off -monitor unix:/s/monitor \
     -chardev socket,id=shell,path=/s/shell -device virtio-serial -device virtconsole,chardev=shell \
     -device virtio-rng-pci -serial stdio";

fn parse(text: &str) -> Result<Arguments, String> {
    Arguments::parse(text.split_whitespace()).map_err(|error| error.0)
}

#[test]
fn what_the_test_driver_appends_is_understood() {
    let all = parse(&format!("{UPSTREAM} -no-reboot -nographic")).unwrap();
    assert_eq!(all.qmp, [Path::new("/s/qmp")]);
    assert_eq!(all.monitors, [Path::new("/s/monitor")]);
    assert_eq!(all.console.as_deref(), Some(Path::new("/s/shell")));
    assert!(all.no_reboot && all.warnings.is_empty() && !all.is_paused);
    assert_eq!(parse(&format!("-no-reboot {UPSTREAM} -nographic")), Ok(all));
    assert!(!parse(UPSTREAM).unwrap().no_reboot);
    assert_eq!(parse(""), Ok(Arguments::default()));
}

#[test]
fn options_that_come_twice_are_the_same_ones() {
    let once = parse(UPSTREAM).unwrap();
    assert_eq!(parse(&format!("{UPSTREAM} {UPSTREAM}")), Ok(once));
    let two = parse("-qmp unix:/a,server=on,wait=off -qmp unix:/b,server=on,wait=off").unwrap();
    assert_eq!(two.qmp, [Path::new("/a"), Path::new("/b")]);
}

#[test]
fn a_driver_may_leave_most_of_it_out() {
    // As a machine that may reboot has it in some versions: without QMP, and with a monitor beside its own folder.
    let found = parse("-monitor unix:./monitor -nographic").unwrap();
    assert_eq!((found.monitors.as_slice(), found.console), ([PathBuf::from("./monitor")].as_slice(), None));
    assert!(found.qmp.is_empty() && !found.no_reboot);
}

#[test]
fn the_ssh_backdoor_is_warned_about() {
    let backdoor =
        "-chardev socket,id=vsock,reconnect=0,path=/s/vsock -device vhost-user-vsock-pci,chardev=vsock";
    let found = parse(&format!("{UPSTREAM} {backdoor}")).unwrap();
    assert!(found.warnings.iter().any(|warning| warning.contains("SSH backdoor")));
}

#[test]
fn older_spellings_and_sizes_are_understood() {
    let found =
        parse("--qmp unix:/q,server,nowait -m 2G -smp cpus=4,sockets=1 -action reboot=shutdown -S").unwrap();
    assert_eq!(found.qmp, [Path::new("/q")]);
    assert_eq!(found.memory.map(MemorySize::mib), Some(2048));
    assert_eq!(found.vcpus.map(VcpuCount::get), Some(4));
    assert!(found.no_reboot && found.is_paused);
    let comma = Arguments::parse(["-monitor", "unix:/a,,b"]).unwrap();
    assert_eq!(comma.monitors, [Path::new("/a,b")]);
}

#[test]
fn what_cannot_be_honoured_is_named() {
    for (text, part) in [
        ("-vnc :1", "`-vnc` is an option of QEMU's"),
        ("-usb", "`-usb` is an option"),
        ("disk.img", "`disk.img` is no option"),
        ("-", "`-` is no option"),
        ("-monitor", "`-monitor` has no value"),
        ("-monitor stdio", "`-monitor stdio` cannot be honoured: there are sockets"),
        ("-monitor unix:/m,server=on,wait=off", "the machine connects"),
        ("-qmp unix:/q", "add `server=on,wait=off`"),
        ("-qmp unix:/q,server=on", "add `wait=off`"),
        ("-qmp tcp:localhost:4444", "there are sockets: `unix:PATH`"),
        ("-serial file:/x", "it can be stdio"),
        ("-vga std", "it can be none"),
        ("-cpu qemu64", "it can be max or host"),
        ("-device usb-tablet", "those of its description"),
        ("-chardev file,id=x,path=/y", "character devices are sockets"),
        ("-chardev socket,id=x,path=/y", "`-chardev socket,id=x` is of no device"),
        ("-chardev socket,path=/y", "it has no `id`"),
        ("-device virtconsole,chardev=shell", "there is no `-chardev socket,id=shell`"),
        ("-m lots", "`-m lots`"),
        ("-smp 0", "`-smp 0`"),
        ("-action panic=none", "there is `reboot=shutdown`"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn whatever_comes_is_read_or_refused(words in proptest::collection::vec("(-?[a-z]{1,8}|[ -~]{0,30})", 0..12)) {
        let _ = Arguments::parse(&words);
    }

    #[test]
    fn paths_come_through(path in "/[^\0]{1,60}") {
        let escaped = path.replace(',', ",,");
        let socket = format!("unix:{escaped},server=on,wait=off");
        let chardev = format!("socket,id=shell,path={escaped}");
        let words = ["-qmp", &socket, "-chardev", &chardev, "-device", "virtconsole,chardev=shell"];
        let found = Arguments::parse(words).unwrap();
        prop_assert_eq!(found.console.as_deref(), Some(Path::new(&path)));
        prop_assert_eq!(&found.qmp[0], Path::new(&path));
    }
}
