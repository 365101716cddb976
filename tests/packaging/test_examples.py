"""examples/: each file loads without a word of warning, and every model in it can be asked for what it is there for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from codellama_proxy.config.load import load
from codellama_proxy.core.snapshot import Deployment, Model, Snapshot
from codellama_proxy.inbound.openai import PARSERS
from codellama_proxy.openai_format.request import Endpoint, InferenceRequest
from codellama_proxy.policy.guardrail import guardrail_text, request_for
from codellama_proxy.providers.registry import ADAPTERS_BY_ENDPOINT, IMPLEMENTED
from codellama_proxy.routing.selection import candidates, models_of_chain
from tests.support.processes import ROOT

FILES = sorted((ROOT / "examples").glob("*.yaml"))
ENDPOINTS: Mapping[str, Endpoint] = {
    "chat": "chat/completions",
    "completion": "completions",
    "embedding": "embeddings",
}
SAID: Mapping[str, Mapping[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "hello"}], "temperature": 0.2, "max_tokens": 9},
    "completion": {"prompt": "def hello():\n", "temperature": 0.2, "max_tokens": 9},
    "embedding": {"input": "hello"},
}
STARTED = re.compile(r"# (?:ollama pull|vllm serve) ([^\s;]+)")

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def variables(text: str) -> dict[str, str]:
    return dict.fromkeys(re.findall(r"\$\{(\w+)", text), "sk-of-an-example")


def loaded(file: Path) -> Snapshot:
    text = file.read_text("utf-8")
    return load(text.encode(), variables(text), source=file.name, implemented=IMPLEMENTED)


def asking(model: Model, mode: str, *, stream: bool) -> InferenceRequest:
    body = {"model": model.name, **SAID[mode], **({"stream": True} if stream else {})}
    return PARSERS[ENDPOINTS[mode]](orjson.dumps(body), "", 0)


def asked(
    snapshot: Snapshot, *, stream: bool
) -> Iterator[tuple[Deployment, InferenceRequest, dict[str, Any]]]:
    """Every deployment in the chain of every model, how it is asked, and the body that goes out."""
    for model in snapshot.models.values():
        mode = model.deployments[0].mode
        chat = asking(model, mode, stream=stream and mode != "embedding")
        chain = models_of_chain(snapshot, model, lambda _name: True, {}, 0.0, mode)
        assert [one.name for one in chain] == [model.name, *model.fallbacks]
        for one in candidates(chain, {}, 0.0, lambda: 0.5):
            text = guardrail_text(snapshot.guardrail, snapshot.project("default"), one)
            here = request_for(chat, one, text, snapshot.guardrail.client_system, None)
            sent = ADAPTERS_BY_ENDPOINT[chat.endpoint][one.provider].to_request(here, one)
            yield one, here, {"url": sent.url, **orjson.loads(sent.body)}


@each_file
def test_an_example_loads_without_warnings_with_its_variables(file: Path) -> None:
    snapshot = loaded(file)
    assert snapshot.warnings == ()
    assert snapshot.disabled == ()
    deployments = [one for model in snapshot.models.values() for one in model.deployments]
    assert len(deployments) == file.read_text("utf-8").count("provider:")
    assert {one.provider for one in deployments} <= IMPLEMENTED - {"mock"}


@each_file
def test_an_example_starts_without_its_variables(file: Path) -> None:
    text = file.read_text("utf-8")
    snapshot = load(text.encode(), {}, implemented=IMPLEMENTED)
    assert len(snapshot.disabled) == text.count("api_key:")
    assert snapshot.models


@pytest.mark.parametrize("stream", [False, True])
@each_file
def test_every_model_and_fallback_can_be_called(file: Path, stream: bool) -> None:
    for one, here, sent in asked(loaded(file), stream=stream):
        own = (one.base_url or "http").removesuffix("/v1")
        assert sent["url"].startswith(own), one.id
        name = one.extra.get("deployment") or one.model
        assert sent.get("model", sent["url"]).find(str(name)) >= 0, one.id
        if one.mode == "chat":
            assert here.messages[0]["content"].startswith("Only respond to questions about code.")
            assert "Only respond to questions about code." in str(sent)


@each_file
def test_every_chat_model_has_a_guardrail(file: Path) -> None:
    snapshot = loaded(file)
    chats = any(model.deployments[0].mode == "chat" for model in snapshot.models.values())
    assert (snapshot.guardrail.system_prompt is not None) is chats


@each_file
def test_an_example_shows_how_to_start_its_local_model(file: Path) -> None:
    for entry in re.split(r"\n(?=  - name:)", file.read_text("utf-8")):
        if started := STARTED.search(entry):
            assert f"model: {started[1]}\n" in f"{entry}\n"


@pytest.mark.parametrize(
    ("stem", "model"),
    [("starcoder", "starcoder"), ("replit-code", "replit-code"), ("autocomplete", "autocomplete")],
)
def test_completion_only_models_are_not_used_for_chats(stem: str, model: str) -> None:
    snapshot = loaded(ROOT / "examples" / f"{stem}.yaml")
    assert not any(one.serves("chat") for one in snapshot.models[model].deployments)


def test_the_suffix_reaches_every_fill_in_the_middle_model() -> None:
    snapshot = loaded(ROOT / "examples" / "autocomplete.yaml")
    chat = PARSERS["completions"](orjson.dumps({"prompt": "before", "suffix": "after"}), "", 0)
    for model in snapshot.models.values():
        [one] = model.deployments
        sent = orjson.loads(ADAPTERS_BY_ENDPOINT["completions"][one.provider].to_request(chat, one).body)
        by_tokens = sent["prompt"] == "<PRE> before <SUF>after <MID>" and "suffix" not in sent
        assert by_tokens is (one.provider == "vllm")
        assert by_tokens or (sent["prompt"], sent["suffix"]) == ("before", "after")


def test_the_list_of_examples_is_complete() -> None:
    listed = re.findall(
        r"^\| \[(\S+)\]\(\1\) \| .+ \|$", (ROOT / "examples/README.md").read_text(), re.MULTILINE
    )
    assert sorted(listed) == [file.name for file in FILES]


def test_the_examples_cover_local_and_hosted_models() -> None:
    text = "\n".join(file.read_text("utf-8").lower() for file in FILES)
    for model in ("codellama", "starcoder", "replit-code", "phind-codellama", "gpt-", "claude-", "jamba"):
        assert f"model: {model}" in text or f"/{model}" in text, model
    for provider in ("huggingface", "replicate", "ollama", "vllm", "openai", "anthropic", "azure", "cohere"):
        assert f"provider: {provider}\n" in text, provider
