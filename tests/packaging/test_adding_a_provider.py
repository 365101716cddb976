"""docs/adding-a-provider.md is true: what it adds works, and it names every place that must know of a provider."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.providers.openai.profiles import OPENAI_PROFILES
from codellama_proxy.providers.registry import ADAPTERS, NATIVE_ADAPTERS
from tests.providers import test_providers
from tests.support.builders import chat, deployment
from tests.support.cases import each
from tests.support.docs_examples import ADDED, BLOCKS, PAGE, SAYING
from tests.support.processes import ROOT

ASKED = [
    {"role": "system", "content": "Only code."},
    {"role": "user", "content": [{"type": "text", "text": "hello"}]},
]


def entry(provider: str, **changes: Any) -> Deployment:
    return deployment("m", provider=provider, base_url=None, **changes)


def test_the_page_adds_one_provider_of_each_type() -> None:
    assert BLOCKS.keys() == {"row", "native", "loader", "entry", "dialogue"}
    assert ADDED.keys() == SAYING.keys() == {"acme", "parley"}
    assert not ADDED.keys() & ADAPTERS.keys()


def test_the_example_providers_satisfy_the_provider_contract() -> None:
    assert ADDED.keys() <= set(test_providers.PROVIDERS)
    assert all(test_providers.SPEAKING[name] is ADDED[name] for name in ADDED)


def test_an_openai_dialect_needs_only_a_row() -> None:
    params = {"seed": 7, "stop": "END", "temperature": 0.5}
    sent = ADDED["acme"].to_request(chat(messages=ASKED, params=params), entry("acme"))
    assert sent.url == "https://api.acme.example/v1/chat/completions"
    body = {"model": "m-upstream", "messages": ASKED, "random_seed": 7, "stop": ["END"], "temperature": 0.5}
    assert orjson.loads(sent.body) == body


def test_a_native_dialect_is_translated() -> None:
    params = {"max_tokens": 9, "temperature": 0.5, "n": 1}
    sent = ADDED["parley"].to_request(chat(messages=ASKED, params=params, stream=True), entry("parley"))
    assert sent.url == "https://api.parley.example/v1/say"
    assert sent.headers["x-parley-key"] == "sk-upstream-secret"
    assert orjson.loads(sent.body) == {
        "model": "m-upstream",
        "system": "Only code.",
        "turns": [{"who": "user", "text": "hello"}],
        "pieces": True,
        "limit": 9,
        "warmth": 0.5,
    }


@pytest.mark.parametrize(("provider", "param"), [("acme", "logit_bias"), ("parley", "logit_bias")])
def test_unsupported_parameters_are_refused_or_dropped(provider: str, param: str) -> None:
    asked = chat(params={param: {"50256": 1}})
    with pytest.raises(ProxyError) as caught:
        ADDED[provider].to_request(asked, entry(provider))
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", param)
    lenient = ADDED[provider].to_request(asked, entry(provider, drop_params=True))
    assert lenient.dropped == (param,)
    assert param not in orjson.loads(lenient.body)


# --- the places ----------------------------------------------------------------------------------------------


def knowing(provider: str) -> Iterator[str]:
    """Files of the project, other than tests, that have this provider's name as a word of their own."""
    code = [
        *(ROOT / "codellama_proxy").rglob("*.py"),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "proxy.schema.json",
    ]
    for file in code:
        if re.search(rf"[\"`]{provider}[\"`]", file.read_text("utf-8")):
            yield str(file.relative_to(ROOT))


@each("provider", sorted({*NATIVE_ADAPTERS, "nvidia", "groq", "perplexity", "cerebras", "fireworks"}))
def test_the_page_names_every_place_to_change(provider: str) -> None:
    own = {f for f in knowing(provider) if Path(f).stem.partition("_")[0] == provider}
    missing = [file for file in knowing(provider) if file not in own and f"`{file}`" not in PAGE]
    assert not missing


def test_every_named_file_exists() -> None:
    made_up = {"codellama_proxy/providers/parley.py", "tests/support/dialects/parley.py"}
    named = set(re.findall(r"`((?:codellama_proxy|tests|docs)/[\w/]+\.\w+)`", PAGE))
    assert {name for name in named if not (ROOT / name).exists()} == made_up


def test_every_named_identifier_exists() -> None:
    homes = {
        "config/model_schema.py": ["PROVIDERS"],
        "config/validate/cross_field.py": ["_NEEDS_URL"],
        "config/validate/entries.py": ["NEEDS_NO_KEY"],
        "config/validate/credentials.py": ["CUSTOMARY"],
        "providers/openai/profiles.py": ["OPENAI_PROFILES", "OpenAIProfile"],
        "providers/registry.py": ["NATIVE_ADAPTERS", "MULTI_STEP"],
        "providers/openai/embeddings.py": ["PROVIDERS"],
        "providers/common/legacy_functions.py": ["modern", "restored"],
        "failures/classify.py": ["AttemptError"],
        "failures/error_body.py": ["parse_error"],
    }
    for home, names in homes.items():
        text = (ROOT / "codellama_proxy" / home).read_text("utf-8")
        for name in names:
            assert re.search(rf"^(?:def |class )?{name}\b", text, re.MULTILINE), (home, name)
            assert re.search(rf"`(?:legacy_functions\.)?{name}`", PAGE), name


def test_every_provider_is_registered_once() -> None:
    assert not OPENAI_PROFILES.keys() & NATIVE_ADAPTERS.keys()
