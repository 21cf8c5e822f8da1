# A guest with a shell in its initrd, too: the test does something there, then lets it go on to its root.

with subtest("in the initrd"):
    machine.wait_for_unit("initrd.target")
    before = machine.succeed("cat /proc/sys/kernel/random/boot_id")
    machine.succeed("test -e /etc/initrd-release", "test -e /sysroot/etc/passwd")
    machine.fail("systemctl is-active multi-user.target")
    machine.succeed("echo from the initrd >/sysroot/etc/left", "touch /only-here")

with subtest("on to the root"):
    machine.switch_root()
    machine.wait_for_unit("multi-user.target")
    machine.succeed("grep -x 'from the initrd' /etc/left")
    machine.fail("test -e /etc/initrd-release")
    machine.fail("test -e /only-here")
    machine.fail("test -e /sysroot/etc/passwd")
    assert before == machine.succeed("cat /proc/sys/kernel/random/boot_id"), "the kernel has changed"

machine.shutdown()
