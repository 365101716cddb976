"""`codellama-proxy check`: validates a configuration file; `--online` also calls its models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codellama_proxy.cli.options import Command
from codellama_proxy.cli.output import note, say, suggest_init
from codellama_proxy.cli.run import CommandError
from codellama_proxy.config.check_report import Form, inspect, printed
from codellama_proxy.config.settings import config_path, environment
from codellama_proxy.core.clock import Time
from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.core.text_table import table
from codellama_proxy.providers.registry import IMPLEMENTED

if TYPE_CHECKING:
    from codellama_proxy.diagnostics.probe import ProbeResult


@click.command(cls=Command)
@click.argument("config", required=False, envvar="PROXY_CONFIG")
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "github"]), default="text", show_default=True
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--online", is_flag=True, help="Send one small request to every enabled deployment.")
def check(config: str | None, form: Form, as_json: bool, online: bool) -> int:
    """Validate a configuration file.

    CONFIG: the file.  [env var: PROXY_CONFIG; default: proxy.yaml]

    Exit code 1: the file has errors, or a deployment does not answer.
    """
    if "://" in (config or ""):
        raise CommandError("CONFIG must be a file, not an address", 2)
    form = "json" if as_json else form
    report = inspect(config_path(config), environment(), implemented=IMPLEMENTED)
    tried = _probed(report.snapshot) if online and report.snapshot is not None else None
    if form == "json" and tried is not None:
        say(json.dumps({**json.loads(printed(report, "json")[0]), "online": [_row(one) for one in tried]}))
    else:
        for line in printed(report, form):
            say(line)
        if tried is not None:
            say(_table(tried))
    suggest_init(config_path(config))
    failed = any(not one.works for one in tried or ())
    return 1 if failed else report.code


def valid_snapshot(path: Path) -> Snapshot:
    """The configuration of a file. Raises `CommandError` if it has errors, after printing them."""
    report = inspect(path, environment(), implemented=IMPLEMENTED)
    if report.snapshot is None:
        for problem in report.problems:
            note(str(problem))
        suggest_init(path)
        raise CommandError(report.verdict)
    return report.snapshot


def _probed(snapshot: Snapshot) -> Sequence[ProbeResult]:
    from codellama_proxy.diagnostics.probe import probe  # noqa: PLC0415 - only for --online
    from codellama_proxy.upstream.pools import Pools  # noqa: PLC0415

    async def main() -> Sequence[ProbeResult]:
        pools = Pools()
        try:
            return await probe(snapshot, pools, Time())
        finally:
            await pools.close()

    return asyncio.run(main())


def _row(one: ProbeResult) -> dict[str, Any]:
    return {
        "deployment": one.deployment.id,
        "provider": one.deployment.provider,
        "works": one.works,
        "ms": round(one.ms),
        "error": one.message or None,
    }


def _table(tried: Sequence[ProbeResult]) -> str:
    rows = [
        (
            one.deployment.id,
            one.deployment.provider,
            "yes" if one.works else "NO",
            f"{one.ms:.0f} ms",
            one.message or None,
        )
        for one in tried
    ]
    return table(("deployment", "provider", "works", "latency", "error"), rows)
