"""The command: `codellama-proxy serve | check | schema`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from codellama_proxy import __doc__ as description
from codellama_proxy import __version__
from codellama_proxy.config.settings import Settings, environment


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("codellama-proxy", description=description)
    top.add_argument("--version", action="version", version=f"codellama-proxy {__version__}")
    commands = top.add_subparsers(dest="command", required=True)

    run = commands.add_parser("serve", help="serve what proxy.yaml says (each option also as PROXY_...)")
    run.add_argument("--config", help="the configuration file (proxy.yaml)")
    run.add_argument("--database", help="the database file (data/proxy.db)")
    run.add_argument("--host", help="the address to listen on (127.0.0.1)")
    run.add_argument("--port", help="the port (4000)")
    run.set_defaults(run=serve)

    checked = commands.add_parser("check", help="say everything that is wrong with a configuration")
    checked.add_argument("config", nargs="?", default=None, help="the file (proxy.yaml)")
    checked.set_defaults(run=check)

    commands.add_parser("schema", help="print the JSON Schema of proxy.yaml").set_defaults(run=schema)
    return top


def settings_of(args: argparse.Namespace) -> Settings:
    """The environment, overridden by the arguments given. Raises `ValidationError`."""
    given = {name: getattr(args, name, None) for name in ("config", "database", "host", "port")}
    return Settings(**{name: value for name, value in given.items() if value is not None})


def serve(args: argparse.Namespace) -> int:
    # Imported here: `check` and `schema` start faster without the server.
    from codellama_proxy.config.problems import ConfigError  # noqa: PLC0415
    from codellama_proxy.config.reload import Live, Source  # noqa: PLC0415
    from codellama_proxy.providers import IMPLEMENTED  # noqa: PLC0415
    from codellama_proxy.server import serve as run  # noqa: PLC0415
    from codellama_proxy.store.database import StoreError  # noqa: PLC0415

    settings = settings_of(args)
    try:
        live = Live(Source(settings.config, environment, IMPLEMENTED))
        return run(settings, live)
    except ConfigError as error:
        return _refuse(*(str(problem) for problem in error.problems))
    except StoreError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}")


def check(args: argparse.Namespace) -> int:
    from codellama_proxy.config.check import check as run  # noqa: PLC0415
    from codellama_proxy.providers import IMPLEMENTED  # noqa: PLC0415

    path = Path(args.config) if args.config else settings_of(args).config
    code, lines = run(path, environment(), implemented=IMPLEMENTED)
    print("\n".join(lines))  # noqa: T201
    return code


def schema(_: argparse.Namespace) -> int:
    from codellama_proxy.config.check import schema as run  # noqa: PLC0415

    print(json.dumps(run(), indent=2, ensure_ascii=False))  # noqa: T201
    return 0


def _refuse(*lines: str) -> int:
    print("\n".join(lines), file=sys.stderr)  # noqa: T201
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except ValidationError as error:
        return _refuse(
            *(f"{_variable(e['loc'])}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors())
        )


def _variable(place: tuple[int | str, ...]) -> str:
    return "PROXY_" + "_".join(str(part) for part in place).upper()


if __name__ == "__main__":
    sys.exit(main())
