"""`codellama-proxy import litellm config.yaml`: a proxy.yaml on stdout, what could not be carried over on stderr."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from codellama_proxy.cli.command import Command, CommandError, note
from codellama_proxy.config.importers.litellm import imported
from codellama_proxy.config.load import examine
from codellama_proxy.config.problems import ConfigError
from codellama_proxy.config.settings import environment
from codellama_proxy.config.yaml.document import MAX_BYTES
from codellama_proxy.config.yaml.substitution import read_regular, reason
from codellama_proxy.providers.registry import IMPLEMENTED


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("format", choices=["litellm"], help="whose configuration it is")
    parser.add_argument("file", help="the LiteLLM proxy's config.yaml")
    parser.add_argument("--output", metavar="FILE", help="write here instead of stdout; never over a file")


def run(args: Namespace) -> int:
    """Exit code 0: the result can be served; 1: it needs mending first."""
    try:
        made = imported(_read(args.file), args.file)
    except ConfigError as error:
        raise CommandError("; ".join(str(problem) for problem in error.errors)) from None
    if args.output is None:
        sys.stdout.write(made.text)
    else:
        _write(Path(args.output), made.text)
    for line in made.lost:
        note(f"not carried over: {line}")
    if not made.models:
        note("to be mended: no model could be carried over, so there is nothing to serve")
        return 1
    try:
        examine(
            made.text.encode(), environment(), source=args.output or "proxy.yaml", implemented=IMPLEMENTED
        )
    except ConfigError as error:
        for problem in error.errors:
            note(f"to be mended: {problem}")
        return 1
    return 0


def _read(path: str) -> bytes:
    try:
        return read_regular(Path(path), MAX_BYTES)
    except (OSError, ValueError) as error:
        raise CommandError(f"{path} cannot be read: {reason(error)}") from None


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from None


COMMAND = Command("import", "make a proxy.yaml of another gateway's configuration", arguments, run)
