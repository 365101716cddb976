"""`codellama-proxy diff OLD NEW`: what a change of the file changes, as the server would log it."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from codellama_proxy.cli.command import Command, CommandError, note, say
from codellama_proxy.config.check_report import inspect
from codellama_proxy.config.diff import difference
from codellama_proxy.config.settings import environment
from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.providers.registry import IMPLEMENTED


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("old", metavar="OLD", help="the file as it was")
    parser.add_argument("new", metavar="NEW", help="the file as it is to be")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Namespace) -> int:
    """Exit code 0, whether anything changed or not; 1 if one of the files is not good."""
    lines = difference(_snapshot(args.old), _snapshot(args.new))
    if args.json:
        say(json.dumps({"changes": lines}, ensure_ascii=False))
    else:
        say("\n".join(lines or ["nothing that matters changed"]))
    return 0


def _snapshot(path: str) -> Snapshot:
    report = inspect(Path(path), environment(), implemented=IMPLEMENTED)
    if report.snapshot is None:
        for problem in report.problems:
            note(str(problem))
        raise CommandError(report.verdict)
    return report.snapshot


COMMAND = Command("diff", "say what a change of a configuration changes", arguments, run)
