"""Write a converted LiteLLM configuration as YAML. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import yaml

from codellama_proxy.config.yaml.scalars import resolve


class _Dumper(yaml.SafeDumper):
    """Block style, with exact decimals and without aliases."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """Quoted if proxy.yaml (YAML 1.2) would read another value."""
    style = "'" if not isinstance(resolve(text), str) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(
    Decimal,
    # A whole number must not be called a float: the writer would have to say so with a tag.
    lambda dumper, number: dumper.represent_scalar(
        f"tag:yaml.org,2002:{'int' if number == number.to_integral_value() else 'float'}", f"{number:f}"
    ),
)


def body(file: Mapping[str, Any]) -> str:
    """The configuration without comments."""
    dumped: str = yaml.dump(dict(file), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return dumped


def written(text: str, lost: Sequence[str]) -> str:
    """The configuration, preceded by comments that list what could not be converted."""
    head = ["# yaml-language-server: $schema=proxy.schema.json", "# Made from a LiteLLM configuration."]
    if lost:
        head += ["#", "# Not carried over:", *(f"#   {line}" for line in lost)]
    return "\n".join(head) + "\n\n" + text
