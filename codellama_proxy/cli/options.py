"""The command class, and the options that several commands share."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from codellama_proxy.store import key_fields

RUNNING = "codellama_proxy.running"
"""In a context's `meta`: the context of the command that runs, for error messages."""


class Command(click.Command):
    """A command whose usage line shows its options."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        options = [f"[{_signature(one, ctx)}]" for one in self.params if isinstance(one, click.Option)]
        return [*options, *super().collect_usage_pieces(ctx)[1:]]

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Does not break a line within an option."""
        start = f"Usage: {ctx.command_path} "
        line = start.rstrip()
        for piece in self.collect_usage_pieces(ctx):
            if len(line) + 1 + len(piece) > formatter.width:
                formatter.write(f"{line}\n")
                line = " " * (len(start) - 1)
            line = f"{line} {piece}"
        formatter.write(f"{line}\n")

    def invoke(self, ctx: click.Context) -> Any:
        ctx.meta[RUNNING] = ctx
        return super().invoke(ctx)


class Whole(click.IntRange):
    """A whole number in ASCII digits, without the underscores that `int` accepts."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,18}", value):
            self.fail(f"{value!r} is not a whole number", param, ctx)
        return super().convert(value, param, ctx)


class Group(click.Group):
    """A group of such commands."""

    command_class = Command


def _signature(option: click.Option, ctx: click.Context) -> str:
    name = max(option.opts, key=len)
    return name if option.is_flag else f"{name} {option.make_metavar(ctx)}"


def _or_of_group(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """The value given before the subcommand's name, unless one is given after it."""
    name = str(param.name)
    of_group = ctx.parent.params.get(name) if ctx.parent is not None else None
    given = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    return value if given or not of_group else of_group


def config_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--config`; `None` if neither it nor `PROXY_CONFIG` is set in the environment."""
    text = "Configuration file.  [default: proxy.yaml]"
    return click.option("--config", metavar="FILE", envvar="PROXY_CONFIG", show_envvar=True, help=text)(
        function
    )


def database_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--database`; `None` if neither it nor `PROXY_DATABASE` is set in the environment."""
    text = "Database: a file, or a postgresql:// address.  [default: data/proxy.db]"
    return click.option(
        "--database",
        metavar="FILE",
        envvar="PROXY_DATABASE",
        show_envvar=True,
        callback=_or_of_group,
        help=text,
    )(function)


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, callback=_or_of_group, help="Print JSON.")(
        function
    )


def since_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--since`."""
    text = "Only the last 30m, 1h, 7d, ...  [default: everything]"
    return click.option("--since", metavar="7d", help=text)(function)


def since_moment(since: str | None) -> float | None:
    """The start of `--since` in Unix seconds. Raises `ProxyError`."""
    return None if since is None else time.time() - key_fields.duration("--since", since)
