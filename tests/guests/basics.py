# One machine: two vCPUs, its root, a data disk, a serial port, a clock. The driver's promises about commands and waits.
import time

start_all()
machine.wait_for_unit("multi-user.target")

with subtest("commands"):
    assert machine.execute("exit 42") == (42, "")
    assert machine.execute("sleep 60", timeout=1)[0] == 124
    assert machine.succeed("echo a", "printf 'b c'") == "a\nb c"
    machine.fail("false | true")
    assert len(machine.succeed("head -c 20000000 /dev/zero | tr '\\0' x")) == 20_000_000
    words = "x" * 100_000
    assert machine.succeed(f"echo {words}").strip() == words

with subtest("what goes to the console"):
    machine.succeed("echo from-stderr >&2", "echo from-the-kernel >/dev/kmsg")
    machine.wait_for_console_text("from-stderr", timeout=60)
    machine.wait_for_console_text("from-the-kernel", timeout=60)
    assert "Linux version" in machine.get_console_log()

with subtest("what comes from the console"):
    machine.succeed("head -n 1 /dev/ttyS0 >/tmp/typed 2>&1 </dev/null &", "sleep 1")
    machine.send_console("typed by the test\n")
    machine.wait_until_succeeds("grep 'typed by the test' /tmp/typed", timeout=60)

with subtest("the machine is as described"):
    assert machine.succeed("nproc").strip() == "2"
    memory = int(machine.succeed("awk '/MemTotal/ {print $2}' /proc/meminfo"))
    assert 400_000 < memory < 512 * 1024, memory
    assert machine.succeed("cat /sys/block/vda/serial /sys/block/vdb/serial") == "rootdata"
    assert machine.succeed("cat /sys/block/vda/ro /sys/block/vdb/ro").split() == ["1", "0"]
    assert machine.succeed("cat /sys/block/vdb/size").strip() == str(64 * 2048)
    assert "virtio" in machine.succeed("cat /sys/class/misc/hw_random/rng_current")
    assert "PCI-MSI" in machine.succeed("grep virtio /proc/interrupts")
    assert abs(int(machine.succeed("date +%s")) - time.time()) < 60
    assert machine.succeed("cat /sys/devices/system/clocksource/clocksource0/current_clocksource") == "kvm-clock\n"
    machine.fail("dd if=/dev/zero of=/dev/vda bs=512 count=1 conv=fsync")

with subtest("units"):
    machine.require_unit_state("backdoor.service")
    assert machine.get_unit_property("backdoor.service", "Type") == "simple"
    machine.succeed("systemd-run --unit=gone sh -c 'echo last words; exit 3' >&2")
    try:
        machine.wait_for_unit("gone.service", timeout=60)
        raise SystemExit("a unit that failed was waited for")
    except Exception as error:
        assert 'reached state "failed"' in str(error) or "no pending jobs" in str(error), error
    status, _ = machine.systemctl("is-active gone.service")
    assert status != 0

with subtest("ports and files"):
    machine.fail("nc -z localhost 8080")
    machine.succeed("systemd-run --unit=server nc -lk 8080 >&2")
    machine.wait_for_open_port(8080, timeout=60)
    machine.succeed("systemctl stop server.service")
    machine.wait_for_closed_port(8080, timeout=60)
    machine.succeed("(sleep 1; touch '/tmp/a b') >&2 &")
    machine.wait_for_file("/tmp/a*b", timeout=60)

with subtest("a power cut keeps what was flushed"):
    machine.succeed("head -c 3000000 /dev/urandom >/tmp/data", "dd if=/tmp/data of=/dev/vdb bs=64k conv=fsync")
    before = machine.succeed("head -c 3000000 /dev/vdb | sha256sum")
    machine.crash()
    assert not machine.booted
    assert machine.succeed("head -c 3000000 /dev/vdb | sha256sum") == before
    machine.fail("test -e /tmp/typed")

machine.shutdown()
assert not machine.is_up()
