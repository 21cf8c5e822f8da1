"""One machine on a terminal, as its user has it: `python3 terminal.py SNOWBOOT TOPLEVEL VMLINUX`.

Run in the lab by `cargo xtask test`. What a small payload can show (typing, escapes, signals) is tested with one; here is
what takes a Linux: its console, its idea of the power button, a kernel without an initrd, a panic that resets.
"""

import os
import pty
import select
import subprocess
import sys
import time

TIMEOUT = 120


def main() -> None:
    snowboot, toplevel, vmlinux = sys.argv[1:]
    a_vmlinux_without_initrd_panics_and_resets(snowboot, vmlinux)
    the_power_button_ends_a_machine_on_a_terminal(snowboot, toplevel)
    print("all is well")


def a_vmlinux_without_initrd_panics_and_resets(snowboot: str, vmlinux: str) -> None:
    print("a vmlinux without initrd", flush=True)
    # With what is no warning on its console, too.
    run = [snowboot, "run", "--kernel", vmlinux, "--profile", "plain", "--memory", "256M"]
    ended = subprocess.run(run, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT)
    assert b"Linux version" in ended.stdout, ended
    assert b"Kernel panic - not syncing: VFS: Unable to mount root fs" in ended.stdout, ended
    assert b"the guest reset" in ended.stderr, ended
    assert ended.returncode == 3, ended


def the_power_button_ends_a_machine_on_a_terminal(snowboot: str, toplevel: str) -> None:
    print("the power button", flush=True)
    child, terminal = pty.fork()
    if child == 0:
        disk = f"{toplevel}/root.erofs,read-only,serial=root"
        os.execv(snowboot, [snowboot, "run", toplevel, "--memory", "512M", "--disk", disk])
    shown = read_until(terminal, b"", b"Started systemd-logind.service")
    # It opens the button when it has started.
    shown = read_until(terminal, shown, b"Power Button")
    os.write(terminal, b"\x01p")
    shown = read_until(terminal, shown, b"the guest powered off after")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status


def read_until(terminal: int, shown: bytes, wanted: bytes) -> bytes:
    """What the terminal has shown, with `wanted` in it."""
    deadline = time.monotonic() + TIMEOUT
    while wanted not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        try:
            more = os.read(terminal, 65536) if ready else b""
        except OSError:
            more = b""
        shown += more
        if not more:
            sys.exit(f"{wanted!r} did not come:\n{shown.decode(errors='replace')}")
    return shown


main()
