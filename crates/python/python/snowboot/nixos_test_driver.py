"""The command line of the NixOS test driver: `nixos-test-driver`, `snowboot nixos-test-driver` and
`python3 -m snowboot.nixos_test_driver`. In the place of start scripts it takes descriptions of machines.

It has the options of the driver as NixOS has it (`--config`), those that it had up to 25.11 (`--start-scripts` and others),
its environment variables, and its exit statuses; docs/nixos-test-driver.md lists them. It does not check the script:
the NixOS test framework does that when it builds a test.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import driver_config, runner
from .errors import ManifestError
from .telling import say

LEVELS = ("debug", "info", "warning", "error")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line says; gives the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.log_level not in LEVELS:
        parser.error(f"the variable logLevel is {options.log_level!r}: choose from {', '.join(LEVELS)}")
    try:
        config = _config(parser, options)
    except ManifestError as error:
        say(f"snowboot: error: {error}")
        return 1
    _explain(options, config)
    return runner.start(_for_the_runner(options, config))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nixos-test-driver", description="Run a NixOS test on Snowboot, with the NixOS test driver's options.")
    add = parser.add_argument
    add("-c", "--config", type=Path, metavar="JSON", help="the test's machines, VLANs, time limit and script")
    add("--test-script", type=Path, metavar="PATH", help="the script to run, in the place of the configuration's")
    add("-K", "--keep-machine-state", "--keep-vm-state", action="store_true",
        help="accepted: the disks of a machine's description are always kept")
    add("-I", "--interactive", action=argparse.BooleanOptionalAction, default=False,
        help="take commands, with the script's names, and run nothing before they say so")
    add("-o", "--output_directory", type=_writable_folder, default=Path.cwd(), metavar="DIR",
        help="where files of the script and of the machines go; it must be there (default: here)")
    add("--junit-xml", type=Path, metavar="PATH", help="write JUnit XML; the path counts from the output directory")
    add("--log-level", choices=LEVELS, default=os.environ.get("logLevel") or "info",
        help="how much the log shows (variable: logLevel)")
    add("--debug-hook-attach", metavar="CMD",
        help="stop at debug.breakpoint() and at errors for a debugger (port 4444); CMD is shown to people")
    old = parser.add_argument_group("up to NixOS 25.11, in the place of --config")
    old.add_argument("--start-scripts", nargs="*", metavar="FILE", default=_words("startScripts"),
                     help="descriptions of the machines; NAME is one's name in run-NAME-vm (variable: startScripts)")
    old.add_argument("--vlans", nargs="*", type=int, metavar="VLAN", default=_words("vlans"),
                     help="the machines' VLANs (variable: vlans)")
    old.add_argument("--global-timeout", type=int, metavar="SECONDS",
                     default=os.environ.get("globalTimeout") or driver_config.DEFAULT_TIMEOUT,
                     help="time for the whole test (variable: globalTimeout)")
    old.add_argument("--dump-vsocks", type=int, metavar="OFFSET", help="accepted, without effect")
    old.add_argument("testscript", nargs="?", type=Path, default=os.environ.get("testScript") or None,
                     help="the script to run (variable: testScript)")
    return parser


def _words(variable: str) -> list[str]:
    return os.environ.get(variable, "").split()


def _writable_folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is not a directory: make it, or name another one")
    if not os.access(path, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path} is not a writable directory: name another one")
    return path


def _config(parser: argparse.ArgumentParser, options: argparse.Namespace) -> driver_config.DriverConfig:
    """What the options say of machines and script; ends with status 2 when that is too little."""
    script: Path | None = options.test_script or options.testscript
    if options.config is not None:
        return driver_config.load(options.config, script)
    if not options.start_scripts:
        parser.error("one of -c/--config and --start-scripts is required")
    if script is None:
        parser.error("the test script is missing: name it, or set the variable testScript")
    try:
        vlans = [int(number) for number in options.vlans]
    except ValueError:
        parser.error(f"the variable vlans is {' '.join(options.vlans)!r}: VLANs are numbers")
    return driver_config.of_start_scripts(options.start_scripts, script, options.global_timeout, vlans)


def _explain(options: argparse.Namespace, config: driver_config.DriverConfig) -> None:
    """Says of what was asked for what it does not get."""
    if options.keep_machine_state:
        say("snowboot: --keep-machine-state changes nothing: the disks of a machine's description are always kept")
    if options.dump_vsocks is not None or config.enable_ssh_backdoor:
        say("snowboot: there is no SSH backdoor; the machines' own shell is reached by the script and with -I")


def _for_the_runner(options: argparse.Namespace, config: driver_config.DriverConfig) -> argparse.Namespace:
    """The options that the runner has for the same."""
    return argparse.Namespace(
        manifest=config, output_directory=options.output_directory, interactive=options.interactive,
        log_level=options.log_level, quiet=False, skip_type_check=True, skip_lint=True,
        json_report=None, junit_xml=options.junit_xml, html=None, json_log=None, xml_log=None, console_logs=False,
        pcap=None, log_times=False, debug_hook_attach=options.debug_hook_attach)


if __name__ == "__main__":
    sys.exit(main())
