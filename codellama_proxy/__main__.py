"""The command: `codellama-proxy serve`, and the subcommands of `commands`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from codellama_proxy import __doc__ as description
from codellama_proxy import __version__
from codellama_proxy.cli.command import Command, Parser, ending
from codellama_proxy.config.live import LiveConfig, Source
from codellama_proxy.config.problems import ConfigError
from codellama_proxy.config.settings import Settings, environment
from codellama_proxy.providers.registry import IMPLEMENTED
from codellama_proxy.store.factory import last_good_configuration
from codellama_proxy.store.location import database_file


def commands() -> tuple[Command, ...]:
    """All but `serve`, which has to start in no time and needs none of them."""
    from codellama_proxy.cli import backup, cache, check, diff, explain, import_config, schema  # noqa: PLC0415

    return (
        check.COMMAND,
        diff.COMMAND,
        explain.COMMAND,
        import_config.COMMAND,
        schema.COMMAND,
        backup.BACKUP,
        backup.RESTORE,
        cache.COMMAND,
    )


def parser(others: Sequence[Command] = ()) -> argparse.ArgumentParser:
    top = Parser("codellama-proxy", description=description)
    top.add_argument("--version", action="version", version=f"codellama-proxy {__version__}")
    known = top.add_subparsers(dest="command", required=True)

    run = known.add_parser("serve", help="serve what proxy.yaml says (each option also as PROXY_...)")
    run.add_argument("--config", help="the configuration file (proxy.yaml)")
    run.add_argument("--database", help="the database file (data/proxy.db)")
    run.add_argument("--host", help="the address to listen on (127.0.0.1)")
    run.add_argument("--port", help="the port (4000)")
    run.add_argument("--on-invalid", help="with a bad file: refuse, or serve the last-good one (refuse)")
    run.set_defaults(run=serve)

    known.add_parser("keys", help="administer keys, as scripts/keys.py does", add_help=False)
    for command in others:
        sub = known.add_parser(command.name, help=command.help, description=command.help)
        command.arguments(sub)
        sub.set_defaults(run=command.run)
    return top


def settings_of(args: argparse.Namespace) -> Settings:
    """The environment, overridden by the arguments given. Raises `ValidationError`."""
    given = {name: getattr(args, name, None) for name in ("config", "database", "host", "port", "on_invalid")}
    return Settings(**{name: value for name, value in given.items() if value is not None})


def serve(args: argparse.Namespace) -> int:
    from codellama_proxy.server.process import serve as run  # noqa: PLC0415 - the other commands need no server

    settings = settings_of(args)
    database_file(settings.database)
    kept: bytes | None = None
    try:
        kept = _last_good(settings)
        live = LiveConfig(Source(settings.config, environment, IMPLEMENTED), last_good=kept)
        return run(settings, live)
    except ConfigError as error:
        return _refuse(*(str(problem) for problem in error.problems), *_why_not_the_last(settings, kept))
    except OSError as error:
        if error.filename is not None:  # it is about that file
            raise
        return _refuse(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}")


def _last_good(settings: Settings) -> bytes | None:
    """Raises `StoreError`."""
    if settings.on_invalid == "refuse":
        return None
    kept = last_good_configuration(Path(settings.database))
    return None if kept is None else kept.text


def _why_not_the_last(settings: Settings, kept: bytes | None) -> Iterator[str]:
    """Why not even the last good configuration is served, if it was asked for."""
    if settings.on_invalid == "last-good":
        what = f"last good configuration in the database {settings.database}"
        gone = f"there is no {what}, so nothing is served instead"
        yield gone if kept is None else f"the {what} is no longer good itself"


def _refuse(*lines: str) -> int:
    print("\n".join(lines), file=sys.stderr)  # noqa: T201
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code, as of every command."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["keys"]:
        from codellama_proxy.cli import keys  # noqa: PLC0415 - a start of the server needs no other command

        return keys.main(given[1:], "codellama-proxy keys")
    return ending(
        "codellama-proxy", lambda: parser(() if given[:1] == ["serve"] else commands()).parse_args(given)
    )


if __name__ == "__main__":
    sys.exit(main())
