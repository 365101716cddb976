"""`codellama-proxy diff OLD NEW`: what a change of the configuration file changes, as the server would log it."""

from __future__ import annotations

from pathlib import Path

import click

from codellama_proxy.cli.check import valid_snapshot
from codellama_proxy.cli.options import Command, json_option
from codellama_proxy.cli.output import answer
from codellama_proxy.config.diff import difference


@click.command(cls=Command)
@click.argument("old")
@click.argument("new")
@json_option
def diff(old: str, new: str, as_json: bool) -> int:
    """Show the effective changes between two configuration files.

    Exit code 0, with or without changes; 1 if one of the files has errors.
    """
    lines = difference(valid_snapshot(Path(old)), valid_snapshot(Path(new)))
    return answer({"changes": lines}, "\n".join(lines or ["no effective changes"]), as_json)
