"""docs/providers.md: every provider is in its table, its examples load, and what it says is refused is refused."""

from __future__ import annotations

import re

import pytest

from codellama_proxy.config.load import load
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.providers.registry import ADAPTERS, IMPLEMENTED
from tests.support.builders import chat, deployment
from tests.support.cases import each
from tests.support.processes import ROOT

TEXT = (ROOT / "docs" / "providers.md").read_text("utf-8")
TABLE = TEXT.partition("\n## ")[0]
ROWS = [line.split("|") for line in TABLE.splitlines() if line.startswith("| `")]
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
ASKING = {
    "n": 2,
    "logit_bias": {"50256": 1},
    "logprobs": True,
    "seed": 7,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    "reasoning_effort": "low",
}
"""Parameters that the table speaks of by name, with values that ask for something."""


def named(cell: str) -> list[str]:
    return re.findall(r"`([a-z0-9_]+)`", cell)


def test_every_provider_has_its_row() -> None:
    assert sorted(name for row in ROWS for name in named(row[1])) == sorted(ADAPTERS)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_load_and_can_be_sent(example: str) -> None:
    variables = dict.fromkeys(re.findall(r"\$\{(\w+)", example), "sk-of-an-example")
    models = load(example.encode(), variables, implemented=IMPLEMENTED).models.values()
    deployments = [one for model in models for one in model.deployments if one.provider != "mock"]
    assert len(deployments) == example.count("provider:")
    for one in deployments:
        assert ADAPTERS[one.provider].to_request(chat(), one).url.startswith("https://")


REFUSALS = [
    (provider, name)
    for row in ROWS
    for provider in named(row[1])
    for name in named(row[4].partition(";")[0])
    if name in ASKING
]


@each(("provider", "name"), REFUSALS)
def test_every_documented_refusal_is_refused(provider: str, name: str) -> None:
    here = deployment(provider=provider, model="claude-sonnet-4-6")
    with pytest.raises(ProxyError) as caught:
        ADAPTERS[provider].to_request(chat(params={name: ASKING[name]}), here)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", name)
