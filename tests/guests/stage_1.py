# A machine whose stage 1 is told nothing of it, and finds its root, its store, its shares and its cards by udev. Here the shares
# are by virtio-fs; the specialisation that `snowboot vm` boots (stage_1_vm.py) has them by 9P.
import sys
from pathlib import Path

sys.path.insert(0, str(Path("tests/guests/programs").absolute()))
from stage_1_checks import FIRST, check

with subtest("what stage 1 has found"):
    check(machine.succeed, "virtiofs", FIRST)
    machine.succeed("grep ' console=ttyS0,115200n8 .* test.shares=virtiofs .*init=/nix/store/' /proc/cmdline")
    assert "connecting to host..." in machine.get_console_log()

with subtest("folders of both sides"):
    machine.succeed("echo ours >/tmp/shared/note")
    assert (machine.shared_dir / "note").read_text() == "ours\n"
    (machine.shared_dir / "answer").write_text("seen\n")
    assert machine.succeed("cat /tmp/shared/answer") == "seen\n"
    assert not (Path(str(driver.out_dir)) / "store" / "mine").exists(), "the guest wrote to the host's store"

machine.shutdown()
