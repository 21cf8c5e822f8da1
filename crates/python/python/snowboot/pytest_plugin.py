"""Machines for pytest: fixtures over the manifest that `--snowboot-manifest`, the ini file or a module's mark names.

A module has its machines for itself. They start when the first of them is used, and end after the module's last test.
Every worker of pytest-xdist is a process with machines of its own; the driver refuses a writable disk image that another
worker's machine has, so modules that share one go into the same worker (`--dist loadgroup`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType

import pytest

from .driver import Driver
from .errors import ManifestError
from .machine import Machine

MARK = "snowboot"
# Console lines of every machine that are shown under a test that failed.
TAIL_LINES = 40

_live = pytest.StashKey[list[Driver]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("snowboot", "virtual machines")
    group.addoption("--snowboot-manifest", metavar="FILE", type=Path, help="the manifest of the tests' machines")
    parser.addini("snowboot_manifest", "the manifest of the tests' machines", type="string", default="")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARK}(manifest): the manifest of a module's machines, for `pytestmark`")
    config.stash[_live] = []
    manifest = _global_manifest(config)
    if manifest is not None:
        config.pluginmanager.register(_fixtures_of(manifest), "snowboot-machines")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuses a mark that would have no effect: machines are a module's, not a function's or a class's."""
    for node, _ in item.iter_markers_with_node(MARK):
        if isinstance(node, (pytest.Item, pytest.Class)):
            raise pytest.UsageError(
                f"The mark `{MARK}` on {node.name} has no effect, as machines belong to a module: write "
                f'`pytestmark = pytest.mark.{MARK}(manifest="FILE")` into the module, or move the test to one of its own'
            )


@pytest.fixture(scope="module")
def snowboot_manifest(request: pytest.FixtureRequest) -> Path:
    """The manifest of this module's machines. A module or a conftest may have its own fixture of this name."""
    mark = request.node.get_closest_marker(MARK)
    if mark is not None:
        # A mark's path is relative to the file that it is in.
        return Path(request.path.parent, _manifest_of(mark))
    manifest = _global_manifest(request.config)
    if manifest is None:
        raise pytest.UsageError(
            "No manifest for Snowboot's machines: give --snowboot-manifest FILE, set `snowboot_manifest` in the ini file, "
            f'or write `pytestmark = pytest.mark.{MARK}(manifest="FILE")` into the module'
        )
    return manifest


@pytest.fixture(scope="module")
def snowboot_driver(
    request: pytest.FixtureRequest, snowboot_manifest: Path, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Driver]:
    """The driver of this module's machines. The first use of one starts all, unless the module starts them itself."""
    driver = Driver(snowboot_manifest, out_dir=tmp_path_factory.mktemp("snowboot"), kvm_device=_kvm_device())
    live = request.config.stash[_live]
    live.append(driver)
    try:
        driver.start_together()
        yield driver
    finally:
        driver.finish()
        live.remove(driver)


@pytest.fixture(scope="module")
def machines(snowboot_driver: Driver) -> list[Machine]:
    """This module's machines, sorted by name."""
    return snowboot_driver.machines


@pytest.fixture(scope="module")
def snowboot_machine(snowboot_driver: Driver) -> Callable[[str], Machine]:
    """Gives a machine of this module by its name."""
    return lambda name: _machine(snowboot_driver, name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Puts the consoles of the machines under a test that failed."""
    report = yield
    if report.failed:
        for driver in item.config.stash[_live]:
            for machine in driver.machines:
                lines = machine.get_console_log().splitlines()[-TAIL_LINES:]
                if lines:
                    report.sections.append((f"last console lines of {machine.name}", "\n".join(lines)))
    return report


def _global_manifest(config: pytest.Config) -> Path | None:
    """The manifest for all modules, absolute: one in the ini file is relative to that, an option's to where one is."""
    option: Path | None = config.getoption("--snowboot-manifest")
    if option is not None:
        return Path(config.invocation_params.dir, option)
    ini = config.getini("snowboot_manifest")
    return Path(config.inipath.parent if config.inipath else config.rootpath, ini) if ini else None


def _manifest_of(mark: pytest.Mark) -> str | os.PathLike[str]:
    given = [*mark.args, *mark.kwargs.values()]
    if len(given) != 1 or not set(mark.kwargs) <= {"manifest"}:
        raise pytest.UsageError(f'The mark `{MARK}` takes one manifest: pytest.mark.{MARK}(manifest="FILE")')
    path: str | os.PathLike[str] = given[0]
    return path


def _fixtures_of(manifest: Path) -> ModuleType:
    """One fixture for every machine of a manifest, by the name that it has in a script."""
    try:
        driver = Driver(manifest, kvm_device=_kvm_device(), quiet=True)
    except ManifestError as error:
        raise pytest.UsageError(str(error)) from error
    names = list(driver.variables)
    driver.finish()
    plugin = ModuleType("snowboot_machines")
    for name in names:
        setattr(plugin, name, _fixture_of(name))
    return plugin


def _fixture_of(name: str) -> object:
    @pytest.fixture(name=name, scope="module")
    def machine(snowboot_driver: Driver) -> Machine:
        return snowboot_driver.variables.get(name) or _machine(snowboot_driver, name)

    return machine


def _machine(driver: Driver, name: str) -> Machine:
    try:
        return driver.machine(name)
    except KeyError:
        there = ", ".join(machine.name for machine in driver.machines)
        raise pytest.UsageError(f"The test {driver.name} has no machine {name!r}; it has {there}") from None


def _kvm_device() -> str:
    return os.environ.get("SNOWBOOT_KVM_DEVICE") or "/dev/kvm"
