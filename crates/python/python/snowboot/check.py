"""Checks a test without running it: `python3 -m snowboot.check MANIFEST`; `snowboot check` is this, after a look at the
manifest's files.

Exit status: 0 when nothing is wrong with what was checked, 1 when a check complains or cannot be made, 2 for a wrong
command line. A check whose tool is not installed is left out, and said to be.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .checks import Outcome, check
from .driver import Driver
from .errors import ManifestError
from .source import NotStarted, Script
from .telling import say


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks the test that the command line names; gives the exit status."""
    parser = argparse.ArgumentParser(prog="snowboot.check", description="Check the test of a manifest.")
    parser.add_argument("manifest", type=Path, help="the test's description, TOML or JSON")
    add_options(parser)
    options = parser.parse_args(arguments)
    try:
        # Nothing starts with it, and it needs no KVM.
        with Driver(options.manifest, log_level="error") as driver:
            outcomes = check_script(driver, Script.of(driver), options)
    except (ManifestError, NotStarted) as error:
        say(f"snowboot: error: {error}")
        return 1
    print("ok       manifest")
    for outcome in outcomes:
        _print(outcome)
    return int(any(outcome.complaints or outcome.trouble for outcome in outcomes))


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that leave checks out."""
    parser.add_argument("--skip-type-check", action="store_true", help="do not check the script's types")
    parser.add_argument("--skip-lint", action="store_true", help="do not lint the script")


def check_script(driver: Driver, script: Script, options: argparse.Namespace) -> list[Outcome]:
    """Checks a run's script as the options say."""
    return check(
        script, driver.variables, driver.networks, driver.namespace(),
        types=not options.skip_type_check, lint=not options.skip_lint)


def refused(outcomes: list[Outcome]) -> list[str]:
    """Why a script is not run, as lines, the last of them in one sentence; none when nothing is wrong with it."""
    bad = [outcome for outcome in outcomes if outcome.complaints]
    if not bad:
        return []
    checks = ", ".join(outcome.name for outcome in bad)
    return [
        *(line for outcome in bad for line in outcome.complaints),
        f"The test script was not started, since checks of it failed ({checks}); correct it, or leave them out with "
        "--skip-type-check and --skip-lint",
    ]


def _print(outcome: Outcome) -> None:
    """A line on how a check went, after what it complains of."""
    if outcome.complaints:
        print(f"failed   {outcome.name}", *outcome.complaints, sep="\n  ")
    elif outcome.trouble:
        print(f"failed   {outcome.name}: {outcome.trouble}")
    elif outcome.skipped:
        print(f"skipped  {outcome.name}: {outcome.skipped}")
    else:
        print(f"ok       {outcome.name}")


if __name__ == "__main__":
    sys.exit(main())
