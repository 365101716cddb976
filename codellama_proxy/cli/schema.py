"""`codellama-proxy schema`: the JSON Schema of proxy.yaml, for editors."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace

from codellama_proxy.cli.command import Command, say
from codellama_proxy.config.check import schema


def arguments(_: ArgumentParser) -> None:
    """None."""


def run(_: Namespace) -> int:
    say(json.dumps(schema(), indent=2, ensure_ascii=False))
    return 0


COMMAND = Command("schema", "print the JSON Schema of proxy.yaml", arguments, run)
