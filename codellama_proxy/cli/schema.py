"""`codellama-proxy schema`: the JSON Schema of proxy.yaml, for editors; `--markdown`, its manual for people."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace

from codellama_proxy.cli.command import Command, say
from codellama_proxy.config.json_schema import schema
from codellama_proxy.config.reference_page import manual


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--markdown", action="store_true", help="print docs/configuration.md instead")


def run(args: Namespace) -> int:
    if args.markdown:
        sys.stdout.write(manual())
        return 0
    say(json.dumps(schema(), indent=2, ensure_ascii=False))
    return 0


COMMAND = Command("schema", "print the JSON Schema of proxy.yaml", arguments, run)
