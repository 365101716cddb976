"""The command line: `codellama-proxy COMMAND`. Each command's module is imported when the command is used."""

from __future__ import annotations

import click
from click.exceptions import NoSuchCommand

from codellama_proxy import __doc__ as description
from codellama_proxy import __version__

COMMANDS = (
    "init",
    "serve",
    "check",
    "diff",
    "explain",
    "keys",
    "cache",
    "backup",
    "restore",
    "database",
    "import",
    "schema",
)


class LazyGroup(click.Group):
    """Imports the module of a command only to run it or to show the list of commands."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggests similar names, which click looks for among loaded commands only."""
        try:
            return super().resolve_command(ctx, args)
        except NoSuchCommand as error:
            raise NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        match cmd_name:
            case "init":
                from codellama_proxy.cli.init import init

                return init
            case "serve":
                from codellama_proxy.cli.serve import serve

                return serve
            case "check":
                from codellama_proxy.cli.check import check

                return check
            case "diff":
                from codellama_proxy.cli.diff import diff

                return diff
            case "explain":
                from codellama_proxy.cli.explain import explain

                return explain
            case "keys":
                from codellama_proxy.cli.keys import keys

                return keys
            case "cache":
                from codellama_proxy.cli.cache import cache

                return cache
            case "backup":
                from codellama_proxy.cli.backup import backup

                return backup
            case "restore":
                from codellama_proxy.cli.backup import restore

                return restore
            case "database":
                from codellama_proxy.cli.database_commands import database

                return database
            case "import":
                from codellama_proxy.cli.import_config import import_config

                return import_config
            case "schema":
                from codellama_proxy.cli.schema import schema

                return schema
        return None


@click.group(cls=LazyGroup, help=description, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="codellama-proxy", message="%(prog)s %(version)s")
def app() -> None:
    """The top-level group."""
