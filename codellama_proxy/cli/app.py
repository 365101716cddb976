"""The command line: `codellama-proxy COMMAND`. Each command's module is imported when the command is used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import click

from codellama_proxy import __doc__ as description
from codellama_proxy import __version__

COMMANDS: Mapping[str, str] = {
    "serve": "serve:serve",
    "check": "check:check",
    "diff": "diff:diff",
    "explain": "explain:explain",
    "keys": "keys:keys",
    "cache": "cache:cache",
    "backup": "backup:backup",
    "restore": "backup:restore",
    "import": "import_config:import_config",
    "schema": "schema:schema",
}
"""Command name -> module of this package and attribute."""


class LazyGroup(click.Group):
    """Imports the module of a command only to run it or to show the list of commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"codellama_proxy.cli.{module}"), attribute)
        return command


@click.group(cls=LazyGroup, help=description, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="codellama-proxy", message="%(prog)s %(version)s")
def app() -> None:
    """The top-level group."""
