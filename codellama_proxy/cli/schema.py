"""`codellama-proxy schema`: the JSON Schema of proxy.yaml, for editors; `--markdown`, its reference page."""

from __future__ import annotations

import json
import sys

import click

from codellama_proxy.cli.options import Command
from codellama_proxy.cli.output import say
from codellama_proxy.config.json_schema import schema as json_schema
from codellama_proxy.config.reference_page import manual


@click.command(cls=Command)
@click.option("--markdown", is_flag=True, help="Print docs/configuration.md instead.")
def schema(markdown: bool) -> None:
    """Print the JSON Schema of proxy.yaml."""
    if markdown:
        sys.stdout.write(manual())
    else:
        say(json.dumps(json_schema(), indent=2, ensure_ascii=False))
