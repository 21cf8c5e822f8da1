# Resets: asked for by the test, by the guest, on a machine that comes back from them and on one that does not. A power cut.


def this_boot():
    return machine.succeed("cat /proc/sys/kernel/random/boot_id").strip()


def came_from(event):
    return event["data"]["guest"], event["data"]["reason"]


# A test that reboots says so.
machine.start(allow_reboot=True)
machine.wait_for_unit("multi-user.target")
boots = [this_boot()]

with subtest("the test reboots the guest"):
    machine.succeed("echo first >/root/kept; sync", "touch /run/volatile", "echo words of the first boot >/dev/kmsg")
    machine.wait_for_console_text("words of the first boot", timeout=60)
    machine.reboot()
    boots.append(this_boot())
    machine.succeed("grep -x first /root/kept")
    machine.fail("test -e /run/volatile")
    assert machine.booted
    event = machine.wait_for_qmp_event(lambda event: True, timeout=1)
    assert event["event"] == "RESET" and came_from(event) == (True, "guest-reset"), event

with subtest("the console log goes on"):
    log = machine.get_console_log()
    assert log.count("Linux version") == 2, log.count("Linux version")
    assert log.index("words of the first boot") < log.rindex("Linux version")

with subtest("the guest reboots by itself"):
    machine.succeed("echo second >>/root/kept; sync")
    machine.execute("systemctl reboot >&2 &", check_output=False)
    machine.connected = False
    machine.wait_for_unit("multi-user.target")
    boots.append(this_boot())
    machine.succeed("grep -x second /root/kept")

with subtest("a power cut, and a start by hand"):
    machine.succeed("echo third >>/root/kept; sync")
    machine.crash()
    assert not machine.booted
    machine.start()
    boots.append(this_boot())
    assert machine.succeed("cat /root/kept").split() == ["first", "second", "third"]

assert len(set(boots)) == 4, boots

with subtest("a machine that was not started for reboots ends"):
    machine.reboot()
    machine.wait_for_shutdown()
    assert not machine.booted and not machine.is_up()
    event = machine.wait_for_qmp_event(lambda event: True, timeout=1)
    assert event["event"] == "SHUTDOWN" and came_from(event) == (True, "guest-reset"), event
