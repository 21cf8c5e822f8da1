"""What a wheel puts into a Python that has nothing else of the project, as users get it."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

MANIFEST = """
name = "example"
test-script = "server.start()"
[machines.server]
kernel = "/bin/true"
"""


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def installed(script: str) -> Path:
    return Path(sysconfig.get_path("scripts"), script)


def test_what_is_installed_is_what_is_tested() -> None:
    import snowboot
    import snowboot._native
    import test_driver.driver
    import test_driver.machine

    site = Path(sysconfig.get_path("platlib"))
    assert all(Path(module.__file__ or "").is_relative_to(site) for module in (snowboot, snowboot._native, test_driver))
    assert test_driver.driver.Driver and test_driver.machine.BaseMachine


def test_the_runner_and_the_installed_programs_tell_their_use() -> None:
    for command in ([sys.executable, "-m", "snowboot.runner"], [installed("snowboot-test")]):
        done = run(*command, "--help")
        assert done.returncode == 0 and "--json-report" in done.stdout, done
    done = run(installed("nixos-test-driver"), "--help")
    assert done.returncode == 0 and "--keep-machine-state" in done.stdout, done


# "fake" is a device of builds for tests only: for users it is one that is not there, like any other.
@pytest.mark.parametrize("device", ["fake", "/nowhere/kvm"])
def test_a_host_without_kvm_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setenv("SNOWBOOT_KVM_DEVICE", device)
    manifest = tmp_path / "test.toml"
    manifest.write_text(MANIFEST)
    done = run(installed("snowboot-test"), "-o", tmp_path, manifest)
    assert done.returncode == 1 and re.search(rf"Cannot use \S*{device}: ", done.stderr), done
