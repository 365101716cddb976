"""`codellama-proxy check`: everything that is wrong with a proxy.yaml; `--online`, whether its models answer."""

from __future__ import annotations

import asyncio
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from codellama_proxy.cli.command import Command, say, table
from codellama_proxy.config.check_report import inspect, printed
from codellama_proxy.config.settings import config_path, environment
from codellama_proxy.core.clock import Time
from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.diagnostics.probe import Tried, probe
from codellama_proxy.providers.registry import IMPLEMENTED
from codellama_proxy.upstream.pools import Pools


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("config", nargs="?", help="the file (PROXY_CONFIG; proxy.yaml)")
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--format", choices=["text", "json", "github"], default="text", help="how it is told")
    forms.add_argument(
        "--json", dest="format", action="store_const", const="json", help="the same as --format json"
    )
    parser.add_argument(
        "--online", action="store_true", help="send one tiny request through every enabled model"
    )


def run(args: Namespace) -> int:
    report = inspect(config_path(args.config), environment(), implemented=IMPLEMENTED)
    tried = _probed(report.snapshot) if args.online and report.snapshot is not None else None
    if args.format == "json" and tried is not None:
        say(json.dumps({**json.loads(printed(report, "json")[0]), "online": [_row(one) for one in tried]}))
    else:
        for line in printed(report, args.format):
            say(line)
        if tried is not None:
            say(_shown(tried))
    failed = any(not one.works for one in tried or ())
    return 1 if failed else report.code


def _probed(snapshot: Snapshot) -> Sequence[Tried]:
    async def main() -> Sequence[Tried]:
        pools = Pools()
        try:
            return await probe(snapshot, pools, Time())
        finally:
            await pools.close()

    return asyncio.run(main())


def _row(one: Tried) -> dict[str, Any]:
    return {
        "deployment": one.deployment.id,
        "provider": one.deployment.provider,
        "works": one.works,
        "ms": round(one.ms),
        "error": one.said or None,
    }


def _shown(tried: Sequence[Tried]) -> str:
    rows = [
        (
            one.deployment.id,
            one.deployment.provider,
            "yes" if one.works else "NO",
            f"{one.ms:.0f} ms",
            one.said or None,
        )
        for one in tried
    ]
    return table(("deployment", "provider", "works", "latency", "error"), rows)


COMMAND = Command("check", "say everything that is wrong with a configuration", arguments, run)
