"""`codellama-proxy import litellm config.yaml`: prints a proxy.yaml, and on stderr what was not converted."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from codellama_proxy.cli.options import Command
from codellama_proxy.cli.output import note
from codellama_proxy.cli.run import CommandError
from codellama_proxy.config.importers.litellm import imported
from codellama_proxy.config.load import examine
from codellama_proxy.config.problems import ConfigError
from codellama_proxy.config.settings import environment
from codellama_proxy.config.yaml.document import MAX_BYTES
from codellama_proxy.config.yaml.substitution import read_regular, reason
from codellama_proxy.providers.registry import IMPLEMENTED


@click.command(cls=Command)
@click.argument("form", metavar="FORMAT", type=click.Choice(["litellm"]))
@click.argument("file")
@click.option("--output", metavar="FILE", help="Write to a new file instead of stdout.")
def import_config(form: str, file: str, output: str | None) -> int:
    """Convert a LiteLLM config.yaml to a proxy.yaml.

    Settings that cannot be converted are listed on stderr. Exit code 1: the result needs fixing first.
    """
    del form  # the only one
    try:
        made = imported(_read(file), file)
    except ConfigError as error:
        raise CommandError("; ".join(str(problem) for problem in error.errors)) from None
    if output is None:
        sys.stdout.write(made.text)
    else:
        _write(Path(output), made.text)
    for line in made.lost:
        note(f"not converted: {line}")
    if not made.models:
        note("needs fixing: no model could be converted, so there is nothing to serve")
        return 1
    try:
        examine(made.text.encode(), environment(), source=output or "proxy.yaml", implemented=IMPLEMENTED)
    except ConfigError as error:
        for problem in error.errors:
            note(f"needs fixing: {problem}")
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
