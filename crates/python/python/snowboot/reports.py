"""The reports of a run that its log is written to: JUnit XML, HTML, JSON lines, the XML log, console files.

docs/reports.md describes them. The native part writes them; this is what the runner's command line says about them.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from . import _native
from .driver import Driver

# What reports tell of an error; the JSON report has more. Exceptions of other people's have attributes of any type.
_TEXTS = ("type", "message", "file", "source", "machine", "command")
_NUMBERS = ("line", "status")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options for reports to a command line."""
    group = parser.add_argument_group("reports")
    group.add_argument("--junit-xml", type=Path, metavar="FILE",
                       help="write JUnit XML; the path counts from the output directory")
    group.add_argument("--html", type=Path, metavar="FILE", help="write one HTML page")
    group.add_argument("--json-log", type=Path, metavar="FILE", help="write every event as a line of JSON")
    group.add_argument("--xml-log", type=Path, metavar="FILE",
                       help="write the log as XML (default: the file that LOGFILE names)")
    group.add_argument("--console-logs", action="store_true",
                       help="write NAME-console.log of every machine to the output directory")
    group.add_argument("--pcap", type=Path, nargs="?", const=Path(""), metavar="DIR",
                       help="write all frames of each network to NAME.pcapng in DIR (default: the output directory)")
    group.add_argument("--log-times", action="store_true", help="show elapsed time where that is no terminal, too")


class Reports:
    """The reports of one run."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Opens the files; ReportError when one cannot be written."""
        folder: Path = options.output_directory
        xml = options.xml_log or (Path(os.environ["LOGFILE"]) if os.environ.get("LOGFILE") else None)
        self.native = _native.Reports(
            junit=None if options.junit_xml is None else folder / options.junit_xml,
            html=options.html,
            json=options.json_log,
            xml=xml,
            consoles=folder if options.console_logs else None,
        )

    def script_ended(self, driver: Driver | None, error: dict[str, Any] | None) -> None:
        """How the script ended; to be called before that is shown, since a quiet log speaks up first."""
        if driver is not None:
            driver.script_ended(_encoded(error))

    def run_ended(self, driver: Driver | None, status: int, error: dict[str, Any] | None) -> list[str]:
        """How the run ended. Gives what could not be written, in words."""
        if driver is not None:
            driver.run_ended(status, _encoded(error))
        else:
            self.native.not_started(status, _encoded(error or {"type": "NotStarted", "message": ""}) or "")
        return self.native.troubles()


def _encoded(error: dict[str, Any] | None) -> str | None:
    """JSON of an error. Scripts may raise texts that are not quite Unicode."""
    if error is None:
        return None
    import json

    parts: dict[str, Any] = {part: error[part] for part in _TEXTS if isinstance(error.get(part), str)}
    parts |= {part: error[part] for part in _NUMBERS if type(error.get(part)) is int and 0 <= error[part] < 1 << 32}
    text = json.dumps(parts, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()
