# The guest starts another kernel by itself, without a reset: every device is taken over as it was left. Then the power button.
machine.wait_for_unit("multi-user.target")
before = machine.succeed("cat /proc/sys/kernel/random/boot_id")

with subtest("the guest starts another kernel"):
    machine.succeed(
        "touch /run/volatile",
        "cat /dev/disk/by-id/virtio-kernel >/tmp/kernel",
        "cat /dev/disk/by-id/virtio-initrd >/tmp/initrd",
        "kexec --load /tmp/kernel --initrd=/tmp/initrd --command-line=\"$(cat /proc/cmdline) second-kernel\"",
    )
    machine.execute("systemctl kexec >&2 &", check_output=False)
    machine.connected = False
    machine.connect()
    machine.succeed("grep -w second-kernel /proc/cmdline")
    assert before != machine.succeed("cat /proc/sys/kernel/random/boot_id")
    machine.fail("test -e /run/volatile")

with subtest("its devices work as before"):
    machine.wait_for_unit("multi-user.target")
    machine.succeed("ip link show eth1 >&2", "head -c 64 /dev/hwrng | wc -c | grep -x 64")
    machine.succeed("echo words of the second kernel >/dev/ttyS0")
    machine.wait_for_console_text("words of the second kernel", timeout=60)

with subtest("the power button"):
    machine.wait_for_unit("systemd-logind.service")
    assert machine.send_monitor_command("system_powerdown").endswith("(qemu) ")
    event = machine.wait_for_qmp_event(lambda event: event["event"] == "SHUTDOWN", timeout=300)
    assert event["data"] == {"guest": True, "reason": "guest-shutdown"}, event
    machine.wait_for_shutdown()
    assert not machine.booted
