# Every name that a script finds, and every method of a machine: success, failure, time-out, wrong argument. Each refusal
# is of an exact type, and its text names the machine and the thing. At the end nothing public may be left untried.
import datetime
import inspect
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

from test_driver.driver import Driver as CompatibleDriver
from test_driver.driver import load_driver_configuration
from test_driver.efi import EfiVariable
from test_driver.errors import MachineError, RequestedAssertionFailed
from test_driver.machine import ocr
from test_driver.machine.qmp import QMPAPIError

from snowboot.errors import MalformedAnswer, NoShell, PollingConditionError

tried: set[str] = set()
SECOND = datetime.timedelta(seconds=1)


@contextmanager
def trying(*names):
    tried.update(names)
    with subtest(", ".join(names)):
        yield


def refused(kind, call, *words):
    """The call raises exactly this, and says these words."""
    began = time.monotonic()
    with t.assertRaises(kind) as caught:
        call()
    t.assertIs(type(caught.exception), kind)
    for word in words:
        t.assertIn(word, str(caught.exception))
    return time.monotonic() - began


def failed(call, *words):
    return refused(RequestedAssertionFailed, call, *words)


def mistaken(*calls):
    """Arguments of a wrong type, found out before the guest hears of anything."""
    for call in calls:
        refused(TypeError, call)


with trying("driver", "machines", "machines_qemu", "machines_nspawn", "Machine", "BaseMachine", "QemuMachine", "NspawnMachine"):
    t.assertEqual([it.name for it in machines], ["machine", "peer-node"])
    t.assertEqual(machines_qemu, machines)
    t.assertEqual(machines_nspawn, [])
    t.assertEqual(list(driver.machines), machines)
    t.assertTrue(all(isinstance(it, (Machine, QemuMachine, BaseMachine)) for it in machines))
    t.assertFalse(isinstance(machine, NspawnMachine))
    t.assertEqual(peer_node.name, "peer-node")
    t.assertEqual(Path(driver.out_dir), Path(machine.out_dir))
    tried.update({"name", "out_dir"})

with trying("vlans", "vlan1", "os"):
    t.assertEqual([vlan.nr for vlan in vlans], [1])
    t.assertIs(vlan1, vlans[0])
    t.assertEqual(os.path.basename("/a/b"), "b")

with trying("start_all", "booted", "connected", "is_up"):
    t.assertFalse(machine.booted or machine.connected or machine.is_up())
    refused(MachineError, machine.boot_timeline, "machine", "never started")
    start_all()
    start_all()
    t.assertTrue(machine.booted and peer_node.booted)

with trying("connect", "wait_for_unit", "start"):
    machine.connect()
    machine.start()
    t.assertTrue(machine.connected and machine.is_up())
    machine.wait_for_unit("multi-user.target")
    peer_node.wait_for_unit("multi-user.target", timeout=datetime.timedelta(minutes=10))
    machine.succeed("systemd-run --unit=broken sh -c 'echo last words; exit 3' >&2")
    failed(lambda: machine.wait_for_unit("broken.service", timeout=60), "machine", "broken.service", "failed")
    failed(lambda: machine.wait_for_unit("never.service", timeout=60), "machine", "never.service", "no pending jobs")
    machine.succeed("systemd-run --no-block --unit=slow --property=Type=notify sleep 600 >&2")
    failed(lambda: machine.wait_for_unit("slow.service", timeout=2), "machine", "slow.service", "activating", "2 s")
    machine.succeed("systemctl stop slow.service")
    mistaken(lambda: machine.wait_for_unit(None), lambda: machine.wait_for_unit("x.service", timeout=True),
             lambda: machine.wait_for_unit("x.service", timeout="5"), lambda: machine.wait_for_unit(["a"]))

with trying("boot_timeline"):
    # Until it has, systemd does not tell when it had reached the target.
    machine.execute("systemctl is-system-running --wait")
    boot = machine.boot_timeline()
    phases = ["memory_ready", "kernel_loaded", "guest_entered", "console_output", "init_started", "shell_ready", "first_answer"]
    reached = [getattr(boot, name) for name in phases]
    t.assertEqual(reached, sorted(reached))
    t.assertLess(boot.init_started, boot.guest_clock + boot.systemd["userspace"])
    t.assertLess(boot.systemd["units_load_finish"], boot.systemd["finish"])
    t.assertLess(boot.guest_clock + boot.systemd["userspace"], boot.shell_ready)
    t.assertAlmostEqual(boot.target_reached, boot.guest_clock + boot.systemd["finish"])
    t.assertEqual((boot.marks, boot.initcalls), ((), ()))
    machine.succeed("printf '\\020\\377' | dd of=/dev/port bs=1 count=1 seek=1552 conv=notrunc status=none")
    t.assertEqual([mark.number for mark in machine.boot_timeline().marks], [16])
    mistaken(lambda: machine.boot_timeline(5))

with trying("execute"):
    t.assertEqual(machine.execute("echo a; exit 42"), (42, "a\n"))
    t.assertEqual(machine.execute("echo a; exit 42", check_return=False), (-1, "a\n"))
    t.assertEqual(machine.execute("true", True, False), (-2, ""))
    t.assertEqual(machine.execute("sleep 60", timeout=0.5 * SECOND)[0], 124)
    t.assertEqual(machine.execute("exit 3", True, True, 60), (3, ""))
    mistaken(lambda: machine.execute(None), lambda: machine.execute("true", timeout=False),
             lambda: machine.execute(["true"]), lambda: machine.execute("true", timeout="1"))

with trying("succeed", "fail"):
    t.assertEqual(machine.succeed("echo a", "printf 'b c'"), "a\nb c")
    t.assertEqual(machine.succeed(), "")
    t.assertEqual(machine.fail("echo a; false", "echo b; false | true"), "a\nb\n")
    t.assertEqual(machine.succeed("echo ' \"'\"'\"'\\$ü\n\ttab'"), " \"'\\$ü\n\ttab\n")
    failed(lambda: machine.succeed("true", "echo some words; exit 7"), "machine", "exit 7", "exit code 7", "some words")
    failed(lambda: machine.fail("false", "true # not so"), "machine", "true # not so", "succeeded")
    failed(lambda: machine.succeed("sleep 60", timeout=1), "machine", "sleep 60", "124")
    failed(lambda: machine.succeed("undefined=; echo $nothing_like_this"), "machine", "nothing_like_this")
    mistaken(lambda: machine.succeed(None), lambda: machine.succeed(["true"]), lambda: machine.succeed("true", timeout=True),
             lambda: machine.fail(b"false"), lambda: machine.fail("false", timeout="1"))

with trying("wait_until_succeeds", "wait_until_fails"):
    machine.succeed("(sleep 1; touch /tmp/came) >&2 &")
    t.assertEqual(machine.wait_until_succeeds("test -e /tmp/came && echo yes"), "yes\n")
    machine.succeed("(sleep 1; rm /tmp/came) >&2 &")
    machine.wait_until_fails("test -e /tmp/came", 60)
    failed(lambda: machine.wait_until_succeeds("test -e /nowhere", timeout=1), "machine", "test -e /nowhere", "1 s")
    failed(lambda: machine.wait_until_fails("test -e /", SECOND), "machine", "test -e /", "1 s")
    t.assertLess(failed(lambda: machine.wait_until_succeeds("sleep 600", timeout=2), "machine", "sleep 600"), 60)
    mistaken(lambda: machine.wait_until_succeeds(None), lambda: machine.wait_until_succeeds("true", timeout=None),
             lambda: machine.wait_until_fails("false", timeout=True))

with trying("sleep"):
    before = float(machine.succeed("cut -d' ' -f1 /proc/uptime"))
    machine.sleep(1)
    machine.sleep(duration=SECOND)
    t.assertGreater(float(machine.succeed("cut -d' ' -f1 /proc/uptime")), before + 2)
    mistaken(lambda: machine.sleep(), lambda: machine.sleep(1, duration=1), lambda: machine.sleep(True), lambda: machine.sleep("1"))

with trying("systemctl", "start_job", "stop_job"):
    machine.succeed("printf '[Service]\nExecStart=/bin/sleep 10000\n' >/run/systemd/system/job.service", "systemctl daemon-reload")
    t.assertEqual(machine.start_job("job.service")[0], 0)
    t.assertEqual(machine.systemctl("is-active job.service"), (0, "active\n"))
    t.assertEqual(machine.stop_job("job.service"), (0, ""))
    t.assertNotEqual(machine.systemctl("is-active job.service")[0], 0)
    t.assertNotEqual(machine.start_job("never.service")[0], 0)
    mistaken(lambda: machine.systemctl(None), lambda: machine.start_job(None), lambda: machine.stop_job(["job"]),
             lambda: machine.systemctl("status", user=[]))

with trying("get_unit_info", "get_unit_property", "require_unit_state"):
    info = machine.get_unit_info("backdoor.service")
    t.assertEqual((info["Id"], info["ActiveState"]), ("backdoor.service", "active"))
    t.assertEqual(machine.get_unit_property("backdoor.service", "Type"), info["Type"])
    machine.require_unit_state("backdoor.service")
    machine.require_unit_state("job.service", "inactive")
    failed(lambda: machine.get_unit_info("x" * 300), "machine", "xxx")
    refused(MalformedAnswer, lambda: machine.get_unit_property("backdoor.service", "NoSuchThing"), "machine", "NoSuchThing", "backdoor.service")
    failed(lambda: machine.require_unit_state("job.service"), "machine", "job.service", "inactive", "active")
    mistaken(lambda: machine.get_unit_info(None), lambda: machine.get_unit_property("a.service", None),
             lambda: machine.require_unit_state(None))

with trying("wait_for_file"):
    machine.succeed("(sleep 1; touch '/tmp/a b c') >&2 &")
    machine.wait_for_file("/tmp/a*c")
    machine.wait_for_file(Path("/etc/hostname"), SECOND)
    failed(lambda: machine.wait_for_file("/tmp/never", timeout=1), "machine", "/tmp/never", "1 s", "a b c")
    mistaken(lambda: machine.wait_for_file(None), lambda: machine.wait_for_file("/", timeout=True))

with trying("wait_for_open_port", "wait_for_closed_port"):
    machine.succeed("(sleep 1; exec nc -lk 8080) >&2 &")
    machine.wait_for_open_port(8080)
    machine.wait_for_open_port("8080", "localhost", SECOND * 60)
    peer_node.wait_for_open_port(8080, "machine", timeout=60)
    failed(lambda: machine.wait_for_open_port(9, timeout=1), "machine", "9", "1 s", "8080")
    failed(lambda: machine.wait_for_closed_port(8080, timeout=SECOND), "machine", "8080", "1 s")
    machine.succeed("(sleep 1; pkill -f 'nc -lk 8080') >&2 &")
    machine.wait_for_closed_port(8080, timeout=60)
    mistaken(lambda: machine.wait_for_open_port(None), lambda: machine.wait_for_open_port(80, timeout=True),
             lambda: machine.wait_for_closed_port([80]), lambda: machine.wait_for_closed_port(80, addr=None))

with trying("wait_for_open_unix_socket"):
    machine.succeed("(sleep 1; exec nc -lkU /run/stream) >&2 &", "systemd-run --unit=datagrams nc -lkuU /run/datagram >&2")
    machine.wait_for_open_unix_socket("/run/stream")
    machine.wait_for_open_unix_socket("/run/datagram", is_datagram=True, timeout=60)
    failed(lambda: machine.wait_for_open_unix_socket("/run/never", timeout=1), "machine", "/run/never", "1 s")
    mistaken(lambda: machine.wait_for_open_unix_socket(None), lambda: machine.wait_for_open_unix_socket("/run/stream", timeout=True))

with trying("wait_for_console_text", "get_console_log", "send_console", "log_serial"):
    machine.succeed("echo to-the-console >&2", "echo from-the-kernel >/dev/kmsg")
    machine.wait_for_console_text("to-the-.onsole")
    machine.wait_for_console_text("from-the-kernel", timeout=60)
    t.assertIn("Linux version", machine.get_console_log())
    machine.succeed("head -n 1 /dev/ttyS0 >/tmp/typed 2>&1 </dev/null &", "sleep 1")
    machine.send_console("typed by the test\n")
    machine.wait_until_succeeds("grep 'typed by the test' /tmp/typed", timeout=60)
    machine.log_serial("a line that looks like the console's")
    failed(lambda: machine.wait_for_console_text("never on the console", timeout=1), "machine", "never on the console", "1 s")
    mistaken(lambda: machine.wait_for_console_text(None), lambda: machine.wait_for_console_text("a", timeout=True),
             lambda: machine.send_console(None))

with trying("get_tty_text", "wait_until_tty_matches", "dump_tty_contents"):
    machine.succeed("echo on the virtual terminal >/dev/tty2")
    machine.wait_until_tty_matches("2", "on the virt.al terminal")
    t.assertIn("on the virtual terminal", machine.get_tty_text(2))
    machine.dump_tty_contents("2")
    failed(lambda: machine.wait_until_tty_matches("2", "never there", timeout=1), "machine", "never there", "1 s")
    failed(lambda: machine.get_tty_text("999"), "machine", "999")
    mistaken(lambda: machine.get_tty_text(None), lambda: machine.wait_until_tty_matches("1", None),
             lambda: machine.wait_until_tty_matches("1", "a", timeout=True), lambda: machine.dump_tty_contents(None))

with trying("copy_from_host", "copy_from_host_via_shell", "copy_from_machine", "copy_from_vm"):
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree it is")
        (tree / "below").mkdir(parents=True)
        (tree / "below" / "it's").write_bytes(bytes(range(256)) * 1000)
        (tree / "run").write_text("#!/bin/sh\necho ran\n")
        (tree / "run").chmod(0o755)
        (tree / "link").symlink_to("run")
        machine.copy_from_host(str(tree), "/tmp/new/place")
        t.assertEqual(machine.succeed("/tmp/new/place/run", "readlink /tmp/new/place/link"), "ran\nrun\n")
        machine.copy_from_host(tree / "run", Path("/tmp/new"))
        machine.copy_from_host_via_shell(tree / "run", "/tmp/via-shell")
        t.assertEqual(machine.succeed("cat /tmp/new/run"), machine.succeed("cat /tmp/via-shell"))
        refused(FileNotFoundError, lambda: machine.copy_from_host(tree / "none", "/tmp/none"), "none")
        refused(FileNotFoundError, lambda: machine.copy_from_host_via_shell(tree / "none", "/tmp/none"), "none")
        failed(lambda: machine.copy_from_host(tree / "run", "/proc/none/x"), "machine", "/proc/none")
        machine.copy_from_machine("/tmp/new/place", "back")
        back = Path(driver.out_dir, "back", "place")
        t.assertEqual((back / "below" / "it's").read_bytes(), (tree / "below" / "it's").read_bytes())
        t.assertTrue(os.access(back / "run", os.X_OK))
    machine.copy_from_machine("/etc/hostname")
    t.assertEqual(Path(driver.out_dir, "hostname").read_text().strip(), "machine")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        machine.copy_from_vm("/proc/uptime", "old")
    t.assertEqual([it.category for it in caught], [DeprecationWarning])
    t.assertGreater(float(Path(driver.out_dir, "old", "uptime").read_text().split()[0]), 1)
    failed(lambda: machine.copy_from_machine("/nowhere"), "machine", "/nowhere")
    mistaken(lambda: machine.copy_from_host(None, "/tmp/x"), lambda: machine.copy_from_host("/etc/hostname", None),
             lambda: machine.copy_from_machine(None), lambda: machine.copy_from_host_via_shell(None, "/tmp/x"))

with trying("block", "unblock"):
    machine.block()
    machine.wait_until_succeeds("test $(cat /sys/class/net/eth1/carrier) = 0", timeout=60)
    peer_node.fail("ping -c 1 -W 1 machine")
    machine.unblock()
    peer_node.wait_until_succeeds("ping -c 1 -W 1 machine", timeout=60)

with trying("send_monitor_command", "qmp_client", "wait_for_qmp_event", "monitor"):
    t.assertIn("running", machine.send_monitor_command("info status"))
    t.assertTrue(machine.send_monitor_command("set_link virtio-net-pci.1 off").endswith("(qemu) "))
    machine.wait_until_succeeds("test $(cat /sys/class/net/eth1/carrier) = 0", timeout=60)
    machine.send_monitor_command("set_link virtio-net-pci.1 on")
    t.assertEqual(machine.qmp_client.send("query-status")["return"]["status"], "running")
    machine.qmp_client.send("stop")
    t.assertEqual(machine.wait_for_qmp_event(lambda event: event["event"] == "STOP", timeout=60)["event"], "STOP")
    machine.qmp_client.send("cont")
    machine.succeed("true")
    with t.assertRaises(QMPAPIError) as unknown:
        machine.qmp_client.send("no-such-command", {})
    t.assertEqual(unknown.exception.class_name, "CommandNotFound")
    refused(MachineError, lambda: machine.send_monitor_command("sendkey ret"), "machine", "sendkey")
    refused(TimeoutError, lambda: machine.wait_for_qmp_event(lambda event: False, timeout=1), "machine", "1 s")
    mistaken(lambda: machine.send_monitor_command(None), lambda: machine.wait_for_qmp_event(lambda event: True, timeout=True))

with trying("screenshot", "get_screen_text", "get_screen_text_variants", "wait_for_text", "send_key", "send_chars"):
    for call in (lambda: machine.screenshot("a"), machine.get_screen_text, machine.get_screen_text_variants,
                 lambda: machine.wait_for_text("a", 1)):
        refused(MachineError, call, "machine", "display")
    for call in (lambda: machine.send_key("ctrl-alt-delete"), lambda: machine.send_chars("abc", delay=0.01)):
        refused(MachineError, call, "machine", "keyboard")
    mistaken(lambda: machine.screenshot(None), lambda: machine.wait_for_text(None), lambda: machine.send_key(None),
             lambda: machine.send_chars(None), lambda: machine.wait_for_text("a", timeout=True), lambda: machine.send_key("a", delay=True))
    t.assertTrue(inspect.ismodule(ocr))

with trying("get_window_names", "wait_for_window", "wait_for_x"):
    failed(machine.get_window_names, "machine", "xwininfo")
    failed(lambda: machine.wait_for_window("x", timeout=1), "machine", "x")
    failed(lambda: machine.wait_for_x(timeout=1), "machine", "1 s")
    mistaken(lambda: machine.wait_for_window(None), lambda: machine.wait_for_x(timeout=True))

with trying("forward_port", "ssh_backdoor_command", "dump_machine_ssh"):
    refused(MachineError, lambda: machine.forward_port(8080, 80), "machine", "user-network")
    refused(MachineError, machine.ssh_backdoor_command, "machine", "ssh")
    refused(MachineError, dump_machine_ssh, "ssh")
    mistaken(lambda: machine.forward_port("a", None))

with trying("create_efi_vars", "write_efi_vars", "read_efi_vars", "dump_efi_vars"):
    t.assertEqual(EfiVariable.__name__, "EfiVariable")
    for call in (machine.create_efi_vars, lambda: machine.write_efi_vars([]), machine.read_efi_vars, machine.dump_efi_vars):
        refused(MachineError, call, "machine", "EFI")

with trying("subtest", "log", "nested", "serial_stdout_on", "serial_stdout_off"):
    with t.assertRaises(ValueError), subtest("fails on purpose"):
        raise ValueError("on purpose")
    with machine.nested("a block", {"machine": "machine"}), log.nested("another"):
        machine.log("a line of the machine")
        log.log("a line")
        log.info("info")
        log.warning("warning")
        log.debug("debug")
        log.log_test_error("not an error")
    serial_stdout_off()
    serial_stdout_on()
    with t.assertRaises(SystemExit) as ended:
        log.error("this ends a script")
    t.assertEqual(ended.exception.code, 1)
    mistaken(lambda: machine.log(None))

with trying("retry", "t"):
    calls = []
    retry(lambda last: calls.append(last) or len(calls) > 2)
    t.assertEqual(calls, [False, False, False])
    failed(lambda: retry(lambda last: False, 0.1), "0.1")
    failed(lambda: retry(lambda last: False, timeout=0.1 * SECOND), "0.1")
    retry(lambda last: last, timeout_seconds=0)
    failed(lambda: t.assertEqual(1, 2), "1 != 2")
    mistaken(lambda: retry(lambda last: True, 1, 1), lambda: retry(lambda last: True, True))

with trying("polling_condition", "run_callbacks"):
    @polling_condition
    def is_quiet():
        """Nobody has shouted"""
        machine.fail("test -e /tmp/shout")

    @polling_condition(seconds_interval=0, description="there is no /tmp/cry")
    def is_calm():
        return machine.execute("test -e /tmp/cry")[0] != 0

    with is_quiet, is_calm:
        machine.succeed("true")
        machine.run_callbacks()
    is_quiet.wait(timeout=60)
    machine.succeed("touch /tmp/cry")
    with t.assertRaises(PollingConditionError), is_calm:
        machine.succeed("true")
    machine.succeed("true")
    failed(lambda: is_calm.wait(timeout=1), "/tmp/cry")
    mistaken(lambda: polling_condition(lambda: True, seconds_interval=1, interval=1))

with trying("create_machine", "start_command", "keep_machine_state"):
    refused(MachineError, lambda: create_machine("qemu-kvm -m 512 -kernel /boot/bzImage"), "qemu", "kernel")
    other = create_machine({"kernel": "/nowhere/vmlinux", "vlans": []}, name="other")
    t.assertEqual(other.name, "other")
    t.assertNotIn(other, driver.machines)
    refused(MachineError, other.start, "other", "/nowhere/vmlinux")
    mistaken(lambda: create_machine(None))

with trying("state_dir", "shared_dir", "process", "pid", "shell"):
    t.assertTrue(Path(machine.state_dir).is_dir() and Path(machine.shared_dir).is_dir())
    t.assertEqual(machine.pid, machine.process.pid)
    t.assertTrue(hasattr(machine.shell, "send"))

with trying("console_interact", "shell_interact", "debug"):
    # The standard input is no terminal here; with one they are tried by the tests of the Python package.
    refused(MachineError, machine.console_interact, "machine", "terminal")
    refused(MachineError, machine.shell_interact, "machine", "terminal")
    debug.breakpoint()

with trying("switch_root"):
    # There is an initrd with a shell in the tests of reboots. Here its unit is not about to come.
    failed(machine.switch_root, "machine", "initrd.target")

with trying("crash", "shutdown", "wait_for_shutdown", "reboot"):
    failed(lambda: machine.wait_for_shutdown(timeout=1), "machine", "1 s")
    mistaken(lambda: machine.wait_for_shutdown(timeout=True))
    machine.crash()
    t.assertFalse(machine.booted or machine.connected)
    machine.crash()
    machine.start(allow_reboot=True)
    machine.succeed("touch /run/before")
    machine.reboot()
    t.assertFalse(machine.connected)
    machine.fail("test -e /run/before")
    t.assertEqual(machine.boot_timeline().marks, ())
    machine.execute("poweroff >&2 &", check_output=False)
    machine.wait_for_shutdown(timeout=300)
    machine.shutdown()
    t.assertFalse(machine.is_up())
    refused(MachineError, lambda: machine.send_console("x"), "machine", "not running")
    refused(MachineError, machine.block, "machine", "not running")

with trying("release", "cleanup_statedir"):
    machine.release()
    machine.cleanup_statedir()

with trying("test_script", "run_tests"):
    t.assertTrue(callable(test_script) and callable(run_tests))

with trying("network"):
    network.partition([machine], [peer_node])
    network.heal()

with trying("join_all"):
    peer_node.shutdown()
    join_all()

own = {"CompatibleDriver", "load_driver_configuration"}
globals_left = set(driver.namespace()) - tried - {"machine", "peer_node", "__name__", "__builtins__"}
t.assertEqual(globals_left, set())
public = {name for name in dir(type(machine)) if not name.startswith("_")}
t.assertEqual(public - tried, set())
