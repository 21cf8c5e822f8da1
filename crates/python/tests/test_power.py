"""Power, monitor, QMP and terminals of machines."""

from __future__ import annotations

import contextlib
import os
import pty
import socket
import subprocess
import termios
import threading
import time
import unittest

import snowboot
from snowboot import MachineError
from snowboot.machine.qmp import QMPAPIError
from support import Scratch, manifest

RESET = "kill -USR2 $PPID"


def is_raw(fd: int) -> bool:
    return not termios.tcgetattr(fd)[3] & termios.ICANON


class Power(Scratch):
    def test_a_reset_starts_the_machine_again(self) -> None:
        machine = self.driver().machine("machine")
        machine.start(allow_reboot=True)
        first = machine.succeed("echo $PPID")
        machine.execute(RESET, check_return=False, timeout=0)
        machine.wait_for_qmp_event(lambda event: event["event"] == "RESET", timeout=60)
        self.assertNotEqual(machine.succeed("echo $PPID"), first)
        first = machine.succeed("echo $PPID")
        machine.reboot()
        self.assertFalse(machine.connected)
        self.assertNotEqual(machine.succeed("echo $PPID"), first)

    def test_a_shell_can_be_said_to_be_gone(self) -> None:
        machine = self.driver().machine("machine")
        machine.succeed("true")
        machine.connected = False
        self.assertFalse(machine.is_up())
        machine.shell.sendall(b"sleep 0.2; echo Spawning backdoor root shell...\n")
        self.assertEqual(machine.succeed("echo new"), "new\n")

    def test_its_process_and_its_shell_are_there_while_it_is_on(self) -> None:
        machine = self.driver().machine("machine")
        self.assertEqual((machine.process, machine.pid, machine.shell, machine.monitor), (None,) * 4)
        machine.connect()
        process = machine.process
        self.assertEqual((process.pid, machine.pid, process.poll()), (os.getpid(), os.getpid(), None))
        machine.shell.send(b"echo raw\n")
        self.assertEqual(machine.shell.recv(100), b"raw\n")
        machine.shell.settimeout(0.01)
        with self.assertRaises(TimeoutError):
            machine.shell.recv(1)
        machine.release()
        self.assertEqual((process.poll(), process.returncode, machine.process), (0, 0, None))
        machine.start()
        self.assertEqual((process.poll(), machine.process.poll()), (0, None))


class Monitor(Scratch):
    def test_answers_with_echo_and_prompt(self) -> None:
        machine = self.driver().machine("machine")
        with self.assertRaisesRegex(MachineError, "machine: monitor command `info status`: the machine is not running"):
            machine.send_monitor_command("info status")
        machine.connect()
        ask = machine.send_monitor_command
        self.assertEqual(ask("info status"), "info status\r\nVM status: running\r\n(qemu) ")
        self.assertEqual(ask("stop"), "stop\r\n(qemu) ")
        self.assertIn("paused", ask("info status"))
        self.assertEqual(ask("c"), "c\r\n(qemu) ")
        self.assertIn("set_link", ask("help"))
        self.assertEqual(ask("set_link virtio-net-pci.1 off"), "set_link virtio-net-pci.1 off\r\n(qemu) ")
        machine.monitor.sendall(b"info version\n")
        self.assertEqual(machine.monitor.recv(1000), b"info version\r\nsnowboot\r\n(qemu) ")
        for command, why in {
            "set_link virtio-net-pci.0 off": "first VLAN",
            "set_link virtio-net-pci.7 off": "not found",
            "sendkey ret": "no display, keyboard",
            "hostfwd_add tcp::80-:80": "no network card that leads to the host",
            "what": "no such command",
        }.items():
            with self.assertRaisesRegex(MachineError, f"machine: monitor command `.*{why}"):
                ask(command)
        self.assertEqual(ask("quit"), "quit\r\n")
        self.assertFalse(machine.booted)

    def test_a_machine_that_shares_a_user_network_forwards(self) -> None:
        text = (
            "name = 't'\ntest-script = ''\n[networks.lan]\nuser-network = true\n[networks.other]\n"
            "[machines.near]\nkernel = 'k'\nvlans = ['lan']\n[machines.far]\nkernel = 'k'\nvlans = ['other']\n"
        )
        driver = snowboot.Driver(self.write(text), kvm_device="fake", log_level="error")
        driver.set_serial(False)
        self.addCleanup(driver.finish)
        near, far = driver.machine("near"), driver.machine("far")
        near.connect()
        self.assertEqual(near.forward_port(), 8080)
        near.send_monitor_command("hostfwd_add tcp::0-:81")
        far.connect()
        with self.assertRaisesRegex(MachineError, "far: .*no network card that leads to the host"):
            far.forward_port()

    def test_a_machine_on_the_user_network_has_one_more_card_and_forwards(self) -> None:
        text = "name = 't'\ntest-script = ''\n[machines.machine]\nkernel = 'k'\nuser-network = true\n"
        driver = snowboot.Driver(self.write(text), kvm_device="fake", log_level="error")
        driver.set_serial(False)
        self.addCleanup(driver.finish)
        machine = driver.machine("machine")
        with self.assertRaisesRegex(MachineError, "machine: cannot forward a port: it is not running"):
            machine.forward_port()
        machine.connect()
        # The fake has the guest's port free at the host.
        self.assertEqual((machine.forward_port(), machine.forward_port(0, 90)), (8080, 90))
        by_six = machine.forward_port(0, 91, host_address="::1", guest_address="fec0::15", protocol="udp")
        self.assertEqual(by_six, 91)
        with self.assertRaisesRegex(ValueError, "::1 is not in the user network, fec0::/64"):
            machine.forward_port(guest_address="::1")
        with self.assertRaisesRegex(TypeError, "needs addresses as texts, got 7"):
            machine.forward_port(host_address=7)  # type: ignore[arg-type]
        ask = machine.send_monitor_command
        self.assertEqual(ask("hostfwd_add tcp::80-:80"), "hostfwd_add tcp::80-:80\r\n(qemu) ")
        with self.assertRaisesRegex(MachineError, "no forward such as tcp::8080-:80"):
            ask("hostfwd_add tcp:80")
        with self.assertRaisesRegex(ValueError, "host ports from 0"):
            machine.forward_port(65536, 80)
        self.assertIn("virtio-net-pci.0: type=nic\r\nvirtio-net-pci.1", ask("info network"))
        ask("set_link virtio-net-pci.0 off")
        machine.block()


class Qmp(Scratch):
    def test_commands_and_events(self) -> None:
        machine = self.driver().machine("machine")
        self.assertIsNone(machine.qmp_client)
        with self.assertRaisesRegex(RuntimeError, "start the machine first"):
            machine.wait_for_qmp_event(lambda _: True)
        machine.start(allow_reboot=True)
        client = machine.qmp_client
        self.assertEqual(client.send("query-status"), {"return": {"status": "running", "running": True}})
        self.assertEqual(client.send("query-name")["return"], {"name": "machine"})
        self.assertEqual(len(client.send("query-cpus-fast")["return"]), 1)
        machine.connect()
        self.assertEqual(client.send("stop"), {"return": {}})
        self.assertEqual(client.send("query-status")["return"], {"status": "paused", "running": False})
        client.send("cont")
        client.send("set_link", {"name": "virtio-net-pci.1", "up": False})
        client.send("system_reset")
        client.send("system_powerdown")
        event = machine.wait_for_qmp_event(lambda event: event["event"] in ("RESET", "SHUTDOWN"))
        self.assertEqual(event["data"], {"guest": False, "reason": "host-qmp-system-reset"})
        self.assertLess(abs(event["timestamp"]["seconds"] - time.time()), 60)
        machine.wait_for_qmp_event(lambda event: event["event"] == "SHUTDOWN")
        with self.assertRaises(TimeoutError):
            machine.wait_for_qmp_event(lambda _: True, timeout=0.01)

    def test_unknown_commands_are_errors_of_the_api(self) -> None:
        machine = self.driver().machine("machine")
        machine.start()
        client = machine.qmp_client
        with self.assertRaises(QMPAPIError) as caught:
            client.send("device_del", {"id": "x"})
        self.assertEqual((caught.exception.class_name, caught.exception.transaction_id), ("CommandNotFound", None))
        self.assertIn("device_del", caught.exception.description)
        with self.assertRaises(QMPAPIError) as caught:
            client.send("set_link", {"name": "net9", "up": True})
        self.assertEqual(caught.exception.class_name, "DeviceNotFound")
        machine.crash()
        with self.assertRaisesRegex(MachineError, "not running"):
            client.send("query-status")


class Terminals(Scratch):
    def test_none_is_a_clear_error(self) -> None:
        script = "machine.start()\nmachine.console_interact()\n"
        done = self.run_script(script)
        self.assertIn("machine: console_interact() joins the machine with the terminal", done.stdout + done.stderr)
        self.assertNotEqual(done.returncode, 0)

    def on_a_terminal(self, script: str) -> tuple[subprocess.Popen[bytes], int]:
        main, terminal = pty.openpty()
        self.addCleanup(os.close, main)
        self.addCleanup(os.close, terminal)
        path = self.write(manifest(script))
        process = subprocess.Popen(
            self.runner(path, "-o", self.folder), env=self.environment(), stdin=terminal, stdout=terminal, stderr=terminal
        )
        self.addCleanup(process.kill)
        self.terminal = terminal
        return process, main

    def read_until(self, main: int, what: bytes) -> bytes:
        seen = b""
        while what not in seen:
            seen += os.read(main, 4096)
        return seen

    def drain(self, main: int) -> None:
        """Reads until the terminal is closed, so that nobody who writes to it has to wait."""
        with contextlib.suppress(OSError):
            self.read_until(main, b"nothing has this")

    def test_the_console_is_on_it_until_ctrl_d(self) -> None:
        process, main = self.on_a_terminal("machine.start()\nmachine.console_interact()\nprint('left ' + 'it')\n")
        self.read_until(main, b"ctrl-d leaves")
        while not is_raw(self.terminal):
            time.sleep(0.01)
        # The fake's serial port echoes; a prompt has no end of line.
        os.write(main, b"a prompt> ")
        self.read_until(main, b"a prompt> ")
        os.write(main, b"\x04")
        self.read_until(main, b"left it")
        self.assertFalse(is_raw(self.terminal))
        self.assertEqual(process.wait(60), 0)

    def test_the_terminal_is_given_back_whatever_happens(self) -> None:
        process, main = self.on_a_terminal("machine.start()\nmachine.console_interact()\n")
        self.read_until(main, b"ctrl-d leaves")
        while not is_raw(self.terminal):
            time.sleep(0.01)
        process.terminate()
        threading.Thread(target=self.drain, args=(main,), daemon=True).start()
        process.wait(60)
        self.assertFalse(is_raw(self.terminal))

    def test_the_shell_can_be_joined_to_a_socket(self) -> None:
        machine = self.driver().machine("machine")
        machine.connect()
        path = str(self.folder / "peer")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            thread = threading.Thread(target=machine.shell_interact, args=(f"unix-connect:{path}",))
            thread.start()
            peer, _ = listener.accept()
            with peer:
                peer.sendall(b"echo through\n")
                self.assertEqual(peer.recv(100), b"through\n")
            thread.join(60)
        self.assertEqual(machine.succeed("echo on"), "on\n")
        with self.assertRaisesRegex(MachineError, "shell_interact.'exec:cat'.: no such kind of address"):
            machine.shell_interact("exec:cat")


if __name__ == "__main__":
    unittest.main()
